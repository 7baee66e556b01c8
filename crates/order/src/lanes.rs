use std::time::Duration;

use crate::lane::round_up_to_ms;
use crate::{Lane, Shards};

/// All lanes of a deployment, and how late a message may leave one.
///
/// RabbitMQ expires messages only at the head of a queue, so a message waits for those ahead of it. A message
/// therefore enters only a lane whose TTL exceeds its remaining time by at most the tolerance. Then the messages ahead of
/// it are gone at most that much too late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lanes {
    /// Longest first.
    lanes: Vec<Lane>,
    tolerance: Duration,
    shards: Shards,
}

/// Where a message waits next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The lane to publish to.
    pub lane: Lane,
    /// The message's own expiration in milliseconds; `None` lets the lane's TTL hold.
    pub expiration_ms: Option<u64>,
}

impl Hop {
    /// How long the message waits.
    #[must_use]
    pub fn wait(self) -> Duration {
        self.expiration_ms.map_or(self.lane.ttl(), Duration::from_millis)
    }
}

/// Why a set of lanes cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLanes {
    /// Nothing fits the last stretch of a wait.
    #[error("the shortest lane ({shortest}) must not be longer than the tolerance ({tolerance_ms} ms)")]
    TooCoarse {
        /// The shortest lane there is.
        shortest: Lane,
        /// The tolerance that it exceeds.
        tolerance_ms: u128,
    },
    /// No lane at all.
    #[error("there must be at least one lane")]
    None,
}

