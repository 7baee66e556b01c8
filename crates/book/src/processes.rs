//! The processes that are at work, as each says of itself, and what they did in the last hours.

use std::collections::BTreeMap;
use std::time::Duration;

use database::Client;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::postgres::is_bad;
use crate::{BookError, CircuitOf, CircuitState, Lateness};

/// The table of processes in a database.
#[derive(Clone)]
pub struct Processes {
    client: Client,
}

/// What a process says of itself.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// Its ID: a UUID, another for each start.
    pub id: String,
    /// The machine.
    pub host: String,
    /// The number by which the machine knows it.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// Since when it is at work.
    pub started_at: OffsetDateTime,
    /// Whether it has said nothing before: then all that it has done since its start is new. If its row is gone and
    /// this is not its first word, nobody knows what is new, and nothing of it counts.
    pub is_first: bool,
    /// Whether it has the lead of the sweep.
    pub sweep_leader: bool,
    /// Orders that it holds in memory until they are due.
    pub held_orders: i64,
    /// What it has done since its start, by name.
    pub counters: BTreeMap<String, u64>,
    /// Its circuit breakers.
    pub circuits: Vec<CircuitState>,
    /// The orders that it has closed since its start, and the greatest lateness since its last heartbeat.
    pub late: Lateness,
    /// The timers that it has fired since its start.
    pub fired: u64,
    /// What its sweep has settled since its start.
    pub rescued: u64,
}

/// A process, as it last said.
#[derive(Debug, Clone)]
pub struct ProcessRow {
    /// What it said. The lateness is that since its start, without the greatest.
    pub said: Heartbeat,
    /// When, by the database's clock.
    pub seen_at: OffsetDateTime,
    /// How long ago that was.
    pub silent_for: Duration,
    /// Since its start.
    pub up_for: Duration,
}

/// What an operator wants to be tried at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What it is.
    pub of: CircuitOf,
    /// Its name.
    pub name: String,
    /// When the operator asked for it.
    pub requested_at: OffsetDateTime,
}

/// What all processes did in a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minute {
    /// Its begin.
    pub at: OffsetDateTime,
    /// The orders that were closed.
    pub late: Lateness,
    /// The timers that fired.
    pub fired: u64,
}

/// How often a process says that it is at work.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// A process that has said nothing for so long is silent.
pub const SILENT_AFTER: Duration = Duration::from_secs(15);

/// How long the row of a process that has died is kept.
const KEPT_FOR: &str = "1 hour";

/// How long it is kept what was done in a minute.
const MINUTES_KEPT_FOR: &str = "25 hours";

const COLUMNS: &str = "id::text as id, host, pid, version, roles, started_at, seen_at, sweep_leader, held_orders,
    counters::text as counters, circuits::text as circuits, late, fired, rescued,
    extract(epoch from clock_timestamp() - seen_at)::float8 as silent_s, extract(epoch from clock_timestamp() - started_at)::float8 as up_s";

impl Processes {
    /// The table in this database.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Says that a process is at work. Returns what operators have asked to be tried in the last minute.
    ///
    /// # Errors
    /// [`BookError`]: it was not said, or it is not known. To say it again does no harm.
    pub async fn beat(&self, beat: &Heartbeat) -> Result<Vec<Probe>, BookError> {
        let json =
            |value: Result<String, serde_json::Error>, otherwise: &str| value.unwrap_or_else(|_| otherwise.to_owned());
        let counters = json(serde_json::to_string(&beat.counters), "{}");
        // What a gateway said of its fault may have anything in it; PostgreSQL takes no zero, not even in JSON.
        let mut circuits = beat.circuits.clone();
        circuits.iter_mut().filter_map(|circuit| circuit.fault.as_mut()).for_each(|fault| fault.retain(|c| c != '\0'));
        let circuits = json(serde_json::to_string(&circuits), "[]");
        let late: Vec<i64> = beat.late.counts.iter().copied().map(signed).collect();
        let (pid, max_ms) = (i64::from(beat.pid), i64::try_from(beat.late.max.as_millis()).unwrap_or(i64::MAX));
        let (fired, rescued) = (signed(beat.fired), signed(beat.rescued));
        let values: [&(dyn ToSql + Sync); 15] = [
            &beat.id,
            &beat.host,
            &pid,
            &beat.version,
            &beat.roles,
            &beat.started_at,
            &beat.sweep_leader,
            &beat.held_orders,
            &counters,
            &circuits,
            &late,
            &max_ms,
            &fired,
            &rescued,
            &beat.is_first,
        ];
        let rows = self.client.within(is_bad, async |client| {
            let statement = client.prepare_cached(include_str!("beat.sql")).await?;
            client.query(&statement, &values).await
        });
        rows.await?.iter().filter_map(|row| probe(row).transpose()).collect()
    }

