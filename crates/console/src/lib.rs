//! The console: pages for whoever is on call. They are made on the server, and work without JavaScript; with it they
//! renew themselves.

mod access;
mod act;
mod action;
mod ask;
mod asset;
mod console;
mod fields;
mod format;
mod layout;
mod page;
mod refusals;
mod router;
mod snapshot;
mod text;
mod users;

pub use access::{Access, TrustedProxy};
pub use action::Action;
pub use console::{CheckRunner, Parts};
pub use router::{PAGES, router};
pub use users::{BadUsers, Role, Users, hash_password};
