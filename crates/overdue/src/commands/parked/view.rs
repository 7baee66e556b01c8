//! Parked messages as they are shown. What others wrote is shown escaped.

use book::{ParkedGroup, ParkedRow};
use comfy_table::{Table, presets};
use order::ParkReason;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::failure::Failure;
use crate::output::{plain, print, print_json};

/// Prints how many messages are parked for each reason.
pub(super) fn groups(groups: &[ParkedGroup], json: bool) -> Result<(), Failure> {
    if json {
        let values: Vec<Value> = groups
            .iter()
            .map(|group| {
                json!({
                    "reason": group.reason, "messages": group.messages, "first_at": text(group.first_at),
                    "last_at": text(group.last_at), "detail": group.detail, "advice": advice(&group.reason),
                })
            })
            .collect();
        print_json(&values)?;
    } else if groups.is_empty() {
        print("nothing is parked");
    } else {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["reason", "messages", "first", "last", "what to do"]);
        for ParkedGroup { reason, messages, first_at, last_at, .. } in groups {
            let row = [
                plain(reason),
                messages.to_string(),
                text(*first_at),
                text(*last_at),
                advice(reason).unwrap_or_default().to_owned(),
            ];
            table.add_row(row);
        }
        print(table);
    }
    Ok(())
}

/// Prints all of one message.
pub(super) fn show(row: &ParkedRow, json: bool) -> Result<(), Failure> {
    if json {
        print_json(&row_as_json(row))?;
        return Ok(());
    }
    let ParkedRow { id, parking, times, last_at, state, note, .. } = row;
    print(format_args!("message      {id}"));
    print(format_args!("state        {state}"));
    print(format_args!("reason       {}", plain(&parking.reason)));
    if let Some(detail) = &parking.detail {
        print(format_args!("detail       {}", plain(detail)));
    }
    if let Some(advice) = advice(&parking.reason) {
        print(format_args!("what to do   {advice}"));
    }
    if let Some(note) = note {
        print(format_args!("note         {}", plain(note)));
    }
    print(format_args!("parked       {}", text(parking.at)));
    if *times > 1 {
        print(format_args!("came         {times} times, the last at {}", text(*last_at)));
    }
    print(format_args!("routing key  {}", plain(&parking.routing_key)));
    print(format_args!("orders       {}", orders(row)));
    print(format_args!("attempts     {}", parking.attempts));
    for line in &parking.history {
        print(format_args!("attempt      {}", plain(line)));
    }
    for (name, value) in &parking.properties {
        print(format_args!("property     {name}: {}", shown(value)));
    }
    for (name, value) in &parking.headers {
        print(format_args!("header       {}: {}", plain(name), shown(value)));
    }
    match std::str::from_utf8(&parking.body) {
        Ok(text) if !text.chars().any(char::is_control) => print(format_args!("body         {}", plain(text))),
        _ => print(format_args!("body         {} (escaped)", parking.body.escape_ascii())),
    }
    Ok(())
}

/// `None`: a reason that this version does not know.
fn advice(reason: &str) -> Option<&'static str> {
    reason.parse::<ParkReason>().ok().map(ParkReason::advice)
}

fn text(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_else(|_| "-".to_owned())
}

fn shown(value: &Value) -> String {
    plain(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// The first few.
fn orders(row: &ParkedRow) -> String {
    const SHOWN_MAX: usize = 3;
    let orders = &row.parking.orders;
    let shown = orders.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(" ");
    let more = orders.len().saturating_sub(SHOWN_MAX);
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// The messages as a table.
pub(super) fn table(rows: &[ParkedRow]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["message", "parked", "times", "reason", "orders", "attempts", "detail"]);
    for row in rows {
        let parking = &row.parking;
        let cells = [
            row.id.to_string(),
            text(parking.at),
            row.times.to_string(),
            plain(&parking.reason),
            orders(row),
            parking.attempts.to_string(),
            plain(parking.detail.as_deref().unwrap_or_default()),
        ];
        table.add_row(cells);
    }
    table
}

/// A message for machines.
pub(super) fn row_as_json(row: &ParkedRow) -> Value {
    let ParkedRow { id, parking, times, last_at, state, note, changed_at, changed_by } = row;
    json!({
        "id": id.to_string(),
        "state": state,
        "note": note,
        "changed_at": changed_at.map(text),
        "changed_by": changed_by,
        "reason": parking.reason,
        "detail": parking.detail,
        "advice": advice(&parking.reason),
        "parked_at": text(parking.at),
        "last_at": text(*last_at),
        "times": times,
        "routing_key": parking.routing_key,
        "orders": parking.orders,
        "attempts": parking.attempts,
        "history": parking.history,
        "properties": parking.properties,
        "headers": parking.headers,
        "body": String::from_utf8_lossy(&parking.body),
    })
}
