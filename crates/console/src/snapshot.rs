//! How the servers stand, looked up once for all who look: tabs cost no SQL. While nobody looks nothing is looked up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use book::{
    ActionRow, BookError, Minute, OperatorActions, Overview, ParkedGroup, ParkedTable, ProcessRow, Processes,
    RegisteredGateway, StoppedEndpoint, StoppedEndpoints,
};
use broker::{Broker, Management, QueueState, Topology};
use database::Client;
use time::OffsetDateTime;
use tokio::time::timeout;

/// The snapshots of a process.
#[derive(Clone)]
pub(crate) struct Snapshots {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    queues: Queues,
    latest: Mutex<Latest>,
    /// Held by the one that looks.
    looking: tokio::sync::Mutex<()>,
}

/// Where queues are looked up.
pub(crate) enum Queues {
    /// By the management API, in this virtual host.
    Management(Management, String),
    /// By AMQP.
    Amqp(Box<(Broker, Topology)>),
    /// Nowhere: the process knows no broker.
    Nowhere,
}

struct Latest {
    snapshot: Snapshot,
    looked_at: Option<Instant>,
    queues_looked_at: Option<Instant>,
    /// What was done in each minute, as far as it was looked up.
    minutes: Vec<Minute>,
}

/// How the servers stood.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) books: Known<Books>,
    pub(crate) queues: Known<Vec<QueueState>>,
}

/// The last that was known of a server.
pub(crate) struct Known<T> {
    /// With the moment, by this machine's clock.
    pub(crate) last: Option<(Arc<T>, OffsetDateTime)>,
    /// Since when it does not answer, and why.
    pub(crate) away: Option<(OffsetDateTime, String)>,
}

/// What the database says.
pub(crate) struct Books {
    pub(crate) overview: Overview,
    pub(crate) processes: Vec<ProcessRow>,
    pub(crate) minutes: Vec<Minute>,
    pub(crate) groups: Vec<ParkedGroup>,
    pub(crate) gateways: Vec<RegisteredGateway>,
    pub(crate) stopped: Vec<StoppedEndpoint>,
    pub(crate) under_way: Vec<ActionRow>,
}

/// How old a snapshot may be.
const FRESH_FOR: Duration = Duration::from_millis(1_900);

/// How old the queues may be: RabbitMQ gathers its figures every five seconds.
const QUEUES_FRESH_FOR: Duration = Duration::from_secs(5);

/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a page waits for a look that is under way, if it has something to show.
const WAIT: Duration = Duration::from_millis(50);

/// Minutes of the chart.
pub(crate) const MINUTES: u32 = 60;

/// The most messages of a group that are counted.
pub(crate) const GROUP_MAX: i64 = 1_000;

/// The most actions that are looked through for those that broke off.
const UNDER_WAY_MAX: i64 = 50;

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Self { last: self.last.clone(), away: self.away.clone() }
    }
}

impl<T> Known<T> {
    fn nothing() -> Self {
        Self { last: None, away: None }
    }

    pub(crate) fn value(&self) -> Option<&T> {
        self.last.as_ref().map(|(value, _)| value.as_ref())
    }

    fn learn(&mut self, answer: Result<T, String>) {
        match answer {
            Ok(value) => (self.last, self.away) = (Some((Arc::new(value), OffsetDateTime::now_utc())), None),
            // Since it was first missed; the newest reason.
            Err(why) => {
                self.away = Some((self.away.as_ref().map_or_else(OffsetDateTime::now_utc, |(since, _)| *since), why))
            }
        }
    }
}

impl Snapshots {
    pub(crate) fn new(client: Client, queues: Queues) -> Self {
        let snapshot = Snapshot { books: Known::nothing(), queues: Known::nothing() };
        let latest = Mutex::new(Latest { snapshot, looked_at: None, queues_looked_at: None, minutes: Vec::new() });
        Self { inner: Arc::new(Inner { client, queues, latest, looking: tokio::sync::Mutex::new(()) }) }
    }

    /// Whether the process knows a broker at all.
    pub(crate) fn knows_queues(&self) -> bool {
        !matches!(self.inner.queues, Queues::Nowhere)
    }

    pub(crate) fn by_management(&self) -> bool {
        matches!(self.inner.queues, Queues::Management(..))
    }

