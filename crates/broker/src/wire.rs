//! The body of a timeout message: the orders, or timers, to look at.
//!
//! It has one of two forms: a bare order ID in UTF-8 (`842317`), or
//! `{"v":1,"orders":[{"id":"842317","due":"2026-11-22T08:30:00Z"}]}`, in which `due` may be missing, or have whatever
//! form. A timer stands there with its name (`receipt:842317`). In a message of ours it says until when the order need not be looked at. The deadline in the order book decides.

use std::borrow::Cow;

use order::{BadTimeoutId, Deadline, ParkReason, TimeoutId, TimeoutKind, UnknownKind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The most orders, or timers, that one message may name.
pub const ORDERS_MAX: usize = 256;

/// The most bytes that a message's body may have: 64 KiB.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// The version that this program writes and understands.
const VERSION: u8 = 1;

/// A message that was understood, at least in part.
#[derive(Debug)]
pub struct Decoded {
    /// The orders, or timers, to look at, in the order in which the message names them.
    pub ids: Vec<TimeoutId>,
    /// When each is due; `None`: not all entries say so in the form in which ours do, or some are bad.
    pub due: Option<Vec<Deadline>>,
    /// Entries that name none, each with its own bytes.
    pub bad_entries: Vec<BadEntry>,
}

/// One entry of a message that is otherwise good.
#[derive(Debug)]
pub struct BadEntry {
    /// The entry as it stood in the message.
    pub json: Box<RawValue>,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Why a message, or an entry of one, cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// More bytes than [`BODY_BYTES_MAX`].
    #[error("the body has {0} bytes, at most {BODY_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// Bytes that are not UTF-8.
    #[error("the body is not UTF-8: byte {0} is wrong")]
    NotUtf8(usize),
    /// It begins like a JSON object and is none.
    #[error("the body is not a JSON object of the expected form: line {line}, column {column}")]
    NotJson {
        /// Where the parser stopped, from 1.
        line: usize,
        /// Where the parser stopped, from 1.
        column: usize,
    },
    /// A version other than 1, or none.
    #[error("the version is {0}, only 1 is known")]
    UnknownVersion(String),
    /// `orders` is missing, empty or no list.
    #[error("the message names no orders")]
    NoOrders,
    /// More than [`ORDERS_MAX`].
    #[error("the message names {0} orders, at most {ORDERS_MAX} are allowed")]
    TooManyOrders(usize),
    /// An entry that is not an object with the text `id`.
    #[error("the entry is not of the form {{\"id\":\"…\",\"due\":\"…\"}}")]
    MalformedEntry,
    /// An ID that is none.
    #[error(transparent)]
    IllegalId(#[from] BadTimeoutId),
    /// A command that is none; why.
    #[error("this is no command: {0}")]
    IllegalCommand(String),
    /// A routing key that names no kind of timeout of this version.
    #[error(transparent)]
    UnknownKind(#[from] UnknownKind),
}

impl Fault {
    /// The reason for which the message, or the entry, is parked.
    #[must_use]
    pub fn reason(&self) -> ParkReason {
        match self {
            Self::TooLarge(_) => ParkReason::TooLarge,
            Self::NotUtf8(_) => ParkReason::NotUtf8,
            Self::NotJson { .. } => ParkReason::NotJson,
            Self::UnknownVersion(_) => ParkReason::UnknownVersion,
            Self::NoOrders => ParkReason::NoOrders,
            Self::TooManyOrders(_) => ParkReason::TooManyOrders,
            Self::MalformedEntry => ParkReason::MalformedEntry,
            Self::IllegalId(BadTimeoutId::Order(_)) => ParkReason::IllegalOrderId,
            Self::IllegalId(BadTimeoutId::Timer(_)) => ParkReason::IllegalTimerId,
            Self::IllegalCommand(_) => ParkReason::IllegalCommand,
            Self::UnknownKind(_) => ParkReason::UnknownKind,
        }
    }
}

/// A message in the form in which it is written.
#[derive(Serialize)]
struct Envelope<E> {
    v: u8,
    orders: Vec<E>,
}

/// An entry in the form in which it is written.
#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<String>,
}

/// The body that names these orders, or timers, in version 1.
///
/// # Panics
/// If there are none, or more than [`ORDERS_MAX`]: the caller groups them.
#[must_use]
pub fn encode(ids: &[(TimeoutId, Deadline)]) -> Vec<u8> {
    assert!((1..=ORDERS_MAX).contains(&ids.len()), "{} orders in one message", ids.len());
    json(ids.iter().map(|(id, due)| Entry { id: id.as_str(), due: Some(due.to_string()) }).collect())
}

/// The body that names these orders, or timers, and not when they are due, in version 1.
#[must_use]
pub fn encode_ids(ids: &[TimeoutId]) -> Vec<u8> {
    json(ids.iter().map(|id| Entry { id: id.as_str(), due: None }).collect())
}

/// The body of entries that are kept byte for byte, in version 1. Under it bad entries are parked.
#[must_use]
pub fn encode_entries(entries: &[&RawValue]) -> Vec<u8> {
    json(entries.to_vec())
}

fn json<E: Serialize>(orders: Vec<E>) -> Vec<u8> {
    // Texts and valid JSON: nothing in it can fail to be written.
    serde_json::to_vec(&Envelope { v: VERSION, orders }).unwrap_or_default()
}

/// Reads the body of a message of this kind.
///
/// # Errors
/// A [`Fault`] where nothing of the message can be used. Single entries that are wrong are no error: they
/// come back beside the good ones.
pub fn decode(kind: TimeoutKind, body: &[u8]) -> Result<Decoded, Fault> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Fault::TooLarge(body.len()));
    }
    let text = std::str::from_utf8(body).map_err(|error| Fault::NotUtf8(error.valid_up_to()))?;
    if text.trim_start().starts_with('{') {
        decode_object(kind, text)
    } else {
        Ok(Decoded { ids: vec![TimeoutId::parse(kind, text)?], due: None, bad_entries: Vec::new() })
    }
}

