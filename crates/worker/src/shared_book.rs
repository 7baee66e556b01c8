//! The order book as all share it that settle orders in a process.

use std::sync::Arc;
use std::time::Duration;

use book::{BookError, OrderBook, ServerTime};
use futures_util::future::BoxFuture;
use trace::Throttle;

use crate::evidence::{Evidence, Ready, Trouble};

/// An order book, and what the calls of this process have shown of it. Copies share what they know.
#[derive(Clone)]
pub struct SharedBook {
    pub(crate) book: Arc<dyn OrderBook>,
    pub(crate) loads: Evidence,
    pub(crate) writes: Evidence,
    /// What is said again and again.
    pub(crate) warnings: Throttle,
}

impl SharedBook {
    /// Nothing is known of it yet.
    #[must_use]
    pub fn new(book: Arc<dyn OrderBook>) -> Self {
        Self { book, loads: Evidence::default(), writes: Evidence::default(), warnings: Throttle::default() }
    }

    /// The same, with other connections.
    #[must_use]
    pub fn through(&self, book: Arc<dyn OrderBook>) -> Self {
        Self { book, ..self.clone() }
    }

    /// What keeps every order from being settled, and for how long it has; `None`: nothing that is known.
    #[must_use]
    pub fn trouble(&self) -> Option<(String, Duration)> {
        let Trouble { text, since, .. } = self.writes.trouble().or_else(|| self.loads.trouble())?;
        Some((text, since.elapsed()))
    }
}

impl Ready for SharedBook {
    fn ready(&self) -> BoxFuture<'_, Result<ServerTime, BookError>> {
        self.book.ready()
    }
}
