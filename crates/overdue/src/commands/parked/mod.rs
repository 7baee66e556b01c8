//! `overdue parked`: what a person does with messages that were set aside.

mod view;

use std::io::{IsTerminal, Write, stderr, stdin};

use book::{KEPT_FOR, ParkedFilter, ParkedState, ParkedTable};
use broker::Publisher;
use clap::Subcommand;
use database::Purpose;
use order::{OrderId, ParkReason, TimerId};
use tokio_util::sync::CancellationToken;
use worker::{Attendant, ParkedChoice, Progress, Requeued};

use crate::failure::Failure;
use crate::output::{complain, print, print_json};
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
    /// Only those that name this order, or this timer (KIND:SUBJECT)
    #[arg(long, value_name = "ID", value_parser = named)]
    order: Option<String>,
    /// Only events for this endpoint of webhooks
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Only events of this type, such as order.closed, for endpoints
    #[arg(long, value_name = "TYPE")]
    event: Option<String>,
    /// Only those parked within this time
    #[arg(long, value_name = "DURATION")]
    newer_than: Option<Human>,
    /// Only those parked so long ago or longer
    #[arg(long, value_name = "DURATION")]
    older_than: Option<Human>,
    /// All of them
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::List { servers, selection, limit, dropped, json } => {
            let table = servers.table().await?;
            let state = if dropped { ParkedState::Dropped } else { ParkedState::Held };
            list(&table, &selection, state, limit.into(), json).await
        }
        Args::Groups { servers, json } => view::groups(&servers.table().await?.groups().await?, json),
        Args::Show { servers, id, json } => {
            let row = servers.table().await?.get(id).await?;
            view::show(&row.ok_or_else(|| Failure::negative(format!("no message {id} is parked")))?, json)
        }
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
    let Selection { ids, reason, order, endpoint, event, newer_than, older_than, all } = selection;
    let texts = [reason, order, endpoint, event];
    let is_chosen = !ids.is_empty() || texts.iter().any(|text| text.is_some());
    if !is_chosen && newer_than.is_none() && older_than.is_none() && !all {
        let advice =
            "say which messages: by ID, --reason, --order, --endpoint, --event, --newer-than, --older-than, or --all";
        return Err(Failure::settings(advice.to_owned()));
    }
    Ok(())
}

fn filter(selection: &Selection) -> ParkedFilter {
    let Selection { ids, reason, order, endpoint, event, newer_than, older_than, .. } = selection;
    ParkedFilter {
        ids: ids.clone(),
        reason: reason.clone(),
        order: order.clone(),
        endpoint: endpoint.clone(),
        event: event.clone(),
        newer_than: newer_than.map(|age| age.0),
        older_than: older_than.map(|age| age.0),
        changed_by: None,
    }
}

/// The name of an order or of a timer.
fn named(text: &str) -> Result<String, String> {
    let is_timer = text.parse::<TimerId>().is_ok();
    let order = OrderId::new(text).map(drop).map_err(|error| error.to_string());
    if is_timer { Ok(()) } else { order }.map(|()| text.to_owned())
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
        print_json(&rows.iter().map(view::row_as_json).collect::<Vec<_>>())?;
    } else if rows.is_empty() {
        print(if state == ParkedState::Held { "nothing is parked" } else { "nothing was dropped" });
    } else {
        print(view::table(&rows));
    }
    let (count, _) = table.count(&filter, state).await?;
    if count > limit {
        complain(format_args!(
            "these are {limit} of {count} messages; --limit prints more, `overdue parked groups` counts them"
        ));
    }
    Ok(())
}

/// Messages of a kind that this version does not know stay parked.
async fn requeue(table: &ParkedTable, mut publisher: Publisher, selection: &Selection) -> Result<(), Failure> {
    let choice = choice(table, selection, ParkedState::Held).await?;
    let Requeued { count, unknown, ended } =
        worker::requeue(table, &mut publisher, &choice, &operator(), &Progress::default()).await;
    publisher.close().await;
    if count > 0 {
        tell(count, "sent in again", "")?;
    }
    ended?;
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
) -> Result<u64, Failure> {
    let choice = choice(table, selection, states.0).await?;
    Ok(worker::move_parked(table, &choice, states, &operator(), &Progress::default()).await?)
}

/// The messages that there are now. What comes, or comes back, meanwhile is left alone.
async fn choice(table: &ParkedTable, selection: &Selection, state: ParkedState) -> Result<ParkedChoice, Failure> {
    let filter = filter(selection);
    let (_, until) = table.count(&filter, state).await?;
    Ok(ParkedChoice { filter, until })
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
