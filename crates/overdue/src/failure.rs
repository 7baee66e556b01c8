use std::fmt;
use std::process::ExitCode;

use book::BookError;
use broker::{BrokerError, ManagementError, NotPublished};
use database::{DatabaseError, SchemaError};
use shop::{OrderError, SqlError};

use crate::output::complain;

/// Why a command failed, and the exit code that says so. `overdue --help` lists the codes.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    error: anyhow::Error,
}

/// The exit codes, but for 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A check found something off, or an order was refused.
    Negative = 1,
    /// Settings that cannot be used; also what clap exits with.
    Settings = 2,
    /// A server is away, or refused us.
    Unreachable = 3,
    /// The schema or the topology is not the one that this version needs.
    Mismatch = 4,
    /// Told to stop, and not finished in time.
    Unfinished = 5,
    /// Anything else.
    Other = 10,
}

pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  a check found something off, or an order or an ID was refused
  2  a setting or an argument cannot be used
  3  a server cannot be reached, or refused access
  4  the schema or the topology is not the one that this version needs
  5  told to stop, and not finished in time (unfinished messages come again)
 10  anything else";

impl Failure {
    pub(crate) fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self { kind, error: error.into() }
    }

    pub(crate) fn negative(message: String) -> Self {
        Self::new(Kind::Negative, anyhow::Error::msg(message))
    }

    pub(crate) fn settings(message: String) -> Self {
        Self::new(Kind::Settings, anyhow::Error::msg(message))
    }

    /// Whether a server is away, or refused us.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.kind == Kind::Unreachable
    }

    /// Prints the sentence and gives the code.
    pub(crate) fn report(&self) -> ExitCode {
        complain(format_args!("error: {self}"));
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Kind::Other, error)
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        let kind = match error {
            BrokerError::BadUrl(_) | BrokerError::BadCertificates { .. } => Kind::Settings,
            BrokerError::Topology(_) => Kind::Mismatch,
            BrokerError::Timeout { .. }
            | BrokerError::Unreachable { .. }
            | BrokerError::Blocked
            | BrokerError::AccessRefused(_) => Kind::Unreachable,
            BrokerError::Protocol(_) => Kind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<ManagementError> for Failure {
    fn from(error: ManagementError) -> Self {
        let kind = if matches!(error, ManagementError::BadUrl(_)) { Kind::Settings } else { Kind::Unreachable };
        Self::new(kind, error)
    }
}

impl From<NotPublished> for Failure {
    fn from(error: NotPublished) -> Self {
        match error {
            NotPublished::Broker(error) => error.into(),
            NotPublished::Unroutable(_) => Self::new(Kind::Mismatch, error),
            NotPublished::Refused | NotPublished::Unconfirmed(_) | NotPublished::Blocked => {
                Self::new(Kind::Unreachable, error)
            }
        }
    }
}

impl From<SchemaError> for Failure {
    fn from(error: SchemaError) -> Self {
        let kind = if matches!(error, SchemaError::Database(_)) { Kind::Unreachable } else { Kind::Mismatch };
        Self::new(kind, error)
    }
}

impl From<OrderError> for Failure {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Database(error) => error.into(),
            error => Self::new(Kind::Negative, error),
        }
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        let Some(refusal) = error.as_database_error() else {
            return Self::new(Kind::Unreachable, anyhow::anyhow!("database: {error}"));
        };
        // Without what sqlx adds: a line of PostgreSQL's own source.
        let message = refusal.message();
        match refusal.code().as_deref() {
            Some("42501") => {
                let advice = "docs/database-roles.sql has the rights that each role needs";
                Self::new(Kind::Unreachable, anyhow::anyhow!("database: {message}; {advice}"))
            }
            Some("OV004") => Self::negative(message.to_owned()),
            _ => Self::new(Kind::Other, anyhow::anyhow!("database: {message}")),
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        let kind = match error {
            DatabaseError::BadUrl(_) | DatabaseError::BadCertificates { .. } => Kind::Settings,
            DatabaseError::Unreachable { .. } => Kind::Unreachable,
        };
        Self::new(kind, error)
    }
}

impl From<worker::HandlingError> for Failure {
    fn from(error: worker::HandlingError) -> Self {
        match error {
            worker::HandlingError::Book(error) => error.into(),
            worker::HandlingError::Broker(error) => error.into(),
            stopped @ worker::HandlingError::Stopped => Self::new(Kind::Unfinished, stopped),
        }
    }
}

impl From<BookError> for Failure {
    fn from(error: BookError) -> Self {
        Self::new(Kind::Unreachable, error)
    }
}
