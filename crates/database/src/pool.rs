//! Pools of both drivers, bounded in the same way.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Manager, Object, PoolError, QueueMode};
use deadpool_postgres::ClientWrapper;
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Handle;
use trace::causes;

use crate::DatabaseError;
use crate::dial::Dial;
use crate::session::Purpose;
use crate::sqlx_pool::SqlxManager;
use crate::tokio_pool::TokioManager;
use crate::url::DatabaseUrl;

/// How connections are made and bounded.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// The most connections at a time.
    pub connections_max: usize,
    /// How long a statement may take, waiting for locks included.
    pub statement_timeout: Duration,
    /// What the connections are for.
    pub purpose: Purpose,
}

/// The state of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolState {
    /// Connections that there are.
    pub open: usize,
    /// Connections that are not in use.
    pub idle: usize,
    /// The most that there may be.
    pub max: usize,
    /// How many wait for one.
    pub waiting: usize,
}

impl PoolState {
    /// Whether all connections are in use, and somebody waits for one.
    #[must_use]
    pub fn is_exhausted(self) -> bool {
        self.idle == 0 && self.open >= self.max && self.waiting > 0
    }
}

/// Connections of sqlx. It connects when it is first used.
#[derive(Clone)]
pub struct SqlxPool(Bounded<SqlxManager>);

/// A connection of sqlx that goes back to its pool. It is empty only while it is dropped.
pub struct SqlxConnection(Option<Object<SqlxManager>>);

/// Connections of tokio-postgres. It connects when it is first used.
#[derive(Clone)]
pub(crate) struct TokioPool(Bounded<TokioManager>);

/// A pool in which everything is bounded: how many connections there are, how long one is waited for, how long it takes to
/// open, and how long it stays open when nobody needs it.
struct Bounded<M: Manager> {
    pool: managed::Pool<M>,
    address: String,
    idle_ones_looked_for_at: Arc<Mutex<Instant>>,
}

/// How long a statement may take unless a deployment says so, waiting for locks included.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How much longer than its statement timeout a connection may be silent before it counts as dead, without any sign of it.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a server may take to answer a statement, where statements have this timeout. A connection that is silent for
/// longer is dead.
#[must_use]
pub fn answer_timeout(statement_timeout: Duration) -> Duration {
    statement_timeout + SILENCE
}

const HELD: &str = "a connection is held until it is dropped";

impl SqlxPool {
    /// A pool for the servers that the URL names.
    ///
    /// # Errors
    /// [`DatabaseError::BadUrl`], [`DatabaseError::BadCertificates`].
    pub fn new(url: &DatabaseUrl, settings: &PoolSettings) -> Result<Self, DatabaseError> {
        let dial = Dial::new(url, settings.purpose, settings.statement_timeout)?;
        Ok(Self(Bounded::new(SqlxManager::new(dial.clone())?, &dial, url, settings)?))
    }

    /// A connection, as soon as one is free.
    ///
    /// # Errors
    /// [`DatabaseError::Unreachable`].
    pub async fn get(&self) -> Result<SqlxConnection, DatabaseError> {
        self.0.get().await.map(|connection| SqlxConnection(Some(connection)))
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> PoolState {
        self.0.state()
    }
}

impl SqlxConnection {
    /// Takes the connection out of its pool for good, to be dropped: it may be dead, or lead to a server that has become
    /// read-only.
    pub fn discard(mut self) {
        drop(self.0.take().map(Object::take));
    }
}

impl Drop for SqlxConnection {
    /// A transaction of sqlx that is dropped only notes down its `ROLLBACK`, which leaves with the next statement. Its locks
    /// would last until then.
    fn drop(&mut self) {
        let Some(mut connection) = self.0.take() else { return };
        if !connection.should_flush() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            drop(Object::take(connection));
            return;
        };
        runtime.spawn(async move {
            if !matches!(tokio::time::timeout(SILENCE, connection.ping()).await, Ok(Ok(()))) {
                drop(Object::take(connection));
            }
        });
    }
}

impl Deref for SqlxConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_deref().expect(HELD)
    }
}

impl DerefMut for SqlxConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_deref_mut().expect(HELD)
    }
}

impl TokioPool {
    pub(crate) fn new(url: &DatabaseUrl, settings: &PoolSettings) -> Result<Self, DatabaseError> {
        let dial = Dial::new(url, settings.purpose, settings.statement_timeout)?;
        Ok(Self(Bounded::new(TokioManager::new(dial.clone())?, &dial, url, settings)?))
    }

    pub(crate) async fn get(&self) -> Result<Object<TokioManager>, DatabaseError> {
        self.0.get().await
    }

    /// A connection of its own, which the pool forgets.
    pub(crate) async fn take(&self) -> Result<ClientWrapper, DatabaseError> {
        self.get().await.map(|client| Object::take(client).into_inner())
    }

    pub(crate) fn state(&self) -> PoolState {
        self.0.state()
    }
}

/// How long a connection stays open that nobody has needed.
const IDLE_MAX: Duration = Duration::from_secs(15);

impl<M: Manager<Error = DatabaseError>> Bounded<M> {
    fn new(manager: M, dial: &Dial, url: &DatabaseUrl, settings: &PoolSettings) -> Result<Self, DatabaseError> {
        // Each attempt is bounded by itself.
        let all_attempts = dial.connect_timeout * u32::try_from(dial.attempts.len() + 1).unwrap_or(u32::MAX);
        let pool = managed::Pool::builder(manager)
            .max_size(settings.connections_max)
            // The one that was used last: what it works with is in the processor's caches still, and those that are not needed
            // can be told.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(dial.connect_timeout))
            .create_timeout(Some(all_attempts))
            .recycle_timeout(Some(dial.connect_timeout))
            .build()
            .map_err(|error| DatabaseError::BadUrl(error.to_string()))?;
        Ok(Self { pool, address: url.address(), idle_ones_looked_for_at: Arc::new(Mutex::new(Instant::now())) })
    }

    async fn get(&self) -> Result<Object<M>, DatabaseError> {
        self.close_idle_ones();
        self.pool.get().await.map_err(|error| unreachable(&self.address, &error))
    }

    fn close_idle_ones(&self) {
        let mut looked_at = self.idle_ones_looked_for_at.lock().unwrap_or_else(PoisonError::into_inner);
        if looked_at.elapsed() > IDLE_MAX {
            *looked_at = Instant::now();
            self.pool.retain(|_, metrics| metrics.last_used() < IDLE_MAX);
        }
    }

    fn state(&self) -> PoolState {
        let status = self.pool.status();
        PoolState { open: status.size, idle: status.available, max: status.max_size, waiting: status.waiting }
    }
}

impl<M: Manager> Clone for Bounded<M> {
    fn clone(&self) -> Self {
        let Self { pool, address, idle_ones_looked_for_at } = self;
        Self {
            pool: pool.clone(),
            address: address.clone(),
            idle_ones_looked_for_at: Arc::clone(idle_ones_looked_for_at),
        }
    }
}

fn unreachable(address: &str, error: &PoolError<DatabaseError>) -> DatabaseError {
    match error {
        PoolError::Backend(error) => error.clone(),
        PoolError::Timeout(managed::TimeoutType::Wait) => DatabaseError::Unreachable {
            address: address.to_owned(),
            reason: "all connections of this pool are in use".to_owned(),
        },
        other => DatabaseError::Unreachable { address: address.to_owned(), reason: causes(other) },
    }
}
