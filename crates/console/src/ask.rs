//! What a request asks for, beside its address: who asks, in which language, how often the page is to renew itself.

use axum::http::{HeaderMap, Uri};
use http::header::{ACCEPT_LANGUAGE, COOKIE};

use crate::access::Visitor;
use crate::fields::Fields;
use crate::text::{Language, Texts};
use crate::users::Role;

/// A request by somebody who was let in.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) visitor: Visitor,
    pub(crate) language: Language,
    pub(crate) path: String,
    pub(crate) query: Fields,
    /// How often the page renews itself, in seconds; 0: never.
    pub(crate) every: u32,
}

/// How often a page can renew itself, in seconds.
pub(crate) const EVERY: [u32; 5] = [2, 5, 15, 60, 0];

/// The name of the cookie that keeps the language.
pub(crate) const LANGUAGE_COOKIE: &str = "overdue_language";

impl Ask {
    pub(crate) fn new(visitor: Visitor, uri: &Uri, headers: &HeaderMap) -> Self {
        let query = Fields::parse(uri.query().unwrap_or_default().as_bytes());
        let every = query.get("every").parse().ok().filter(|every| EVERY.contains(every)).unwrap_or(EVERY[0]);
        Self { visitor, language: language(headers), path: uri.path().to_owned(), query, every }
    }

    pub(crate) fn texts(&self) -> &'static Texts {
        self.language.texts()
    }

    pub(crate) fn may_act(&self) -> bool {
        self.visitor.role == Role::Act
    }

    /// A link that keeps how often the page renews itself.
    pub(crate) fn link(&self, path: &str) -> String {
        if self.every == EVERY[0] {
            return path.to_owned();
        }
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{path}{separator}every={}", self.every)
    }

    /// This page itself.
    pub(crate) fn here(&self) -> String {
        self.here_with("every", &if self.every == EVERY[0] { String::new() } else { self.every.to_string() })
    }

    /// This page with another value in its query.
    pub(crate) fn here_with(&self, name: &str, value: &str) -> String {
        let query = self.query.with(name, value);
        if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) }
    }
}

pub(crate) fn language(headers: &HeaderMap) -> Language {
    let cookies =
        headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    let mut pairs = cookies.filter_map(|cookie| cookie.trim().split_once('='));
    let chosen = pairs.find(|(name, _)| *name == LANGUAGE_COOKIE).and_then(|(_, code)| Language::parse(code));
    let accepted = || headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    chosen.unwrap_or_else(|| Language::wanted(accepted()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(uri: &str, headers: &[(&'static str, &'static str)]) -> Ask {
        let visitor = Visitor { name: "alice".to_owned(), role: Role::Act, address: None };
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Ask::new(visitor, &uri.parse().unwrap(), &headers)
    }

    #[test]
    fn how_often_a_page_renews_itself_stays_in_its_links() {
        let usual = ask("/console", &[]);
        assert_eq!(
            (usual.every, usual.link("/console/lanes"), usual.here()),
            (2, "/console/lanes".to_owned(), "/console".to_owned())
        );
        let slow = ask("/console/parked?reason=a%20b&every=15", &[]);
        assert_eq!(slow.link("/console/parked?x=1"), "/console/parked?x=1&every=15");
        assert_eq!(slow.here(), "/console/parked?reason=a+b&every=15");
        assert_eq!(slow.here_with("every", ""), "/console/parked?reason=a+b");
        assert_eq!(ask("/console?every=1", &[]).every, 2, "no page renews itself as fast as somebody can type");
    }

    #[test]
    fn a_choice_of_language_counts_more_than_the_browsers() {
        let chinese = ("accept-language", "zh-CN");
        assert_eq!(ask("/console", &[chinese]).language, Language::Chinese);
        assert_eq!(ask("/console", &[chinese, ("cookie", "a=b; overdue_language=en")]).language, Language::English);
        assert_eq!(ask("/console", &[chinese, ("cookie", "overdue_language=xx")]).language, Language::Chinese);
    }
}
