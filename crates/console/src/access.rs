//! Who may come, and from where a request may be sent.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, Method, Version};
use data_encoding::BASE64;
use http::HeaderName;
use http::header::{AUTHORIZATION, HOST, ORIGIN};

use crate::users::{Role, TooMany, Users};

/// Who may come: people with passwords, people for whom a proxy vouches, or, where there are neither, whoever is at
/// this machine.
pub struct Access {
    users: Users,
    proxy: Option<TrustedProxy>,
}

/// A proxy that has logged people in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxy {
    /// The header in which it names them.
    pub header: HeaderName,
    /// Its addresses. From elsewhere the header counts for nothing.
    pub addresses: Vec<IpAddr>,
}

/// Somebody who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visitor {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: Option<String>,
}

/// Why somebody was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A name and a password are needed, and were not given, or are wrong.
    LogIn {
        /// Whether some were given.
        were_wrong: bool,
    },
    /// So many names and passwords came from there that no more are looked at for a moment.
    TooMany,
    /// The request names another host, or comes from another site's page.
    Foreign(String),
}

/// What a proxy adds to what it passes on.
const PROXIES_HEADERS: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];

/// The longest name that a proxy may give.
const NAME_BYTES_MAX: usize = 128;

impl Access {
    /// For these people, and those for whom this proxy vouches.
    #[must_use]
    pub fn new(users: Users, proxy: Option<TrustedProxy>) -> Self {
        Self { users, proxy }
    }

    /// Whether it can be told who comes. Where it cannot, only this machine may be served.
    #[must_use]
    pub fn knows_people(&self) -> bool {
        !self.users.is_empty() || self.proxy.is_some()
    }

    /// Who this is.
    pub(crate) async fn admit(
        &self,
        version: Version,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Visitor, Refusal> {
        let address = peer.map(|peer| peer.to_string());
        if !self.knows_people() {
            return match from_elsewhere(version, headers) {
                None => Ok(Visitor { name: local_user(), role: Role::Act, address }),
                Some(why) => Err(Refusal::Foreign(format!("without users (OVERDUE_CONSOLE_USERS_FILE) {why}"))),
            };
        }
        if let (Some(proxy), Some(peer)) = (&self.proxy, peer)
            && proxy.addresses.contains(&peer.to_canonical())
        {
            let name = text(headers, &proxy.header);
            let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
            if fits {
                let role = self.users.role_of(&name);
                return Ok(Visitor { name, role, address });
            }
        }
        let Some((name, password)) = headers.get(AUTHORIZATION).and_then(|value| basic(value.as_bytes())) else {
            return Err(Refusal::LogIn { were_wrong: headers.contains_key(AUTHORIZATION) });
        };
        match self.users.log_in(&name, &password, peer).await {
            Ok(Some(role)) => Ok(Visitor { name, role, address }),
            Err(TooMany) => Err(Refusal::TooMany),
            Ok(None) => Err(Refusal::LogIn { were_wrong: true }),
        }
    }
}

/// Why a request does not come from this machine itself, where there are no users. A proxy of this machine may tell
/// nothing of itself: that it speaks HTTP/1.0, and that a browser's page has another name than it asks us by, gives
/// some of them away.
fn from_elsewhere(version: Version, headers: &HeaderMap) -> Option<String> {
    let (host, origin) = (text(headers, &HOST), text(headers, &ORIGIN));
    let header = PROXIES_HEADERS.into_iter().find(|header| headers.contains_key(*header));
    let short = |text: &str| text.chars().take(100).collect::<String>();
    match header {
        Some(header) => Some(format!("nobody is served through a proxy, and the request has {header}")),
        None if version < Version::HTTP_11 => {
            Some("nobody is served through a proxy, and the request speaks HTTP/1.0".to_owned())
        }
        None if !is_loopback(&host) => Some(format!(
            "only this machine is served, under its own name, not {:?}: open it as 127.0.0.1 or localhost",
            short(&host)
        )),
        None if !origin.is_empty() && !is_of(&origin, &host) => {
            Some(format!("only this machine is served, and the request comes from a page of {:?}", short(&origin)))
        }
        None => None,
    }
}

/// Whether a page of this origin is one of this host's.
fn is_of(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host))
}

/// Why a request that changes something is not one of our own pages'. A browser says where a request comes from: by
/// `Sec-Fetch-Site` over HTTPS and on this machine, else by `Origin`. What says neither is no browser.
pub(crate) fn foreign(method: &Method, headers: &HeaderMap) -> Option<String> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let site = text(headers, &HeaderName::from_static("sec-fetch-site"));
    if !site.is_empty() {
        return (site != "same-origin").then(|| format!("the request comes from another page ({site})"));
    }
    let (origin, host) = (text(headers, &ORIGIN), text(headers, &HOST));
    let is_ours = origin.is_empty() || is_of(&origin, &host);
    (!is_ours).then(|| {
        format!("the request comes from {origin}, and this is {host}: if a proxy stands between, let it pass the header Host on")
    })
}

fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned()).unwrap_or_default()
}

/// Name and password (<https://www.rfc-editor.org/rfc/rfc7617>).
fn basic(value: &[u8]) -> Option<(String, String)> {
    let (scheme, credentials) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let credentials = String::from_utf8(BASE64.decode(credentials.trim_ascii()).ok()?).ok()?;
    credentials.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned()))
}

fn is_loopback(host: &str) -> bool {
    let named = |name: &str| name.eq_ignore_ascii_case("localhost");
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    named(name) || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whoever runs the program, as far as the system knows.
fn local_user() -> String {
    std::env::var("USER").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "local".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn refused(method: &Method, pairs: &[(&'static str, &str)]) -> bool {
        foreign(method, &headers(pairs)).is_some()
    }

    #[test]
    fn only_pages_of_our_own_change_anything() {
        let post = Method::POST;
        for ours in [
            &[("sec-fetch-site", "same-origin"), ("origin", "https://elsewhere"), ("host", "inside")][..],
            &[("origin", "http://console.shop:8080"), ("host", "console.shop:8080")],
            &[("origin", "https://Console.shop"), ("host", "console.shop")],
            &[("host", "console.shop")],
        ] {
            assert!(!refused(&post, ours), "{ours:?}");
        }
        for theirs in [
            &[("sec-fetch-site", "cross-site"), ("origin", "http://a"), ("host", "a")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://evil"), ("host", "console.shop")],
            &[("origin", "null"), ("host", "console.shop")],
            &[("origin", "http://console.shop:1"), ("host", "console.shop:2")],
        ] {
            assert!(refused(&post, theirs), "{theirs:?}");
            assert!(!refused(&Method::GET, theirs), "a look: {theirs:?}");
        }
    }

    #[tokio::test]
    async fn without_people_only_this_machine_comes_in() {
        let access = Access::new(Users::none(), None);
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "[::1]"] {
            assert!(access.admit(Version::HTTP_11, &headers(&[("host", host)]), None).await.is_ok(), "{host}");
        }
        let ours = headers(&[("host", "127.0.0.1:80"), ("origin", "http://127.0.0.1:80")]);
        assert!(access.admit(Version::HTTP_11, &ours, None).await.is_ok());
        let page =
            headers(&[("host", "127.0.0.1:80"), ("origin", "https://shop.example"), ("sec-fetch-site", "same-origin")]);
        assert!(access.admit(Version::HTTP_11, &page, None).await.is_err(), "a proxy that names us and not itself");
        let old = access.admit(Version::HTTP_10, &headers(&[("host", "127.0.0.1")]), None).await;
        assert!(matches!(old, Err(Refusal::Foreign(why)) if why.contains("HTTP/1.0")));
        for header in PROXIES_HEADERS {
            let through =
                access.admit(Version::HTTP_11, &headers(&[("host", "127.0.0.1"), (header, "10.0.0.9")]), None).await;
            assert!(matches!(through, Err(Refusal::Foreign(_))), "{header}");
        }
        for host in ["shop.example", "127.0.0.1.shop.example:1", "10.0.0.1"] {
            let refusal = access.admit(Version::HTTP_11, &headers(&[("host", host)]), None).await;
            assert!(matches!(refusal, Err(Refusal::Foreign(_))), "{host}");
        }
    }

    #[tokio::test]
    async fn a_proxy_is_believed_by_its_address_alone() {
        let users = Users::parse("[alice]\nrole = \"act\"").unwrap();
        let proxy = TrustedProxy {
            header: HeaderName::from_static("x-forwarded-user"),
            addresses: vec!["10.0.0.5".parse().unwrap()],
        };
        let access = Access::new(users, Some(proxy));
        let named = headers(&[("x-forwarded-user", "alice")]);
        let from = |address: &str| Some(address.parse().unwrap());
        let visitor = access.admit(Version::HTTP_11, &named, from("10.0.0.5")).await.unwrap();
        assert_eq!((visitor.name.as_str(), visitor.role), ("alice", Role::Act));
        let other = access
            .admit(Version::HTTP_11, &headers(&[("x-forwarded-user", "bob")]), from("::ffff:10.0.0.5"))
            .await
            .unwrap();
        assert_eq!(other.role, Role::Look, "who is not in the file may look");
        for (headers, peer) in [(named.clone(), from("10.0.0.6")), (named, None), (headers(&[]), from("10.0.0.5"))] {
            assert_eq!(access.admit(Version::HTTP_11, &headers, peer).await, Err(Refusal::LogIn { were_wrong: false }));
        }
    }

    #[test]
    fn credentials_are_read_as_the_standard_has_them() {
        let of = |text: &str| basic(format!("Basic {}", BASE64.encode(text.as_bytes())).as_bytes());
        assert_eq!(of("alice:a:b"), Some(("alice".to_owned(), "a:b".to_owned())));
        assert_eq!(of("alice"), None);
        assert_eq!(basic(b"Bearer x"), None);
        assert_eq!(basic(b"Basic !"), None);
    }
}
