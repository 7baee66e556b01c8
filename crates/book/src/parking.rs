//! A message that is to be set aside, and how it gets into the table of parked messages.

use database::Transaction;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Statement};

/// A message that is to be set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parking {
    /// A code of [`order::ParkReason`], or the broker's own word.
    pub reason: String,
    /// Why, in a sentence.
    pub detail: Option<String>,
    /// The orders that it names.
    pub orders: Vec<String>,
    /// The key that it came with.
    pub routing_key: String,
    /// Its properties but the headers, as JSON.
    pub properties: Map<String, Value>,
    /// Its headers, as JSON.
    pub headers: Map<String, Value>,
    /// Its bytes.
    pub body: Vec<u8>,
    /// How many attempts at its orders there were.
    pub attempts: u32,
    /// The results of the last ones.
    pub history: Vec<String>,
    /// Since when.
    pub at: OffsetDateTime,
}

/// Headers that differ from one delivery of a message to the next.
const PASSING_HEADERS: [&str; 6] = [
    "x-death",
    "x-delivery-count",
    "x-overdue-history",
    "x-overdue-original-message-id",
    "x-overdue-original-timestamp",
    "traceparent",
];

/// Adds a message; the same again only counts.
pub(crate) async fn add_one(transaction: &Transaction<'_>, add: &Statement, parking: &Parking) -> Result<(), Error> {
    let json = |map: &Map<String, Value>| serde_json::to_string(map).unwrap_or_else(|_| "{}".to_owned());
    let (properties, headers) = (json(&parking.properties), json(&parking.headers));
    let attempts = i32::try_from(parking.attempts).unwrap_or(i32::MAX);
    let print = fingerprint(parking);
    let arguments: [&(dyn ToSql + Sync); 11] = [
        &parking.reason,
        &parking.detail,
        &parking.orders,
        &parking.routing_key,
        &properties,
        &headers,
        &parking.body,
        &attempts,
        &parking.history,
        &print,
        &parking.at,
    ];
    transaction.execute(add, &arguments).await.map(drop)
}

/// The same for the same message, parked for the same reason.
fn fingerprint(parking: &Parking) -> Vec<u8> {
    let headers: Map<String, Value> =
        parking.headers.iter().filter(|(name, _)| !PASSING_HEADERS.contains(&name.as_str())).map(clone).collect();
    let mut hash = Sha256::new();
    for part in [
        parking.reason.as_bytes(),
        parking.routing_key.as_bytes(),
        &parking.body,
        serde_json::to_string(&headers).unwrap_or_default().as_bytes(),
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

fn clone((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}
