//! Timers in PostgreSQL: looked up, fired, found by the sweep, and deleted in the end.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use database::{Client, ServerTime};
use order::{Deadline, TimerFacts, TimerId, TimerState};
use time::OffsetDateTime;
use tokio_postgres::Row;
use trace::TraceParent;

use crate::postgres::{is_bad, one, with_announcement};
use crate::{BookError, Bookmark, ItemReply, PageRequest, Reply};

/// The table of timers.
#[derive(Clone)]
pub struct Timers {
    client: Client,
}

/// A timer that is to fire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// Its name.
    pub id: TimerId,
    /// When it was due as it was loaded. If it has another time by now, it does not fire.
    pub due: Deadline,
    /// The revision with which it was loaded. If it has another by now, it does not fire.
    pub revision: i64,
}

/// A timer has fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fired {
    /// From the moment at which it was due, or was armed for the past, by the database's clock.
    pub lateness: Duration,
}

/// What is to be done with a timer, as a command has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerCommand {
    /// The timer.
    pub id: TimerId,
    /// When it is to fire; `None`: it is to be cancelled.
    pub due: Option<Deadline>,
    /// What goes along with its event, as JSON.
    pub data: Option<String>,
    /// A number that the sender raises with each command; `None`: the command always counts.
    pub version: Option<i64>,
}

/// What calls about timers give.
pub type TimerReply<T> = Result<Reply<T, TimerId>, BookError>;

/// Timers that are armed and past due, in the order of their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerPage {
    /// Their names.
    pub ids: Vec<TimerId>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<Bookmark>,
}

static FIRE: LazyLock<String> = LazyLock::new(|| with_announcement(include_str!("fire.sql")));

