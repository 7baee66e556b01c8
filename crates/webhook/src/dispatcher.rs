//! What one endpoint is sent: taken out of its queue, delivered, acked; or tried again later, or parked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use book::{StoppedEndpoints, Trail, TrailStep};
use broker::{Broker, Outgoing, Publisher, WebhookMessage, WebhookQueue};
use order::{Attempts, Lanes, ParkReason, RetryReason};
use retry::Policy;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trace::Throttle;

use crate::circuit::Circuit;
use crate::client::{Attempt, EndpointClient, Failure};
use crate::endpoint_state::EndpointState;
use crate::metrics::{DeliveryOutcome, WebhookMetrics};
use crate::schedule::{RETRY_AFTER_MAX, delay_after};

/// The loop of one endpoint. It shares nothing with those of others but the machine.
pub(crate) struct Dispatcher {
    pub(crate) broker: Broker,
    pub(crate) client: Arc<EndpointClient>,
    pub(crate) lanes: Lanes,
    pub(crate) publisher: Publisher,
    pub(crate) store: StoppedEndpoints,
    /// Whether the endpoint is stopped; `None`: nobody knows yet.
    pub(crate) stopped: watch::Receiver<Option<bool>>,
    pub(crate) circuit: Circuit,
    /// What is shown of it.
    pub(crate) state: Arc<EndpointState>,
    pub(crate) trail: Trail,
    pub(crate) probe_every: Duration,
    /// Until when the endpoint is left alone because it has asked for that.
    pub(crate) rests_until: Option<Instant>,
    /// When the next delivery may begin, where there is a limit.
    pub(crate) next_at: Instant,
    pub(crate) metrics: WebhookMetrics,
    pub(crate) warnings: Throttle,
    pub(crate) shutdown: CancellationToken,
}

/// A delivery that has come to its end.
struct Done {
    message: WebhookMessage,
    attempt: Attempt,
    took: Duration,
}

/// Why a session with the queue ended.
enum Ended {
    /// The program is to stop.
    Shutdown,
    /// The endpoint is stopped, left alone for a while, or back again.
    Changed,
    /// The broker ended it; why.
    Broken(&'static str, String),
}

/// What broke, in the log.
const QUEUE: &str = "the queue of an endpoint cannot be consumed";
const SETTLE: &str = "what follows from a delivery cannot be done; the event comes again";

impl Dispatcher {
    /// Works until told to stop.
    pub(crate) async fn run(mut self) {
        let mut delays = Policy::RECONNECT.delays();
        while self.may_begin().await {
            let endpoint = self.client.endpoint();
            // Some more than are under way, so that the next is at hand.
            let prefetch = if self.circuit.is_open() { 1 } else { endpoint.concurrency.saturating_mul(2) };
            let ended = match WebhookQueue::open(&self.broker, &endpoint.name, prefetch).await {
                Ok(mut queue) => {
                    let ended = self.work(&mut queue, || delays.reset()).await;
                    queue.close().await;
                    ended
                }
                Err(error) => Ended::Broken(QUEUE, error.to_string()),
            };
            match ended {
                Ended::Shutdown => break,
                Ended::Changed => delays.reset(),
                Ended::Broken(what, error) => {
                    let delay = delays.next_delay();
                    let (endpoint, retry_in_ms) = (&self.client.endpoint().name, delay.as_millis());
                    tracing::warn!(endpoint, error, retry_in_ms, "{what}");
                    self.sleep(delay).await;
                }
            }
        }
        self.publisher.close().await;
    }

    /// Waits until the endpoint may be sent something. `false`: the program is to stop.
    async fn may_begin(&mut self) -> bool {
        loop {
            let go_on = async { drop(self.stopped.wait_for(|stopped| *stopped == Some(false)).await) };
            tokio::select! {
                () = go_on => {}
                () = self.shutdown.cancelled() => return false,
            }
            let now = Instant::now();
            let rest = self.rests_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            let wait = rest.max(self.circuit.wait(now));
            if wait.is_zero() {
                return !self.shutdown.is_cancelled();
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.state.probe_wanted() => {
                    self.rests_until = None;
                    self.circuit.probe_now(Instant::now());
                }
                () = self.shutdown.cancelled() => return false,
            }
        }
    }

