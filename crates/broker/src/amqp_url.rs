use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

/// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS, with the query parameters of RabbitMQ's clients
/// (<https://www.rabbitmq.com/docs/uri-query-parameters>). It is read here and not by the AMQP library, which would dial
/// another host in the place of an IPv6 address, and skip parameters that it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmqpUrl {
    pub(crate) uri: AMQPUri,
    /// `cacertfile`: authorities (PEM) that may sign the broker's certificate, in addition to the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// `certfile`, `keyfile`: the certificate with which we present ourselves, and its private key (PEM).
    pub(crate) identity_files: Option<(PathBuf, PathBuf)>,
    /// `connection_timeout`, in milliseconds.
    pub(crate) connect_timeout: Option<Duration>,
}

impl FromStr for AmqpUrl {
    /// A sentence that names the part that is wrong, and no secret.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url: Url = text.parse().map_err(|error: url::ParseError| error.to_string())?;
        let scheme = match url.scheme() {
            "amqp" => AMQPScheme::AMQP,
            "amqps" => AMQPScheme::AMQPS,
            other => return Err(format!("the scheme is {other}, not amqp or amqps")),
        };
        let host = match url.host() {
            Some(Host::Domain(name)) => decoded(name, "host")?,
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => return Err("it names no host".to_owned()),
        };
        if url.fragment().is_some() {
            return Err("a # in the name of a virtual host is written %23".to_owned());
        }
        let port = url.port().unwrap_or_else(|| scheme.default_port());
        // The defaults of RabbitMQ's clients.
        let user = if url.username().is_empty() { "guest" } else { url.username() };
        let userinfo = AMQPUserInfo {
            username: decoded(user, "user")?,
            password: decoded(url.password().unwrap_or("guest"), "password")?,
        };
        let vhost = match url.path().strip_prefix('/') {
            None => "/".to_owned(),
            Some("") => {
                return Err("it ends with a slash, which names a virtual host of no name: leave the slash out for the virtual host /".to_owned());
            }
            Some(path) if path.contains('/') => {
                return Err("a slash in the name of a virtual host is written %2F".to_owned());
            }
            Some(path) => decoded(path, "virtual host")?,
        };
        let query = AMQPQueryString::default();
        let uri = AMQPUri { scheme, authority: AMQPAuthority { userinfo, host, port }, vhost, query };
        let mut parsed = Self { uri, ca_file: None, identity_files: None, connect_timeout: None };
        parsed.read_parameters(&url)?;
        Ok(parsed)
    }
}

impl AmqpUrl {
    fn read_parameters(&mut self, url: &Url) -> Result<(), String> {
        let query = &mut self.uri.query;
        let (mut certificate, mut key) = (None, None);
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "heartbeat" => query.heartbeat = Some(number(&name, &value)?),
                "channel_max" => query.channel_max = Some(number(&name, &value)?),
                "frame_max" => query.frame_max = Some(number(&name, &value)?),
                "connection_timeout" if value == "0" => {
                    return Err("connection_timeout=0 leaves no time to connect".to_owned());
                }
                "connection_timeout" => self.connect_timeout = Some(Duration::from_millis(number(&name, &value)?)),
                "auth_mechanism" => {
                    query.auth_mechanism = Some(match value.to_ascii_lowercase().as_str() {
                        "plain" => SASLMechanism::Plain,
                        "amqplain" => SASLMechanism::AMQPlain,
                        "external" => SASLMechanism::External,
                        _ => return Err(format!("auth_mechanism={value} is none of plain, amqplain, external")),
                    });
                }
                "cacertfile" => self.ca_file = Some(value.as_ref().into()),
                "certfile" => certificate = Some(PathBuf::from(value.as_ref())),
                "keyfile" => key = Some(PathBuf::from(value.as_ref())),
                "verify" if value == "verify_peer" => {}
                "verify" => return Err(format!("verify={value}: the broker's certificate is always verified")),
                other => return Err(format!("the parameter {other} is not known here")),
            }
        }
        self.identity_files = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err("certfile and keyfile come together".to_owned()),
        };
        if (self.ca_file.is_some() || self.identity_files.is_some()) && self.uri.scheme == AMQPScheme::AMQP {
            return Err("certificates are for TLS: begin the URL with amqps://".to_owned());
        }
        Ok(())
    }
}

fn decoded(text: &str, part: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| format!("the {part} is not UTF-8"))
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}={value} is not a number that fits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> AmqpUrl {
        url.parse().unwrap()
    }

    #[test]
    fn every_form_of_a_host_is_the_host_that_is_dialled() {
        for (url, host, port) in [
            ("amqp://u:p@broker.example/shop", "broker.example", 5672),
            ("amqp://192.0.2.7:5673/shop", "192.0.2.7", 5673),
            ("amqp://[::1]:5673/shop", "::1", 5673),
            ("amqps://[2001:db8::7]/shop", "2001:db8::7", 5671),
        ] {
            let authority = parsed(url).uri.authority;
            assert_eq!((authority.host.as_str(), authority.port), (host, port), "{url}");
        }
    }

    #[test]
    fn user_password_and_virtual_host_are_decoded() {
        let uri = parsed("amqp://a%40b:p%2Fw@h/%2Fshop").uri;
        let AMQPUserInfo { username, password } = uri.authority.userinfo;
        assert_eq!((username.as_str(), password.as_str(), uri.vhost.as_str()), ("a@b", "p/w", "/shop"));
        assert_eq!(parsed("amqp://h").uri.vhost, "/");
    }

    #[test]
    fn parameters_are_honoured_or_refused_by_name() {
        let url = parsed(
            "amqps://h/v?cacertfile=ca.pem&certfile=me.pem&keyfile=me.key&verify=verify_peer&auth_mechanism=EXTERNAL&heartbeat=7&connection_timeout=1500",
        );
        assert_eq!(url.ca_file, Some("ca.pem".into()));
        assert_eq!(url.identity_files, Some(("me.pem".into(), "me.key".into())));
        assert_eq!(url.connect_timeout, Some(Duration::from_millis(1500)));
        assert_eq!((url.uri.query.heartbeat, url.uri.query.auth_mechanism), (Some(7), Some(SASLMechanism::External)));
        for (url, word) in [
            ("amqp://h/v?colour=red", "colour"),
            ("amqp://h/v?heartbeat=soon", "heartbeat=soon"),
            ("amqp://h/v?connection_timeout=0", "connection_timeout=0"),
            ("amqp://h/shop#2", "%23"),
            ("amqps://h/v?verify=verify_none", "verify_none"),
            ("amqps://h/v?certfile=me.pem", "keyfile"),
            ("amqp://h/v?cacertfile=ca.pem", "amqps://"),
            ("http://h/v", "not amqp"),
            ("amqp:///v", "no host"),
            ("amqp://h/", "slash"),
            ("amqp://h/a/b", "%2F"),
        ] {
            let error = url.parse::<AmqpUrl>().unwrap_err();
            assert!(error.contains(word), "{url}: {error}");
        }
    }
}