fn decode_object(kind: TimeoutKind, text: &str) -> Result<Decoded, Fault> {
    #[derive(Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        orders: Option<&'a RawValue>,
    }
    let parts: Parts<'_> = envelope(text)?;
    let entries = parts.orders.ok_or(Fault::NoOrders)?;
    let entries: Vec<&RawValue> = serde_json::from_str(entries.get()).map_err(|_| Fault::NoOrders)?;
    if entries.is_empty() {
        return Err(Fault::NoOrders);
    }
    if entries.len() > ORDERS_MAX {
        return Err(Fault::TooManyOrders(entries.len()));
    }
    let (mut ids, mut due) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    let mut bad_entries = Vec::new();
    for entry in &entries {
        match decode_entry(kind, entry.get()) {
            Ok((id, when)) => {
                ids.push(id);
                due.extend(when);
            }
            Err(fault) => bad_entries.push(BadEntry { json: (*entry).to_owned(), fault }),
        }
    }
    let due = (due.len() == entries.len()).then_some(due);
    Ok(Decoded { ids, due, bad_entries })
}

/// Reads the parts of an envelope of version 1, whatever else it has. Each is read only when the one before it is known to be
/// good, so that a later version with other fields is called an unknown version and not broken JSON.
pub(crate) fn envelope<'a, P: Deserialize<'a>>(text: &'a str) -> Result<P, Fault> {
    #[derive(Deserialize)]
    struct Version<'a> {
        #[serde(borrow)]
        v: Option<&'a RawValue>,
    }
    let not_json = |error: serde_json::Error| Fault::NotJson { line: error.line(), column: error.column() };
    let version: Version<'a> = serde_json::from_str(text).map_err(not_json)?;
    match version.v.map(RawValue::get) {
        Some(version) if version.parse() == Ok(VERSION) => serde_json::from_str(text).map_err(not_json),
        Some(other) => Err(Fault::UnknownVersion(other.chars().take(20).collect())),
        None => Err(Fault::UnknownVersion("missing".to_owned())),
    }
}

fn decode_entry(kind: TimeoutKind, json: &str) -> Result<(TimeoutId, Option<Deadline>), Fault> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
        #[serde(borrow)]
        due: Option<&'a RawValue>,
    }
    let entry: Fields<'_> = serde_json::from_str(json).map_err(|_| Fault::MalformedEntry)?;
    let due = entry.due.and_then(|due| serde_json::from_str::<Cow<'_, str>>(due.get()).ok()?.parse().ok());
    Ok((TimeoutId::parse(kind, &entry.id)?, due))
}

#[cfg(test)]
mod tests {
    use order::{OrderId, TimerId};
    use proptest::prelude::*;

    use super::*;

