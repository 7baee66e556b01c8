use std::time::Duration;

/// How late orders were closed, counted by bounds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lateness {
    /// How many were at most so late as the bound of the same place in [`LATENESS_BOUNDS_S`]; the last: later than all of them. There may be
    /// none.
    pub counts: Vec<u64>,
    /// The greatest.
    pub max: Duration,
}

/// Upper bounds, in seconds: around the coalescing window where all is well, up to hours where it is not.
pub const LATENESS_BOUNDS_S: [f64; 14] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

impl Lateness {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.max = self.max.max(other.max);
    }

    /// A bound for this share of them (0.99: all but one of a hundred were no later), never above the greatest; `None`: there were
    /// none.
    #[must_use]
    pub fn bound_of(&self, share: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0);
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen as f64 >= wanted
        })?;
        let bound = LATENESS_BOUNDS_S.get(place).map(|bound| Duration::from_secs_f64(*bound));
        // A maximum that is not known is no bound.
        let max = Some(self.max).filter(|max| !max.is_zero());
        match (bound, max) {
            (Some(bound), Some(max)) => Some(bound.min(max)),
            (bound, max) => bound.or(max).or_else(|| LATENESS_BOUNDS_S.last().map(|s| Duration::from_secs_f64(*s))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(usize, u64)], max_ms: u64) -> Lateness {
        let mut counts = vec![0; LATENESS_BOUNDS_S.len() + 1];
        for (place, count) in pairs {
            counts[*place] = *count;
        }
        Lateness { counts, max: Duration::from_millis(max_ms) }
    }

    #[test]
    fn a_share_is_bounded_by_its_bucket_and_by_the_greatest() {
        let mixed = of(&[(0, 98), (3, 1), (14, 1)], 9_000_000);
        let bounds = [0.5, 0.98, 0.99, 1.0].map(|share| mixed.bound_of(share).unwrap().as_millis());
        assert_eq!(bounds, [10, 10, 100, 9_000_000]);
        assert_eq!(of(&[(0, 1)], 3).bound_of(0.5), Some(Duration::from_millis(3)), "not above the greatest");
        assert_eq!(of(&[], 0).bound_of(0.5), None);
        assert_eq!(Lateness::default().bound_of(0.5), None);
    }

    #[test]
    fn what_is_added_counts_together() {
        let mut all = Lateness::default();
        all.add(&of(&[(0, 2), (14, 1)], 5));
        all.add(&of(&[(0, 1)], 9));
        assert_eq!((all.count(), all.counts[0], all.max), (4, 3, Duration::from_millis(9)));
    }
}
