//! What happened to orders on their way, for those who look. It decides nothing, and nothing waits for it: steps are
//! written down together, some moments later, and what there is too much of is left out.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use database::Client;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use crate::BookError;
use crate::postgres::is_bad;

/// Where steps are told. Copies are the same. Until it has a writer, what is told is forgotten.
#[derive(Clone, Default)]
pub struct Trail {
    inner: Arc<Inner>,
}

struct Inner {
    sender: OnceLock<mpsc::Sender<Step>>,
    /// How many steps of the usual way are written down.
    usual: DefaultDirectRateLimiter,
    left_out: AtomicU64,
}

/// Writes down what is told.
pub struct TrailWriter {
    client: Client,
    receiver: mpsc::Receiver<Step>,
    trail: Trail,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrailStep {
    /// A worker took its message out of the due queue.
    Came,
    /// It goes on, to be looked at later.
    SentOn,
    /// A gateway was asked, and what it said.
    Asked,
    /// A gateway told something by itself.
    Notified,
    /// A step of its refund.
    Refund,
    /// An event about it was delivered to an endpoint.
    Delivered,
    /// An endpoint did not take an event about it.
    Undelivered,
}

/// A step that was told.
struct Step {
    subject: String,
    step: TrailStep,
    actor: String,
    detail: String,
    at: Instant,
}

/// A step that is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrailRow {
    /// When, by the database's clock.
    pub at: OffsetDateTime,
    /// What: `relayed`, `came`, `sent_on`, `asked`, `notified`, `refund`, `delivered` or `undelivered`.
    pub step: String,
    /// The part of the program, the gateway, or the endpoint.
    pub actor: String,
    /// More of it.
    pub detail: String,
}

/// How many steps of the usual way are written down: so many a second, and so many at once. In a burst others are left
/// out.
const USUAL_PER_SECOND: NonZeroU32 = NonZeroU32::new(100).unwrap();
const USUAL_AT_ONCE: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// How many steps may wait to be written down.
const WAITING_MAX: usize = 8_192;

/// How many are written down together, and how long the first of them waits for others.
const TOGETHER_MAX: usize = 512;
const TOGETHER_WITHIN: Duration = Duration::from_millis(200);

/// The most characters of a detail.
const DETAIL_CHARACTERS_MAX: usize = 500;

/// How long steps are kept.
const KEPT_FOR: &str = "7 days";

/// How many are deleted together.
const DELETED_TOGETHER: i64 = 10_000;

impl Default for Inner {
    fn default() -> Self {
        let usual = RateLimiter::direct(Quota::per_second(USUAL_PER_SECOND).allow_burst(USUAL_AT_ONCE));
        Self { sender: OnceLock::new(), usual, left_out: AtomicU64::new(0) }
    }
}

impl TrailStep {
    fn as_str(self) -> &'static str {
        match self {
            Self::Came => "came",
            Self::SentOn => "sent_on",
            Self::Asked => "asked",
            Self::Notified => "notified",
            Self::Refund => "refund",
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
        }
    }

    /// Whether it happens to every order or event: in a burst such steps may be left out. What is said of money is
    /// always told.
    fn is_usual(self) -> bool {
        matches!(self, Self::Came | Self::SentOn | Self::Delivered)
    }
}

impl Trail {
    /// What writes down what is told from now on; `None`: it has one.
    #[must_use]
    pub fn writer(&self, client: Client) -> Option<TrailWriter> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        self.inner.sender.set(sender).ok()?;
        Some(TrailWriter { client, receiver, trail: self.clone() })
    }

    /// Tells of a step of each of these subjects.
    pub fn tell<'a>(
        &self,
        step: TrailStep,
        actor: &str,
        subjects: impl ExactSizeIterator<Item = &'a str>,
        detail: &str,
    ) {
        let Some(sender) = self.inner.sender.get() else { return };
        let Some(count) = u32::try_from(subjects.len()).ok().and_then(NonZeroU32::new) else { return };
        // All or none: a message's orders share its way.
        if step.is_usual() && !matches!(self.inner.usual.check_n(count), Ok(Ok(()))) {
            self.leave_out(u64::from(count.get()));
            return;
        }
        let at = Instant::now();
        // What others have said may have anything in it; no text of PostgreSQL's has a zero.
        let detail: String = detail.chars().filter(|c| *c != '\0').take(DETAIL_CHARACTERS_MAX).collect();
        for subject in subjects {
            let step = Step { subject: subject.to_owned(), step, actor: actor.to_owned(), detail: detail.clone(), at };
            if sender.try_send(step).is_err() {
                self.leave_out(1);
            }
        }
    }

    /// How many steps were left out since the start.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.inner.left_out.load(Ordering::Relaxed)
    }

    fn leave_out(&self, count: u64) {
        self.inner.left_out.fetch_add(count, Ordering::Relaxed);
    }
}

