use std::io::{IsTerminal, Write, stderr, stdin};
use std::time::Duration;

use broker::{ParkedMessage, ParkedQueue, Publisher};
use comfy_table::{Table, presets};
use order::{OrderId, ParkReason};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::commands::print;
use crate::failure::Failure;
use crate::servers;
use crate::settings::{ParkedArgs, ParkedCommand, ParkedSelection};

pub(crate) async fn run(args: ParkedArgs) -> Result<(), Failure> {
    match args.command {
        ParkedCommand::List { broker, selection, json } => {
            let broker = servers::broker(&broker, "parked").await?;
            let mut queue = ParkedQueue::open(&broker).await?;
            let listed = list(&mut queue, &selection, json).await;
            queue.close().await;
            listed
        }
        ParkedCommand::Show { broker, id, json } => {
            let broker = servers::broker(&broker, "parked").await?;
            let mut queue = ParkedQueue::open(&broker).await?;
            let shown = show(&mut queue, &id, json).await;
            queue.close().await;
            shown
        }
        ParkedCommand::Requeue { broker: settings, selection } => {
            check(&selection)?;
            let broker = servers::broker(&settings, "parked").await?;
            let publisher = Publisher::new(broker.clone(), "parked", settings.confirm_timeout);
            let mut queue = ParkedQueue::open(&broker).await?;
            let count = requeue(&mut queue, publisher, &selection).await;
            queue.close().await;
            tell(count?, "sent in again")
        }
        ParkedCommand::Drop { broker, selection, yes } => {
            check(&selection)?;
            let broker = servers::broker(&broker, "parked").await?;
            let mut queue = ParkedQueue::open(&broker).await?;
            let count = drop_selected(&mut queue, &selection, yes).await;
            queue.close().await;
            match count? {
                Some(count) => tell(count, "dropped"),
                None => {
                    print("nothing was dropped");
                    Ok(())
                }
            }
        }
    }
}

/// What is to be changed must be named.
fn check(selection: &ParkedSelection) -> Result<(), Failure> {
    let ParkedSelection { ids, reason, order, older_than, all, .. } = selection;
    if ids.is_empty() && reason.is_none() && order.is_none() && older_than.is_none() && !all {
        return Err(Failure::settings(
            "say which messages: by ID, --reason, --order, --older-than, or --all".to_owned(),
        ));
    }
    Ok(())
}

fn tell(count: usize, what: &str) -> Result<(), Failure> {
    if count == 0 {
        return Err(Failure::negative("there is no such message in the parked queue".to_owned()));
    }
    print(format_args!("{count} message{} {what}", if count == 1 { "" } else { "s" }));
    Ok(())
}

/// Goes through the queue; `true` from `visit` goes on.
async fn each(
    queue: &mut ParkedQueue,
    scan_max: u32,
    mut visit: impl AsyncFnMut(&mut ParkedQueue, ParkedMessage) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    for _ in 0..scan_max {
        let Some(message) = queue.next().await? else { return Ok(()) };
        if !visit(queue, message).await? {
            return Ok(());
        }
    }
    complain!("only the first {scan_max} messages were looked at; --scan-max looks at more");
    Ok(())
}

async fn list(queue: &mut ParkedQueue, selection: &ParkedSelection, json: bool) -> Result<(), Failure> {
    let mut listed: Vec<ParkedMessage> = Vec::new();
    each(queue, selection.scan_max, async |_, message| {
        if selects(selection, &message) {
            listed.push(message);
        }
        Ok(true)
    })
    .await?;
    if json {
        let values: Vec<Value> = listed.iter().map(as_json).collect();
        print(serde_json::to_string_pretty(&values).map_err(anyhow::Error::from)?);
    } else if listed.is_empty() {
        print("nothing is parked");
    } else {
        print(table(&listed));
    }
    Ok(())
}

async fn show(queue: &mut ParkedQueue, id: &str, json: bool) -> Result<(), Failure> {
    let mut found = None;
    each(queue, u32::MAX, async |_, message| {
        let here = message.id == id;
        if here {
            found = Some(message);
        }
        Ok(!here)
    })
    .await?;
    let message = found.ok_or_else(|| Failure::negative(format!("no message {id} is parked")))?;
    if json {
        print(serde_json::to_string_pretty(&as_json(&message)).map_err(anyhow::Error::from)?);
        return Ok(());
    }
    print(format_args!("message      {}", message.id));
    print(format_args!("reason       {}", message.reason));
    if let Some(detail) = &message.detail {
        print(format_args!("detail       {detail}"));
    }
    print(format_args!("parked       {}", at(&message)));
    print(format_args!("routing key  {}", message.routing_key));
    print(format_args!("orders       {}", orders(&message)));
    print(format_args!("attempts     {}", message.attempts.made));
    for line in &message.attempts.history {
        print(format_args!("attempt      {line}"));
    }
    for line in message.headers() {
        print(format_args!("header       {line}"));
    }
    match std::str::from_utf8(&message.body) {
        Ok(text) if !text.chars().any(char::is_control) => print(format_args!("body         {text}")),
        _ => print(format_args!("body         {} (escaped)", message.body.escape_ascii())),
    }
    Ok(())
}