    /// The latest. If it is old, a new one is made; a page waits for that only if there is none at all.
    pub(crate) async fn latest(&self) -> Snapshot {
        let (is_old, has_any) = {
            let latest = self.latest_of_all();
            (latest.looked_at.is_none_or(|at| at.elapsed() >= FRESH_FOR), latest.looked_at.is_some())
        };
        if is_old {
            let this = self.clone();
            let look = tokio::spawn(async move { this.look().await });
            let wait = if has_any { WAIT } else { 2 * ANSWER_TIMEOUT };
            // It goes on by itself.
            let _ = timeout(wait, look).await;
        }
        self.latest_of_all().snapshot.clone()
    }

    /// Makes a new one now: something was changed.
    pub(crate) async fn renew(&self) {
        self.latest_of_all().looked_at = None;
        let this = self.clone();
        let _ = timeout(ANSWER_TIMEOUT, tokio::spawn(async move { this.look().await })).await;
    }

    /// Makes a new one, unless another caller has just done so.
    async fn look(&self) {
        let _looking = self.inner.looking.lock().await;
        let (is_old, queues_are_old, minutes) = {
            let latest = self.latest_of_all();
            let is_old = latest.looked_at.is_none_or(|at| at.elapsed() >= FRESH_FOR);
            let queues_are_old = latest.queues_looked_at.is_none_or(|at| at.elapsed() >= QUEUES_FRESH_FOR);
            (is_old, queues_are_old, latest.minutes.clone())
        };
        if !is_old {
            return;
        }
        let queues = async {
            match queues_are_old {
                true => self.inner.queues.look().await,
                false => None,
            }
        };
        let (books, queues) = tokio::join!(in_time(books(&self.inner.client, minutes)), queues);
        let mut latest = self.latest_of_all();
        if let Ok(books) = &books {
            latest.minutes.clone_from(&books.minutes);
        }
        latest.snapshot.books.learn(books);
        latest.looked_at = Some(Instant::now());
        if let Some(queues) = queues {
            latest.snapshot.queues.learn(queues);
            latest.queues_looked_at = Some(Instant::now());
        }
    }

    fn latest_of_all(&self) -> MutexGuard<'_, Latest> {
        self.inner.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// `None`: there is nothing to be looked at.
    async fn look(&self) -> Option<Result<Vec<QueueState>, String>> {
        let mut queues = match self {
            Self::Management(management, vhost) => in_time(management.queues(vhost)).await,
            Self::Amqp(both) => in_time(broker::queue_depths(&both.1, &both.0)).await,
            Self::Nowhere => return None,
        };
        if let Ok(queues) = &mut queues {
            queues.retain(|queue| queue.name.starts_with("overdue."));
            queues.sort_by(|one, other| one.name.cmp(&other.name));
        }
        Some(queues)
    }
}

async fn in_time<T, E: std::fmt::Display>(question: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(ANSWER_TIMEOUT, question).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}

/// `minutes` are those that are known already. The last of them may not have been over then, and of the one before it not all may have
/// been written. Those before them are as they were.
async fn books(client: &Client, mut minutes: Vec<Minute>) -> Result<Books, BookError> {
    let processes = Processes::new(client.clone());
    let since = minutes.last().map(|minute| minute.at - Duration::from_secs(60));
    minutes.retain(|minute| since.is_some_and(|since| minute.at < since));
    minutes.extend(processes.minutes(MINUTES, since).await?);
    let first = minutes.len().saturating_sub(MINUTES as usize + 1);
    minutes.drain(..first);
    Ok(Books {
        overview: book::overview(client).await?,
        processes: processes.all().await?,
        minutes,
        groups: ParkedTable::new(client.clone()).groups_up_to(GROUP_MAX).await?,
        gateways: book::registered_gateways(client).await?,
        stopped: StoppedEndpoints::new(client.clone()).all().await?,
        under_way: OperatorActions::new(client.clone()).under_way(UNDER_WAY_MAX).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_stays_and_the_silence_has_one_begin() {
        let mut known = Known::nothing();
        known.learn(Ok(1));
        known.learn(Err("refused".to_owned()));
        let since = known.away.clone().unwrap().0;
        known.learn(Err("silent".to_owned()));
        assert_eq!((known.value(), known.away.clone().unwrap()), (Some(&1), (since, "silent".to_owned())));
        known.learn(Ok(2));
        assert_eq!((known.value(), known.away.clone()), (Some(&2), None));
    }
}
