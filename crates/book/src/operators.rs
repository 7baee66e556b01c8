//! What operators have done by the console, and what they were not allowed to.

use std::time::Duration;

use database::Client;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::BookError;
use crate::postgres::{is_bad, one};

/// The table of operators' actions in a database.
#[derive(Clone)]
pub struct OperatorActions {
    client: Client,
}

/// An action that is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAction {
    /// Who.
    pub operator: String,
    /// With which role: `look` or `act`.
    pub role: String,
    /// From which address.
    pub address: Option<String>,
    /// What, such as `order.close`.
    pub action: String,
    /// To what: an order, a message, a refund.
    pub subject: String,
    /// Why, as the operator says.
    pub note: Option<String>,
    /// How it stood before.
    pub before: Option<String>,
    /// How many things it is about, where there are many.
    pub total: Option<i64>,
}

/// An action on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRow {
    /// Its number.
    pub id: i64,
    /// When it began.
    pub at: OffsetDateTime,
    /// What was to be done.
    pub action: NewAction,
    /// `begun`, `done`, `failed` or `refused`.
    pub state: String,
    /// How it stood afterwards, or why it failed.
    pub after: Option<String>,
    /// How many things are done with, where there are many.
    pub handled: i64,
    /// How long ago it was last heard of.
    pub silent_for: Duration,
}

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionEnd {
    /// It was done.
    Done,
    /// It could not be done, or not all of it.
    Failed,
}

/// Whether an action has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It has, under this number.
    New(i64),
    /// It has not: it is done by one at a time, and is under way under this number.
    UnderWay(i64),
}

/// An action that is under way and was not heard of for so long has died with its process, or its end could not be
/// written down.
pub const ACTION_DEAD_AFTER: Duration = Duration::from_secs(30);

/// What stands on record of such an action after a day.
const END_UNKNOWN: &str = "how it ended is not known: its process died, or could not write it down";

/// How long an action whose end is not known is shown as such.
const DEAD_SHOWN_FOR: Duration = Duration::from_hours(24);

/// How long actions are kept.
const KEPT_FOR: &str = "1 year";

const COLUMNS: &str = "id, at, operator, role, address, action, subject, note, before, total, state, after, handled,
    extract(epoch from clock_timestamp() - changed_at)::float8 as silent_s";

impl OperatorActions {
    /// The table in this database.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Writes down that an action begins. Doctor and audit run one at a time in all processes.
    ///
    /// # Errors
    /// [`BookError`]: then it must not begin.
    pub async fn begin(&self, action: &NewAction) -> Result<Begun, BookError> {
        loop {
            if let Some(id) = self.insert(action, "begun", None).await? {
                return Ok(Begun::New(id));
            }
            // There is one. It may be dead, or end at this moment.
            self.end_dead(Some(&action.action), ACTION_DEAD_AFTER).await?;
            let which = "where state = 'begun' and action = $1 order by id desc limit 1";
            if let Some(row) = self.rows(which, &[&action.action]).await?.pop() {
                return Ok(Begun::UnderWay(row.id));
            }
        }
    }

