use std::collections::HashMap;
use std::time::Duration;

use book::{ServerTime, Trail, TrailStep};
use broker::{Outgoing, Publisher};
use order::{Attempts, Deadline, Hop, Lanes, Shard, TimeoutId, TimeoutKind};
use retry::Policy;
use time::OffsetDateTime;
use trace::TraceParent;

use crate::follow_ups::{FollowUp, Part};
use crate::handler::Context;
use crate::outcome::When;
use crate::patience::Interrupted;

/// Publishes what batches lead to, in the lanes of one shard.
pub(crate) struct Outbound {
    publisher: Publisher,
    lanes: Lanes,
    shard: Shard,
    trail: Trail,
}

/// Delays that are varied at random, once for each: orders that back off for the same time still share messages.
struct Jitter {
    from: OffsetDateTime,
    varied: HashMap<Duration, Duration>,
}

impl Outbound {
    pub(crate) fn new(publisher: Publisher, lanes: Lanes, shard: Shard, trail: Trail) -> Self {
        Self { publisher, lanes, shard, trail }
    }

    /// Publishes until everything is confirmed and routed. A message that the broker has confirmed is not sent again. What waits for
    /// its deadline may come early by the margin.
    pub(crate) async fn publish(
        &mut self,
        follow_ups: &[FollowUp<'_>],
        time: ServerTime,
        margin: Duration,
        context: &Context,
    ) -> Result<(), Interrupted> {
        let mut jitter = Jitter { from: time.now(), varied: HashMap::new() };
        let mut left: Vec<(&FollowUp<'_>, OffsetDateTime)> =
            follow_ups.iter().map(|follow_up| (follow_up, jitter.not_before(follow_up))).collect();
        let mut delays = Policy::RECONNECT.delays();
        while !left.is_empty() {
            let now = time.now();
            let trace = context.trace.as_ref();
            let message = |(follow_up, at): &(&FollowUp<'_>, OffsetDateTime)| {
                self.message(follow_up, *at - now, now, margin, trace)
            };
            let messages: Vec<Outgoing> = left.iter().map(message).collect();
            let fates = self.publisher.publish(&messages).await;
            let failure = fates.iter().find_map(|fate| fate.as_ref().err().cloned());
            let mut fates = fates.into_iter();
            left.retain(|_| fates.next().is_none_or(|fate| fate.is_err()));
            if let Some(error) = failure {
                context
                    .patience
                    .pause(&mut delays, "the messages that a batch leads to cannot be published", &error)
                    .await?;
            }
        }
        for follow_up in follow_ups {
            self.tell(follow_up);
        }
        Ok(())
    }

    /// Has it written down that these orders go on.
    fn tell(&self, follow_up: &FollowUp<'_>) {
        let tell = |orders: &[&TimeoutId], detail: &str| {
            self.trail.tell(TrailStep::SentOn, "worker", orders.iter().map(|id| id.as_str()), detail);
        };
        let later = |when: &When, attempts: &Attempts| {
            let last = attempts.history.last().map(|line| format!(": {line}")).unwrap_or_default();
            format!("not before {}, after {} attempts{last}", Deadline::at(when.not_before), attempts.made)
        };
        match follow_up {
            FollowUp::Wait(orders) => {
                let due = orders.first().map(|(_, due)| format!("waits on; due at {due}")).unwrap_or_default();
                tell(&ids(orders), &due);
            }
            FollowUp::HandOver(orders) => tell(&ids(orders), "to those that ask its gateway"),
            FollowUp::Recheck { orders, attempts, when } => {
                tell(&ids(orders), &format!("its gateway is asked again {}", later(when, attempts)));
            }
            FollowUp::LookAgain { orders, attempts, when, .. } => {
                tell(&orders.iter().collect::<Vec<_>>(), &format!("looked at again {}", later(when, attempts)));
            }
            FollowUp::Park { message, part, reason, detail } => {
                let parked = format!("parked for a person ({reason}): {detail}");
                match (part, &message.content) {
                    (Part::Orders(orders), _) => tell(orders, &parked),
                    (Part::Whole, Ok(content)) => tell(&content.ids.iter().collect::<Vec<_>>(), &parked),
                    _ => {}
                }
            }
        }
    }

    pub(crate) async fn close(self) {
        self.publisher.close().await;
    }

    fn message(
        &self,
        follow_up: &FollowUp<'_>,
        wait: time::Duration,
        now: OffsetDateTime,
        margin: Duration,
        trace: Option<&TraceParent>,
    ) -> Outgoing {
        let message = match follow_up {
            FollowUp::Wait(orders) => {
                let remaining = orders.first().map_or(Duration::ZERO, |(_, earliest)| earliest.remaining(now));
                let hop = self.lanes.choose_within(remaining, margin);
                let kind = orders.first().map_or(TimeoutKind::Payment, |(id, _)| id.due_kind());
                Outgoing::timeout(kind, orders, hop, self.shard).until(now + hop.wait())
            }
            FollowUp::HandOver(orders) => Outgoing::timeout(TimeoutKind::Gateway, orders, Hop::Now, self.shard),
            FollowUp::Recheck { orders, attempts, .. } => {
                let hop = self.hop(wait);
                let message = Outgoing::timeout(TimeoutKind::Gateway, orders, hop, self.shard);
                message.until(now + hop.wait()).after(attempts)
            }
            FollowUp::LookAgain { message, orders, attempts, .. } => {
                let hop = self.hop(wait);
                message.again(orders, hop, attempts).until(now + hop.wait())
            }
            FollowUp::Park { message, part, reason, detail } => match part {
                Part::Whole => message.parked(*reason, detail),
                Part::Entries(entries) => message.parked_entries(entries, *reason, detail),
                Part::Orders(orders) => message.parked_ids(orders, *reason, detail),
            },
        };
        message.traced(trace)
    }

    fn hop(&self, wait: time::Duration) -> Hop {
        self.lanes.at_least(Duration::try_from(wait).unwrap_or_default())
    }
}

fn ids(orders: &[(TimeoutId, Deadline)]) -> Vec<&TimeoutId> {
    orders.iter().map(|(id, _)| id).collect()
}

impl Jitter {
    fn not_before(&mut self, follow_up: &FollowUp<'_>) -> OffsetDateTime {
        match follow_up {
            FollowUp::Recheck { when, .. } | FollowUp::LookAgain { when, .. } => {
                let When { not_before, back_off } = *when;
                let varied = self.varied.entry(back_off).or_insert_with(|| retry::varied(back_off));
                not_before.max(self.from + *varied)
            }
            _ => self.from,
        }
    }
}
