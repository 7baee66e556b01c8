//! Alipay's gateway 1.0, as far as a merchant needs it here. The application's keys are the merchant's.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use time::format_description::StaticFormatDescription;
use time::macros::{format_description, offset};
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::keys::{is_signed_by, sign};
use crate::message::{Reply, SimRequest};
use crate::shared::Shared;
use crate::{ALIPAY_APP_ID, Call, Mishap, Signer, State, TradeEntry};

type Form = BTreeMap<String, String>;

/// How it writes times, and they are Beijing's.
const TIME: StaticFormatDescription = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

/// Answers a call; `None`: the connection breaks.
pub(crate) async fn answer(state: &Shared, request: &SimRequest) -> Option<Reply> {
    if request.method != Method::POST {
        return Some(Reply::new(405, Vec::new()));
    }
    let mut form = read(request.uri.query().unwrap_or_default());
    form.extend(read(std::str::from_utf8(&request.body).unwrap_or_default()));
    let method = form.get("method").cloned().unwrap_or_default();
    if let Err(sub_code) = check(state, &form) {
        return Some(replied(state, &method, &refused("40002", sub_code), &[]));
    }
    let content: Value = form.get("biz_content").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let text = |name: &str| content[name].as_str().unwrap_or_default().to_owned();
    let trade_no = text("out_trade_no");
    let call: fn(u32) -> Call = match method.as_str() {
        "alipay.trade.query" => Call::Query,
        "alipay.trade.close" => Call::Close,
        "alipay.trade.refund" => Call::Refund,
        "alipay.trade.fastpay.refund.query" => Call::RefundQuery,
        _ => return Some(replied(state, &method, &refused("40001", "isv.invalid-method"), &[])),
    };
    let mut mishaps = state.ledger.called(&trade_no, call);
    mishaps.extend(state.knobs().outage.clone());
    for mishap in &mishaps {
        match mishap {
            Mishap::PayBefore => drop(state.ledger.pay(&trade_no)),
            Mishap::LoseRequest => return None,
            Mishap::Error(_, code) => return Some(replied(state, &method, &refused("40004", code), &mishaps)),
            Mishap::Html(status) => return Some(Reply::new(*status, b"<html>Bad Gateway</html>".to_vec())),
            Mishap::Empty(status) => return Some(Reply::new(*status, Vec::new())),
            _ => {}
        }
    }
    let node = match method.as_str() {
        "alipay.trade.query" => query(state, &trade_no, &mishaps),
        "alipay.trade.close" => close(state, &trade_no, &mishaps),
        "alipay.trade.refund" => refund(state, &trade_no, &text("out_request_no"), &text("refund_amount"), &mishaps),
        _ => query_refund(state, &trade_no, &text("out_request_no")),
    };
    if mishaps.contains(&Mishap::PayAfter) {
        state.ledger.pay(&trade_no);
    }
    if mishaps.contains(&Mishap::LoseAnswer) {
        return None;
    }
    Some(replied(state, &method, &node, &mishaps))
}

fn query(state: &Shared, trade_no: &str, mishaps: &[Mishap]) -> Value {
    let trade = state.ledger.trade(trade_no).filter(|_| !mishaps.contains(&Mishap::NotExist));
    let Some(mut trade) = trade else { return refused("40004", "ACQ.TRADE_NOT_EXIST") };
    if mishaps.contains(&Mishap::StaleRead) {
        trade = TradeEntry { state: State::NotPaid, transaction_id: None, paid_at: None, ..trade };
    }
    let mut node = json!({
        "code": "10000", "msg": "Success", "out_trade_no": trade_no, "trade_status": status(trade.state),
        "trade_no": trade.transaction_id.clone().unwrap_or_else(|| "2026000000000000".to_owned()),
        "total_amount": yuan(trade.amount_minor),
    });
    if let Some(at) = trade.paid_at {
        node["send_pay_date"] = json!(beijing(at));
    }
    for mishap in mishaps {
        match mishap {
            Mishap::State(name) => node["trade_status"] = json!(name),
            Mishap::WrongAmount => node["total_amount"] = json!(yuan(trade.amount_minor - 1)),
            Mishap::OtherTrade => node["out_trade_no"] = json!("another_trade"),
            _ => {}
        }
    }
    node
}

fn close(state: &Shared, trade_no: &str, mishaps: &[Mishap]) -> Value {
    let done = json!({ "code": "10000", "msg": "Success", "out_trade_no": trade_no });
    if mishaps.contains(&Mishap::PretendToClose) {
        return done;
    }
    match state.ledger.close(trade_no) {
        None => refused("40004", "ACQ.TRADE_NOT_EXIST"),
        Some(State::NotPaid) => done,
        Some(State::Closed) => refused("40004", "ACQ.TRADE_HAS_CLOSE"),
        Some(_) => refused("40004", "ACQ.REASON_TRADE_STATUS_INVALID"),
    }
}

/// The first request moves the money, and every later one says that it moved nothing.
fn refund(state: &Shared, trade_no: &str, refund_no: &str, amount: &str, mishaps: &[Mishap]) -> Value {
    if mishaps.contains(&Mishap::NotEnough) {
        return refused("40004", "ACQ.SELLER_BALANCE_NOT_ENOUGH");
    }
    let minor = amount.replace('.', "").parse().unwrap_or(0);
    match state.ledger.refund(refund_no, trade_no, minor, "SUCCESS") {
        Ok(entry) => {
            let moved = if entry.requests == 1 { "Y" } else { "N" };
            json!({ "code": "10000", "msg": "Success", "out_trade_no": trade_no, "fund_change": moved })
        }
        Err(_) => refused("40004", "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"),
    }
}