/// A message is taken out of the queue only when the broker has confirmed the new one: at worst there are two. Messages of
/// a kind that this version does not know stay where they are.
async fn requeue(
    queue: &mut ParkedQueue,
    mut publisher: Publisher,
    selection: &ParkedSelection,
) -> Result<usize, Failure> {
    let (mut count, mut unknown) = (0, None);
    let done = each(queue, selection.scan_max, async |queue, message| {
        if selects(selection, &message) {
            match message.sent_in_again() {
                Ok(again) => {
                    publisher.publish_all(&[again]).await?;
                    queue.ack(&message).await?;
                    count += 1;
                }
                Err(kind) => unknown = Some(kind),
            }
        }
        Ok(true)
    })
    .await;
    publisher.close().await;
    done?;
    if let Some(kind) = unknown {
        if count > 0 {
            tell(count, "sent in again")?;
        }
        let advice = ParkReason::UnknownKind.advice();
        return Err(Failure::negative(format!("some messages stay parked, among them one because {kind}. {advice}")));
    }
    Ok(count)
}

/// How many were dropped; `None`: the answer was no.
async fn drop_selected(
    queue: &mut ParkedQueue,
    selection: &ParkedSelection,
    yes: bool,
) -> Result<Option<usize>, Failure> {
    let mut selected: Vec<ParkedMessage> = Vec::new();
    each(queue, selection.scan_max, async |_, message| {
        if selects(selection, &message) {
            selected.push(message);
        }
        Ok(true)
    })
    .await?;
    if !selected.is_empty() && !yes && !agreed(selected.len())? {
        return Ok(None);
    }
    for message in &selected {
        queue.ack(message).await?;
    }
    Ok(Some(selected.len()))
}

fn agreed(count: usize) -> Result<bool, Failure> {
    if !stdin().is_terminal() {
        return Err(Failure::settings(format!("{count} messages would be gone for good: give --yes to drop them")));
    }
    let _ = write!(stderr(), "{count} messages will be gone for good. Drop them? [y/N] ");
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(|error| anyhow::anyhow!("cannot read the answer: {error}"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn selects(selection: &ParkedSelection, message: &ParkedMessage) -> bool {
    let ParkedSelection { ids, reason, order, older_than, .. } = selection;
    let old = |least: &Duration| {
        message.parked_at.is_some_and(|at| {
            OffsetDateTime::now_utc() - at >= time::Duration::try_from(*least).unwrap_or(time::Duration::MAX)
        })
    };
    (ids.is_empty() || ids.contains(&message.id))
        && reason.as_ref().is_none_or(|reason| message.reason == *reason)
        && order.as_ref().is_none_or(|order: &OrderId| message.orders.contains(order))
        && older_than.as_ref().is_none_or(old)
}

fn at(message: &ParkedMessage) -> String {
    message.parked_at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| "-".to_owned())
}

/// The first few.
fn orders(message: &ParkedMessage) -> String {
    const SHOWN_MAX: usize = 3;
    let shown: Vec<&str> = message.orders.iter().take(SHOWN_MAX).map(OrderId::as_str).collect();
    let more = message.orders.len().saturating_sub(SHOWN_MAX);
    if more > 0 { format!("{} and {more} more", shown.join(" ")) } else { shown.join(" ") }
}

fn table(messages: &[ParkedMessage]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["message", "parked", "reason", "orders", "attempts", "detail"]);
    for message in messages {
        let detail = message.detail.clone().unwrap_or_default();
        let row = [
            message.id.clone(),
            at(message),
            message.reason.clone(),
            orders(message),
            message.attempts.made.to_string(),
            detail,
        ];
        table.add_row(row);
    }
    table
}

fn as_json(message: &ParkedMessage) -> Value {
    json!({
        "id": message.id,
        "reason": message.reason,
        "detail": message.detail,
        "parked_at": message.parked_at.and_then(|at| at.format(&Rfc3339).ok()),
        "routing_key": message.routing_key,
        "orders": message.orders.iter().map(OrderId::as_str).collect::<Vec<_>>(),
        "attempts": message.attempts.made,
        "history": message.attempts.history,
        "headers": message.headers(),
        "body": String::from_utf8_lossy(&message.body),
    })
}