impl TrailWriter {
    /// Works until `stop`; then what was told before is written down.
    pub async fn run(mut self, stop: CancellationToken) {
        let warnings = trace::Throttle::default();
        loop {
            let mut steps = Vec::new();
            tokio::select! {
                biased;
                () = stop.cancelled() => while let Ok(step) = self.receiver.try_recv() { steps.push(step) },
                _ = self.receiver.recv_many(&mut steps, TOGETHER_MAX) => {}
            }
            if !stop.is_cancelled() {
                let more = async {
                    while steps.len() < TOGETHER_MAX && self.receiver.recv_many(&mut steps, TOGETHER_MAX).await > 0 {}
                };
                let _ = timeout(TOGETHER_WITHIN, more).await;
            }
            if let Err(error) = self.write(&steps).await {
                self.trail.leave_out(steps.len() as u64);
                if let Some(more) = warnings.lets_through("trail") {
                    tracing::warn!(%error, more, "what happened to orders on their way cannot be written down");
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    async fn write(&self, steps: &[Step]) -> Result<(), BookError> {
        if steps.is_empty() {
            return Ok(());
        }
        let texts = |text: fn(&Step) -> &str| steps.iter().map(text).collect::<Vec<&str>>();
        let (subjects, names) = (texts(|step| &step.subject), texts(|step| step.step.as_str()));
        let (actors, details) = (texts(|step| &step.actor), texts(|step| &step.detail));
        let ages: Vec<f64> = steps.iter().map(|step| step.at.elapsed().as_secs_f64()).collect();
        let written = self.client.within(is_bad, async |client| {
            let insert = "insert into order_trail (subject, step, actor, detail, at)
                          select subject, step, actor, detail, clock_timestamp() - age * interval '1 second'
                          from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[]) as told (subject, step, actor, detail, age)";
            client.execute(&client.prepare_cached(insert).await?, &[&subjects, &names, &actors, &details, &ages]).await
        });
        written.await?;
        Ok(())
    }
}

/// What is on record of a subject's way, the newest `count_max` steps, the oldest of them first.
///
/// # Errors
/// [`BookError`].
pub async fn trail_of(client: &Client, subject: &str, count_max: i64) -> Result<Vec<TrailRow>, BookError> {
    let rows = client.within(is_bad, async |client| {
        let newest = "select at, step, actor, detail from order_trail where subject = $1 order by id desc limit $2";
        client.query(&client.prepare_cached(newest).await?, &[&subject, &count_max]).await
    });
    let step = |row: &Row| {
        Ok(TrailRow {
            at: row.try_get("at")?,
            step: row.try_get("step")?,
            actor: row.try_get("actor")?,
            detail: row.try_get("detail")?,
        })
    };
    let mut steps = rows.await?.iter().map(step).collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
    steps.sort_by_key(|step| step.at);
    Ok(steps)
}

/// Deletes steps that are too old, some of them. Returns whether there may be more.
///
/// # Errors
/// [`BookError`].
pub async fn tidy_trail(client: &Client) -> Result<bool, BookError> {
    let deleted = client.within(is_bad, async |client| {
        // By the statement's time: PostgreSQL searches no index by clock_timestamp(), which may be another for each
        // row.
        let oldest = format!(
            "select max(at) from (
                 select at from order_trail where at < statement_timestamp() - interval '{KEPT_FOR}' order by at limit $1) oldest"
        );
        let bound: Option<OffsetDateTime> = client.query_one(&oldest, &[&DELETED_TOGETHER]).await?.try_get(0)?;
        let Some(bound) = bound else { return Ok(0) };
        // With the bound itself in hand the planner knows how few they are.
        client.execute("delete from order_trail where at <= $1", &[&bound]).await
    });
    Ok(deleted.await? >= DELETED_TOGETHER.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(trail: &Trail, step: TrailStep, count: usize) {
        let subjects = vec!["A-1"; count];
        trail.tell(step, "worker", subjects.into_iter(), "by the lane 30m");
    }

    #[test]
    fn in_a_burst_the_usual_is_left_out_and_money_is_not() {
        let trail = Trail::default();
        told(&trail, TrailStep::Came, 10);
        assert_eq!(trail.left_out(), 0, "nobody writes: nothing is missed");
        let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
        assert!(trail.inner.sender.set(sender).is_ok());
        told(&trail, TrailStep::Came, 1_000);
        told(&trail, TrailStep::Came, 900);
        assert_eq!((receiver.len(), trail.left_out()), (1_000, 900));
        told(&trail, TrailStep::Asked, 2_000);
        assert_eq!((receiver.len(), trail.left_out()), (3_000, 900));
        assert!(receiver.try_recv().is_ok_and(|step| step.subject == "A-1" && step.detail == "by the lane 30m"));
    }
}