fn query_refund(state: &Shared, trade_no: &str, refund_no: &str) -> Value {
    match state.ledger.query_refund(refund_no) {
        Some(_) => json!({
            "code": "10000", "msg": "Success", "out_trade_no": trade_no, "out_request_no": refund_no,
            "refund_status": "REFUND_SUCCESS",
        }),
        None => json!({ "code": "10000", "msg": "Success" }),
    }
}

/// A trade that was refunded in full is closed, and tells when it was paid.
fn status(state: State) -> &'static str {
    match state {
        State::NotPaid => "WAIT_BUYER_PAY",
        State::Paid => "TRADE_SUCCESS",
        State::Closed | State::Refunded => "TRADE_CLOSED",
    }
}

/// A notification about a trade as it stands: headers and body.
pub(crate) fn notification(state: &Shared, trade_no: &str) -> (HeaderMap, Vec<u8>) {
    let trade = state.ledger.trade(trade_no);
    let mut form = Form::new();
    let mut put = |name: &str, value: String| drop(form.insert(name.to_owned(), value));
    put("notify_type", "trade_status_sync".to_owned());
    put("notify_id", uuid::Uuid::now_v7().simple().to_string());
    put("notify_time", beijing(OffsetDateTime::now_utc()));
    put("app_id", ALIPAY_APP_ID.to_owned());
    put("charset", "utf-8".to_owned());
    put("subject", "tea & cakes \u{8336}".to_owned());
    put("out_trade_no", trade_no.to_owned());
    if let Some(trade) = trade {
        put("trade_status", status(trade.state).to_owned());
        put("trade_no", trade.transaction_id.unwrap_or_default());
        put("total_amount", yuan(trade.amount_minor));
        put("gmt_payment", trade.paid_at.map(beijing).unwrap_or_default());
        if trade.state == State::Refunded {
            put("refund_fee", yuan(trade.amount_minor));
        }
    }
    let signature = sign(&state.signer(Signer::PublicKey).1, text(&form).as_bytes());
    form.insert("sign".to_owned(), signature);
    form.insert("sign_type".to_owned(), "RSA2".to_owned());
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
    headers.insert(HeaderName::from_static("content-type"), kind);
    let pairs = form.iter().map(|(name, value)| {
        format!("{name}={}", percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC))
    });
    (headers, pairs.collect::<Vec<_>>().join("&").into_bytes())
}

fn refused(code: &str, sub_code: &str) -> Value {
    json!({ "code": code, "msg": "Business Failed", "sub_code": sub_code, "sub_msg": "simulated" })
}

/// The node of the answer, signed as it stands; as well or as badly as it goes wrong.
fn replied(state: &Shared, method: &str, node: &Value, mishaps: &[Mishap]) -> Reply {
    let node = node.to_string();
    let signer = if mishaps.contains(&Mishap::UnknownKey) { Signer::Unknown } else { Signer::PublicKey };
    let mut signed = node.clone();
    if mishaps.contains(&Mishap::BadSignature) {
        signed.push('!');
    }
    let signature = sign(&state.signer(signer).1, signed.as_bytes());
    let name = format!("{}_response", method.replace('.', "_"));
    let body = if mishaps.contains(&Mishap::Unsigned) {
        format!("{{\"{name}\":{node}}}")
    } else {
        format!("{{\"{name}\":{node},\"sign\":\"{signature}\"}}")
    };
    Reply::new(200, body.into_bytes()).with("content-type", "text/html;charset=utf-8")
}

fn check(state: &Shared, form: &Form) -> Result<(), &'static str> {
    let get = |name: &str| form.get(name).map_or("", String::as_str);
    if get("app_id") != ALIPAY_APP_ID {
        return Err("isv.invalid-app-id");
    }
    if (get("version"), get("sign_type"), get("charset"), get("format")) != ("1.0", "RSA2", "utf-8", "JSON") {
        return Err("isv.invalid-parameter");
    }
    let sent = PrimitiveDateTime::parse(get("timestamp"), TIME).map(|local| local.assume_offset(offset!(+8)));
    if sent.map_or(true, |at| (OffsetDateTime::now_utc() - at).abs() > time::Duration::minutes(10)) {
        return Err("isv.invalid-timestamp");
    }
    let mut unsigned = form.clone();
    let signature = unsigned.remove("sign").unwrap_or_default();
    if is_signed_by(&state.merchant_public_key, text(&unsigned).as_bytes(), &signature) {
        Ok(())
    } else {
        Err("isv.invalid-signature")
    }
}

/// What is signed.
fn text(form: &Form) -> String {
    let signed = form.iter().filter(|(name, value)| !value.is_empty() && !matches!(name.as_str(), "sign"));
    signed.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn read(query: &str) -> Form {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (decoded(name), decoded(value)));
    query.split('&').filter_map(pair).collect()
}

fn yuan(minor: i64) -> String {
    format!("{}.{:02}", minor / 100, minor % 100)
}

fn beijing(at: OffsetDateTime) -> String {
    at.to_offset(offset!(+8)).format(TIME).unwrap_or_default()
}
