use std::fmt;
use std::time::Duration;

use crate::lane::round_up_to_ms;
use crate::{Lane, Shards};

/// All lanes of a deployment, and by which of them a message reaches its moment.
///
/// RabbitMQ expires messages only at the head of a queue, so a message waits for those ahead of it. No message may therefore be
/// aimed at its moment itself. It is aimed a little earlier, and whoever receives it holds it for the last stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lanes {
    /// Shortest first.
    ours: Vec<Lane>,
    foreign: Vec<Lane>,
    margin: Duration,
    shards: Shards,
}

/// Where a message waits next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// In no lane: whoever receives it holds it until its moment.
    Now,
    /// In this lane, for so long: the message's own expiration, which is shorter than the lane's TTL.
    Lane {
        /// The lane to publish to.
        lane: Lane,
        /// The expiration in milliseconds.
        wait_ms: u64,
    },
}

impl Hop {
    /// How long the message waits, if none ahead of it keeps it for longer.
    #[must_use]
    pub fn wait(self) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::Lane { wait_ms, .. } => Duration::from_millis(wait_ms),
        }
    }

    /// The message's own expiration in milliseconds; `None` where it waits in no lane.
    #[must_use]
    pub fn expiration_ms(self) -> Option<u64> {
        match self {
            Self::Now => None,
            Self::Lane { wait_ms, .. } => Some(wait_ms),
        }
    }
}

impl fmt::Display for Hop {
    /// The first word of a routing key: the lane's name, or `now`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::Lane { lane, .. } => lane.fmt(f),
        }
    }
}

impl Lanes {
    /// The lanes of our own messages, in every deployment. They are the digits of a time: any time of up to an hour is reached by
    /// three of them, any of up to forty days by thirteen. Each payment timeout that is configured adds one.
    pub const LADDER: [&'static str; 33] = [
        "1s", "2s", "5s", "10s", "20s", "30s", "40s", "50s", "1m", "2m", "3m", "4m", "5m", "6m", "7m", "8m", "9m",
        "10m", "20m", "30m", "40m", "50m", "1h", "2h", "4h", "8h", "12h", "1d", "2d", "4d", "8d", "16d", "32d",
    ];

    /// The lanes of foreign publishers, who choose among them, in every deployment. Each payment timeout adds one.
    pub const FOREIGN: [&'static str; 10] = ["1s", "5s", "30s", "2m", "10m", "15m", "30m", "2h", "12h", "1d"];

    /// How early a message may come to be held until its moment, unless another margin is set.
    pub const MARGIN: Duration = Duration::from_secs(10);

    /// The lanes of every deployment and one for each of `payment_timeouts`.
    #[must_use]
    pub fn standard(payment_timeouts: &[Lane]) -> Self {
        let named = |names: &[&str]| -> Vec<Lane> { names.iter().filter_map(|name| name.parse().ok()).collect() };
        let with_timeouts = |names: &[&str]| sorted(named(names).into_iter().chain(payment_timeouts.iter().copied()));
        Self {
            ours: with_timeouts(&Self::LADDER),
            foreign: with_timeouts(&Self::FOREIGN),
            margin: Self::MARGIN,
            shards: Shards::ONE,
        }
    }

    /// The same, with these lanes for our own messages: for comparisons.
    #[must_use]
    pub fn with_ours(self, ours: impl IntoIterator<Item = Lane>) -> Self {
        Self { ours: sorted(ours), ..self }
    }

    /// The same, with another margin.
    #[must_use]
    pub fn with_margin(self, margin: Duration) -> Self {
        Self { margin, ..self }
    }

    /// The same lanes, each spread over so many queues.
    #[must_use]
    pub fn sharded(self, shards: Shards) -> Self {
        Self { shards, ..self }
    }

    /// Over how many queues each is spread.
    #[must_use]
    pub fn shards(&self) -> Shards {
        self.shards
    }

    /// How early a message may come to be held until its moment.
    #[must_use]
    pub fn margin(&self) -> Duration {
        self.margin
    }

    /// The lanes of our own messages, shortest first.
    pub fn ours(&self) -> impl Iterator<Item = Lane> + '_ {
        self.ours.iter().copied()
    }

