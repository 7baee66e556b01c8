//! Our own headers. The attempts travel in them, since RabbitMQ 4 ignores a client's `x-death`, and a message that is
//! published anew starts without one.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use order::Attempts;
use time::OffsetDateTime;

/// How many attempts at the orders of a message settled nothing.
pub(crate) const ATTEMPT_HEADER: &str = "x-overdue-attempt";

/// The results of the last attempts: a list of texts.
pub(crate) const HISTORY_HEADER: &str = "x-overdue-history";

/// When a message of ours is to come out of its lane: milliseconds since 1970, by the database's clock.
pub(crate) const UNTIL_HEADER: &str = "x-overdue-until";

/// Why a message was parked: the code of an [`order::ParkReason`].
pub(crate) const REASON_HEADER: &str = "x-overdue-reason";

/// Why a message was parked, in a sentence.
pub(crate) const DETAIL_HEADER: &str = "x-overdue-detail";

/// How many attempts were made before a message was parked. Another name than [`ATTEMPT_HEADER`], so that a message
/// that is sent in again begins anew.
pub(crate) const ATTEMPTS_MADE_HEADER: &str = "x-overdue-attempts-made";

/// The endpoint that a parked event was for.
pub(crate) const ENDPOINT_HEADER: &str = "x-overdue-endpoint";

/// The type of a parked event.
pub(crate) const EVENT_HEADER: &str = "x-overdue-event";

/// The message ID under which a message first came.
pub(crate) const ORIGINAL_ID_HEADER: &str = "x-overdue-original-message-id";

/// The most characters that are read of one line of a history.
const LINE_CHARACTERS_MAX: usize = 300;

/// The same properties, with headers that were changed.
pub(crate) fn with_headers(properties: BasicProperties, change: impl FnOnce(&mut FieldTable)) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    change(&mut headers);
    properties.with_headers(headers)
}

/// Puts a text into the table, in the place of one of that name.
pub(crate) fn insert_text(headers: &mut FieldTable, name: &'static str, text: &str) {
    headers.insert(name.into(), AMQPValue::LongString(text.into()));
}

/// A header that is a text.
pub(crate) fn text(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        _ => None,
    }
}

/// The time in the table; `None` where it says nothing, or nonsense.
pub(crate) fn time(headers: &FieldTable, name: &str) -> Option<OffsetDateTime> {
    match headers.inner().get(name)? {
        AMQPValue::LongLongInt(ms) => OffsetDateTime::from_unix_timestamp_nanos(i128::from(*ms) * 1_000_000).ok(),
        _ => None,
    }
}

/// Puts a time into the table, in the place of one of that name.
pub(crate) fn insert_time(headers: &mut FieldTable, name: &'static str, time: OffsetDateTime) {
    let ms = time.unix_timestamp_nanos() / 1_000_000;
    headers.insert(name.into(), AMQPValue::LongLongInt(i64::try_from(ms).unwrap_or(i64::MAX)));
}

/// Puts attempts into the table, their number under this name; nothing if there were none.
pub(crate) fn insert_attempts(headers: &mut FieldTable, name: &'static str, attempts: &Attempts) {
    if attempts.made > 0 {
        headers.insert(name.into(), AMQPValue::LongUInt(attempts.made));
        let history: Vec<AMQPValue> =
            attempts.history.iter().map(|line| AMQPValue::LongString(line.as_str().into())).collect();
        headers.insert(HISTORY_HEADER.into(), AMQPValue::FieldArray(history.into()));
    }
}

/// The attempts that a table tells of, their number under this name; none where it says nothing, or nonsense.
pub(crate) fn attempts(headers: &FieldTable, name: &str) -> Attempts {
    let made = match headers.inner().get(name) {
        Some(AMQPValue::LongUInt(number)) => Some(*number),
        Some(AMQPValue::LongInt(number)) => u32::try_from(*number).ok(),
        Some(AMQPValue::LongLongInt(number)) => u32::try_from(*number).ok(),
        _ => None,
    };
    let history = match headers.inner().get(HISTORY_HEADER) {
        Some(AMQPValue::FieldArray(lines)) => lines.as_slice(),
        _ => &[],
    };
    let lines = history.iter().filter_map(|line| match line {
        AMQPValue::LongString(line) => Some(line.to_string().chars().take(LINE_CHARACTERS_MAX).collect()),
        _ => None,
    });
    Attempts { made: made.unwrap_or(0), history: lines.take(Attempts::HISTORY_MAX).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_read_as_they_are_written_and_nonsense_is_none() {
        let three = Attempts { made: 3, history: vec!["2026-11-22T08:30:00Z user_paying".to_owned()] };
        let mut headers = FieldTable::default();
        insert_attempts(&mut headers, ATTEMPT_HEADER, &three);
        assert_eq!(attempts(&headers, ATTEMPT_HEADER), three);
        assert_eq!(attempts(&headers, ATTEMPTS_MADE_HEADER).made, 0);
        insert_text(&mut headers, ATTEMPT_HEADER, "three");
        insert_text(&mut headers, HISTORY_HEADER, "long ago");
        assert_eq!(attempts(&headers, ATTEMPT_HEADER), Attempts::default());
    }
}
