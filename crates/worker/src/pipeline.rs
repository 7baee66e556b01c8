//! One consumer and all that its messages go through: receive, handle, publish what follows, ack.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use book::{ServerTime, Trail};
use broker::{Broker, DeliveryTag, Incoming, Session, SessionEnd};
use order::{Attempts, Deadline, Shard, TimeoutId, TimeoutKind};
use retry::Policy;
use time::OffsetDateTime;
use trace::{Throttle, TraceParent};
use tracing::Instrument;

use crate::arrival::{Arrived, Holding, TIGHT_MARGIN, tell};
use crate::early::Early;
use crate::follow_ups::{FollowUp, follow_ups};
use crate::handler::{Context, Handler};
use crate::hold::{Hold, Share, Taken, messages_of};
use crate::metrics::WorkerMetrics;
use crate::onward::Onward;
use crate::outbound::Outbound;
use crate::patience::{BROKEN, Interrupted, Patience};
use crate::trust::{Trust, are_suspect};

/// One consumer of the due queue of one kind and shard.
pub(crate) struct Pipeline {
    pub(crate) kind: TimeoutKind,
    pub(crate) shard: Shard,
    pub(crate) broker: Broker,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) outbound: Outbound,
    pub(crate) bounds: Bounds,
    pub(crate) early: Early,
    /// That of all pipelines of the queue.
    pub(crate) hold: Hold,
    pub(crate) warnings: Throttle,
    pub(crate) trail: Trail,
    /// As it is between batches.
    pub(crate) context: Context,
    pub(crate) metrics: WorkerMetrics,
    /// The book's time; `None`: it is not known yet.
    pub(crate) clock: Option<ServerTime>,
}

/// The bounds of a pipeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// A batch is closed when its messages name this many orders.
    pub(crate) orders_max: usize,
    /// How many messages the broker may send ahead.
    pub(crate) prefetch_max: u16,
    /// Orders that go back to a lane and are due within this time of each other may share a message.
    pub(crate) window: Duration,
    /// How early a message may come to be held until its orders are due.
    pub(crate) margin: Duration,
    /// After so long without a message the subscription is made anew.
    pub(crate) renew_idle_after: Duration,
    /// How long a batch is held while a server is away.
    pub(crate) hold_max: Duration,
}

/// How a session ended.
enum Ended {
    /// The program is to stop.
    Stopped,
    /// It was a careful session, and went well.
    Trusted,
    /// It was not careful, and its messages had come back several times.
    Suspicious,
    /// No message came for a while.
    Idle,
    /// The broker ended it, or something broke; why.
    Broken(String),
}

/// What a session waits for.
enum Next {
    /// Messages; none, if orders are due that are held, or messages are done or to go on.
    Messages(Vec<Incoming>),
    Ended(Ended),
}

/// What is done at a time.
struct Work<'a> {
    /// Messages with orders that are due, or that cannot be understood.
    messages: Vec<&'a Incoming>,
    due: BTreeMap<TimeoutId, Attempts>,
    /// Orders that go on to another lane.
    onward: Vec<(TimeoutId, Deadline)>,
    parents: Vec<Option<TraceParent>>,
}

/// After a batch of so many messages there are more to come, and the next batch waits a little for them: more orders share
/// what a batch costs then. A message that comes alone never waits for company.
const BUSY_MESSAGES: usize = 128;

/// How long a batch waits for more.
const LINGER: Duration = Duration::from_millis(20);

/// So many batches for each session of the queue are to lie in the hold while there is enough to do. The broker sends all that
/// there is to whoever subscribes first; what lies in the hold, any of them settles.
const AHEAD_BATCHES: usize = 2;