impl Lanes {
    /// The lanes of every deployment. Each payment timeout that it configures adds one.
    pub const STANDARD: [&'static str; 10] = ["1s", "5s", "30s", "2m", "10m", "15m", "30m", "2h", "12h", "1d"];

    /// How late a message may leave its lane unless another tolerance is set.
    pub const TOLERANCE: Duration = Duration::from_secs(1);

    /// Plans with more hops than this are not searched for the fewest: see [`Lanes::choose`].
    const SEARCHED_HOPS_MAX: usize = 6;

    /// A set of lanes; duplicates count once.
    ///
    /// # Errors
    /// [`BadLanes`] where there is none, or where the shortest is longer than the tolerance: then some
    /// remaining times could not be met.
    pub fn new(lanes: impl IntoIterator<Item = Lane>, tolerance: Duration) -> Result<Self, BadLanes> {
        let mut lanes: Vec<Lane> = lanes.into_iter().collect();
        lanes.sort_unstable_by(|a, b| b.cmp(a));
        lanes.dedup();
        let shortest = *lanes.last().ok_or(BadLanes::None)?;
        if shortest.ttl() > tolerance {
            return Err(BadLanes::TooCoarse { shortest, tolerance_ms: tolerance.as_millis() });
        }
        Ok(Self { lanes, tolerance, shards: Shards::ONE })
    }

    /// The standard lanes and one for each of `payment_timeouts`, with the standard tolerance.
    #[must_use]
    pub fn standard(payment_timeouts: &[Lane]) -> Self {
        let standard = Self::STANDARD.iter().filter_map(|name| name.parse().ok());
        let mut lanes: Vec<Lane> = standard.chain(payment_timeouts.iter().copied()).collect();
        lanes.sort_unstable_by(|a, b| b.cmp(a));
        lanes.dedup();
        Self { lanes, tolerance: Self::TOLERANCE, shards: Shards::ONE }
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

    /// The lanes, shortest first.
    pub fn iter(&self) -> impl Iterator<Item = Lane> + '_ {
        self.lanes.iter().rev().copied()
    }

    /// Where a message with this remaining time waits next.
    ///
    /// If a lane fits (its TTL is the remaining time or up to the tolerance more), the message goes there
    /// with its remaining time as its expiration and comes out on its deadline. Otherwise it waits out a
    /// whole lane and is then looked at again. The lane is the first of a plan with the fewest hops, where six
    /// hops or fewer do; elsewhere it is the longest lane that the remaining time covers, and the search is
    /// made again at the next hop.
    ///
    /// Always taking the longest would cost hops: 20 minutes are two hops through `10m`, but five when
    /// `15m` comes first.
    #[must_use]
    pub fn choose(&self, remaining: Duration) -> Hop {
        let remaining_ms = round_up_to_ms(remaining);
        let tolerance_ms = u64::try_from(self.tolerance.as_millis()).unwrap_or(u64::MAX);
        if let Some(&lane) = self.lanes.iter().rev().find(|lane| lane.ttl_ms() >= remaining_ms)
            && lane.ttl_ms() - remaining_ms <= tolerance_ms
        {
            let expiration_ms = (remaining_ms < lane.ttl_ms()).then_some(remaining_ms);
            return Hop { lane, expiration_ms };
        }
        let lane = (2..=Self::SEARCHED_HOPS_MAX)
            .find_map(|hops| first_of_plan(&self.lanes, remaining_ms, tolerance_ms, hops))
            .or_else(|| self.lanes.iter().find(|lane| lane.ttl_ms() <= remaining_ms).copied())
            .unwrap_or(self.lanes[self.lanes.len() - 1]);
        Hop { lane, expiration_ms: None }
    }

    /// Where a message waits for about this long, in one hop: the shortest lane that lasts as long (or the longest
    /// of all), with the wait as the message's own expiration. The messages ahead of it may make it late, by no more than
    /// the lane's TTL exceeds the wait. It never holds up others.
    #[must_use]
    pub fn at_least(&self, wait: Duration) -> Hop {
        let wait_ms = round_up_to_ms(wait);
        match self.lanes.iter().rev().find(|lane| lane.ttl_ms() >= wait_ms) {
            Some(&lane) => Hop { lane, expiration_ms: (wait_ms < lane.ttl_ms()).then_some(wait_ms) },
            None => Hop { lane: self.lanes[0], expiration_ms: None },
        }
    }
}

/// The longest lane of some `hops` lanes (longest first) whose TTLs add up to `remaining_ms` or at most
/// `tolerance_ms` more; `None` if there is no such plan. Hops commute, so only descending plans are tried.
fn first_of_plan(lanes: &[Lane], remaining_ms: u64, tolerance_ms: u64, hops: usize) -> Option<Lane> {
    for (index, lane) in lanes.iter().enumerate() {
        // From here on all are too short even if every hop used this one.
        if lane.ttl_ms().saturating_mul(hops as u64) < remaining_ms {
            return None;
        }
        if hops == 1 {
            if lane.ttl_ms() - remaining_ms <= tolerance_ms {
                return Some(*lane);
            }
        } else if lane.ttl_ms() <= remaining_ms {
            let rest = remaining_ms - lane.ttl_ms();
            if first_of_plan(&lanes[index..], rest, tolerance_ms, hops - 1).is_some() {
                return Some(*lane);
            }
        }
    }
    None
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
        (hop.lane.to_string(), hop.expiration_ms)
    }

    #[test]
    fn a_configured_timeout_is_one_hop() {
        let lanes = Lanes::standard(&[lane("45m")]);
        assert_eq!(hop(&lanes, "45m"), ("45m".into(), None));
        assert_eq!(hop(&lanes, "2699950ms"), ("45m".into(), Some(2_699_950)));
        assert_eq!(hop(&lanes, "30m"), ("30m".into(), None));
    }

    #[test]
    fn the_last_stretch_is_exact_and_the_past_is_now() {
        let lanes = Lanes::standard(&[]);
        assert_eq!(hop(&lanes, "700ms"), ("1s".into(), Some(700)));
        assert_eq!(lanes.choose(Duration::ZERO), Hop { lane: lane("1s"), expiration_ms: Some(0) });
        assert_eq!(lanes.choose(Duration::from_micros(1)).expiration_ms, Some(1), "rounded up");
    }

    #[test]
    fn the_longest_lane_first_would_cost_hops() {
        let lanes = Lanes::standard(&[]);
        assert_eq!(hop(&lanes, "20m"), ("10m".into(), None));
        assert_eq!(walk(&lanes, lane("20m").ttl_ms()).0, 2);
    }

    #[test]
    fn long_waits_start_with_the_longest_lane() {
        assert_eq!(hop(&Lanes::standard(&[]), "40d"), ("1d".into(), None));
    }

