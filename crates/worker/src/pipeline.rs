//! One consumer and all that its messages go through: receive, handle, publish what follows, ack.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Batch, Broker, Incoming, Session, SessionEnd};
use order::{Attempts, OrderId, Shard, TimeoutKind};
use retry::Policy;
use trace::{Throttle, TraceParent};
use tracing::Instrument;

use crate::early::Early;
use crate::follow_ups::{FollowUp, follow_ups};
use crate::handler::{Context, Handler};
use crate::metrics::WorkerMetrics;
use crate::outbound::Outbound;
use crate::patience::{BROKEN, Interrupted};
use crate::trust::Trust;

/// One consumer of the due queue of one kind and shard.
pub(crate) struct Pipeline {
    pub(crate) kind: TimeoutKind,
    pub(crate) shard: Shard,
    pub(crate) broker: Broker,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) outbound: Outbound,
    pub(crate) bounds: Bounds,
    pub(crate) early: Early,
    pub(crate) warnings: Throttle,
    /// As it is between batches.
    pub(crate) context: Context,
    pub(crate) metrics: WorkerMetrics,
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
    /// No message came for a while.
    Idle,
    /// The broker ended it, or something broke; why.
    Broken(String),
}

/// After a batch of so many messages there are more to come, and the next batch waits a little for them: more orders share
/// what a batch costs then. A message that comes alone never waits for company.
const BUSY_MESSAGES: usize = 128;

/// How long a batch waits for more.
const LINGER: Duration = Duration::from_millis(20);

impl Pipeline {
    /// Sessions, one after the other: each connects and subscribes anew, and works until it breaks.
    pub(crate) async fn run(mut self) {
        let mut away = Policy::RECONNECT.delays();
        let mut broken = BROKEN.delays();
        let mut trust = Trust::none();
        let mut renewed = false;
        let Context { patience, .. } = self.context.clone();
        let queue = broker::due_queue(self.kind, self.shard);
        while self.handler.is_ready(&patience).await.is_ok() {
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
                        Ended::Broken(error) => {
                            trust.broke();
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

    /// Works until the session ends, has earned trust, or the program is to stop.
    async fn work(&mut self, mut session: Session, trust: &mut Trust) -> Ended {
        let mut linger = Duration::ZERO;
        let shutdown = self.context.patience.shutdown().clone();
        let ended = loop {
            if let Some(wait) = self.handler.closed_for() {
                // Orders come only so fast that one now and then finds out whether a gateway can be asked again.
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = shutdown.cancelled() => break Ended::Stopped,
                }
            }
            let received = tokio::select! {
                received = session.receive(self.bounds.orders_max, linger) => received,
                () = tokio::time::sleep(self.bounds.renew_idle_after) => break Ended::Idle,
                () = shutdown.cancelled() => break Ended::Stopped,
            };
            let Some(batch) = received else {
                let SessionEnd { why, consumer_timeout } = session.end();
                self.hold_less(consumer_timeout);
                break Ended::Broken(why);
            };
            if self.process(&batch).await.is_err() {
                if shutdown.is_cancelled() {
                    break Ended::Stopped;
                }
                break Ended::Broken("a batch was held for too long; it is given back".to_owned());
            }
            self.tell_of_priorities(batch.messages());
            let messages = batch.messages().len();
            linger = if messages >= BUSY_MESSAGES { LINGER } else { Duration::ZERO };
            if let Err(error) = batch.ack().await {
                break Ended::Broken(error.to_string());
            }
            self.metrics.batches.inc();
            self.metrics.messages.inc_by(messages as u64);
            if trust.acked() {
                break Ended::Trusted;
            }
        };
        session.close().await;
        ended
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

    /// Does all that a batch asks for. When it returns, everything is committed and confirmed.
    async fn process(&mut self, batch: &Batch) -> Result<(), Interrupted> {
        let begun = Instant::now();
        let patience = self.context.patience.lasting(self.bounds.hold_max);
        let messages = self.early.keep_back(batch.messages(), &patience).await?;
        let due = due(&messages);
        let parents: Vec<TraceParent> = messages.iter().filter_map(|message| message.traceparent()).collect();
        let span = tracing::info_span!(target: trace::TARGET, "settle batch", kind = %self.kind, orders = due.len());
        trace::follow(&span, &parents);
        let context = Context { by: self.context.by.clone(), trace: trace::onward(&span, &parents), patience };
        let settled = self.handler.handle(&due, &context).instrument(span).await?;
        if !due.is_empty() {
            self.early.set_clock(settled.time);
        }
        let follow_ups = follow_ups(&messages, &settled, self.bounds.window, settled.time.now());
        self.outbound.publish(&follow_ups, settled.time, &context).await?;
        let parked = follow_ups.iter().filter(|follow_up| matches!(follow_up, FollowUp::Park { .. })).count();
        self.metrics.parked.inc_by(parked as u64);
        self.metrics.batch_orders.observe(due.len() as f64);
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

/// The orders that these messages name: each once, in the order of their IDs, with the fewest attempts that a message counts. A
/// message may have been forged, with a count of its own.
fn due(messages: &[&Incoming]) -> BTreeMap<OrderId, Attempts> {
    let mut due: BTreeMap<OrderId, Attempts> = BTreeMap::new();
    for message in messages {
        let Ok(content) = &message.content else { continue };
        let attempts = message.attempts();
        for id in &content.orders {
            let known = due.entry(id.clone()).or_insert_with(|| attempts.clone());
            if known.made > attempts.made {
                known.clone_from(&attempts);
            }
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
        let messages =
            [b"b".as_slice(), body, b"{", b"a"].map(|body| Incoming::untouched_by_a_broker("30m.payment", body));
        let due = due(&messages.iter().collect::<Vec<_>>());
        assert_eq!(due.keys().map(OrderId::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert!(due.values().all(|attempts| attempts.made == 0));
    }
}
