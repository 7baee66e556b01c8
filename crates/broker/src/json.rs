//! Properties and headers as JSON, in which nothing is lost. Texts, whole numbers, booleans and lists are what they are; every
//! other value stands as `{"type": …, "value": …}`, with the types' letters in AMQP.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use serde_json::{Map, Value, json};

/// Headers as JSON.
pub(crate) fn of_table(table: &FieldTable) -> Map<String, Value> {
    table.inner().iter().map(|(name, value)| (storable(name.as_str()), of_value(value))).collect()
}

/// All properties but the headers, by their names in AMQP.
pub(crate) fn of_properties(properties: &BasicProperties) -> Map<String, Value> {
    let mut all = Map::new();
    let texts = [
        ("content-type", properties.content_type()),
        ("content-encoding", properties.content_encoding()),
        ("correlation-id", properties.correlation_id()),
        ("reply-to", properties.reply_to()),
        ("expiration", properties.expiration()),
        ("message-id", properties.message_id()),
        ("type", properties.kind()),
        ("user-id", properties.user_id()),
        ("app-id", properties.app_id()),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            all.insert(name.to_owned(), of_bytes('S', text.as_str().as_bytes()));
        }
    }
    let numbers = [
        ("delivery-mode", properties.delivery_mode().map(u64::from)),
        ("priority", properties.priority().map(u64::from)),
        ("timestamp", *properties.timestamp()),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            all.insert(name.to_owned(), json!(number));
        }
    }
    all
}

/// Headers from JSON.
pub(crate) fn to_table(headers: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert(name.as_str().into(), to_value(value));
    }
    table
}

fn of_value(value: &AMQPValue) -> Value {
    let typed = |letter: char, value: Value| json!({ "type": letter.to_string(), "value": value });
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(number) => json!(number),
        AMQPValue::ShortShortUInt(number) => json!(number),
        AMQPValue::ShortInt(number) => json!(number),
        AMQPValue::ShortUInt(number) => json!(number),
        AMQPValue::LongInt(number) => json!(number),
        AMQPValue::LongUInt(number) => json!(number),
        AMQPValue::LongLongInt(number) => json!(number),
        AMQPValue::Float(number) => typed('f', json!(number.to_string())),
        AMQPValue::Double(number) => typed('d', json!(number.to_string())),
        AMQPValue::DecimalValue(decimal) => typed('D', json!([decimal.scale, decimal.value])),
        AMQPValue::ShortString(text) => of_bytes('S', text.as_str().as_bytes()),
        AMQPValue::LongString(text) => of_bytes('S', text.as_bytes()),
        AMQPValue::ByteArray(bytes) => typed('x', json!(HEXLOWER.encode(bytes.as_slice()))),
        AMQPValue::Timestamp(seconds) => typed('T', json!(seconds)),
        AMQPValue::FieldArray(values) => Value::Array(values.as_slice().iter().map(of_value).collect()),
        AMQPValue::FieldTable(table) => typed('F', Value::Object(of_table(table))),
        AMQPValue::Void => Value::Null,
    }
}

fn to_value(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => AMQPValue::LongLongInt(number.as_i64().unwrap_or(i64::MAX)),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => {
            let mut array = FieldArray::default();
            values.iter().for_each(|value| array.push(to_value(value)));
            AMQPValue::FieldArray(array)
        }
        Value::Object(typed) => to_typed(typed),
    }
}

fn to_typed(typed: &Map<String, Value>) -> AMQPValue {
    let value = typed.get("value").unwrap_or(&Value::Null);
    let text = value.as_str().unwrap_or_default();
    match typed.get("type").and_then(Value::as_str).unwrap_or_default() {
        "f" => AMQPValue::Float(text.parse().unwrap_or(f32::NAN)),
        "d" => AMQPValue::Double(text.parse().unwrap_or(f64::NAN)),
        "D" => {
            let part = |place: usize| value.get(place).and_then(Value::as_u64).unwrap_or(0);
            let scale = u8::try_from(part(0)).unwrap_or(0);
            AMQPValue::DecimalValue(DecimalValue { scale, value: u32::try_from(part(1)).unwrap_or(0) })
        }
        "S" => AMQPValue::LongString(bytes(text).into()),
        "x" => AMQPValue::ByteArray(bytes(text).into()),
        "T" => AMQPValue::Timestamp(value.as_u64().unwrap_or(0)),
        "F" => AMQPValue::FieldTable(value.as_object().map(to_table).unwrap_or_default()),
        _ => AMQPValue::Void,
    }
}

/// A text, if it is one that a database can hold; else its bytes in hexadecimal digits.
fn of_bytes(letter: char, bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => json!(text),
        _ => json!({ "type": letter.to_string(), "value": HEXLOWER.encode(bytes) }),
    }
}

/// A text that a database can hold.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn bytes(hex: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let mut inner = FieldTable::default();
        inner.insert("type".into(), AMQPValue::LongString("not a type".into()));
        let mut list = FieldArray::default();
        list.push(AMQPValue::LongString("a".into()));
        list.push(AMQPValue::Void);
        let mut table = FieldTable::default();
        for (name, value) in [
            ("text", AMQPValue::LongString("grüße".into())),
            ("bytes", AMQPValue::LongString(vec![0xff, 0, 1].into())),
            ("nul", AMQPValue::LongString("a\0b".into())),
            ("raw", AMQPValue::ByteArray(vec![1, 2, 0xfe].into())),
            ("number", AMQPValue::LongLongInt(-7)),
            ("yes", AMQPValue::Boolean(true)),
            ("time", AMQPValue::Timestamp(1_795_000_000)),
            ("price", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 1999 })),
            ("half", AMQPValue::Double(0.5)),
            ("list", AMQPValue::FieldArray(list)),
            ("table", AMQPValue::FieldTable(inner)),
        ] {
            table.insert(name.into(), value);
        }
        let json = of_table(&table);
        assert!(!serde_json::to_string(&json).unwrap().contains("\\u0000"), "a database could not hold it");
        assert_eq!(to_table(&json), table);
    }

    #[test]
    fn every_property_has_its_name() {
        let properties = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_content_encoding("gzip".into())
            .with_type("order".into())
            .with_reply_to("answers".into())
            .with_message_id("m-1".into())
            .with_app_id("shop".into())
            .with_priority(9)
            .with_timestamp(7);
        let json = Value::Object(of_properties(&properties));
        let expected = json!({
            "content-type": "text/plain", "content-encoding": "gzip", "type": "order", "reply-to": "answers",
            "message-id": "m-1", "app-id": "shop", "priority": 9, "timestamp": 7,
        });
        assert_eq!(json, expected);
    }
}