    async fn sleep(&self, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    /// Delivers until something changes. Then what is under way comes to its end; what was only sent ahead goes back to the queue.
    /// Calls `alive` once an event has come.
    async fn work(&mut self, queue: &mut WebhookQueue, mut alive: impl FnMut()) -> Ended {
        let is_probe = self.circuit.is_open();
        let concurrency = if is_probe { 1 } else { self.client.endpoint().concurrency.into() };
        // Each is a task of its own, so that none waits for what follows from another.
        let (mut under_way, mut watched) = (JoinSet::<Done>::new(), self.stopped.clone());
        let stopped = async move { drop(watched.wait_for(|stopped| *stopped != Some(false)).await) };
        tokio::pin!(stopped);
        let mut ended = None;
        let mut is_lost = false;
        while ended.is_none() || !under_way.is_empty() {
            self.state.in_flight(under_way.len());
            let takes_more = ended.is_none() && under_way.len() < concurrency;
            tokio::select! {
                biased;
                Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                    let done = done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                    if is_lost && !matches!(done.attempt, Attempt::Delivered) {
                        // Nothing more can be written down for now, and each try would take its time. The event comes again.
                        continue;
                    }
                    match self.settle(queue, done, is_probe).await {
                        Ok(true) => {}
                        Ok(false) => drop(ended.get_or_insert(Ended::Changed)),
                        Err(error) => {
                            is_lost = true;
                            ended.get_or_insert(Ended::Broken(SETTLE, error));
                        }
                    }
                }
                () = self.shutdown.cancelled(), if ended.is_none() => ended = Some(Ended::Shutdown),
                () = &mut stopped, if ended.is_none() => ended = Some(Ended::Changed),
                received = next(queue, self.next_at), if takes_more => match received {
                    Some(message) => {
                        alive();
                        under_way.spawn(self.delivery(message));
                    }
                    None => ended = Some(Ended::Broken(QUEUE, "the subscription has ended".to_owned())),
                },
            }
        }
        self.state.in_flight(0);
        ended.unwrap_or(Ended::Changed)
    }

    fn delivery(&mut self, message: WebhookMessage) -> impl Future<Output = Done> + use<> {
        let (client, per_second) = (Arc::clone(&self.client), self.client.endpoint().per_second);
        if per_second > 0 {
            self.next_at = self.next_at.max(Instant::now()) + Duration::from_secs(1) / per_second;
        }
        async move {
            let begun = Instant::now();
            let attempt = client.deliver(&message).await;
            Done { message, attempt, took: begun.elapsed() }
        }
    }

    /// Does what follows from a delivery. `false`: nothing more is to be taken for now.
    async fn settle(&mut self, queue: &WebhookQueue, done: Done, is_probe: bool) -> Result<bool, String> {
        let Done { message, attempt, took } = done;
        let endpoint = self.client.endpoint().name.clone();
        self.metrics.took(&endpoint, took);
        self.tell(&message, &attempt, took);
        let (outcome, follow_up, goes_on) = match attempt {
            Attempt::Delivered => (DeliveryOutcome::Delivered, None, !self.answers()),
            Attempt::Gone => {
                // Soon the watch says so, too. Until then nothing is sent, also if the database is away.
                self.rests_until = Some(Instant::now() + self.probe_every);
                let stopped =
                    self.store.stop(&endpoint, "the receiver answered 410: it wants nothing more", "webhooks");
                if stopped.await.map_err(|error| error.to_string())? {
                    tracing::error!(
                        endpoint,
                        "an endpoint wants nothing more (410); it is stopped: `overdue webhook resume` lets it go on"
                    );
                }
                (DeliveryOutcome::Gone, Some(message.back()), false)
            }
            Attempt::Failed(Failure { why, is_final: true, .. }) => {
                let attempts = message.attempts().clone().plus(OffsetDateTime::now_utc(), &unclear(&why));
                let parked = message.parked(ParkReason::WebhookRefused, &why, &attempts);
                self.state.failed(&why);
                if let Some(more) = self.warnings.lets_through(&why) {
                    let event = message.event_id();
                    tracing::warn!(endpoint, event, why, more, "an endpoint refuses an event; it is parked");
                }
                (DeliveryOutcome::Refused, Some(parked), !self.answers())
            }
            Attempt::Failed(failure) => self.failed(&message, &failure, is_probe),
        };
        if let Some(follow_up) = follow_up {
            self.publisher.publish_all(&[follow_up]).await.map_err(|error| error.to_string())?;
        }
        queue.ack(&message).await.map_err(|error| error.to_string())?;
        self.metrics.count(&endpoint, outcome);
        Ok(goes_on)
    }