    /// The lanes of foreign publishers, shortest first.
    pub fn foreign(&self) -> impl Iterator<Item = Lane> + '_ {
        self.foreign.iter().copied()
    }

    /// Where a message with this remaining time waits next, if it may come early by the margin.
    #[must_use]
    pub fn choose(&self, remaining: Duration) -> Hop {
        self.choose_within(remaining, self.margin)
    }

    /// Where a message with this remaining time waits next, if it may come early by this margin: by the longest lane that it can
    /// leave in time. It never comes late, whatever else waits in that lane.
    #[must_use]
    pub fn choose_within(&self, remaining: Duration, margin: Duration) -> Hop {
        if remaining <= margin {
            return Hop::Now;
        }
        let remaining_ms = round_up_to_ms(remaining);
        let longest = self.ours.iter().rev().find(|lane| wait_max_ms(**lane) <= remaining_ms);
        longest.map_or(Hop::Now, |&lane| {
            let wait_ms = remaining_ms.saturating_sub(spare_ms(lane)).min(wait_max_ms(lane));
            Hop::Lane { lane, wait_ms }
        })
    }

    /// Where a message waits for about this long, in one hop: in the shortest lane in which a message may wait for so long, or as
    /// long as it may in the longest. The messages ahead of it may make it late, by no more than the lane's TTL exceeds the wait.
    /// It never makes others come late.
    #[must_use]
    pub fn at_least(&self, wait: Duration) -> Hop {
        let wait_ms = round_up_to_ms(wait);
        let fits = self.ours.iter().find(|lane| wait_max_ms(**lane) >= wait_ms);
        fits.or(self.ours.last()).map_or(Hop::Now, |&lane| Hop::Lane { lane, wait_ms: wait_ms.min(wait_max_ms(lane)) })
    }
}

fn sorted(lanes: impl IntoIterator<Item = Lane>) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = lanes.into_iter().collect();
    lanes.sort_unstable();
    lanes.dedup();
    lanes
}

/// By how much less than its TTL a message waits in a lane at most. A message that is published some time after its order was
/// created still finds the lane of its timeout, and is not made late by one that was published at once.
fn spare_ms(lane: Lane) -> u64 {
    (lane.ttl_ms() / 10).min(1_000)
}

/// How long a message waits in a lane at most, whatever is ahead of it.
fn wait_max_ms(lane: Lane) -> u64 {
    lane.ttl_ms() - spare_ms(lane)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(text: &str) -> Lane {
        text.parse().unwrap()
    }

    fn hop(lanes: &Lanes, remaining: &str) -> (String, Option<u64>) {
        let hop = lanes.choose(lane(remaining).ttl());
        (hop.to_string(), hop.expiration_ms())
    }

    /// The longest that what is ahead of it can keep a message in a lane.
    fn latest(hop: Hop) -> Duration {
        match hop {
            Hop::Now => Duration::ZERO,
            Hop::Lane { lane, .. } => Duration::from_millis(wait_max_ms(lane)),
        }
    }

    #[test]
    fn a_configured_timeout_is_one_hop_and_comes_a_second_early() {
        let lanes = Lanes::standard(&[lane("45m")]);
        assert_eq!(hop(&lanes, "45m"), ("45m".into(), Some(2_699_000)));
        assert_eq!(hop(&lanes, "2699950ms"), ("45m".into(), Some(2_698_950)), "the relay took a moment");
        assert_eq!(hop(&lanes, "2707s"), ("45m".into(), Some(2_699_000)));
        assert_eq!(hop(&lanes, "30m"), ("30m".into(), Some(1_799_000)));
    }

    #[test]
    fn what_is_due_within_the_margin_waits_in_no_lane() {
        let lanes = Lanes::standard(&[]);
        assert_eq!(hop(&lanes, "10s"), ("now".into(), None));
        assert_eq!(lanes.choose(Duration::ZERO), Hop::Now);
        assert_eq!(hop(&lanes, "10001ms"), ("10s".into(), Some(9_000)));
        let tight = lanes.choose_within(Duration::from_secs(9), Duration::from_secs(2));
        assert_eq!(tight, Hop::Lane { lane: lane("10s"), wait_ms: 8_000 });
    }

    #[test]
    fn a_retry_waits_in_the_shortest_lane_that_lasts_as_long() {
        let lanes = Lanes::standard(&[]);
        let wait = |text: &str| lanes.at_least(lane(text).ttl());
        assert_eq!(wait("700ms"), Hop::Lane { lane: lane("1s"), wait_ms: 700 });
        assert_eq!(wait("950ms"), Hop::Lane { lane: lane("2s"), wait_ms: 950 });
        assert_eq!(wait("365d"), Hop::Lane { lane: lane("32d"), wait_ms: 32 * 86_400_000 - 1_000 });
    }

    proptest! {
        #[test]
        fn no_message_comes_late_and_few_hops_bring_it_within_the_margin(
            remaining_ms in prop_oneof![0_u64..3_600_000, 0_u64..40 * 86_400_000],
            held_up in 0_u32..=100,
        ) {
            let lanes = Lanes::standard(&[lane("15m"), lane("45m"), lane("25h")]);
            let hops_max = if remaining_ms <= 3_600_000 { 3 } else { 13 };
            let mut remaining = Duration::from_millis(remaining_ms);
            for _ in 0..hops_max {
                let hop = lanes.choose(remaining);
                // Whatever is ahead of it keeps it for as long as it can, or not at all, or in between.
                let took = hop.wait() + (latest(hop) - hop.wait()) * held_up / 100;
                prop_assert!(took <= remaining, "{hop:?} of {remaining:?} took {took:?}");
                remaining -= took;
            }
            prop_assert_eq!(lanes.choose(remaining), Hop::Now);
        }
    }
}
