//! How both PostgreSQL drivers reach the same server in the same way: one URL that is read once, the same hosts in the
//! same order, the same TLS, the same settings of the session. sqlx is for those who join a shop's transaction and for
//! migrations, tokio-postgres for the worker.

mod agree;
mod client;
mod clock;
mod dial;
mod error;
mod host;
mod parts;
mod passfile;
mod pool;
mod probed;
mod schema;
mod session;
mod sqlstate;
mod sqlx_pool;
mod tls;
mod tokio_pool;
mod url;

pub use agree::{Difference, Seen, differences, seen_by_both};
pub use client::{CallError, Client};
pub use clock::{ServerTime, read_clock};
pub use deadpool_postgres::{ClientWrapper, Transaction};
pub use error::DatabaseError;
pub use pool::{PoolSettings, PoolState, STATEMENT_TIMEOUT, SqlxConnection, SqlxPool, answer_timeout};
pub use schema::{SchemaError, check, migrate};
pub use session::Purpose;
pub use sqlstate::means_busy;
pub use url::DatabaseUrl;
