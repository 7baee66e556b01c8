use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio::time::timeout;
use tokio_postgres::Error;

use crate::DatabaseError;
use crate::pool::{PoolSettings, PoolState, TokioPool, answer_timeout};
use crate::url::DatabaseUrl;

/// The database as the worker uses it: pooled connections of tokio-postgres, each call bounded.
#[derive(Clone)]
pub struct Client {
    pool: TokioPool,
    statement_timeout: Duration,
    answer_timeout: Duration,
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection.
    #[error(transparent)]
    Unreachable(#[from] DatabaseError),
    /// No answer came. Whether the call had an effect is not known.
    #[error("no answer within {0} ms")]
    Silent(u128),
    /// What the driver or the server said.
    #[error("{}", trace::causes(.0))]
    Driver(#[from] Error),
}

impl Client {
    /// A client of the servers that the URL names. It connects when it is first used.
    ///
    /// # Errors
    /// [`DatabaseError::BadUrl`], [`DatabaseError::BadCertificates`].
    pub fn new(url: &DatabaseUrl, settings: &PoolSettings) -> Result<Self, DatabaseError> {
        let statement_timeout = settings.statement_timeout;
        let answer_timeout = answer_timeout(statement_timeout);
        Ok(Self { pool: TokioPool::new(url, settings)?, statement_timeout, answer_timeout })
    }

    /// The same, with another time after which a silent connection counts as dead.
    #[must_use]
    pub fn answering_within(self, answer_timeout: Duration) -> Self {
        Self { answer_timeout, ..self }
    }

    /// How long a statement may take.
    #[must_use]
    pub fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    /// How long a call may take.
    #[must_use]
    pub fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }

    /// Takes a connection and gives it back: tells whether there is one to be had.
    ///
    /// # Errors
    /// [`DatabaseError::Unreachable`] says why not.
    pub async fn probe(&self) -> Result<(), DatabaseError> {
        self.pool.get().await.map(drop)
    }

    /// Does some work on a connection. One that gave no answer, or an error that `is_bad` calls the connection's own, is
    /// thrown away: it may be dead, or lead to a server that has become read-only, and the next may lead to a better one.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn within<T>(
        &self,
        is_bad: fn(&Error) -> bool,
        work: impl AsyncFnOnce(&mut ClientWrapper) -> Result<T, Error>,
    ) -> Result<T, CallError> {
        let mut client = self.pool.get().await?;
        let outcome = match timeout(self.answer_timeout, work(&mut client)).await {
            Ok(answer) => answer.map_err(CallError::Driver),
            Err(_) => Err(CallError::Silent(self.answer_timeout.as_millis())),
        };
        let bad = match &outcome {
            Ok(_) | Err(CallError::Unreachable(_)) => false,
            Err(CallError::Silent(_)) => true,
            Err(CallError::Driver(error)) => is_bad(error),
        };
        if bad {
            drop(deadpool::managed::Object::take(client));
        }
        outcome
    }

    /// A connection of its own, which the pool forgets.
    ///
    /// # Errors
    /// [`DatabaseError::Unreachable`].
    pub async fn take(&self) -> Result<ClientWrapper, DatabaseError> {
        self.pool.take().await
    }

    /// How its pool stands.
    #[must_use]
    pub fn state(&self) -> PoolState {
        self.pool.state()
    }
}
