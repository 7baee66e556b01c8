//! Which parked messages are meant.

use std::time::Duration;

use tokio_postgres::types::ToSql;

/// Which messages: those for which all that is given holds.
#[derive(Debug, Clone, Default)]
pub struct ParkedFilter {
    /// These.
    pub ids: Vec<i64>,
    /// Those parked for this reason.
    pub reason: Option<String>,
    /// Those that name this order, or timer.
    pub order: Option<String>,
    /// Events for this endpoint.
    pub endpoint: Option<String>,
    /// Events of this type.
    pub event: Option<String>,
    /// Those that have not been there for so long.
    pub newer_than: Option<Duration>,
    /// Those that have been there for so long.
    pub older_than: Option<Duration>,
    /// Those that were sent in again, or dropped, by this.
    pub changed_by: Option<String>,
}

/// What a person has done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedState {
    /// It waits for a person.
    Held,
    /// It was sent in again.
    Requeued,
    /// It was dropped.
    Dropped,
}

/// `$1` to `$7` and `$9` are the fields of [`ParkedFilter`], `$8` the state.
pub(crate) const CHOSEN: &str = "state = $8 and ($1::bigint[] = '{}' or id = any($1)) and ($2::text is null or reason = $2)
    and ($3::text is null or orders @> array[$3]) and ($4::float8 is null or first_at <= clock_timestamp() - $4 * interval '1 second')
    and ($5::text is null or headers->>'x-overdue-endpoint' = $5) and ($6::text is null or headers->>'x-overdue-event' = $6)
    and ($7::float8 is null or last_at > clock_timestamp() - $7 * interval '1 second') and ($9::text is null or changed_by = $9)";

/// [`CHOSEN`], in the order of their numbers: those after `$10`, up to `$11`, at most `$12`.
pub(crate) fn chosen_page() -> String {
    format!("{CHOSEN} and id > $10 and id <= $11 order by id limit $12")
}

impl ParkedFilter {
    /// The older and the newer bound, in seconds.
    pub(crate) fn ages(&self) -> [Option<f64>; 2] {
        [self.older_than, self.newer_than].map(|age| age.map(|age| age.as_secs_f64()))
    }

    /// The values of [`CHOSEN`].
    pub(crate) fn values<'a>(&'a self, ages: &'a [Option<f64>; 2], state: &'a &str) -> Vec<&'a (dyn ToSql + Sync)> {
        let [older_than, newer_than] = ages;
        vec![
            &self.ids,
            &self.reason,
            &self.order,
            older_than,
            &self.endpoint,
            &self.event,
            newer_than,
            state,
            &self.changed_by,
        ]
    }
}

impl ParkedState {
    /// Its name in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Requeued => "requeued",
            Self::Dropped => "dropped",
        }
    }
}