impl Pipeline {
    /// Sessions, one after the other: each connects and subscribes anew, and works until it breaks.
    pub(crate) async fn run(mut self) {
        let mut away = Policy::RECONNECT.delays();
        let mut broken = BROKEN.delays();
        let mut trust = Trust::default();
        let mut renewed = false;
        let Context { patience, .. } = self.context.clone();
        let queue = broker::due_queue(self.kind, self.shard);
        while let Ok(time) = self.handler.is_ready(&patience).await {
            self.clock = time.or(self.clock);
            trust.begins();
            let prefetch = trust.prefetch(self.bounds.prefetch_max);
            let opening = Session::open(&self.broker, self.kind, self.shard, prefetch);
            let opened = tokio::select! {
                opened = opening => opened,
                () = patience.shutdown().cancelled() => break,
            };
            let (delays, error) = match opened {
                Err(error) => (&mut away, error.to_string()),
                Ok(session) => {
                    if !renewed {
                        tracing::info!(queue, prefetch, "consuming");
                    }
                    away.reset();
                    self.metrics.consumers.inc();
                    let ended = self.work(session, &mut trust).await;
                    self.metrics.consumers.dec();
                    renewed = matches!(ended, Ended::Idle);
                    match ended {
                        Ended::Stopped => break,
                        Ended::Idle => continue,
                        Ended::Trusted => {
                            broken.reset();
                            continue;
                        }
                        Ended::Suspicious => {
                            trust.lost();
                            continue;
                        }
                        Ended::Broken(error) => {
                            trust.lost();
                            (&mut broken, error)
                        }
                    }
                }
            };
            if patience.pause(delays, "the consumer cannot go on", &error).await.is_err() {
                break;
            }
        }
        self.outbound.close().await;
    }

    /// Works until the session ends, has earned trust, or the program is to stop. What is held then comes again.
    async fn work(&mut self, mut session: Session, trust: &mut Trust) -> Ended {
        let mut share = self.hold.share();
        let ended = self.receive_and_settle(&mut session, &mut share, trust).await;
        drop(share);
        session.close().await;
        ended
    }

