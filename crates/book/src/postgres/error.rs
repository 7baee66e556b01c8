//! What PostgreSQL's errors mean to the orders of a call.

use database::{CallError, DatabaseError};
use tokio_postgres::error::SqlState;
use trace::causes;

use crate::BookError;

/// Why a call to the database gave nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    Away(String),
    Misconfigured(String),
    /// Another transaction holds a row locked for longer than is waited for. Nothing was changed.
    Locked(String),
    Slow(String),
    Refused(String),
}

impl From<Failure> for BookError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away(text) => Self::Away(text),
            Failure::Misconfigured(text) => Self::Misconfigured(text),
            Failure::Locked(text) => Self::Away(format!("another transaction holds a row locked: {text}")),
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

/// Only what an order's own data can cause counts as refused: a value that does not fit (class 22), a broken
/// constraint (23), a check option of a view (44), an error that a trigger raised (P0001). All else, from a
/// deadlock to a missing right, is no fault of the orders, and they must not be parked for it.
pub(crate) fn failure(error: &tokio_postgres::Error) -> Failure {
    let Some(db) = error.as_db_error() else { return Failure::Away(causes(error)) };
    let text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
    match &db.code().code()[..2] {
        "22" | "23" | "44" => Failure::Refused(text),
        _ if *db.code() == SqlState::RAISE_EXCEPTION => Failure::Refused(text),
        _ if *db.code() == SqlState::LOCK_NOT_AVAILABLE => Failure::Locked(text),
        _ if *db.code() == SqlState::QUERY_CANCELED => Failure::Slow(text),
        // A table, a column, a function or a right is missing.
        "42" | "3F" => Failure::Misconfigured(text),
        _ => Failure::Away(text),
    }
}

/// Whether the connection itself may be at fault: it is dead, or leads to a server that has become read-only.
pub(crate) fn is_bad(error: &tokio_postgres::Error) -> bool {
    matches!(failure(error), Failure::Away(_))
}