/// A timer that is held at each look for so long is held for long. Whoever arms or cancels it holds it for some milliseconds.
const LOOK_FOR: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Timers {
    /// The timers of this database.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Looks timers up.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn load(&self, ids: &[TimerId]) -> TimerReply<TimerFacts> {
        let (kinds, subjects) = names(ids.iter());
        let rows = self.client.within(is_bad, async |client| {
            let statement = client.prepare_cached(include_str!("load.sql")).await?;
            client.query(&statement, &[&kinds, &subjects]).await
        });
        let rows = rows.await?;
        let mut items = HashMap::with_capacity(rows.len());
        for row in &rows {
            let Some(id) = id(row)? else { continue };
            let item = match row.try_get::<_, Option<&str>>("state")? {
                None => ItemReply::Unknown,
                Some(state) => facts(row, state)?.map_or_else(ItemReply::Refused, ItemReply::Done),
            };
            items.insert(id, item);
        }
        Ok(Reply { time: ServerTime::from(now(&rows)?), items })
    }

    /// Fires timers that are armed still and stand as they were loaded: each is marked as fired, and its event is written, in one
    /// statement. Those that another transaction holds for more than a moment are left out. The trace is the one that it belongs to.
    ///
    /// # Errors
    /// [`BookError`]: then none has fired, or it is not known.
    pub async fn fire(&self, firings: &[Firing], trace: Option<&TraceParent>) -> TimerReply<Fired> {
        let until = Instant::now() + LOOK_FOR;
        let mut reply = self.fire_free(firings, trace).await?;
        loop {
            let is_held = |firing: &&Firing| matches!(reply.items.get(&firing.id), Some(ItemReply::Locked(_)));
            let held: Vec<Firing> = firings.iter().filter(is_held).cloned().collect();
            if held.is_empty() || Instant::now() >= until {
                return Ok(reply);
            }
            tokio::time::sleep(LOOK_EVERY).await;
            let Reply { time, items } = self.fire_free(&held, trace).await?;
            for firing in held {
                reply.items.remove(&firing.id);
            }
            reply.items.extend(items);
            reply.time = time;
        }
    }

    /// Those that no other transaction holds at this moment.
    async fn fire_free(&self, firings: &[Firing], trace: Option<&TraceParent>) -> TimerReply<Fired> {
        let (kinds, subjects) = names(firings.iter().map(|firing| &firing.id));
        let dues: Vec<OffsetDateTime> = firings.iter().map(|firing| firing.due.instant()).collect();
        let revisions: Vec<i64> = firings.iter().map(|firing| firing.revision).collect();
        let trace = trace.map(TraceParent::as_str);
        let rows = self.client.within(is_bad, async |client| {
            let statement = client.prepare_cached(&FIRE).await?;
            client.query(&statement, &[&kinds, &subjects, &dues, &revisions, &trace]).await
        });
        let rows = rows.await?;
        let mut items = HashMap::with_capacity(rows.len());
        for row in &rows {
            let Some(id) = id(row)? else { continue };
            let item = match row.try_get::<_, Option<f64>>("late_s")? {
                Some(late_s) => {
                    ItemReply::Done(Fired { lateness: Duration::try_from_secs_f64(late_s).unwrap_or_default() })
                }
                None => ItemReply::Changed,
            };
            items.insert(id, item);
        }
        for Firing { id, .. } in firings.iter().filter(|firing| !items.contains_key(&firing.id)).collect::<Vec<_>>() {
            items.insert(id.clone(), ItemReply::Locked("another transaction holds it locked".to_owned()));
        }
        Ok(Reply { time: ServerTime::from(now(&rows)?), items })
    }

    /// A page of timers that are armed although they were due, and armed, longer ago than the grace.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn overdue(&self, page: &PageRequest) -> Result<TimerPage, BookError> {
        let (due, id_after) = match &page.after {
            Some(after) => (after.deadline.as_str(), after.id.as_str()),
            None => ("-infinity", ":"),
        };
        let (kind, subject) = id_after.split_once(':').unwrap_or_default();
        let (grace, count_max) = (page.grace.as_secs_f64(), i64::try_from(page.orders_max).unwrap_or(i64::MAX));
        let rows = self.client.within(is_bad, async |client| {
            let statement = client
                .prepare_cached(
                    "select due_at::text as due, kind, subject from timers
                     where state = 'armed' and due_at < statement_timestamp() - $1 * interval '1 second'
                       and changed_at < statement_timestamp() - $1 * interval '1 second'
                       and (due_at, kind, subject) > ($2::text::timestamptz, $3, $4)
                     order by timers.due_at, kind, subject limit $5",
                )
                .await?;
            client.query(&statement, &[&grace, &due, &kind, &subject, &count_max]).await
        });
        let rows = rows.await?;
        let mut found = TimerPage { ids: Vec::with_capacity(rows.len()), next: None };
        for row in &rows {
            found.ids.extend(id(row)?);
        }
        if let Some(last) = rows.last().filter(|_| rows.len() == page.orders_max) {
            let (kind, subject): (&str, &str) = (last.try_get("kind")?, last.try_get("subject")?);
            found.next = Some(Bookmark { deadline: last.try_get("due")?, id: format!("{kind}:{subject}") });
        }
        Ok(found)
    }

    /// Deletes timers that fired, or were cancelled, longer ago than this, `count_max` at most. Returns how many.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn delete_ended(&self, kept_for: Duration, count_max: usize) -> Result<usize, BookError> {
        let (kept_s, count_max) = (kept_for.as_secs_f64(), i64::try_from(count_max).unwrap_or(i64::MAX));
        let deleted = self.client.within(is_bad, async |client| {
            let statement = client
                .prepare_cached(
                    "delete from timers where ctid = any(array(
                         select ctid from timers
                         where state <> 'armed' and changed_at < statement_timestamp() - $1 * interval '1 second'
                         order by changed_at limit $2 for update skip locked))",
                )
                .await?;
            client.execute(&statement, &[&kept_s, &count_max]).await
        });
        Ok(usize::try_from(deleted.await?).unwrap_or(usize::MAX))
    }

    /// Arms and cancels; each timer may stand in `commands` once. A command whose version is not higher than that of one before does
    /// nothing. Those about timers that another transaction holds are left out. The trace is the one that the timers belong to.
    ///
    /// # Errors
    /// [`BookError`]: then nothing was done, or it is not known.
    pub async fn command(&self, commands: &[TimerCommand], trace: Option<&TraceParent>) -> TimerReply<()> {
        let (kinds, subjects) = names(commands.iter().map(|command| &command.id));
        let trace = trace.map(TraceParent::as_str);
        let mut held = HashSet::new();
        let done = self.client.within(is_bad, async |client| {
            let hold = client.prepare_cached(include_str!("hold.sql")).await?;
            let command = client.prepare_cached(include_str!("command.sql")).await?;
            let transaction = client.transaction().await?;
            for row in transaction.query(&hold, &[&kinds, &subjects]).await? {
                held.extend(id(&row)?);
            }
            let free: Vec<&TimerCommand> = commands.iter().filter(|command| !held.contains(&command.id)).collect();
            let (kinds, subjects) = names(free.iter().map(|command| &command.id));
            let dues: Vec<Option<OffsetDateTime>> = free.iter().map(|it| it.due.map(Deadline::instant)).collect();
            let data: Vec<Option<&str>> = free.iter().map(|command| command.data.as_deref()).collect();
            let versions: Vec<Option<i64>> = free.iter().map(|command| command.version).collect();
            transaction.query(&command, &[&kinds, &subjects, &dues, &data, &versions, &trace]).await?;
            transaction.commit().await
        });
        done.await?;
        let reply = |command: &TimerCommand| match held.contains(&command.id) {
            true => ItemReply::Locked("another transaction holds it locked".to_owned()),
            false => ItemReply::Done(()),
        };
        let items = commands.iter().map(|command| (command.id.clone(), reply(command))).collect();
        // The time is of no use to commands.
        Ok(Reply { time: ServerTime::from(OffsetDateTime::UNIX_EPOCH), items })
    }

    /// Whether commands can be done at all. Changes nothing.
    ///
    /// # Errors
    /// [`BookError`] says what is wrong.
    pub async fn ready_for_commands(&self) -> Result<(), BookError> {
        self.command(&[], None).await?;
        let right = "select has_function_privilege(to_regproc('overdue_arm'), 'execute')
                        and has_function_privilege(to_regproc('overdue_cancel'), 'execute')";
        match one::<bool>(&self.client, right, &[]).await? {
            true => Ok(()),
            false => Err(BookError::Misconfigured("no right to execute overdue_arm and overdue_cancel".to_owned())),
        }
    }

    /// Whether timers can be looked up and fired at all. Changes nothing. Returns the database's time.
    ///
    /// # Errors
    /// [`BookError::Misconfigured`] names what is wrong for every timer alike; [`BookError::Away`].
    pub async fn ready(&self) -> Result<ServerTime, BookError> {
        let tried = async {
            self.load(&[]).await?;
            self.fire_free(&[], None).await?;
            crate::postgres::time(&self.client).await
        };
        tried.await.map_err(|error| match error {
            BookError::Refused(text) => BookError::Misconfigured(text),
            other => other,
        })
    }
}

fn names<'a>(ids: impl Iterator<Item = &'a TimerId> + Clone) -> (Vec<&'a str>, Vec<&'a str>) {
    (ids.clone().map(TimerId::kind).collect(), ids.map(TimerId::subject).collect())
}

/// `None`: it is no name of ours.
fn id(row: &Row) -> Result<Option<TimerId>, tokio_postgres::Error> {
    Ok(TimerId::new(row.try_get("kind")?, row.try_get("subject")?).ok())
}

/// When the last of these rows was read.
fn now(rows: &[Row]) -> Result<OffsetDateTime, tokio_postgres::Error> {
    rows.last().map_or(Ok(OffsetDateTime::UNIX_EPOCH), |row| row.try_get("now"))
}

/// A text says why a row that is there cannot be used.
fn facts(row: &Row, state: &str) -> Result<Result<TimerFacts, String>, tokio_postgres::Error> {
    let state: TimerState = match state.parse() {
        Ok(state) => state,
        Err(error) => return Ok(Err(error.to_string())),
    };
    Ok(Ok(TimerFacts { state, due: Deadline::at(row.try_get("due_at")?), revision: row.try_get("revision")? }))
}