    async fn receive_and_settle(&mut self, session: &mut Session, share: &mut Share, trust: &mut Trust) -> Ended {
        let (mut linger, mut onward) = (Duration::ZERO, Onward::default());
        let shutdown = self.context.patience.shutdown().clone();
        loop {
            if let Some(wait) = self.handler.closed_for() {
                // Orders come only so fast that one now and then finds out whether a gateway can be asked again.
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = shutdown.cancelled() => return Ended::Stopped,
                }
            }
            let messages = match self.next(session, share, &onward, trust.is_careful(), linger).await {
                Next::Messages(messages) => messages,
                Next::Ended(ended) => return ended,
            };
            let (count, suspect) = (messages.len(), are_suspect(&messages));
            if suspect && !trust.is_careful() {
                return Ended::Suspicious;
            }
            linger = if count >= BUSY_MESSAGES { LINGER } else { Duration::ZERO };
            let holding = if trust.is_careful() { Holding::Nothing } else { Holding::Within(self.margin(session)) };
            let done = match self.process(messages, share, &mut onward, holding).await {
                Ok(done) => done,
                Err(Interrupted) if shutdown.is_cancelled() => return Ended::Stopped,
                Err(Interrupted) => {
                    return Ended::Broken("a batch was held for too long; it is given back".to_owned());
                }
            };
            if done.is_empty() {
                continue;
            }
            if let Err(error) = session.ack(&done).await {
                return Ended::Broken(error.to_string());
            }
            self.metrics.batches.inc();
            self.metrics.messages.inc_by(done.len() as u64);
            if trust.acked(suspect) {
                return Ended::Trusted;
            }
        }
    }

    /// Waits for messages, for orders that are held to fall due, or for messages to go on.
    async fn next(
        &mut self,
        session: &mut Session,
        share: &Share,
        onward: &Onward,
        is_careful: bool,
        linger: Duration,
    ) -> Next {
        let orders_max = self.bounds.orders_max;
        let enough = orders_max * AHEAD_BATCHES * self.hold.sessions();
        let ahead_max = if is_careful || !self.kind.is_held() { 0 } else { enough };
        let sooner = self.hold.sooner();
        let now = self.clock.map(ServerTime::now);
        let is_enough = self.hold.is_over_full() || now.is_some_and(|now| self.hold.due(now) >= enough);
        let due_in = now.and_then(|now| self.hold.next_due_in(now));
        let wake_in = due_in.into_iter().chain(onward.leave_in()).min();
        let received = tokio::select! {
            biased;
            () = self.context.patience.shutdown().cancelled() => return Next::Ended(Ended::Stopped),
            received = session.receive(orders_max, ahead_max, linger), if !is_enough => received,
            () = after(wake_in.unwrap_or_default()), if wake_in.is_some() => return Next::Messages(Vec::new()),
            () = sooner => return Next::Messages(Vec::new()),
            () = share.finishes() => return Next::Messages(Vec::new()),
            () = tokio::time::sleep(self.bounds.renew_idle_after), if share.is_empty() => return Next::Ended(Ended::Idle),
        };
        if let Some(messages) = received {
            self.tell_of_priorities(&messages);
            messages.iter().for_each(|message| tell(&self.trail, message));
            return Next::Messages(messages);
        }
        let SessionEnd { why, consumer_timeout } = session.end();
        self.hold_less(consumer_timeout);
        Next::Ended(Ended::Broken(why))
    }

    /// How early a message may be to be held. While much is held, or much of what the broker may send ahead, only what is due soon.
    fn margin(&self, session: &Session) -> Duration {
        let margin = self.bounds.margin.min(self.bounds.hold_max);
        let is_full = self.hold.is_full() || 4 * session.unacked() > 3 * usize::from(self.bounds.prefetch_max);
        if is_full { margin.min(TIGHT_MARGIN) } else { margin }
    }

    /// A broker that takes messages for lost which are held for long gives them to others again and again, and sets them aside in
    /// the end.
    fn hold_less(&mut self, consumer_timeout: Option<Duration>) {
        if let Some(limit) = consumer_timeout.map(|limit| limit / 2).filter(|limit| *limit < self.bounds.hold_max) {
            tracing::warn!(
                hold_max_s = limit.as_secs_f64(),
                "the broker's consumer_timeout is shorter than messages are held while a server is away; they are held for less"
            );
            self.bounds.hold_max = limit;
        }
    }

    fn tell_of_priorities(&self, messages: &[Incoming]) {
        let Some(app_id) = messages.iter().find_map(Incoming::overtook) else { return };
        if let Some(more) = self.warnings.lets_through(app_id) {
            tracing::warn!(
                ?app_id,
                more,
                "a publisher sets a priority: on RabbitMQ 4 its messages overtake those of other foreign publishers, which come late"
            );
        }
    }

    /// Sorts messages that have arrived, and does all that is to be done now, for them and for what is held. When it returns,
    /// everything is committed and confirmed; the messages that it names may be acked.
    async fn process(
        &mut self,
        messages: Vec<Incoming>,
        share: &mut Share,
        onward: &mut Onward,
        holding: Holding,
    ) -> Result<Vec<DeliveryTag>, Interrupted> {
        let patience = self.context.patience.lasting(self.bounds.hold_max);
        // Before the book has told its time, nothing can be said to be early.
        let now = self.clock.map_or(OffsetDateTime::UNIX_EPOCH, ServerTime::now);
        let mut arrived = match self.clock {
            Some(_) => Arrived::sort(messages, now, holding, share),
            None => Arrived { due: messages, ..Arrived::default() },
        };
        onward.add(std::mem::take(&mut arrived.onward));
        arrived.onward = onward.take(matches!(holding, Holding::Nothing));
        let mut done: Vec<DeliveryTag> = Vec::new();
        if !arrived.early.is_empty() {
            match self.early.keep_back(&arrived.early, now, &patience).await? {
                Some(time) => {
                    self.clock = Some(time);
                    done.extend(arrived.early.iter().map(Incoming::tag));
                }
                None => arrived.due.append(&mut arrived.early),
            }
        }
        let taken = self.hold.take_due(now, self.bounds.orders_max);
        let work = work(&arrived, &taken);
        if !work.messages.is_empty() || !work.onward.is_empty() {
            if let Err(interrupted) = self.settle(work, holding, patience).await {
                self.hold.put_back(taken);
                return Err(interrupted);
            }
            self.hold.done(&taken);
        }
        done.extend(arrived.due.iter().chain(&arrived.onward).map(Incoming::tag));
        done.extend(share.finished());
        Ok(done)
    }

    async fn settle(&mut self, work: Work<'_>, holding: Holding, patience: Patience) -> Result<(), Interrupted> {
        let begun = Instant::now();
        let Work { messages, due, onward, parents } = work;
        let span = tracing::info_span!(target: trace::TARGET, "settle batch", kind = %self.kind, orders = due.len());
        trace::follow(&span, &parents);
        let context = Context { by: self.context.by.clone(), trace: trace::onward(&span, &parents), patience };
        let settled = self.handler.handle(&due, &context).instrument(span).await?;
        if !due.is_empty() {
            self.clock = Some(settled.time);
            self.metrics.batch_orders.observe(due.len() as f64);
        }
        let sent_on = onward.len();
        let time = self.clock.unwrap_or(settled.time);
        let follow_ups = follow_ups(&messages, &settled, onward, self.bounds.window, time.now());
        let margin = match holding {
            Holding::Within(margin) => margin,
            Holding::Nothing => self.bounds.margin,
        };
        self.outbound.publish(&follow_ups, time, margin, &context).await?;
        let parked = follow_ups.iter().filter(|follow_up| matches!(follow_up, FollowUp::Park { .. })).count();
        self.metrics.parked.inc_by(parked as u64);
        self.metrics.sent_on.inc_by(sent_on as u64);
        tracing::debug!(
            messages = messages.len(),
            orders = due.len(),
            follow_ups = follow_ups.len(),
            took_ms = begun.elapsed().as_millis(),
            "settled a batch"
        );
        Ok(())
    }
}