    /// Has it written down what became of an event.
    fn tell(&self, message: &WebhookMessage, attempt: &Attempt, took: Duration) {
        let Some(subject) = message.subject() else { return };
        let event = message.event_type().unwrap_or("event");
        let (step, how) = match attempt {
            Attempt::Delivered => (TrailStep::Delivered, format!("{event}, in {} ms", took.as_millis())),
            Attempt::Gone => (TrailStep::Undelivered, format!("{event}: HTTP 410, it wants nothing more")),
            Attempt::Failed(failure) => {
                let made = message.attempts().made + 1;
                (TrailStep::Undelivered, format!("{event}: attempt {made}: {}", failure.why))
            }
        };
        self.trail.tell(step, &self.client.endpoint().name, std::iter::once(subject), &how);
    }

    /// The endpoint answers. Returns whether it had been given up for a while.
    fn answers(&mut self) -> bool {
        let was_open = self.circuit.succeeded();
        if was_open {
            let endpoint = &self.client.endpoint().name;
            tracing::info!(endpoint, "an endpoint answers again");
            self.metrics.circuit(endpoint, false);
            self.state.is_open(None);
        }
        was_open
    }

    fn failed(
        &mut self,
        message: &WebhookMessage,
        failure: &Failure,
        is_probe: bool,
    ) -> (DeliveryOutcome, Option<Outgoing>, bool) {
        let endpoint = self.client.endpoint().name.clone();
        let Failure { why, retry_after, .. } = failure;
        let now = Instant::now();
        let is_charged = !is_probe && !self.circuit.is_open();
        if self.circuit.failed(now, self.probe_every) {
            tracing::error!(endpoint, why, "an endpoint is given up for a while; its events wait in its queue");
            self.metrics.circuit(&endpoint, true);
        }
        self.state.failed(why);
        self.state.is_open(self.circuit.is_open().then(|| self.circuit.wait(now)));
        if let Some(rest) = retry_after {
            self.rests_until = Some(now + (*rest).min(self.probe_every));
        }
        let goes_on = !self.circuit.is_open() && retry_after.is_none();
        let at = OffsetDateTime::now_utc();
        if !is_charged {
            let later = |rest: Duration| {
                let hop = self.lanes.at_least(rest.min(RETRY_AFTER_MAX));
                message.again(hop, message.attempts(), at + hop.wait())
            };
            let longer = retry_after.filter(|rest| *rest > self.probe_every);
            return (DeliveryOutcome::Probed, Some(longer.map_or_else(|| message.back(), later)), goes_on);
        }
        let attempts: Attempts = message.attempts().clone().plus(at, &unclear(why));
        let Some(delay) = delay_after(attempts.made, *retry_after) else {
            let (made, event) = (attempts.made, message.event_id());
            tracing::error!(endpoint, event, why, made, "an event was not taken in all attempts; it is parked");
            let parked = message.parked(ParkReason::WebhookExhausted, why, &attempts);
            return (DeliveryOutcome::Exhausted, Some(parked), goes_on);
        };
        if let Some(more) = self.warnings.lets_through(why) {
            let retry_in_s = delay.as_secs();
            tracing::warn!(endpoint, why, retry_in_s, more, "an event was not taken; it is sent again later");
        }
        let hop = self.lanes.at_least(delay);
        let again = message.again(hop, &attempts, at + hop.wait());
        (DeliveryOutcome::Retried, Some(again), goes_on)
    }
}

/// The next event, once a delivery may begin. What is taken is delivered at once: nothing waits here that could wait in the queue.
async fn next(queue: &mut WebhookQueue, at: Instant) -> Option<WebhookMessage> {
    tokio::time::sleep_until(at.into()).await;
    queue.receive().await
}

fn unclear(why: &str) -> RetryReason {
    RetryReason::Unclear(why.to_owned())
}
