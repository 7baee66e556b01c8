//! One URL with one meaning. It is read here once, with libpq's names and rules
//! (<https://www.postgresql.org/docs/current/libpq-connect.html>), and both drivers are set up from the result. What is not
//! honoured is refused by name.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::DatabaseError;
use crate::host::{Host, HostName, hosts};
use crate::parts::{Parts, session_settings};
use crate::passfile::password_for;
use crate::session::Target;

/// How to reach the database: `postgres://user:password@host:port/database`, with parameters as in libpq.
#[derive(Debug, Clone)]
pub struct DatabaseUrl {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) ssl: SslSettings,
    pub(crate) application_name: String,
    /// For each host.
    pub(crate) connect_timeout: Duration,
    /// `options`, `PGOPTIONS` and `search_path`, as names and values of settings of the session.
    pub(crate) settings: Vec<(String, String)>,
    /// `target_session_attrs`; `None`: whatever the connection is for.
    pub(crate) target: Option<Target>,
}

/// What TLS is to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SslSettings {
    pub(crate) mode: SslMode,
    /// `sslrootcert`; `None`: the system's authorities.
    pub(crate) root: Option<PathBuf>,
    /// `sslcert`, `sslkey`.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// `sslmode` (<https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// How long connecting to a host may take unless the URL says so.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Variables of libpq that would change a connection and are not honoured here.
const REFUSED_VARIABLES: [&str; 24] = [
    "PGHOSTADDR",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGREQUIRESSL",
    "PGREQUIREPEER",
    "PGREQUIREAUTH",
    "PGCHANNELBINDING",
    "PGSSLNEGOTIATION",
    "PGSSLCOMPRESSION",
    "PGSSLCERTMODE",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLSNI",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLMAXPROTOCOLVERSION",
    "PGGSSENCMODE",
    "PGGSSLIB",
    "PGGSSDELEGATION",
    "PGKRBSRVNAME",
    "PGLOADBALANCEHOSTS",
    "PGCLIENTENCODING",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
];

impl DatabaseUrl {
    /// Reads the URL, the `PG…` variables of the environment, and the password file.
    ///
    /// # Errors
    /// [`DatabaseError::BadUrl`] names the part or the variable that cannot be used.
    pub fn parse(url: &SecretString) -> Result<Self, DatabaseError> {
        Self::parse_in(url.expose_secret(), |name| std::env::var(name).ok()).map_err(DatabaseError::BadUrl)
    }

    /// The same with another environment.
    fn parse_in(url: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        // sqlx reads these itself and would take the empty text for a file.
        if let Some(name) = ["PGSSLCERT", "PGSSLKEY"].into_iter().find(|name| variable(name).as_deref() == Some("")) {
            return Err(format!("the variable {name} is empty; unset it"));
        }
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(name) = REFUSED_VARIABLES.iter().find(|name| variable(name).is_some()) {
            return Err(format!("the variable {name} is set, which is not honoured here; unset it"));
        }
        let mut parts = Parts::split(url)?;
        parts.add_variables(&variable);
        let user = match parts.user {
            Some(user) => user,
            None => whoami::username().map_err(|_| "it names no user".to_owned())?,
        };
        let database = parts.database.unwrap_or_else(|| user.clone());
        let mut hosts = hosts(&parts.hosts, parts.ports.as_deref())?;
        for host in &mut hosts {
            host.password = match &parts.password {
                Some(password) => Some(password.as_str().into()),
                None => password_for(parts.passfile.as_deref(), &variable, host, &database, &user)?,
            };
        }
        let ssl = ssl(parts.sslmode.as_deref(), parts.sslrootcert.as_deref(), parts.sslcert, parts.sslkey)?;
        let connect_timeout = match parts.connect_timeout {
            None => CONNECT_TIMEOUT,
            // As in libpq, where one second is taken for two, and 0 means no limit, which there is not here.
            Some(text) => match text.parse::<u64>() {
                Ok(seconds @ 1..=86_400) => Duration::from_secs(seconds.max(2)),
                _ => return Err(format!("connect_timeout={text} is not a number of seconds from 1 to 86400")),
            },
        };
        let mut settings = parts.options.as_deref().map_or(Ok(Vec::new()), session_settings)?;
        settings.extend(parts.search_path.map(|path| ("search_path".to_owned(), path)));
        let target = parts.target.as_deref().map(target).transpose()?;
        let application_name = parts.application_name.unwrap_or_else(|| "overdue".to_owned());
        Ok(Self { hosts, user, database, ssl, application_name, connect_timeout, settings, target })
    }

    /// Hosts and ports, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        let addresses: Vec<String> = self.hosts.iter().map(Host::address).collect();
        addresses.join(", ")
    }

    /// Whether every host is this machine: a loopback address, `localhost`, or a Unix-domain socket.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.hosts.iter().all(|host| match &host.name {
            HostName::Unix(_) => true,
            HostName::Tcp(name) => {
                name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        })
    }
}