    #[test]
    fn lanes_that_cannot_be_on_time_are_refused() {
        let coarse = Lanes::new([lane("5s"), lane("1m")], Duration::from_secs(1));
        assert_eq!(coarse, Err(BadLanes::TooCoarse { shortest: lane("5s"), tolerance_ms: 1000 }));
        assert_eq!(Lanes::new([], Duration::from_secs(1)), Err(BadLanes::None));
    }

    /// Follows a message until it comes out, with the worst luck that the head of a queue allows: each time
    /// it leaves only when its lane's TTL has passed. Returns the hops and how late (ms) it came out.
    fn walk(lanes: &Lanes, remaining_ms: u64) -> (usize, u64) {
        let mut waited_ms = 0;
        let mut hops = 0;
        loop {
            let hop = lanes.choose(Duration::from_millis(remaining_ms - waited_ms));
            waited_ms += hop.lane.ttl_ms();
            hops += 1;
            if waited_ms >= remaining_ms {
                return (hops, waited_ms - remaining_ms);
            }
        }
    }

    /// The fewest lanes whose TTLs add up to the remaining time or up to the tolerance more, found the slow
    /// way: all sums of one lane, of two, and so on.
    fn fewest_hops(lanes: &Lanes, remaining_ms: u64) -> usize {
        let latest_ms = remaining_ms + lanes.tolerance.as_millis() as u64;
        let mut sums = std::collections::BTreeSet::from([0]);
        for hops in 1.. {
            sums = sums
                .iter()
                .flat_map(|sum| lanes.iter().map(move |lane| sum + lane.ttl_ms()))
                .filter(|sum| *sum <= latest_ms)
                .collect();
            if sums.range(remaining_ms..).next().is_some() {
                return hops;
            }
        }
        unreachable!("a lane no longer than the tolerance always reaches the end");
    }

    proptest! {
        /// Never late by more than the tolerance, for any lanes and any remaining time.
        #[test]
        fn never_late_by_more_than_the_tolerance(
            ttls in prop::collection::vec(1_u64..500_000, 0..12),
            shortest in 1_u64..2_000, slack in 0_u64..2_000, remaining_ms in 0_u64..5_000_000,
        ) {
            // The shortest lane bounds the number of hops, and with it the time that the test takes.
            let tolerance = Duration::from_millis(shortest + slack);
            let lanes = ttls.into_iter().chain([shortest]).map(|ms| Lane::new(Duration::from_millis(ms)).unwrap());
            let lanes = Lanes::new(lanes, tolerance).unwrap();
            let (_, late_ms) = walk(&lanes, remaining_ms);
            prop_assert!(u128::from(late_ms) <= tolerance.as_millis(), "{late_ms} ms late");
        }

        /// An expiration covers the whole remaining time; a lane without one ends no later than the wait.
        #[test]
        fn never_early_when_a_lane_fits(remaining_us in 0_u64..200_000_000_000) {
            let lanes = Lanes::standard(&[]);
            let remaining = Duration::from_micros(remaining_us);
            let hop = lanes.choose(remaining);
            match hop.expiration_ms {
                Some(ms) => prop_assert!(Duration::from_millis(ms) >= remaining && ms <= hop.lane.ttl_ms()),
                None => prop_assert!(hop.lane.ttl() <= remaining + Duration::from_millis(1)),
            }
        }

        /// Never more hops than needed, where needed is found by trying all.
        #[test]
        fn never_more_hops_than_needed(
            ttls in prop::collection::vec(1_u64..60, 0..5), tolerance in 1_u64..4, remaining in 1_u64..200,
        ) {
            let lanes = ttls.into_iter().chain([1]).map(|s| Lane::new(Duration::from_secs(s)).unwrap());
            let lanes = Lanes::new(lanes, Duration::from_secs(tolerance)).unwrap();
            let needed = fewest_hops(&lanes, remaining * 1_000);
            let (hops, _) = walk(&lanes, remaining * 1_000);
            prop_assume!(needed <= Lanes::SEARCHED_HOPS_MAX);
            prop_assert_eq!(hops, needed);
        }
    }
}
