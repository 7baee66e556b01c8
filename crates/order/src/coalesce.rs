use std::time::Duration;

use time::OffsetDateTime;

use crate::Deadline;

/// How far apart the deadlines of orders may be that share a message, unless a deployment says so. Nobody is late for that: each
/// order is held until its own.
pub const COALESCE_WINDOW: Duration = Duration::from_secs(1);

/// Groups items that may share a message: due within `window` of each other, at most `group_max` to a group. An item that
/// is past due is due now. Groups and their members come in the order of their deadlines, so the last of a group is the
/// one due latest.
#[must_use]
pub fn coalesce<T>(
    mut items: Vec<T>,
    due: impl Fn(&T) -> Deadline,
    now: OffsetDateTime,
    window: Duration,
    group_max: usize,
) -> Vec<Vec<T>> {
    items.sort_by_key(&due);
    let effective = |item: &T| due(item).instant().max(now);
    let mut groups: Vec<Vec<T>> = Vec::new();
    for item in items {
        match groups.last_mut() {
            Some(group) if group.len() < group_max && effective(&item) - effective(&group[0]) <= window => {
                group.push(item)
            }
            _ => groups.push(vec![item]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(due_in_ms: impl IntoIterator<Item = i64>) -> Vec<Vec<i64>> {
        let now = "2026-11-22T08:00:00Z".parse::<Deadline>().unwrap().instant();
        let due = |ms: &i64| Deadline::at(now + time::Duration::milliseconds(*ms));
        coalesce(due_in_ms.into_iter().collect(), due, now, Duration::from_millis(50), 256)
    }

    #[test]
    fn what_is_due_within_the_window_shares_a_group() {
        assert_eq!(groups([1_000, 5_000, 1_050, 1_051, 1_020]), [vec![1_000, 1_020, 1_050], vec![1_051], vec![5_000]]);
    }

    #[test]
    fn whatever_is_past_due_is_due_now() {
        assert_eq!(groups([-60_000, -5, 50, 51]), [vec![-60_000, -5, 50], vec![51]]);
    }

    #[test]
    fn a_group_has_its_maximum() {
        assert_eq!(groups([1_000; 600]).iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 88]);
    }
}
