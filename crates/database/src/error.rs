/// Why the database cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// The URL, a parameter in it, or a variable that stands for one.
    #[error("the database's URL is not valid: {0}")]
    BadUrl(String),
    /// A file that the URL names for TLS.
    #[error("cannot use the certificates in {path}: {reason}")]
    BadCertificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer, a refused login, a certificate that is not trusted, or no server that takes writes.
    #[error("cannot use the database at {address}: {reason}")]
    Unreachable {
        /// Hosts and ports.
        address: String,
        /// What went wrong.
        reason: String,
    },
}
