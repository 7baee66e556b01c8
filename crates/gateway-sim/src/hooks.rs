//! A shop's own service, which webhooks are delivered to. It verifies them by itself, as the specification says
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64;
use ring::hmac;
use serde_json::json;
use time::OffsetDateTime;

use crate::message::{Reply, SimRequest};

/// The key that it shares with whoever delivers.
const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How old a delivery may be, in seconds.
const AGE_MAX_S: i64 = 300;

/// What it was sent.
#[derive(Default)]
pub(crate) struct Hooks {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    received: u64,
    refused: u64,
    ids: HashSet<String>,
}

impl Hooks {
    pub(crate) fn answer(&self, request: &SimRequest) -> Reply {
        let id = verified(request, OffsetDateTime::now_utc().unix_timestamp());
        let mut counts = self.counts();
        match id {
            Some(id) => {
                counts.received += 1;
                counts.ids.insert(id);
                Reply::json(200, &json!({}))
            }
            None => {
                counts.refused += 1;
                Reply::json(401, &json!({ "error": "the signature is wrong, or old" }))
            }
        }
    }

    /// How many deliveries there were, of how many events, and how many were refused.
    pub(crate) fn counted(&self) -> serde_json::Value {
        let counts = self.counts();
        json!({ "received": counts.received, "refused": counts.refused, "events": counts.ids.len() })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ID of a delivery that is signed as it must be.
fn verified(request: &SimRequest, now: i64) -> Option<String> {
    let header = |name: &str| request.headers.get(name)?.to_str().ok();
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let age = now - timestamp.parse::<i64>().ok()?;
    if age.abs() > AGE_MAX_S {
        return None;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(KEY.as_bytes()).ok()?);
    let mut content = format!("{id}.{timestamp}.").into_bytes();
    content.extend_from_slice(&request.body);
    let is_ours = |signature: &str| {
        let tag = signature.strip_prefix("v1,").and_then(|base64| BASE64.decode(base64.as_bytes()).ok());
        tag.is_some_and(|tag| hmac::verify(&key, &content, &tag).is_ok())
    };
    header("webhook-signature")?.split(' ').any(is_ours).then(|| id.to_owned())
}
