use api::{TimerList, TimerView};
use clap::{ArgGroup, Subcommand};
use comfy_table::{Table, presets};
use order::{BadDeadline, Deadline, TimerId, TimerState, check_kind, check_subject, check_timer_due};
use outbox::{TimerDue, TimerFilter};
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::output::{complain, plain, print, print_json, print_list};
use crate::servers;
use crate::settings::{DatabaseSettings, Human, TimerKinds, duration};

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Arm a timer, or move it; the last call wins
    #[command(group = ArgGroup::new("due").required(true))]
    Arm {
        #[command(flatten)]
        database: DatabaseSettings,
        #[command(flatten)]
        kinds: TimerKinds,
        #[command(flatten)]
        name: Name,
        /// When it fires, in RFC 3339 form; in the past: at once
        #[arg(long, value_parser = due_at, value_name = "TIME", group = "due")]
        due_at: Option<Deadline>,
        /// In how long it fires; this or --due-at
        #[arg(long, value_parser = duration, value_name = "DURATION", group = "due")]
        after: Option<Human>,
        /// What goes along with its event: JSON of at most 8,192 bytes
        #[arg(long, value_name = "JSON", value_parser = json)]
        data: Option<Box<RawValue>>,
    },
    /// Cancel a timer: it does not fire any more
    Cancel {
        #[command(flatten)]
        database: DatabaseSettings,
        #[command(flatten)]
        name: Name,
    },
    /// Print a timer
    Show {
        #[command(flatten)]
        database: DatabaseSettings,
        #[command(flatten)]
        name: Name,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// List timers that are armed, or all of a subject; those that are due first first
    List {
        #[command(flatten)]
        database: DatabaseSettings,
        /// Of this subject, such as an order's ID: in every state, unless --state names one
        #[arg(long, value_parser = subject)]
        subject: Option<String>,
        /// Of this kind
        #[arg(long, value_parser = kind)]
        kind: Option<String>,
        /// In this state: armed, fired or cancelled
        #[arg(long)]
        state: Option<TimerState>,
        /// The most that are listed
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        limit: usize,
        /// For machines
        #[arg(long)]
        json: bool,
    },
}

/// What a timer is called.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Name {
    /// What it is about: 1 to 16 characters of a-z 0-9 _, a letter first
    kind: String,
    /// Whose it is, such as an order's ID: 1 to 64 characters of A-Z a-z 0-9 . _ : -
    subject: String,
}

impl Name {
    fn id(&self) -> Result<TimerId, Failure> {
        TimerId::new(&self.kind, &self.subject).map_err(|error| Failure::settings(error.to_string()))
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::Arm { database, kinds, name, due_at, after, data } => {
            let id = name.id()?;
            kinds.check(&id)?;
            let due = match (due_at, after) {
                (Some(at), _) => TimerDue::At(at),
                (None, after) => TimerDue::After(after.map_or_else(Default::default, |after| after.0)),
            };
            let mut connection = servers::migrated_database(&database).await?;
            outbox::arm_timer(&mut connection, &id, due, data.as_ref().map(|data| data.get())).await?;
            let timer = outbox::timer(&mut connection, &id).await?.ok_or_else(|| unknown(&id))?;
            print(format_args!("timer {id} fires at {} (revision {})", Deadline::at(timer.due_at), timer.revision));
        }
        Args::Cancel { database, name } => {
            let id = name.id()?;
            let mut connection = servers::migrated_database(&database).await?;
            if !outbox::cancel_timer(&mut connection, &id).await? {
                let timer = outbox::timer(&mut connection, &id).await?.ok_or_else(|| unknown(&id))?;
                let fired_at = timer.fired_at.map_or(String::new(), |at| format!(" at {}", Deadline::at(at)));
                return Err(Failure::negative(format!("timer {id} has {} already{fired_at}", timer.state)));
            }
            print(format_args!("timer {id} is cancelled"));
        }
        Args::Show { database, name, json } => {
            let id = name.id()?;
            let mut connection = servers::migrated_database(&database).await?;
            let timer = outbox::timer(&mut connection, &id).await?.ok_or_else(|| unknown(&id))?;
            let view = TimerView::from(timer);
            if json {
                print_json(&view)?;
            } else {
                print_shown(&view);
            }
        }
        Args::List { database, subject, kind, state, limit, json } => {
            // Those of all subjects that have fired are many, and over.
            let is_of_armed = state.is_none() && subject.is_none();
            let state = if is_of_armed { Some(TimerState::Armed) } else { state };
            let nothing = if is_of_armed {
                "no such timer is armed; --state or --subject finds others"
            } else {
                "there are no such timers"
            };
            let filter = TimerFilter { subject, kind, state };
            let mut connection = servers::migrated_database(&database).await?;
            let found = outbox::timers(&mut connection, &filter, limit.saturating_add(1)).await?;
            let is_cut = found.len() > limit;
            let list = TimerList { timers: found.into_iter().take(limit).map(TimerView::from).collect() };
            print_list(&list.timers, json, nothing, table)?;
            if is_cut {
                complain(format_args!("there are more than {limit}: --limit"));
            }
        }
    }
    Ok(())
}

fn unknown(id: &TimerId) -> Failure {
    Failure::negative(format!("there is no timer {id}"))
}

fn print_shown(timer: &TimerView) {
    print(format_args!("timer     {}:{}", timer.kind, timer.subject));
    print(format_args!("state     {}", timer.state));
    print(format_args!("due       {}", timer.due_at));
    if let Some(fired_at) = &timer.fired_at {
        print(format_args!("fired     {fired_at}"));
    }
    print(format_args!("revision  {}", timer.revision));
    if let Some(data) = &timer.data {
        print(format_args!("data      {}", plain(data.get())));
    }
    print(format_args!("created   {}", timer.created_at));
    print(format_args!("changed   {}", timer.changed_at));
}

fn table(timers: &[TimerView]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["kind", "subject", "state", "due", "revision"]);
    for timer in timers {
        let revision = timer.revision.to_string();
        table.add_row([&timer.kind, &timer.subject, &timer.state, &timer.due_at, &revision]);
    }
    table
}

fn kind(text: &str) -> Result<String, String> {
    check_kind(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn subject(text: &str) -> Result<String, String> {
    check_subject(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn due_at(text: &str) -> Result<Deadline, String> {
    let at: Deadline = text.parse().map_err(|error: BadDeadline| error.to_string())?;
    check_timer_due(at).map(|()| at).map_err(|error| error.to_string())
}

fn json(text: &str) -> Result<Box<RawValue>, String> {
    RawValue::from_string(text.to_owned()).map_err(|error| format!("it is not JSON: {error}"))
}
