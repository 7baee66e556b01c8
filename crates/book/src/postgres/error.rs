//! What PostgreSQL's errors mean to the orders of a call.

use database::{CallError, DatabaseError, means_busy};
use tokio_postgres::error::SqlState;
use trace::causes;

use crate::BookError;

/// Why a call to the database gave nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There was no answer.
    Away(String),
    /// The server answers that it cannot do it now.
    Busy(String),
    /// Another transaction holds a row locked for longer than is waited for. Nothing was changed.
    Locked(String),
    Slow(String),
    Refused(String),
}

impl From<Failure> for BookError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away(text) => Self::Away(text),
            Failure::Busy(text) => Self::Busy(text),
            Failure::Locked(text) => Self::Slow(format!("another transaction holds a row locked: {text}")),
            Failure::Slow(text) => Self::Slow(text),
            Failure::Refused(text) => Self::Refused(text),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Driver(error) => failure(&error),
            error => Self::Away(error.to_string()),
        }
    }
}

impl From<CallError> for BookError {
    fn from(error: CallError) -> Self {
        Failure::from(error).into()
    }
}

impl From<DatabaseError> for BookError {
    fn from(error: DatabaseError) -> Self {
        Self::Away(error.to_string())
    }
}

impl From<tokio_postgres::Error> for BookError {
    fn from(error: tokio_postgres::Error) -> Self {
        failure(&error).into()
    }
}

/// What does not mean that the server cannot do it now may be the fault of one order, whatever its code: a shop's trigger may
/// raise what it likes.
///
/// Even what does mean that may come from a trigger, for one order. What succeeds beside it tells, and not the code: see the crate `worker`.
pub(crate) fn failure(error: &tokio_postgres::Error) -> Failure {
    let Some(db) = error.as_db_error() else {
        let text = causes(error);
        return if is_of_a_value(error) { Failure::Refused(text) } else { Failure::Away(text) };
    };
    let text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
    match db.code() {
        code if *code == SqlState::LOCK_NOT_AVAILABLE => Failure::Locked(text),
        code if *code == SqlState::QUERY_CANCELED => Failure::Slow(text),
        code if means_busy(code.code()) => Failure::Busy(text),
        // Another process has recorded the same transaction for another trade at this moment. The next try sees that.
        code if *code == SqlState::UNIQUE_VIOLATION && db.constraint() == Some("payments_by_transaction") => {
            Failure::Busy(text)
        }
        _ => Failure::Refused(text),
    }
}

/// Whether the driver could not turn a value into the type that is wanted. It has no other sign of this than its words.
fn is_of_a_value(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    ["error serializing parameter", "error deserializing column", "invalid column", "expected "]
        .iter()
        .any(|start| text.starts_with(start))
}

/// Whether the connection itself may be at fault: it is dead, or leads to a server that has become read-only.
pub(crate) fn is_bad(error: &tokio_postgres::Error) -> bool {
    matches!(failure(error), Failure::Away(_) | Failure::Busy(_))
}
