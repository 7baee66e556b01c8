//! WeChat Pay v3, as far as a merchant needs it here.

use std::time::Duration;

use data_encoding::BASE64;
use http::{HeaderMap, Method};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::keys::{is_signed_by, sign};
use crate::message::{Reply, SimRequest};
use crate::shared::{Shared, header_map};
use crate::{API_V3_KEY, APPID, Call, MCHID, MERCHANT_SERIAL, Mishap, Signer, State, TradeEntry};

/// Answers a call; `None`: the connection breaks.
pub(crate) async fn answer(state: &Shared, request: &SimRequest, path: &[&str]) -> Option<Reply> {
    if let Err(what) = check_signature(state, request) {
        return Some(error(401, "SIGN_ERROR", what));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    match (request.method.clone(), path) {
        (Method::GET, ["v3", "certificates"]) => Some(signed(state, 200, Some(certificates(state)), &[])),
        (Method::POST, ["v3", "pay", "transactions", "native"]) => {
            let amount = &body["amount"];
            let (total, currency) = (amount["total"].as_i64().unwrap_or(0), amount["currency"].as_str());
            state.ledger.open(&text("out_trade_no"), total, currency.unwrap_or("CNY"));
            Some(signed(state, 200, Some(json!({ "code_url": "weixin://wxpay/bizpayurl?pr=sim" })), &[]))
        }
        (Method::GET, ["v3", "pay", "transactions", "out-trade-no", trade_no]) => {
            if request.uri.query() != Some(&format!("mchid={MCHID}")) {
                return Some(error(400, "PARAM_ERROR", "mchid"));
            }
            attempt(state, trade_no, "query", Call::Query, |mishaps| query(state, trade_no, mishaps)).await
        }
        (Method::POST, ["v3", "pay", "transactions", "out-trade-no", trade_no, "close"]) => {
            if text("mchid") != MCHID {
                return Some(error(400, "PARAM_ERROR", "mchid"));
            }
            attempt(state, trade_no, "close", Call::Close, |mishaps| close(state, trade_no, mishaps)).await
        }
        (Method::POST, ["v3", "refund", "domestic", "refunds"]) => {
            let trade_no = state.ledger.trade_with(&text("transaction_id"));
            let trade_no = trade_no.unwrap_or_else(|| text("out_trade_no"));
            let (refund_no, amount) = (text("out_refund_no"), body["amount"]["refund"].as_i64().unwrap_or(0));
            let refund = |mishaps: &[Mishap]| refund(state, &refund_no, &trade_no, amount, mishaps);
            attempt(state, &trade_no, "refund", Call::Refund, refund).await
        }
        (Method::GET, ["v3", "refund", "domestic", "refunds", refund_no]) => {
            let trade_no = state.ledger.trade_of(refund_no).unwrap_or_default();
            let query = |_: &[Mishap]| query_refund(state, refund_no);
            attempt(state, &trade_no, "refund query", Call::RefundQuery, query).await
        }
        _ => Some(Reply::new(404, Vec::new())),
    }
}

/// What a call does: the status, and the body that is signed with it; or an error, which is not signed.
enum Done {
    Success(u16, Option<Value>),
    Error(u16, &'static str),
}

/// Does what a call asks for, as far as nothing goes wrong.
async fn attempt(
    state: &Shared,
    trade_no: &str,
    kind: &'static str,
    call: fn(u32) -> Call,
    work: impl Fn(&[Mishap]) -> Done,
) -> Option<Reply> {
    let mut mishaps = state.ledger.called(trade_no, call);
    mishaps.extend(state.knobs().outage.clone());
    for mishap in &mishaps {
        match mishap {
            Mishap::PayBefore => drop(state.ledger.pay(trade_no)),
            Mishap::LoseRequest => return None,
            Mishap::Hang(ms) => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                return None;
            }
            Mishap::Slow(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Mishap::Error(status, code) => return Some(error(*status, code, "simulated")),
            Mishap::Html(status) => {
                return Some(Reply::new(*status, b"<html><body>Bad Gateway</body></html>".to_vec()));
            }
            Mishap::Empty(status) => return Some(Reply::new(*status, Vec::new())),
            _ => {}
        }
    }
    if mishaps.contains(&Mishap::Replay)
        && let Some(reply) = state.last_replies().get(kind).cloned()
    {
        return Some(reply);
    }
    let done = work(&mishaps);
    if mishaps.contains(&Mishap::PayAfter) {
        state.ledger.pay(trade_no);
    }
    if mishaps.contains(&Mishap::LoseAnswer) {
        return None;
    }
    let mut reply = match done {
        Done::Success(status, body) => signed(state, status, body, &mishaps),
        Done::Error(status, code) => error(status, code, "simulated"),
    };
    state.last_replies().insert(kind, reply.clone());
    reply.drip = mishaps.iter().find_map(|mishap| match mishap {
        Mishap::Drip(ms) => Some(Duration::from_millis(*ms)),
        _ => None,
    });
    Some(reply)
}

fn query(state: &Shared, trade_no: &str, mishaps: &[Mishap]) -> Done {
    let Some(mut trade) = state.ledger.trade(trade_no) else { return Done::Error(404, "ORDER_NOT_EXIST") };
    if mishaps.contains(&Mishap::NotExist) {
        return Done::Error(404, "ORDER_NOT_EXIST");
    }
    if mishaps.contains(&Mishap::StaleRead) {
        trade = TradeEntry { state: State::NotPaid, transaction_id: None, paid_at: None, ..trade };
    }
    let mut body = transaction(trade_no, &trade);
    for mishap in mishaps {
        match mishap {
            Mishap::UserPaying => body["trade_state"] = json!("USERPAYING"),
            Mishap::State(name) => body["trade_state"] = json!(name),
            Mishap::WrongAmount => body["amount"]["total"] = json!(trade.amount_minor - 1),
            Mishap::WrongApplication => body["appid"] = json!("wx0000000000000000"),
            Mishap::OtherTrade => body["out_trade_no"] = json!("another-trade"),
            _ => {}
        }
    }
    Done::Success(200, Some(body))
}

fn close(state: &Shared, trade_no: &str, mishaps: &[Mishap]) -> Done {
    if mishaps.contains(&Mishap::PretendToClose) {
        return Done::Success(204, None);
    }
    match state.ledger.close(trade_no) {
        None => Done::Error(404, "ORDERNOTEXIST"),
        Some(State::NotPaid | State::Closed) => Done::Success(204, None),
        // Both spellings are in use.
        Some(_) if trade_no.bytes().map(u64::from).sum::<u64>() % 2 == 0 => Done::Error(400, "ORDERPAID"),
        Some(_) => Done::Error(400, "ORDER_PAID"),
    }
}

fn refund(state: &Shared, refund_no: &str, trade_no: &str, amount: i64, mishaps: &[Mishap]) -> Done {
    if mishaps.contains(&Mishap::NotEnough) {
        return Done::Error(403, "NOT_ENOUGH");
    }
    let status = if mishaps.contains(&Mishap::Abnormal) { "ABNORMAL" } else { "PROCESSING" };
    match state.ledger.refund(refund_no, trade_no, amount, status) {
        Ok(_) => query_body(state, refund_no, false),
        Err(_) => Done::Error(400, "INVALID_REFUND"),
    }
}

fn query_refund(state: &Shared, refund_no: &str) -> Done {
    query_body(state, refund_no, true)
}

fn query_body(state: &Shared, refund_no: &str, progress: bool) -> Done {
    let refund = if progress { state.ledger.query_refund(refund_no) } else { state.ledger.refunds().remove(refund_no) };
    let Some(refund) = refund else { return Done::Error(404, "RESOURCE_NOT_EXISTS") };
    let body = json!({
        "refund_id": format!("5000{refund_no}"), "out_refund_no": refund_no, "out_trade_no": refund.trade_no,
        "status": refund.status, "amount": { "refund": refund.amount_minor, "total": refund.amount_minor },
        "success_time": if refund.status == "SUCCESS" { json!(now_text()) } else { Value::Null },
    });
    Done::Success(200, Some(body))
}

fn transaction(trade_no: &str, trade: &TradeEntry) -> Value {
    let mut body = json!({
        "mchid": MCHID, "appid": APPID, "out_trade_no": trade_no, "trade_state": state_name(trade.state),
        "trade_state_desc": "simulated",
        "amount": { "total": trade.amount_minor, "currency": trade.currency },
    });
    if let (Some(id), Some(at)) = (&trade.transaction_id, trade.paid_at) {
        body["transaction_id"] = json!(id);
        body["success_time"] = json!(at.format(&Rfc3339).unwrap_or_default());
    }
    body
}

fn state_name(state: State) -> &'static str {
    match state {
        State::NotPaid => "NOTPAY",
        State::Paid => "SUCCESS",
        State::Closed => "CLOSED",
        State::Refunded => "REFUND",
    }
}

/// The certificates that the platform tells of: always both, as around a rotation.
fn certificates(state: &Shared) -> Value {
    let entry = |signer: Signer| {
        let pem = std::fs::read(state.keys.certificate_file(signer)).unwrap_or_default();
        let serial = &state.signer(signer).0;
        json!({ "serial_no": serial, "encrypt_certificate": encrypted(&pem, "certificate") })
    };
    json!({ "data": [entry(Signer::Certificate1), entry(Signer::Certificate2)] })
}

pub(crate) fn notification(state: &Shared, trade_no: &str) -> (HeaderMap, Vec<u8>) {
    let resource = state.ledger.trade(trade_no).map_or(Value::Null, |trade| transaction(trade_no, &trade));
    envelope(state, "TRANSACTION.SUCCESS", "transaction", &resource)
}

pub(crate) fn refund_notification(state: &Shared, refund_no: &str) -> (HeaderMap, Vec<u8>) {
    let refunds = state.ledger.refunds();
    let resource = refunds.get(refund_no).map_or(Value::Null, |refund| {
        json!({
            "mchid": MCHID, "out_trade_no": refund.trade_no, "out_refund_no": refund_no,
            "refund_status": refund.status, "success_time": now_text(),
        })
    });
    envelope(state, "REFUND.SUCCESS", "refund", &resource)
}

fn envelope(state: &Shared, event_type: &str, about: &str, resource: &Value) -> (HeaderMap, Vec<u8>) {
    let body = json!({
        "id": uuid::Uuid::now_v7().to_string(), "create_time": now_text(), "event_type": event_type,
        "resource_type": "encrypt-resource", "resource": encrypted(resource.to_string().as_bytes(), about),
    });
    let reply = signed(state, 200, Some(body), &[]);
    (header_map(&reply.headers), reply.body)
}

fn encrypted(plain: &[u8], associated_data: &str) -> Value {
    let nonce = &uuid::Uuid::now_v7().simple().to_string()[20..32];
    let mut data = plain.to_vec();
    let key = UnboundKey::new(&AES_256_GCM, API_V3_KEY.as_bytes()).map(LessSafeKey::new);
    let nonce_bytes = Nonce::try_assume_unique_for_key(nonce.as_bytes());
    if let (Ok(key), Ok(nonce)) = (key, nonce_bytes) {
        let _ = key.seal_in_place_append_tag(nonce, Aad::from(associated_data.as_bytes()), &mut data);
    }
    json!({
        "algorithm": "AEAD_AES_256_GCM", "nonce": nonce, "associated_data": associated_data,
        "ciphertext": BASE64.encode(&data),
    })
}

/// A success, signed as well or as badly as it goes wrong.
fn signed(state: &Shared, status: u16, body: Option<Value>, mishaps: &[Mishap]) -> Reply {
    let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
    let age = if mishaps.contains(&Mishap::Stale) { 600 } else { 0 };
    let timestamp = (OffsetDateTime::now_utc().unix_timestamp() - age).to_string();
    let nonce = uuid::Uuid::now_v7().simple().to_string();
    let unknown = mishaps.contains(&Mishap::UnknownKey);
    let (serial, key) = state.signer(if unknown { Signer::Unknown } else { state.knobs().signer });
    let mut message = format!("{timestamp}\n{nonce}\n").into_bytes();
    message.extend_from_slice(&body);
    message.push(b'\n');
    if mishaps.contains(&Mishap::BadSignature) {
        message.push(b'!');
    }
    let mut signature = sign(key, &message);
    if mishaps.contains(&Mishap::Probe) {
        signature = format!("WECHATPAY/SIGNTEST/{signature}");
    }
    let reply = Reply::new(status, body).with("content-type", "application/json");
    if mishaps.contains(&Mishap::Unsigned) {
        return reply;
    }
    reply
        .with("wechatpay-timestamp", timestamp)
        .with("wechatpay-nonce", nonce)
        .with("wechatpay-serial", serial)
        .with("wechatpay-signature", signature)
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({ "code": code, "message": message }))
}