    /// Writes down that an action was refused, and why.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn refused(&self, action: &NewAction, why: &str) -> Result<(), BookError> {
        self.insert(action, "refused", Some(why)).await.map(drop)
    }

    /// `None`: the action is done by one at a time, and is under way.
    async fn insert(&self, action: &NewAction, state: &str, after: Option<&str>) -> Result<Option<i64>, BookError> {
        let NewAction { operator, role, address, action, subject, note, before, total } = action;
        let values: [&(dyn ToSql + Sync); 10] =
            [operator, role, address, action, subject, note, before, total, &state, &after];
        let row = self.client.within(is_bad, async |client| {
            let insert = "insert into operator_actions (operator, role, address, action, subject, note, before, total, state, after)
                          values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
                          on conflict (action) where state = 'begun' and action in ('doctor.run', 'audit.run') do nothing
                          returning id";
            client.query_opt(insert, &values).await
        });
        Ok(row.await?.map(|row| row.try_get(0)).transpose()?)
    }

    /// Writes down how many things are done with.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn progress(&self, id: i64, handled: i64) -> Result<(), BookError> {
        let told = self.client.within(is_bad, async |client| {
            let tell = "update operator_actions set handled = $2, changed_at = clock_timestamp() where id = $1 and state = 'begun'";
            client.execute(tell, &[&id, &handled]).await
        });
        told.await?;
        Ok(())
    }

    /// Writes down how an action ended, and how it stands now, or why it failed.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn end(&self, id: i64, end: ActionEnd, after: &str, handled: i64) -> Result<(), BookError> {
        let state = if end == ActionEnd::Done { "done" } else { "failed" };
        let told = self.client.within(is_bad, async |client| {
            let tell = "update operator_actions set state = $2, after = $3, handled = $4, changed_at = clock_timestamp() where id = $1";
            client.execute(tell, &[&id, &state, &after, &handled]).await
        });
        told.await?;
        Ok(())
    }

    /// Actions with a number below `before`, the newest first.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn page(&self, before: i64, count_max: i64) -> Result<Vec<ActionRow>, BookError> {
        self.rows("where id < $1 order by id desc limit $2", &[&before, &count_max]).await
    }

    /// Actions about a subject, the oldest first.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn about(&self, subject: &str, count_max: i64) -> Result<Vec<ActionRow>, BookError> {
        let mut rows = self.rows("where subject = $1 order by id desc limit $2", &[&subject, &count_max]).await?;
        rows.reverse();
        Ok(rows)
    }

    /// One action.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn get(&self, id: i64) -> Result<Option<ActionRow>, BookError> {
        Ok(self.rows("where id = $1", &[&id]).await?.pop())
    }

    /// Actions that have begun and not ended, the newest first.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn under_way(&self, count_max: i64) -> Result<Vec<ActionRow>, BookError> {
        self.rows("where state = 'begun' order by id desc limit $1", &[&count_max]).await
    }

    /// Deletes what is too old, and calls what has begun a day ago and was not heard of since failed. Returns how much
    /// was deleted.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn tidy(&self) -> Result<i64, BookError> {
        self.end_dead(None, DEAD_SHOWN_FOR).await?;
        // The oldest have the lowest numbers: where the first of them stays, all do.
        let delete = format!(
            "with deleted as (
                 delete from operator_actions where id in (
                     select id from (select id, at from operator_actions order by id limit 1000) oldest
                     where at < statement_timestamp() - interval '{KEPT_FOR}')
                 returning 1)
             select count(*) from deleted"
        );
        one(&self.client, &delete, &[]).await
    }

    /// Ends those that were not heard of for so long; of this name, or all.
    async fn end_dead(&self, action: Option<&str>, silent_for: Duration) -> Result<(), BookError> {
        let seconds = silent_for.as_secs_f64();
        let ended = self.client.within(is_bad, async |client| {
            let end = "update operator_actions set state = 'failed', after = $3, changed_at = clock_timestamp()
                       where state = 'begun' and ($1::text is null or action = $1)
                         and changed_at < statement_timestamp() - $2 * interval '1 second'";
            client.execute(end, &[&action, &seconds, &END_UNKNOWN]).await
        });
        ended.await?;
        Ok(())
    }

    async fn rows(&self, which: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<ActionRow>, BookError> {
        let rows = self.client.within(is_bad, async |client| {
            let statement = format!("select {COLUMNS} from operator_actions {which}");
            client.query(&client.prepare_cached(&statement).await?, values).await
        });
        rows.await?.iter().map(action_row).collect()
    }
}

impl ActionRow {
    /// Whether it is under way, as far as anybody knows.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.state == "begun" && self.silent_for < ACTION_DEAD_AFTER
    }

    /// Whether its process died in the middle of it, or could not write down how it ended.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.state == "begun" && self.silent_for >= ACTION_DEAD_AFTER
    }
}

fn action_row(row: &Row) -> Result<ActionRow, BookError> {
    Ok(ActionRow {
        id: row.try_get("id")?,
        at: row.try_get("at")?,
        action: NewAction {
            operator: row.try_get("operator")?,
            role: row.try_get("role")?,
            address: row.try_get("address")?,
            action: row.try_get("action")?,
            subject: row.try_get("subject")?,
            note: row.try_get("note")?,
            before: row.try_get("before")?,
            total: row.try_get("total")?,
        },
        state: row.try_get("state")?,
        after: row.try_get("after")?,
        handled: row.try_get("handled")?,
        silent_for: Duration::try_from_secs_f64(row.try_get("silent_s")?).unwrap_or_default(),
    })
}