    fn code(body: &[u8]) -> &'static str {
        read(body).unwrap_err().reason().code()
    }

    fn read(body: &[u8]) -> Result<Decoded, Fault> {
        decode(TimeoutKind::Payment, body)
    }

    fn id(text: &str) -> TimeoutId {
        TimeoutId::parse(TimeoutKind::Payment, text).unwrap()
    }

    #[test]
    fn a_timer_has_another_name_than_an_order() {
        let timer = |body: &str| decode(TimeoutKind::Timer, body.as_bytes());
        let decoded = timer(r#"{"v":1,"orders":[{"id":"receipt:842317"},{"id":"842317"}]}"#).unwrap();
        assert_eq!(decoded.ids, [TimeoutId::Timer("receipt:842317".parse().unwrap())]);
        assert_eq!(decoded.bad_entries[0].fault.reason().code(), "illegal_timer_id");
        assert_eq!(timer("payment:842317").unwrap_err().reason().code(), "illegal_timer_id");
    }

    #[test]
    fn both_forms_are_understood() {
        for body in [
            "842317",
            r#"{"v":1,"orders":[{"id":"842317","due":"2026-11-22T08:30:00Z"}]}"#,
            // A hint in a form that is not ours does not hurt.
            r#"{"v":1,"orders":[{"id":"842317","due":"2026-11-22 08:30:00"}]}"#,
            r#"{"v":1,"orders":[{"id":"842317","due":"2026-11-22T08:30:00+0800"}]}"#,
            r#"{"v":1,"orders":[{"id":"842317","due":1795000000}]}"#,
            r#"{"v":1,"orders":[{"id":"842317","due":""}]}"#,
            r#"{"v":1,"orders":[{"id":"842317","due":null}]}"#,
            // More fields do not hurt.
            r#" {"orders":[{"id":"842317","later":[]}],"v":1,"more":0} "#,
        ] {
            let decoded = read(body.as_bytes()).unwrap();
            assert_eq!(decoded.ids, [id("842317")], "{body}");
            assert!(decoded.bad_entries.is_empty(), "{body}");
        }
    }

    #[test]
    fn each_fault_has_its_code() {
        assert_eq!(code(&vec![b'9'; BODY_BYTES_MAX + 1]), "too_large");
        assert_eq!(code(b"84\xff"), "not_utf8");
        assert_eq!(code(b"{\"v\":1,"), "not_json");
        assert_eq!(code(b"{\"v\":1,\"v\":1}"), "not_json");
        assert_eq!(code(br#"{"v":2,"letters":"abc"}"#), "unknown_version");
        assert_eq!(code(br#"{"v":"1","orders":[{"id":"1"}]}"#), "unknown_version");
        assert_eq!(code(br#"{"orders":[{"id":"1"}]}"#), "unknown_version");
        assert_eq!(code(br#"{"v":1}"#), "no_orders");
        assert_eq!(code(br#"{"v":1,"orders":[]}"#), "no_orders");
        assert_eq!(code(br#"{"v":1,"orders":"1"}"#), "no_orders");
        let many = format!(r#"{{"v":1,"orders":[{}]}}"#, vec![r#"{"id":"1"}"#; 257].join(","));
        assert_eq!(code(many.as_bytes()), "too_many_orders");
        for text in ["", " ", "12 3", "[1]", "\"1\"", "842317\n", &"9".repeat(65)] {
            assert_eq!(code(text.as_bytes()), "illegal_order_id", "{text:?}");
        }
    }

    #[test]
    fn a_bad_entry_does_not_spoil_its_neighbours() {
        let body = br#"{"v":1,"orders":[{"id":"a"},{"id":"b b"},{"id":7},7,{"id":"c","due":"soon"},{"id":"d"}]}"#;
        let decoded = read(body).unwrap();
        assert_eq!(decoded.ids, [id("a"), id("c"), id("d")]);
        let bad: Vec<_> = decoded.bad_entries.iter().map(|bad| (bad.json.get(), bad.fault.reason().code())).collect();
        assert_eq!(
            bad,
            [(r#"{"id":"b b"}"#, "illegal_order_id"), (r#"{"id":7}"#, "malformed_entry"), ("7", "malformed_entry"),]
        );
    }

    #[test]
    fn the_largest_message_that_is_written_is_one_that_is_read() {
        let due: Deadline = "2026-11-22T08:30:00.123456Z".parse().unwrap();
        let orders = vec![(id(&"9".repeat(OrderId::LENGTH_MAX)), due); ORDERS_MAX];
        assert_eq!(read(&encode(&orders)).unwrap().ids.len(), ORDERS_MAX);
        let timer = TimerId::new(&"k".repeat(TimerId::KIND_LENGTH_MAX), &"9".repeat(OrderId::LENGTH_MAX)).unwrap();
        let timers = vec![(TimeoutId::Timer(timer), due); ORDERS_MAX];
        assert_eq!(decode(TimeoutKind::Timer, &encode(&timers)).unwrap().ids.len(), ORDERS_MAX);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ids in prop::collection::vec("[A-Za-z0-9._:-]{1,64}", 1..=ORDERS_MAX)) {
            let due: Deadline = "2026-11-22T08:30:00Z".parse().unwrap();
            let orders: Vec<_> = ids.iter().map(|text| (id(text), due)).collect();
            let decoded = read(&encode(&orders)).unwrap();
            prop_assert_eq!(decoded.ids.iter().map(TimeoutId::as_str).collect::<Vec<_>>(), ids);
            prop_assert!(decoded.bad_entries.is_empty());
        }

        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&body);
        }

        #[test]
        fn no_object_makes_it_panic(inner in r#"[{}\[\]":,a-z0-9\\ ]{0,60}"#) {
            let _ = read(format!("{{\"v\":1,\"orders\":[{inner}]}}").as_bytes());
        }
    }
}
