use std::io::{IsTerminal, Write, stderr, stdin};

use broker::{ParkedMessage, ParkedQueue, Publisher};
use clap::Subcommand;
use comfy_table::{Table, presets};
use order::{OrderId, ParkReason};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::failure::Failure;
use crate::output::{complain, print, print_json};
use crate::servers;
use crate::settings::{BrokerSettings, Human};

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Print what is parked; changes nothing
    List {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        selection: Selection,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Print all of one message: reason, what to do, attempts, headers, body
    Show {
        #[command(flatten)]
        broker: BrokerSettings,
        /// The message, as `list` calls it
        id: String,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Send messages in again, with no attempts made; each leaves the queue when the broker has confirmed the new one
    Requeue {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        selection: Selection,
    },
    /// Delete messages for good; asks first
    Drop {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        selection: Selection,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Which parked messages: those for which all that is given holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// Messages, as `list` calls them
    #[arg(value_name = "MESSAGE")]
    ids: Vec<String>,
    /// Only those parked for this reason, such as unknown_order
    #[arg(long)]
    reason: Option<String>,
    /// Only those that name this order
    #[arg(long, value_name = "ID")]
    order: Option<OrderId>,
    /// Only those parked so long ago or longer
    #[arg(long, value_name = "DURATION")]
    older_than: Option<Human>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// How many messages are looked at, at most
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    scan_max: u32,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::List { broker, selection, json } => {
            let broker = servers::broker(&broker, "parked").await?;
            let mut queue = ParkedQueue::open(&broker).await?;
            let listed = list(&mut queue, &selection, json).await;
            queue.close().await;
            listed
        }
        Args::Show { broker, id, json } => {
            let broker = servers::broker(&broker, "parked").await?;
            let mut queue = ParkedQueue::open(&broker).await?;
            let shown = show(&mut queue, &id, json).await;
            queue.close().await;
            shown
        }
        Args::Requeue { broker: settings, selection } => {
            check(&selection)?;
            let broker = servers::broker(&settings, "parked").await?;
            let publisher = Publisher::new(broker.clone(), "parked", settings.confirm_timeout());
            let mut queue = ParkedQueue::open(&broker).await?;
            let count = requeue(&mut queue, publisher, &selection).await;
            queue.close().await;
            tell(count?, "sent in again")
        }
        Args::Drop { broker, selection, yes } => {
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

/// Messages that are to be changed must be named.
fn check(selection: &Selection) -> Result<(), Failure> {
    let Selection { ids, reason, order, older_than, all, .. } = selection;
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
    complain(format_args!("only the first {scan_max} messages were looked at; --scan-max looks at more"));
    Ok(())
}

async fn list(queue: &mut ParkedQueue, selection: &Selection, json: bool) -> Result<(), Failure> {
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
        print_json(&values)?;
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
        print_json(&as_json(&message))?;
        return Ok(());
    }
    print(format_args!("message      {}", message.id));
    print(format_args!("reason       {}", message.reason));
    if let Some(detail) = &message.detail {
        print(format_args!("detail       {detail}"));
    }
    if let Some(advice) = advice(&message) {
        print(format_args!("what to do   {advice}"));
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
async fn requeue(queue: &mut ParkedQueue, mut publisher: Publisher, selection: &Selection) -> Result<usize, Failure> {
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
async fn drop_selected(queue: &mut ParkedQueue, selection: &Selection, yes: bool) -> Result<Option<usize>, Failure> {
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

fn selects(selection: &Selection, message: &ParkedMessage) -> bool {
    let Selection { ids, reason, order, older_than, .. } = selection;
    let old = |least: &Human| {
        message.parked_at.is_some_and(|at| {
            OffsetDateTime::now_utc() - at >= time::Duration::try_from(least.0).unwrap_or(time::Duration::MAX)
        })
    };
    (ids.is_empty() || ids.contains(&message.id))
        && reason.as_ref().is_none_or(|reason| message.reason == *reason)
        && order.as_ref().is_none_or(|order: &OrderId| message.orders.contains(order))
        && older_than.as_ref().is_none_or(old)
}

/// `None`: a reason that this version does not know.
fn advice(message: &ParkedMessage) -> Option<&'static str> {
    message.reason.parse::<ParkReason>().ok().map(ParkReason::advice)
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
        "advice": advice(message),
        "parked_at": message.parked_at.and_then(|at| at.format(&Rfc3339).ok()),
        "routing_key": message.routing_key,
        "orders": message.orders.iter().map(OrderId::as_str).collect::<Vec<_>>(),
        "attempts": message.attempts.made,
        "history": message.attempts.history,
        "headers": message.headers(),
        "body": String::from_utf8_lossy(&message.body),
    })
}
