use std::net::IpAddr;
use std::time::Duration;

use order::EventKind;
use url::{Host, Url};

use crate::address::{PRIVATE, refusal};
use crate::signing::Key;

/// Where events are delivered to.
pub struct Endpoint {
    /// Its name: a part of its queue's.
    pub name: String,
    /// Where it listens.
    pub url: Url,
    /// Which events it wants: types, or patterns of types as topic exchanges know them.
    pub types: Vec<String>,
    /// By what deliveries are signed, one or two of each kind.
    pub keys: Vec<Key>,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// How many deliveries may be under way at a time.
    pub concurrency: u16,
    /// How many deliveries a second it is sent at the most; 0: any number.
    pub per_second: u32,
    /// Whether it may be on a network of our own.
    pub allows_private: bool,
}

/// Why settings are no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// A name that is none.
    #[error("the name {0:?} is wrong: 1 to 32 characters of a-z 0-9 - _, a letter first")]
    BadName(String),
    /// A URL that is none, or not for this.
    #[error("the URL is wrong: {0}")]
    BadUrl(String),
    /// A type that is none.
    #[error(
        "{0:?} is no type of events: words with dots between them, such as order.closed; * for any word, # for any number"
    )]
    BadType(String),
    /// A type that no event has.
    #[error("no event is ever of the type {0:?}: there are {1}, and timer.* with the kinds of timers")]
    UnknownType(String, String),
    /// No type at all.
    #[error("types is empty: say which events it wants, such as [\"order.closed\", \"timer.*\"]")]
    NoTypes,
    /// No key, or too many.
    #[error("it has {0} keys: one, or two while one is being changed; up to two of each kind")]
    KeyCount(usize),
    /// A limit out of its range.
    #[error("{0}")]
    BadLimit(&'static str),
}

impl Endpoint {
    /// How long an endpoint may take by default, and at the most: what the specification recommends.
    pub const TIMEOUT: Duration = Duration::from_secs(15);
    /// The longest timeout.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(30);
    /// How many deliveries are under way by default, and at the most.
    pub const CONCURRENCY: u16 = 16;
    /// The most of them.
    pub const CONCURRENCY_MAX: u16 = 256;