fn ssl(
    mode: Option<&str>,
    root: Option<&str>,
    certificate: Option<String>,
    key: Option<String>,
) -> Result<SslSettings, String> {
    let system = root == Some("system");
    let mut chosen = match mode {
        // As in libpq: the system's authorities vouch for half the world, so the name must be right.
        None if system => SslMode::VerifyFull,
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(other) => {
            return Err(format!("sslmode={other} is none of disable, allow, prefer, require, verify-ca, verify-full"));
        }
    };
    if system && chosen != SslMode::VerifyFull {
        return Err("sslrootcert=system needs sslmode=verify-full".to_owned());
    }
    // As in libpq: with a root certificate at hand, `require` means `verify-ca`.
    if chosen == SslMode::Require && root.is_some() {
        chosen = SslMode::VerifyCa;
    }
    if chosen == SslMode::VerifyCa && root.is_none() {
        return Err(
            "sslmode=verify-ca needs sslrootcert: any authority of the system could vouch for any host".to_owned()
        );
    }
    let identity = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        _ => return Err("sslcert and sslkey come together".to_owned()),
    };
    Ok(SslSettings { mode: chosen, root: root.filter(|_| !system).map(PathBuf::from), identity })
}

fn target(text: &str) -> Result<Target, String> {
    match text {
        "any" => Ok(Target::Any),
        "read-write" | "primary" => Ok(Target::Primary),
        "read-only" | "standby" => Ok(Target::Standby),
        other => Err(format!("target_session_attrs={other} is none of any, read-write, primary, read-only, standby")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> DatabaseUrl {
        DatabaseUrl::parse_in(url, |_| None).unwrap()
    }

    fn refused(url: &str) -> String {
        DatabaseUrl::parse_in(url, |_| None).unwrap_err()
    }

    fn addresses(url: &str) -> Vec<String> {
        parsed(url).hosts.iter().map(Host::address).collect()
    }

    #[test]
    fn every_form_of_a_host_is_understood() {
        for (url, expected) in [
            ("postgres://u@db/shop", vec!["db:5432"]),
            ("postgresql://u@192.0.2.7:5433/shop", vec!["192.0.2.7:5433"]),
            ("postgres://u@[::1]:5433/shop", vec!["[::1]:5433"]),
            ("postgres://u@[2001:db8::7]/shop", vec!["[2001:db8::7]:5432"]),
            ("postgres://u@a:1,b,[::1]:3/shop", vec!["a:1", "b:5432", "[::1]:3"]),
            ("postgres://u@a:1,b,[::1]:3/shop?port=2", vec!["a:2", "b:2", "[::1]:2"]),
            ("postgres://u@:6432/shop?host=/tmp", vec!["/tmp/.s.PGSQL.6432"]),
            ("postgres://u@a:6432/shop?host=b", vec!["b:6432"]),
            ("postgres://u@/shop?host=a,b&port=1,2", vec!["a:1", "b:2"]),
            ("postgres://u@%2Fvar%2Frun%2Fpostgresql/shop", vec!["/var/run/postgresql/.s.PGSQL.5432"]),
            ("postgres://u@/shop?host=/tmp&port=5433", vec!["/tmp/.s.PGSQL.5433"]),
        ] {
            assert_eq!(addresses(url), expected, "{url}");
        }
        for (url, word) in [
            ("postgres://u@/shop", "no host"),
            ("postgres://u@::1/shop", "[::1]"),
            ("postgres://u@a,b/shop?port=1,2,3", "2 hosts and 3 ports"),
            ("postgres://u@db:http/shop", "a port is not a number"),
            ("postgres://u@a:1,b:2/shop?host=c", "1 hosts and 2 ports"),
            ("postgres://u@[::1/shop", "bracket"),
        ] {
            assert!(refused(url).contains(word), "{url}: {}", refused(url));
        }
    }

    #[test]
    fn user_password_and_database_are_decoded() {
        let url = parsed("postgres://a%40b:p%40ss%2F@db/sh%20op?application_name=x");
        let password = url.hosts[0].password.as_ref().map(|password| password.expose_secret().to_owned());
        assert_eq!((url.user.as_str(), password.as_deref(), url.database.as_str()), ("a@b", Some("p@ss/"), "sh op"));
        assert_eq!(url.application_name, "x");
        assert_eq!(parsed("postgres://u@db").database, "u", "as in libpq");
        let odd = parsed("postgres://u:p?w@db/shop").hosts[0].password.clone();
        assert_eq!(odd.map(|password| password.expose_secret().to_owned()).as_deref(), Some("p?w"), "as in libpq");
        assert!(refused("postgres://u:100%@db/shop").contains("%25"));
        for url in ["postgres://u:aB/cD@db/shop", "postgres://u:aB@cD@db/shop", "postgres://u:aB/c?D@db=cD"] {
            let error = refused(url);
            assert!(!error.contains("aB") && !error.contains("cD"), "{error}");
        }
    }

    #[test]
    fn each_sslmode_means_what_it_means_to_libpq() {
        let mode = |parameters: &str| parsed(&format!("postgres://u@db/shop?{parameters}")).ssl.mode;
        assert_eq!(mode(""), SslMode::Prefer);
        assert_eq!(mode("sslmode=allow"), SslMode::Allow);
        assert_eq!(mode("sslmode=require"), SslMode::Require);
        assert_eq!(mode("sslmode=require&sslrootcert=ca.pem"), SslMode::VerifyCa);
        assert_eq!(mode("sslrootcert=system"), SslMode::VerifyFull);
        assert_eq!(parsed("postgres://u@db/shop?sslrootcert=system").ssl.root, None);
        assert!(refused("postgres://u@db/shop?sslmode=require&sslrootcert=system").contains("verify-full"));
        assert!(refused("postgres://u@db/shop?sslmode=yes").contains("verify-full"));
        assert!(refused("postgres://u@db/shop?sslcert=me.pem").contains("sslkey"));
    }

    #[test]
    fn settings_of_the_session_are_read_in_every_form() {
        let settings = |options: &str| session_settings(options).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            settings(r"-c search_path=shop+a,\ b -cgeqo=off --work-mem=5MB"),
            [pair("search_path", "shop+a, b"), pair("geqo", "off"), pair("work_mem", "5MB")]
        );
        let url = parsed("postgres://u@db/shop?options=-c%20work_mem%3D1MB&search_path=shop");
        assert_eq!(url.settings, [pair("work_mem", "1MB"), pair("search_path", "shop")]);
        assert!(refused("postgres://u@db/shop?options=-d%205").contains("-d"));
        for name in ["statement_timeout", "--statement-timeout", "timezone", "plan_cache_mode", "tcp_keepalives_idle"] {
            let url = format!("postgres://u@db/shop?options=-c%20{}%3D5", name.trim_start_matches("--"));
            assert!(refused(&url).contains("set by this program"), "{name}");
        }
        let last = parsed("postgres://u@db/shop?options=-c%20geqo%3Don&options=-c%20work_mem%3D1MB");
        assert_eq!(last.settings, [pair("work_mem", "1MB")], "as in libpq, the last one");
    }

    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        for (url, word) in [
            ("mysql://u@db/shop", "mysql"),
            ("db/shop", "postgres://"),
            ("postgres://u@db/shop?colour=red", "colour"),
            ("postgres://u@db/shop?hostaddr=192.0.2.7", "hostaddr"),
            ("postgres://u@db/shop?channel_binding=require", "channel_binding"),
            ("postgres://u@db/shop?sslmode", "sslmode"),
            ("postgres://u@db/shop?sslmode=", "sslmode"),
            ("postgres://u@db/shop?target_session_attrs=", "target_session_attrs"),
            ("postgres://u@db/shop?sslmode=verify-ca", "sslrootcert"),
            ("postgres://u@db/shop?connect_timeout=soon", "connect_timeout=soon"),
            ("postgres://u@db/shop?target_session_attrs=best", "best"),
        ] {
            assert!(refused(url).contains(word), "{url}: {}", refused(url));
        }
        for name in REFUSED_VARIABLES {
            let error = DatabaseUrl::parse_in("postgres://u@db/shop", |asked| (asked == name).then(|| "x".to_owned()));
            assert!(error.unwrap_err().contains(name));
        }
    }

    #[test]
    fn variables_stand_in_for_what_the_url_leaves_open() {
        let variables = |name: &str| {
            let value = match name {
                "PGHOST" => "a,/tmp",
                "PGPORT" => "1,2",
                "PGUSER" => "shopkeeper",
                "PGPASSWORD" => "secret",
                "PGDATABASE" => "shop",
                "PGSSLMODE" => "disable",
                "PGAPPNAME" => "x",
                "PGCONNECT_TIMEOUT" => "7",
                "PGOPTIONS" => "-c search_path=a -c geqo=off",
                "PGTARGETSESSIONATTRS" => "read-write",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let url = DatabaseUrl::parse_in("postgres://", variables).unwrap();
        assert_eq!(url.hosts.iter().map(Host::address).collect::<Vec<_>>(), ["a:1", "/tmp/.s.PGSQL.2"]);
        assert!(url.hosts[0].password.is_some());
        assert_eq!((url.user.as_str(), url.database.as_str(), url.ssl.mode), ("shopkeeper", "shop", SslMode::Disable));
        assert_eq!((url.connect_timeout, url.target), (Duration::from_secs(7), Some(Target::Primary)));
        let url = DatabaseUrl::parse_in("postgres://u@db:7/d?options=-c%20search_path%3Db", variables).unwrap();
        assert_eq!(url.settings.len(), 1, "as in libpq, PGOPTIONS only where the URL has none");
        assert_eq!((url.address().as_str(), url.user.as_str()), ("db:7", "u"));
        assert_eq!(url.settings.last().map(|(_, value)| value.as_str()), Some("b"), "the URL's");
    }

    #[test]
    fn only_this_machine_is_local() {
        for (url, local) in [
            ("postgres://u@localhost/d", true),
            ("postgres://u@127.0.0.2,[::1]/d", true),
            ("postgres://u@/d?host=/tmp", true),
            ("postgres://u@localhost,db/d", false),
            ("postgres://u@localhost/d?host=db", false),
        ] {
            assert_eq!(parsed(url).is_local(), local, "{url}");
        }
    }
}
