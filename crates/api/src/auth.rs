use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::{Problem, ProblemKind};

/// The bearer token that opens the order service. Only its hash is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

/// A token that is too easy to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadToken;

impl Token {
    /// The fewest bytes that a token may have.
    pub const BYTES_MIN: usize = 16;

    /// A token of at least [`Token::BYTES_MIN`] bytes.
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn new(token: &SecretString) -> Result<Self, BadToken> {
        let token = token.expose_secret().as_bytes();
        if token.len() < Self::BYTES_MIN { Err(BadToken) } else { Ok(Self(Sha256::digest(token).into())) }
    }

    /// Compares hashes, all of them to the end, so that the time that it takes tells nothing.
    fn is(&self, presented: &[u8]) -> bool {
        self.0.ct_eq(&Sha256::digest(presented)).into()
    }
}

/// Lets a request through only with the token; every request where there is none.
pub(crate) async fn require_token(State(token): State<Option<Token>>, request: Request, next: Next) -> Response {
    let Some(token) = &token else { return next.run(request).await };
    let presented = request.headers().get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    if presented.is_some_and(|presented| token.is(presented)) {
        return next.run(request).await;
    }
    let problem = Problem::new(ProblemKind::Unauthorized, "a valid bearer token is needed");
    let mut response = problem.into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_opens() {
        let token = Token::new(&"correct horse battery".into()).ok().unwrap();
        assert!(token.is(b"correct horse battery"));
        assert!(!token.is(b"correct horse batterz") && !token.is(b"") && !token.is(b"correct horse battery "));
        assert_eq!(bearer(b"bearer  abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"Basic abc"), None);
        assert!(Token::new(&"short".into()).is_err());
    }
}