/// A timer, even one of no time, rings at the next millisecond.
async fn after(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

/// What is to be done for messages that have arrived, and for orders that were held until now.
fn work<'a>(arrived: &'a Arrived, taken: &'a [Taken]) -> Work<'a> {
    let arrived_orders = arrived.due.iter().flat_map(|message| {
        let orders = message.content.iter().flat_map(|content| &content.ids);
        orders.map(move |id| (id, message))
    });
    let due = due(arrived_orders.chain(taken.iter().filter_map(Taken::order)));
    let messages: Vec<&Incoming> = arrived.due.iter().chain(messages_of(taken)).collect();
    let parents = messages.iter().copied().chain(&arrived.onward).map(Incoming::traceparent).collect();
    Work { messages, due, onward: arrived.orders_onward(), parents }
}

/// These orders, each once, in the order of their IDs, with the fewest attempts that a message counts. A message may have been
/// forged, with a count of its own.
fn due<'a>(orders: impl Iterator<Item = (&'a TimeoutId, &'a Incoming)>) -> BTreeMap<TimeoutId, Attempts> {
    let mut due: BTreeMap<TimeoutId, Attempts> = BTreeMap::new();
    for (id, message) in orders {
        let attempts = message.attempts();
        match due.get_mut(id) {
            Some(known) if known.made <= attempts.made => {}
            Some(known) => *known = attempts,
            None => drop(due.insert(id.clone(), attempts)),
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_several_messages_name_is_due_once() {
        let body = br#"{"v":1,"orders":[{"id":"b"},{"id":"a"}]}"#;
        let due = [b"b".as_slice(), body, b"{", b"a"].map(|body| Incoming::untouched_by_a_broker("30m.payment", body));
        let arrived = Arrived { due: due.into(), ..Arrived::default() };
        let work = work(&arrived, &[]);
        assert_eq!(work.due.keys().map(TimeoutId::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert!(work.due.values().all(|attempts| attempts.made == 0));
        assert_eq!(work.messages.len(), 4);
    }
}