    /// A process has ended as it was told to. Says whether it was known.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn forget(&self, id: &str) -> Result<bool, BookError> {
        let deleted = self
            .client
            .within(is_bad, async |client| client.execute("delete from processes where id::text = $1", &[&id]).await);
        Ok(deleted.await? > 0)
    }

    /// A process that has gone silent is not to be missed any more. Says whether there is one of this ID.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn forget_silent(&self, id: &str) -> Result<bool, BookError> {
        let silent_s = SILENT_AFTER.as_secs_f64();
        let deleted = self.client.within(is_bad, async |client| {
            let delete =
                "delete from processes where id::text = $1 and seen_at < clock_timestamp() - $2 * interval '1 second'";
            client.execute(delete, &[&id, &silent_s]).await
        });
        Ok(deleted.await? > 0)
    }

    /// Every process that has said something in the last hour, those with the same roles together.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn all(&self) -> Result<Vec<ProcessRow>, BookError> {
        let rows = self.client.within(is_bad, async |client| {
            let all = format!("select {COLUMNS} from processes order by roles, host, started_at, id limit 1000");
            client.query(&client.prepare_cached(&all).await?, &[]).await
        });
        rows.await?.iter().map(process).collect()
    }

    /// What was done in each of the last `minutes` minutes, and in this one so far, the oldest first, from `since` on
    /// where it is later. Minutes in which nothing was done are left out. A minute that is over stays as it is.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn minutes(&self, minutes: u32, since: Option<OffsetDateTime>) -> Result<Vec<Minute>, BookError> {
        let minutes = f64::from(minutes);
        let since = since.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let rows = self.client.within(is_bad, async |client| {
            let each = "select minute, late, late_max_ms, fired from process_minutes
                        where minute >= greatest(date_trunc('minute', clock_timestamp()) - $1 * interval '1 minute', $2) order by minute";
            client.query(&client.prepare_cached(each).await?, &[&minutes, &since]).await
        });
        let mut found: Vec<Minute> = Vec::new();
        for row in &rows.await? {
            let at: OffsetDateTime = row.try_get("minute")?;
            let late = lateness(row.try_get("late")?, row.try_get("late_max_ms")?);
            let fired = unsigned(row.try_get("fired")?);
            match found.last_mut().filter(|minute| minute.at == at) {
                Some(minute) => {
                    minute.late.add(&late);
                    minute.fired += fired;
                }
                None => found.push(Minute { at, late, fired }),
            }
        }
        Ok(found)
    }

    /// How many orders and timers the sweep has settled in each hour of the last day, the newest first. Hours without
    /// are left out.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn rescued_by_hour(&self) -> Result<Vec<(OffsetDateTime, u64)>, BookError> {
        let rows = self.client.within(is_bad, async |client| {
            let hours = "select date_trunc('hour', minute) as hour, sum(rescued)::bigint as rescued from process_minutes
                         where rescued > 0 and minute > statement_timestamp() - interval '1 day' group by 1 order by 1 desc";
            client.query(&client.prepare_cached(hours).await?, &[]).await
        });
        let hour = |row: &Row| Ok((row.try_get("hour")?, unsigned(row.try_get("rescued")?)));
        rows.await?.iter().map(hour).collect()
    }

    /// Has every process try a gateway or an endpoint at once, although its circuit breaker is open there.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn request_probe(&self, of: CircuitOf, name: &str, by: &str) -> Result<(), BookError> {
        let requested = self.client.within(is_bad, async |client| {
            let request = "insert into probes (kind, name, requested_by) values ($1, $2, $3)
                           on conflict (kind, name) do update set requested_at = clock_timestamp(), requested_by = excluded.requested_by";
            client.execute(request, &[&of.as_str(), &name, &by]).await
        });
        requested.await?;
        Ok(())
    }

    /// Deletes what is too old.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn tidy(&self) -> Result<(), BookError> {
        let tidied = self.client.within(is_bad, async |client| {
            let delete = format!(
                "delete from processes where seen_at < statement_timestamp() - interval '{KEPT_FOR}';
                 delete from process_minutes where minute < statement_timestamp() - interval '{MINUTES_KEPT_FOR}'"
            );
            client.batch_execute(&delete).await
        });
        Ok(tidied.await?)
    }
}

/// `None`: it is of a kind that a newer version has.
fn probe(row: &Row) -> Result<Option<Probe>, BookError> {
    let of = match row.try_get("kind")? {
        "gateway" => CircuitOf::Gateway,
        "endpoint" => CircuitOf::Endpoint,
        _ => return Ok(None),
    };
    Ok(Some(Probe { of, name: row.try_get("name")?, requested_at: row.try_get("requested_at")? }))
}

fn process(row: &Row) -> Result<ProcessRow, BookError> {
    let seconds = |name: &str| -> Result<Duration, BookError> {
        Ok(Duration::try_from_secs_f64(row.try_get::<_, f64>(name)?).unwrap_or_default())
    };
    let said = Heartbeat {
        id: row.try_get("id")?,
        host: row.try_get("host")?,
        pid: u32::try_from(row.try_get::<_, i64>("pid")?).unwrap_or_default(),
        version: row.try_get("version")?,
        roles: row.try_get("roles")?,
        started_at: row.try_get("started_at")?,
        is_first: false,
        sweep_leader: row.try_get("sweep_leader")?,
        held_orders: row.try_get("held_orders")?,
        // A newer version may write them in another form.
        counters: serde_json::from_str(row.try_get("counters")?).unwrap_or_default(),
        circuits: serde_json::from_str(row.try_get("circuits")?).unwrap_or_default(),
        late: lateness(row.try_get("late")?, 0),
        fired: unsigned(row.try_get("fired")?),
        rescued: unsigned(row.try_get("rescued")?),
    };
    Ok(ProcessRow {
        said,
        seen_at: row.try_get("seen_at")?,
        silent_for: seconds("silent_s")?,
        up_for: seconds("up_s")?,
    })
}

impl ProcessRow {
    /// Whether it has said nothing for longer than it should.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent_for > SILENT_AFTER
    }

    /// Whether it is at work with this role.
    #[must_use]
    pub fn serves(&self, role: &str) -> bool {
        !self.is_silent() && self.said.roles.iter().any(|known| known == role)
    }
}

fn lateness(counts: Vec<i64>, max_ms: i64) -> Lateness {
    let counts = counts.into_iter().map(unsigned).collect();
    Lateness { counts, max: Duration::from_millis(unsigned(max_ms)) }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
