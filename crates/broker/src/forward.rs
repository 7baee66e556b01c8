//! What a message of ours keeps of the message in whose place it goes: on another round, into the parked queue, and out
//! of it again.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::headers::{ATTEMPT_HEADER, HISTORY_HEADER, ORIGINAL_ID_HEADER, UNTIL_HEADER, insert_text};

/// The most bytes of names and texts in foreign headers that are kept. All headers must fit into one AMQP frame (128 KiB
/// by default) together with ours.
const HEADER_BYTES_MAX: usize = 96 * 1024;

/// The properties of a message with these headers in the place of the original. Properties that would act on the broker, or that
/// ours take the place of, go on as headers: an expiration would take the message out of its queue, a user ID must be the
/// publisher's own, a priority lets messages overtake.
pub(crate) fn carried_on(original: &BasicProperties, mut headers: FieldTable) -> BasicProperties {
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let foreign = original.app_id().as_ref().is_none_or(|app| app.as_str() != "overdue");
    let mut all = vec![(ORIGINAL_ID_HEADER, text(original.message_id()))];
    if foreign {
        all.extend([
            ("x-overdue-original-reply-to", text(original.reply_to())),
            ("x-overdue-original-expiration", text(original.expiration())),
            ("x-overdue-original-user-id", text(original.user_id())),
            ("x-overdue-original-app-id", text(original.app_id())),
            ("x-overdue-original-priority", number(original.priority().map(u64::from))),
            ("x-overdue-original-timestamp", number(*original.timestamp())),
        ]);
    }
    for (name, value) in all {
        if let Some(value) = value.filter(|_| !headers.contains_key(name)) {
            insert_text(&mut headers, name, &value);
        }
    }
    let mut properties = BasicProperties::default().with_headers(headers);
    if let Some(content_type) = original.content_type() {
        properties = properties.with_content_type(content_type.clone());
    }
    if let Some(correlation_id) = original.correlation_id() {
        properties = properties.with_correlation_id(correlation_id.clone());
    }
    if let Some(encoding) = original.content_encoding() {
        properties = properties.with_content_encoding(encoding.clone());
    }
    if let Some(kind) = original.kind() {
        properties = properties.with_type(kind.clone());
    }
    properties
}

/// The message's own headers, but for three things. `CC` and `BCC` are instructions to the broker and would
/// send the message elsewhere too, so they stand under another name. Headers too large to go back into a frame are left
/// out, which a header says. Headers that count attempts, and the time at which it was to
/// come out of its lane, are written anew where they still hold.
pub(crate) fn kept_headers(original: Option<&FieldTable>) -> FieldTable {
    let mut kept = FieldTable::default();
    let Some(original) = original else { return kept };
    if size_of_table(original) > HEADER_BYTES_MAX {
        insert_text(&mut kept, "x-overdue-headers-left-out", "too large");
        return kept;
    }
    for (name, value) in original.inner() {
        let name = match name.as_str() {
            "CC" => "x-overdue-original-cc".into(),
            "BCC" => "x-overdue-original-bcc".into(),
            ATTEMPT_HEADER | HISTORY_HEADER | UNTIL_HEADER => continue,
            _ => name.clone(),
        };
        kept.insert(name, value.clone());
    }
    kept
}

/// The headers without some.
pub(crate) fn without(headers: &FieldTable, left_out: impl Fn(&str) -> bool) -> FieldTable {
    let mut kept = FieldTable::default();
    for (name, value) in headers.inner().iter().filter(|(name, _)| !left_out(name.as_str())) {
        kept.insert(name.clone(), value.clone());
    }
    kept
}

/// Whether a header is what the broker has written of the message's way so far. A message that is published anew with it
/// would look to the broker as if it went in a circle, and some versions drop it then.
pub(crate) fn tells_of_death(name: &str) -> bool {
    name == "x-death" || name.starts_with("x-first-death-") || name.starts_with("x-last-death-")
}

/// Bytes as AMQP encodes them: each name with its length, each value with its type and, mostly, its length.
fn size_of_table(table: &FieldTable) -> usize {
    table.inner().iter().map(|(name, value)| 1 + name.as_str().len() + size_of_value(value)).sum()
}

fn size_of_value(value: &AMQPValue) -> usize {
    const TYPE_AND_LENGTH: usize = 5;
    TYPE_AND_LENGTH
        + match value {
            AMQPValue::ShortString(text) => text.as_str().len(),
            AMQPValue::LongString(text) => text.len(),
            AMQPValue::ByteArray(bytes) => bytes.len(),
            AMQPValue::FieldArray(values) => values.as_slice().iter().map(size_of_value).sum(),
            AMQPValue::FieldTable(table) => size_of_table(table),
            // Everything else is a number of at most eight bytes.
            _ => 8,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_headers_cannot_route_and_always_fit() {
        let mut original = FieldTable::default();
        insert_text(&mut original, "CC", "elsewhere");
        insert_text(&mut original, "tenant", "shop-7");
        let kept = kept_headers(Some(&original));
        assert!(!kept.contains_key("CC") && kept.contains_key("x-overdue-original-cc") && kept.contains_key("tenant"));

        insert_text(&mut original, "tenant", &"x".repeat(HEADER_BYTES_MAX));
        let kept = kept_headers(Some(&original));
        assert!(!kept.contains_key("tenant") && kept.contains_key("x-overdue-headers-left-out"));
    }

    #[test]
    fn the_first_message_id_is_kept_over_all_rounds() {
        let first = BasicProperties::default().with_message_id("first".into());
        let headers = carried_on(&first, FieldTable::default()).headers().clone().unwrap();
        let second = BasicProperties::default().with_message_id("second".into());
        let headers = carried_on(&second, headers).headers().clone().unwrap();
        assert_eq!(crate::headers::text(&headers, ORIGINAL_ID_HEADER).as_deref(), Some("first"));
    }
}
