/// Whether this SQLSTATE means that the server cannot do it now: a connection (class 08), resources (53), an operator (57), the
/// system (58), a serialization failure or deadlock (40), and a server that takes no writes (25006). See PostgreSQL's appendix A,
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
#[must_use]
pub fn means_busy(code: &str) -> bool {
    code == "25006" || matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58"))
}
