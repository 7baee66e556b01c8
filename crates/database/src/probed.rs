use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use deadpool::managed::RecycleResult;

use crate::DatabaseError;

/// A connection, and when it was last seen to lead to a server of the kind that is wanted. One whose server was restarted, or
/// takes no writes any more, must not be handed out for ever; and asking each time that it is handed out would double the round
/// trips.
pub(crate) struct Probed<C> {
    connection: C,
    at: Instant,
}

/// For so long after a look nobody looks again.
const FRESH_FOR: Duration = Duration::from_secs(1);

impl<C> Probed<C> {
    /// It was seen just now.
    pub(crate) fn now(connection: C) -> Self {
        Self { connection, at: Instant::now() }
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH_FOR
    }

    /// It was seen again.
    pub(crate) fn probed(&mut self) -> RecycleResult<DatabaseError> {
        self.at = Instant::now();
        Ok(())
    }

    pub(crate) fn into_inner(self) -> C {
        self.connection
    }
}

impl<C> Deref for Probed<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.connection
    }
}

impl<C> DerefMut for Probed<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.connection
    }
}