    /// Fails for what cannot be.
    ///
    /// # Errors
    /// [`BadEndpoint`].
    pub fn check(&self) -> Result<(), BadEndpoint> {
        check_name(&self.name)?;
        check_url(&self.url, self.allows_private)?;
        if self.types.is_empty() {
            return Err(BadEndpoint::NoTypes);
        }
        if let Some(bad) = self.types.iter().find(|text| !is_pattern(text)) {
            return Err(BadEndpoint::BadType(bad.clone()));
        }
        if let Some(unknown) = self.types.iter().find(|text| !is_of_an_event(text)) {
            return Err(BadEndpoint::UnknownType(unknown.clone(), EventKind::ALL.map(EventKind::as_str).join(", ")));
        }
        let shared = self.keys.iter().filter(|key| matches!(key, Key::Shared(_))).count();
        if self.keys.is_empty() || shared > 2 || self.keys.len() - shared > 2 {
            return Err(BadEndpoint::KeyCount(self.keys.len()));
        }
        if self.timeout < Duration::from_secs(1) || self.timeout > Self::TIMEOUT_MAX {
            return Err(BadEndpoint::BadLimit("timeout must be 1s to 30s"));
        }
        if self.concurrency == 0 || self.concurrency > Self::CONCURRENCY_MAX {
            return Err(BadEndpoint::BadLimit("concurrency must be 1 to 256"));
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), BadEndpoint> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let fits = (1..=32).contains(&name.len()) && name.bytes().all(allowed) && name.as_bytes()[0].is_ascii_lowercase();
    if fits { Ok(()) } else { Err(BadEndpoint::BadName(name.chars().take(40).collect())) }
}

/// Without TLS only this machine is spoken to; and no address of our own network, unless that is meant.
fn check_url(url: &Url, allows_private: bool) -> Result<(), BadEndpoint> {
    let bad = |text: &str| Err(BadEndpoint::BadUrl(text.to_owned()));
    let address = match url.host() {
        None => return bad("it has no host"),
        Some(Host::Domain(_)) => None,
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
    };
    let is_here = address.is_some_and(|address| address.is_loopback()) || url.host_str() == Some("localhost");
    match url.scheme() {
        "https" => {}
        "http" if is_here && !allows_private => {
            return Err(BadEndpoint::BadUrl(format!("it leads to this machine, {PRIVATE}")));
        }
        "http" if is_here => {}
        "http" => return bad("http only for this machine (127.0.0.1, localhost); https for all others"),
        _ => return bad("it begins with neither https:// nor http://"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return bad("it has a user or a password: receivers verify the signature instead");
    }
    if url.fragment().is_some() {
        return bad("it has a fragment (#…), which is never sent");
    }
    match address.and_then(|address| refusal(address, allows_private)) {
        Some(why) => Err(BadEndpoint::BadUrl(format!("it leads to {why}"))),
        None => Ok(()),
    }
}

fn is_pattern(text: &str) -> bool {
    let is_word = |word: &str| {
        matches!(word, "*" | "#")
            || (!word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'))
    };
    text.len() <= 100 && text.split('.').all(is_word)
}

/// Whether there are events that the pattern matches.
fn is_of_an_event(pattern: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    // A timer's kind may be any word.
    let types = EventKind::ALL.iter().map(|kind| kind.as_str()).chain(["timer.*"]);
    types.map(|text| text.split('.').collect::<Vec<&str>>()).any(|words| may_match(&pattern, &words))
}

/// As a topic exchange matches (<https://www.rabbitmq.com/tutorials/amqp-concepts#exchange-topic>).
fn may_match(pattern: &[&str], words: &[&str]) -> bool {
    match (pattern.split_first(), words.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => may_match(rest, words) || !words.is_empty() && may_match(pattern, &words[1..]),
        (Some((wanted, pattern)), Some((word, words))) => {
            (*wanted == "*" || *word == "*" || wanted == word) && may_match(pattern, words)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, url: &str, types: &[&str]) -> Result<(), BadEndpoint> {
        let key = Key::parse(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()).unwrap();
        Endpoint {
            name: name.to_owned(),
            url: url.parse().unwrap(),
            types: types.iter().map(|text| (*text).to_owned()).collect(),
            keys: vec![key],
            timeout: Endpoint::TIMEOUT,
            concurrency: Endpoint::CONCURRENCY,
            per_second: 0,
            allows_private: false,
        }
        .check()
    }

    #[test]
    fn each_rule_has_its_own_error() {
        let url = "https://shop.example/hooks";
        assert_eq!(endpoint("shop", url, &["order.closed", "timer.*", "#"]), Ok(()));
        for name in ["", "Shop", "1", "a.b", &"a".repeat(33)] {
            assert!(matches!(endpoint(name, url, &["#"]), Err(BadEndpoint::BadName(_))), "{name}");
        }
        for (url, words) in [
            ("http://shop.example/", "http only for this machine"),
            ("ftp://shop.example/", "neither https"),
            ("https://user:secret@shop.example/", "a user or a password"),
            ("https://shop.example/#x", "fragment"),
            ("https://10.0.0.1/", "no public address"),
            ("https://169.254.169.254/latest/meta-data", "link-local"),
            ("http://localhost:8080/", "no public address"),
            ("https://[::1]/", "no public address"),
            ("http://127.0.0.1:8080/", "no public address"),
        ] {
            let Err(BadEndpoint::BadUrl(text)) = endpoint("shop", url, &["#"]) else { panic!("{url}") };
            assert!(text.contains(words) && !text.contains("secret"), "{url}: {text}");
        }
        assert_eq!(endpoint("shop", url, &[]), Err(BadEndpoint::NoTypes));
        for text in ["", "order..closed", "Order", "order closed"] {
            assert!(matches!(endpoint("shop", url, &[text]), Err(BadEndpoint::BadType(_))), "{text}");
        }
        for text in ["#", "*.*", "order.#", "*.closed", "timer.sms", "timer.#", "#.refunded", "endpoint.stopped"] {
            assert_eq!(endpoint("shop", url, &[text]), Ok(()), "{text}");
        }
        for text in ["order.closd", "orders.*", "order", "timer", "timer.a.b", "*", "order.closed.now"] {
            assert!(matches!(endpoint("shop", url, &[text]), Err(BadEndpoint::UnknownType(..))), "{text}");
        }
    }
}
