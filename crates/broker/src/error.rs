use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

/// Why the broker could not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// The URL, or a parameter in it, cannot be used.
    #[error("the broker's URL is not valid: {0}")]
    BadUrl(String),
    /// A file that the URL or the settings name for TLS.
    #[error("cannot use the certificates in {path}: {reason}")]
    BadCertificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer in time.
    #[error("the broker at {address} did not answer within {timeout_ms} ms")]
    Timeout {
        /// Host and port.
        address: String,
        /// The time that was allowed.
        timeout_ms: u128,
    },
    /// No connection, a broken one, or one whose TLS certificate was refused.
    #[error("cannot reach the broker at {address}: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system or TLS said.
        reason: String,
    },
    /// The broker refused the user, or the user may not do this.
    #[error("the broker refused access: {0}")]
    AccessRefused(String),
    /// An object of the topology is missing, or was declared otherwise.
    #[error(
        "the broker's topology does not fit: {0}; `overdue topology verify` tells more, `overdue topology declare` creates what is missing"
    )]
    Topology(String),
    /// The broker takes nothing from publishers now.
    #[error("the broker blocks publishers: it is low on memory or disk")]
    Blocked,
    /// Anything else that the broker or the client library objected to.
    #[error("AMQP: {0}")]
    Protocol(String),
}

impl BrokerError {
    pub(crate) fn from_lapin(error: &lapin::Error, address: &str) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                let text = amqp.get_message().as_str().to_owned();
                match amqp.kind() {
                    // What connecting to a virtual host that does not exist, or may not be entered, gives.
                    AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                    | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Self::AccessRefused(text),
                    AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND | AMQPSoftError::PRECONDITIONFAILED) => {
                        Self::Topology(text)
                    }
                    _ => Self::Protocol(text),
                }
            }
            ErrorKind::IOError(io) => Self::Unreachable { address: address.to_owned(), reason: io.to_string() },
            _ => Self::Protocol(error.to_string()),
        }
    }
}
