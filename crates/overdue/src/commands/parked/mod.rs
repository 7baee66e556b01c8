use std::io::{IsTerminal, Write, stderr, stdin};

use book::{BookError, KEPT_FOR, ParkedFilter, ParkedGroup, ParkedRow, ParkedState, ParkedTable};
use broker::{Outgoing, Publisher};
use clap::Subcommand;
use comfy_table::{Table, presets};
use database::Purpose;
use order::{OrderId, ParkReason};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use worker::Attendant;

use crate::failure::Failure;
use crate::output::{complain, plain, print, print_json};
use crate::servers;
use crate::settings::{BrokerSettings, DatabaseSettings, Human};

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Print what is parked; changes nothing
    List {
        #[command(flatten)]
        servers: Servers,
        #[command(flatten)]
        selection: Selection,
        /// The most messages to print
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
        limit: u32,
        /// Those that were dropped in the last 24 hours
        #[arg(long)]
        dropped: bool,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Print how many messages are parked for each reason, since when, and what to do
    Groups {
        #[command(flatten)]
        servers: Servers,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Print all of one message: reason, what to do, attempts, properties, headers, body
    Show {
        #[command(flatten)]
        servers: Servers,
        /// The message, as `list` calls it
        id: i64,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Send messages in again, with no attempts made: those that are parked now, not those that come back meanwhile
    Requeue {
        #[command(flatten)]
        servers: Servers,
        #[command(flatten)]
        selection: Selection,
    },
    /// Drop messages; asks first. They can be restored for 24 hours
    Drop {
        #[command(flatten)]
        servers: Servers,
        #[command(flatten)]
        selection: Selection,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Park messages again that were dropped
    Restore {
        #[command(flatten)]
        servers: Servers,
        #[command(flatten)]
        selection: Selection,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Servers {
    #[command(flatten)]
    database: DatabaseSettings,
    #[command(flatten)]
    broker: BrokerSettings,
}

/// Which parked messages: those for which all that is given holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// Messages, as `list` calls them
    #[arg(value_name = "MESSAGE")]
    ids: Vec<i64>,
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
}

/// How many messages are handled at a time.
const CHUNK: i64 = 100;

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::List { servers, selection, limit, dropped, json } => {
            let table = servers.table().await?;
            let state = if dropped { ParkedState::Dropped } else { ParkedState::Held };
            list(&table, &selection, state, limit.into(), json).await
        }
        Args::Groups { servers, json } => groups(&servers.table().await?, json).await,
        Args::Show { servers, id, json } => show(&servers.table().await?, id, json).await,
        Args::Requeue { servers, selection } => {
            check(&selection)?;
            let table = servers.table().await?;
            let broker = servers::broker(&servers.broker, "parked").await?;
            let publisher = Publisher::new(broker, "parked", servers.broker.confirm_timeout());
            requeue(&table, publisher, &selection).await
        }
        Args::Drop { servers, selection, yes } => {
            check(&selection)?;
            drop_selected(&servers.table().await?, &selection, yes).await
        }
        Args::Restore { servers, selection } => {
            check(&selection)?;
            let move_back = (ParkedState::Dropped, ParkedState::Held);
            tell(change(&servers.table().await?, &selection, move_back).await?, "parked again", "was dropped")
        }
    }
}

impl Servers {
    /// The table, with what is still in the queue taken in: perhaps no worker runs that does so.
    async fn table(&self) -> Result<ParkedTable, Failure> {
        servers::migrated_database(&self.database).await?;
        let table = ParkedTable::new(servers::client(&self.database, 2, Purpose::Report)?);
        if self.broker.is_set() {
            let broker = servers::unprobed_broker(&self.broker, "parked")?;
            let confirm_timeout = self.broker.confirm_timeout();
            let attendant = Attendant::new(broker, table.clone(), confirm_timeout, CancellationToken::new());
            if let Err(error) = attendant.take_in().await {
                complain(format_args!("what is still in the queue overdue.v1.parked is left out: {error}"));
            }
        }
        Ok(table)
    }
}

/// Messages that are to be changed must be named.
fn check(selection: &Selection) -> Result<(), Failure> {
    let Selection { ids, reason, order, older_than, all } = selection;
    if ids.is_empty() && reason.is_none() && order.is_none() && older_than.is_none() && !all {
        return Err(Failure::settings(
            "say which messages: by ID, --reason, --order, --older-than, or --all".to_owned(),
        ));
    }
    Ok(())
}

fn filter(selection: &Selection) -> ParkedFilter {
    let Selection { ids, reason, order, older_than, .. } = selection;
    ParkedFilter {
        ids: ids.clone(),
        reason: reason.clone(),
        order: order.as_ref().map(ToString::to_string),
        older_than: older_than.map(|age| age.0),
    }
}

fn tell(count: u64, what: &str, otherwise: &str) -> Result<(), Failure> {
    if count == 0 {
        return Err(Failure::negative(format!("no such message {otherwise}")));
    }
    print(format_args!("{count} message{} {what}", if count == 1 { "" } else { "s" }));
    Ok(())
}

async fn list(
    table: &ParkedTable,
    selection: &Selection,
    state: ParkedState,
    limit: i64,
    json: bool,
) -> Result<(), Failure> {
    let filter = filter(selection);
    let rows = table.page(&filter, state, (0, i64::MAX), limit).await?;
    if json {
        let values: Vec<Value> = rows.iter().map(as_json).collect();
        print_json(&values)?;
    } else if rows.is_empty() {
        print(if state == ParkedState::Held { "nothing is parked" } else { "nothing was dropped" });
    } else {
        print(table_of(&rows));
    }
    let (count, _) = table.count(&filter, state).await?;
    if count > limit {
        complain(format_args!(
            "these are {limit} of {count} messages; --limit prints more, `overdue parked groups` counts them"
        ));
    }
    Ok(())
}

async fn groups(table: &ParkedTable, json: bool) -> Result<(), Failure> {
    let groups = table.groups().await?;
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
        for ParkedGroup { reason, messages, first_at, last_at, .. } in &groups {
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

async fn show(table: &ParkedTable, id: i64, json: bool) -> Result<(), Failure> {
    let row = table.get(id).await?.ok_or_else(|| Failure::negative(format!("no message {id} is parked")))?;
    if json {
        print_json(&as_json(&row))?;
        return Ok(());
    }
    let ParkedRow { parking, times, last_at, state, .. } = &row;
    print(format_args!("message      {id}"));
    print(format_args!("state        {state}"));
    print(format_args!("reason       {}", plain(&parking.reason)));
    if let Some(detail) = &parking.detail {
        print(format_args!("detail       {}", plain(detail)));
    }
    if let Some(advice) = advice(&parking.reason) {
        print(format_args!("what to do   {advice}"));
    }
    print(format_args!("parked       {}", text(parking.at)));
    if *times > 1 {
        print(format_args!("came         {times} times, the last at {}", text(*last_at)));
    }
    print(format_args!("routing key  {}", plain(&parking.routing_key)));
    print(format_args!("orders       {}", orders(&row)));
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

/// A row says that its message was sent in again only when the broker has confirmed it: at worst it is sent twice. Messages of
/// a kind that this version does not know stay parked.
async fn requeue(table: &ParkedTable, mut publisher: Publisher, selection: &Selection) -> Result<(), Failure> {
    let filter = filter(selection);
    // What comes back while this is at work is left alone.
    let (_, until) = table.count(&filter, ParkedState::Held).await?;
    let (mut after, mut count, mut unknown) = (0, 0, None);
    let outcome = loop {
        let rows = table.page(&filter, ParkedState::Held, (after, until), CHUNK).await?;
        let Some(last) = rows.last() else { break Ok(()) };
        after = last.id;
        let (mut ids, mut messages) = (Vec::new(), Vec::new());
        for ParkedRow { id, parking, .. } in rows {
            let again =
                Outgoing::sent_in_again(&parking.routing_key, parking.body, &parking.properties, &parking.headers);
            match again {
                Ok(again) => {
                    ids.push(id);
                    messages.push(again);
                }
                Err(kind) => unknown = Some(kind),
            }
        }
        let fates = publisher.publish(&messages).await;
        let sent: Vec<i64> = ids.iter().zip(&fates).filter(|(_, fate)| fate.is_ok()).map(|(id, _)| *id).collect();
        count += table.change(&sent, (ParkedState::Held, ParkedState::Requeued), &operator()).await?;
        if let Some(error) = fates.into_iter().find_map(Result::err) {
            break Err(Failure::from(error));
        }
    };
    publisher.close().await;
    if count > 0 {
        tell(count, "sent in again", "")?;
    }
    outcome?;
    if let Some(kind) = unknown {
        let advice = ParkReason::UnknownKind.advice();
        return Err(Failure::negative(format!("some messages stay parked, among them one because {kind}. {advice}")));
    }
    if count == 0 { tell(0, "", "is parked") } else { Ok(()) }
}

async fn drop_selected(table: &ParkedTable, selection: &Selection, yes: bool) -> Result<(), Failure> {
    let (count, _) = table.count(&filter(selection), ParkedState::Held).await?;
    if count > 0 && !yes && !agreed(count)? {
        print("nothing was dropped");
        return Ok(());
    }
    tell(change(table, selection, (ParkedState::Held, ParkedState::Dropped)).await?, "dropped", "is parked")
}

/// Changes the messages that there are now.
async fn change(
    table: &ParkedTable,
    selection: &Selection,
    states: (ParkedState, ParkedState),
) -> Result<u64, BookError> {
    let filter = filter(selection);
    let (_, until) = table.count(&filter, states.0).await?;
    let (mut after, mut count) = (0, 0);
    loop {
        let rows = table.page(&filter, states.0, (after, until), CHUNK).await?;
        let Some(last) = rows.last() else { return Ok(count) };
        after = last.id;
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        count += table.change(&ids, states, &operator()).await?;
    }
}

/// Who does it, as far as the system knows.
fn operator() -> String {
    std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned())
}

fn agreed(count: i64) -> Result<bool, Failure> {
    if !stdin().is_terminal() {
        return Err(Failure::settings(format!("{count} messages would be dropped: give --yes to drop them")));
    }
    let hours = KEPT_FOR.as_secs() / 3600;
    let _ =
        write!(stderr(), "{count} messages will be dropped, and be gone for good in {hours} hours. Drop them? [y/N] ");
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(|error| anyhow::anyhow!("cannot read the answer: {error}"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
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

fn table_of(rows: &[ParkedRow]) -> Table {
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

fn as_json(row: &ParkedRow) -> Value {
    let ParkedRow { id, parking, times, last_at, state } = row;
    json!({
        "id": id.to_string(),
        "state": state,
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
