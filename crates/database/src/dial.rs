//! Which server is tried in which way, in which order: the same for both drivers.

use std::time::Duration;

use secrecy::SecretString;

use crate::DatabaseError;
use crate::host::{Host, HostName};
use crate::session::{self, Purpose, Target};
use crate::tls::{Certificates, Verify};
use crate::url::{DatabaseUrl, SslMode};

/// `on` on a standby, and where transactions are read-only by default: what libpq asks for `target_session_attrs`.
const READ_ONLY: &str = "show transaction_read_only";

/// The same for sessions that are read-only by their own wish.
const IN_RECOVERY: &str = "select case when pg_is_in_recovery() then 'on' else 'off' end";

/// All that a connection is made of, for every host that may be tried.
#[derive(Clone)]
pub(crate) struct Dial {
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) application_name: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) certificates: Certificates,
    pub(crate) target: Target,
    /// Asks whether the server takes no writes; answers `on` or `off`.
    pub(crate) read_only: &'static str,
    pub(crate) attempts: Vec<Attempt>,
    address: String,
}

/// One way to one server.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) name: HostName,
    pub(crate) port: u16,
    pub(crate) password: Option<SecretString>,
    /// `None`: without TLS.
    pub(crate) tls: Option<Verify>,
    /// Only after the one before it was refused, and not when its server did not answer: a second way to the same server.
    pub(crate) only_if_refused: bool,
    address: String,
}

/// Makes one connection in one way.
pub(crate) trait Driver: Sync {
    type Connection;

    fn open(&self, attempt: &Attempt) -> impl Future<Output = Result<Self::Connection, Setback>> + Send;
}

/// Why an attempt came to nothing.
#[derive(Debug)]
pub(crate) struct Setback {
    /// Whether the server answered and did not want to: by TLS, or by its access rules (SQLSTATE 28000).
    pub(crate) refused: bool,
    pub(crate) reason: String,
}

impl Setback {
    pub(crate) fn silent(timeout: Duration) -> Self {
        Self { refused: false, reason: format!("no answer within {} ms", timeout.as_millis()) }
    }

    pub(crate) fn wrong_target(target: Target) -> Self {
        let reason = if target == Target::Primary {
            "it takes no writes: it is a standby, or read-only"
        } else {
            "it takes writes, and a standby was asked for"
        };
        Self { refused: false, reason: reason.to_owned() }
    }
}

impl Dial {
    pub(crate) fn new(url: &DatabaseUrl, purpose: Purpose, statement_timeout: Duration) -> Result<Self, DatabaseError> {
        let target = match (purpose.target(), url.target) {
            (Target::Primary, None | Some(Target::Any | Target::Primary)) => Target::Primary,
            (Target::Primary, Some(Target::Standby)) => {
                let reason = "target_session_attrs asks for a server that takes no writes";
                return Err(DatabaseError::BadUrl(reason.to_owned()));
            }
            (own, theirs) => theirs.unwrap_or(own),
        };
        Ok(Self {
            user: url.user.clone(),
            database: url.database.clone(),
            application_name: url.application_name.clone(),
            connect_timeout: url.connect_timeout,
            settings: session::settings(&url.settings, purpose, statement_timeout),
            certificates: Certificates::read(&url.ssl)?,
            target,
            read_only: if purpose == Purpose::Replica { IN_RECOVERY } else { READ_ONLY },
            attempts: url.hosts.iter().flat_map(|host| attempts_at(host, url.ssl.mode)).collect(),
            address: url.address(),
        })
    }

    /// The first connection that can be made.
    pub(crate) async fn connect<D: Driver>(&self, driver: &D) -> Result<D::Connection, DatabaseError> {
        let mut reasons: Vec<String> = Vec::new();
        let mut refused = false;
        for attempt in &self.attempts {
            if attempt.only_if_refused && !refused {
                continue;
            }
            match driver.open(attempt).await {
                Ok(connection) => return Ok(connection),
                Err(setback) => {
                    refused = setback.refused;
                    reasons.push(match self.attempts.len() {
                        1 => setback.reason,
                        _ => format!("{}: {}", attempt.address, setback.reason),
                    });
                }
            }
        }
        reasons.dedup();
        Err(DatabaseError::Unreachable { address: self.address.clone(), reason: reasons.join("; ") })
    }
}