/// `Authorization: WECHATPAY2-SHA256-RSA2048 mchid="…",nonce_str="…",timestamp="…",serial_no="…",signature="…"`
fn check_signature(state: &Shared, request: &SimRequest) -> Result<(), &'static str> {
    let header = request.headers.get("authorization").and_then(|value| value.to_str().ok()).ok_or("not signed")?;
    let fields = header.strip_prefix("WECHATPAY2-SHA256-RSA2048 ").ok_or("another scheme")?;
    let field = |name: &str| {
        let mut fields = fields.split("\",");
        let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix("=\""));
        value.map(|value| value.trim_end_matches('"')).ok_or("a field is missing")
    };
    if field("mchid")? != MCHID || field("serial_no")? != MERCHANT_SERIAL {
        return Err("another merchant");
    }
    let timestamp = field("timestamp")?;
    let age = timestamp.parse::<i64>().map_or(u64::MAX, |at| OffsetDateTime::now_utc().unix_timestamp().abs_diff(at));
    if age > 300 {
        return Err("stale");
    }
    let path_and_query = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut message =
        format!("{}\n{path_and_query}\n{timestamp}\n{}\n", request.method, field("nonce_str")?).into_bytes();
    message.extend_from_slice(&request.body);
    message.push(b'\n');
    if is_signed_by(&state.merchant_public_key, &message, field("signature")?) { Ok(()) } else { Err("wrong") }
}

fn now_text() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}
