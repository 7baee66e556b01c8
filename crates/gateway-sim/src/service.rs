//! The signed HTTP contract of `docs/payment-service.openapi.json`: an existing payment service looks like this.

use data_encoding::BASE64;
use http::{HeaderMap, Method};
use ring::hmac;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::message::{Reply, SimRequest};
use crate::shared::{Shared, header_map};
use crate::{Call, Mishap, SERVICE_KEY, State};

/// Answers a call; `None`: the connection breaks.
pub(crate) async fn answer(state: &Shared, request: &SimRequest, path: &[&str]) -> Option<Reply> {
    if !is_signed(request) {
        return Some(signed(request, 401, &json!({ "code": "bad_signature" })));
    }
    match state.knobs().outage.clone() {
        Some(Mishap::Error(status, code)) => return Some(signed(request, status, &json!({ "code": code }))),
        Some(Mishap::Empty(status)) => return Some(Reply::new(status, Vec::new())),
        // Whatever else is wrong, there is no answer.
        Some(_) => return None,
        None => {}
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    if request.method == Method::POST && !request.headers.contains_key("idempotency-key") {
        return Some(signed(request, 400, &json!({ "code": "idempotency_key_missing" })));
    }
    let (status, body) = match (request.method.clone(), path) {
        (Method::GET, ["trades", trade_no]) => {
            let mishaps = state.ledger.called(trade_no, Call::Query);
            return attempt(state, request, trade_no, &mishaps, || query(state, trade_no, &mishaps));
        }
        (Method::POST, ["trades", trade_no, "close"]) => {
            let mishaps = state.ledger.called(trade_no, Call::Close);
            return attempt(state, request, trade_no, &mishaps, || close(state, trade_no, &mishaps));
        }
        (Method::POST, ["refunds"]) => {
            let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
            let (refund_no, trade_no) = (text("refund_no"), text("trade_no"));
            let amount = body["amount_minor"].as_i64().unwrap_or(0);
            match state.ledger.refund(&refund_no, &trade_no, amount, "PROCESSING") {
                Ok(_) => (202, refund(&refund_no, "processing")),
                Err(message) => (409, json!({ "code": "refund_refused", "message": message })),
            }
        }
        (Method::GET, ["refunds", refund_no]) => match state.ledger.query_refund(refund_no) {
            Some(_) => (200, refund(refund_no, "succeeded")),
            None => (404, json!({ "code": "refund_not_found" })),
        },
        _ => (404, json!({ "code": "no_such_path" })),
    };
    Some(signed(request, status, &body))
}

/// Does what a call asks for, as far as nothing goes wrong; `None`: the connection breaks.
fn attempt(
    state: &Shared,
    request: &SimRequest,
    trade_no: &str,
    mishaps: &[Mishap],
    work: impl Fn() -> (u16, Value),
) -> Option<Reply> {
    for mishap in mishaps {
        match mishap {
            Mishap::PayBefore => drop(state.ledger.pay(trade_no)),
            Mishap::LoseRequest => return None,
            Mishap::Error(status, code) => return Some(signed(request, *status, &json!({ "code": code }))),
            _ => {}
        }
    }
    let (status, body) = work();
    if mishaps.contains(&Mishap::PayAfter) {
        state.ledger.pay(trade_no);
    }
    if mishaps.contains(&Mishap::LoseAnswer) {
        return None;
    }
    let mut reply = signed(request, status, &body);
    if mishaps.contains(&Mishap::Unsigned) {
        reply.headers.retain(|(name, _)| *name != "overdue-signature");
    }
    if mishaps.contains(&Mishap::BadSignature) {
        reply.body.push(b' ');
    }
    Some(reply)
}

fn query(state: &Shared, trade_no: &str, mishaps: &[Mishap]) -> (u16, Value) {
    if mishaps.contains(&Mishap::NotExist) {
        return (404, json!({ "code": "trade_not_found" }));
    }
    let (status, mut body) = trade(state, trade_no);
    if mishaps.contains(&Mishap::UserPaying) {
        body["state"] = json!("user_paying");
    }
    if mishaps.contains(&Mishap::StaleRead) {
        body["state"] = json!("not_paid");
    }
    (status, body)
}

fn close(state: &Shared, trade_no: &str, mishaps: &[Mishap]) -> (u16, Value) {
    if mishaps.contains(&Mishap::PretendToClose) {
        return (200, json!({ "outcome": "accepted" }));
    }
    match state.ledger.close(trade_no) {
        None => (404, json!({ "code": "trade_not_found" })),
        Some(State::NotPaid) => (200, json!({ "outcome": "accepted" })),
        Some(State::Closed) => (200, json!({ "outcome": "already_closed" })),
        Some(_) => (200, json!({ "outcome": "already_paid" })),
    }
}

fn trade(state: &Shared, trade_no: &str) -> (u16, Value) {
    let Some(trade) = state.ledger.trade(trade_no) else { return (404, json!({ "code": "trade_not_found" })) };
    let body = json!({
        "trade_no": trade_no,
        "state": trade.state,
        "transaction_id": trade.transaction_id,
        "paid_at": trade.paid_at.and_then(|at| at.format(&Rfc3339).ok()),
        "amount_minor": trade.amount_minor,
        "currency": trade.currency,
    });
    (200, body)
}

fn refund(refund_no: &str, state: &str) -> Value {
    json!({ "refund_no": refund_no, "state": state })
}

pub(crate) fn notification(state: &Shared, trade_no: &str) -> (HeaderMap, Vec<u8>) {
    let body = json!({ "event": "trade", "data": trade(state, trade_no).1 }).to_string().into_bytes();
    (header_map(&signature_headers("NOTIFICATION", &body)), body)
}

/// An answer is bound to its request by the request's nonce.
fn signed(request: &SimRequest, status: u16, body: &Value) -> Reply {
    let nonce = request.headers.get("overdue-nonce").and_then(|nonce| nonce.to_str().ok()).unwrap_or_default();
    let mut reply = Reply::json(status, body);
    reply.headers.extend(signature_headers(&format!("{status} {nonce}"), &reply.body));
    reply
}

fn signature_headers(first: &str, body: &[u8]) -> [(&'static str, String); 3] {
    let timestamp = OffsetDateTime::now_utc().unix_timestamp().to_string();
    let nonce = uuid::Uuid::now_v7().simple().to_string();
    let signature = BASE64.encode(hmac::sign(&key(), &message(first, &timestamp, &nonce, body)).as_ref());
    [("overdue-timestamp", timestamp), ("overdue-nonce", nonce), ("overdue-signature", signature)]
}

fn is_signed(request: &SimRequest) -> bool {
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = format!("{} {}", request.method, request.uri.path());
    let message = message(&first, header("overdue-timestamp"), header("overdue-nonce"), &request.body);
    let signature = BASE64.decode(header("overdue-signature").as_bytes()).unwrap_or_default();
    header("overdue-key-id") == SERVICE_KEY.0 && hmac::verify(&key(), &message, &signature).is_ok()
}

fn key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, SERVICE_KEY.1.as_bytes())
}

fn message(first: &str, timestamp: &str, nonce: &str, body: &[u8]) -> Vec<u8> {
    [first.as_bytes(), b"\n", timestamp.as_bytes(), b"\n", nonce.as_bytes(), b"\n", body, b"\n"].concat()
}