/// As libpq does it: `prefer` tries TLS first, `allow` last.
fn attempts_at(host: &Host, mode: SslMode) -> Vec<Attempt> {
    let attempt = |tls: Option<Verify>, only_if_refused: bool| Attempt {
        name: host.name.clone(),
        port: host.port,
        password: host.password.clone(),
        tls,
        only_if_refused,
        address: host.address(),
    };
    // There is no TLS over a Unix-domain socket; libpq ignores `sslmode` there.
    if matches!(host.name, HostName::Unix(_)) {
        return vec![attempt(None, false)];
    }
    match mode {
        SslMode::Disable => vec![attempt(None, false)],
        SslMode::Allow => vec![attempt(None, false), attempt(Some(Verify::Nothing), true)],
        SslMode::Prefer => vec![attempt(Some(Verify::Nothing), false), attempt(None, true)],
        SslMode::Require => vec![attempt(Some(Verify::Nothing), false)],
        SslMode::VerifyCa => vec![attempt(Some(Verify::Authority), false)],
        SslMode::VerifyFull => vec![attempt(Some(Verify::AuthorityAndName), false)],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn dial(url: &str) -> Dial {
        let url = DatabaseUrl::parse(&url.into()).unwrap();
        Dial::new(&url, Purpose::Shop, Duration::from_secs(30)).unwrap()
    }

    /// A driver that never connects, and keeps what was tried: address, and whether with TLS.
    struct Never {
        refused: bool,
        seen: Mutex<Vec<(String, bool)>>,
    }

    impl Driver for Never {
        type Connection = ();

        async fn open(&self, attempt: &Attempt) -> Result<(), Setback> {
            self.seen.lock().unwrap().push((attempt.address.clone(), attempt.tls.is_some()));
            Err(Setback { refused: self.refused, reason: "no".to_owned() })
        }
    }

    fn tried(url: &str, refused: bool) -> (Vec<(String, bool)>, String) {
        let never = Never { refused, seen: Mutex::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(dial(url).connect(&never)).unwrap_err();
        (never.seen.into_inner().unwrap(), error.to_string())
    }

    #[test]
    fn hosts_are_tried_in_their_order_and_all_are_named_in_the_end() {
        let (seen, error) = tried("postgres://u:p@a:1,b:2/d?sslmode=disable", false);
        assert_eq!(seen, [("a:1".to_owned(), false), ("b:2".to_owned(), false)]);
        assert_eq!(error, "cannot use the database at a:1, b:2: a:1: no; b:2: no");
    }

    #[test]
    fn a_second_way_is_tried_only_where_the_first_was_refused() {
        let ways = |mode: &str, refused: bool| {
            let (seen, _) = tried(&format!("postgres://u:p@a/d?sslmode={mode}"), refused);
            seen.into_iter().map(|(_, tls)| tls).collect::<Vec<_>>()
        };
        assert_eq!(ways("prefer", true), [true, false]);
        assert_eq!(ways("prefer", false), [true]);
        assert_eq!(ways("allow", true), [false, true]);
        assert_eq!(ways("allow", false), [false]);
        assert_eq!(ways("require", true), [true]);
    }

    #[test]
    fn a_url_for_a_standby_cannot_serve_those_who_write() {
        let url = DatabaseUrl::parse(&"postgres://u:p@a/d?target_session_attrs=standby".into()).unwrap();
        assert!(Dial::new(&url, Purpose::Settle, Duration::from_secs(30)).is_err());
        assert!(Dial::new(&url, Purpose::Replica, Duration::from_secs(30)).is_ok());
    }
}
