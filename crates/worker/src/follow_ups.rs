//! What a batch leads to in the broker: messages that must be confirmed before the batch is acked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use broker::{Incoming, wire};
use order::{Attempts, Deadline, ParkReason, TimeoutId, coalesce};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::outcome::{Outcome, Recheck, Settled, When};

/// A message that must be published before a batch may be acked. Its lane is chosen when it is sent, which may be long after
/// it was decided.
pub(crate) enum FollowUp<'a> {
    /// Orders whose payment deadline lies ahead, or timers, within the window of each other; the one due first is first.
    Wait(Vec<(TimeoutId, Deadline)>),
    /// Orders whose gateways are to be asked now.
    HandOver(Vec<(TimeoutId, Deadline)>),
    /// Orders whose gateways are to be asked again.
    Recheck { orders: Vec<(TimeoutId, Deadline)>, attempts: Attempts, when: When },
    /// Orders of a message that are to be looked at again.
    LookAgain { message: &'a Incoming, orders: Vec<TimeoutId>, attempts: Attempts, when: When },
    /// A message, or a part of one, for a person.
    Park { message: &'a Incoming, part: Part<'a>, reason: ParkReason, detail: String },
}

/// What of a message is parked.
#[derive(Debug, Clone)]
pub(crate) enum Part<'a> {
    Whole,
    Entries(Vec<&'a RawValue>),
    Orders(Vec<&'a TimeoutId>),
}

/// How many orders whose gateways are to be asked share a message.
pub(crate) const GATEWAY_ORDERS_MAX: usize = 64;

/// Orders that are to be asked about again within this time of each other may share a message.
const RECHECK_WINDOW: Duration = Duration::from_secs(1);

/// What follows from how the orders of these messages ended, and from orders that go on to another lane. Orders that wait for
/// deadlines within `window` of each other share a message.
pub(crate) fn follow_ups<'a>(
    messages: &[&'a Incoming],
    settled: &'a Settled<TimeoutId>,
    onward: Vec<(TimeoutId, Deadline)>,
    window: Duration,
    now: OffsetDateTime,
) -> Vec<FollowUp<'a>> {
    let Settled { outcomes, rechecks, .. } = settled;
    let (mut waiting, mut handed_over) = (onward, Vec::new());
    let (mut unsettled, mut parked) = (HashMap::new(), HashMap::new());
    for (id, outcome) in outcomes {
        match outcome {
            Outcome::Waiting(deadline) => waiting.push((id.clone(), *deadline)),
            Outcome::HandedOver(deadline) => handed_over.push((id.clone(), *deadline)),
            Outcome::LookAgain { attempts, when } => drop(unsettled.insert(id, (attempts, *when))),
            Outcome::Parked { reason, detail } => drop(parked.insert(id, (*reason, detail.as_str()))),
            _ => {}
        }
    }
    let waiting = coalesce(waiting, |(_, due)| *due, now, window, wire::ORDERS_MAX);
    let handed_over = handed_over.chunks(GATEWAY_ORDERS_MAX).map(|orders| FollowUp::HandOver(orders.to_vec()));
    let mut follow_ups: Vec<FollowUp<'a>> = waiting.into_iter().map(FollowUp::Wait).collect();
    follow_ups.extend(handed_over);
    follow_ups.extend(recheck(rechecks, now));
    follow_ups.extend(messages.iter().filter_map(|message| look_again(message, &unsettled)));
    follow_ups.extend(messages.iter().flat_map(|message| park(message, &parked)));
    follow_ups
}

/// A message counts attempts for all its orders, so only orders with the same attempts share one.
fn recheck(rechecks: &[Recheck], now: OffsetDateTime) -> Vec<FollowUp<'static>> {
    let mut alike: BTreeMap<(&Attempts, Duration), Vec<&Recheck>> = BTreeMap::new();
    for recheck in rechecks {
        alike.entry((&recheck.attempts, recheck.when.back_off)).or_default().push(recheck);
    }
    let mut follow_ups = Vec::new();
    for ((attempts, back_off), rechecks) in alike {
        let due = |recheck: &&Recheck| Deadline::at(recheck.when.not_before);
        for group in coalesce(rechecks, due, now, RECHECK_WINDOW, GATEWAY_ORDERS_MAX) {
            let not_before = group.last().map_or(now, |latest| latest.when.not_before);
            let orders = group.into_iter().map(|recheck| (recheck.id.clone().into(), recheck.deadline)).collect();
            let when = When { not_before, back_off };
            follow_ups.push(FollowUp::Recheck { orders, attempts: attempts.clone(), when });
        }
    }
    follow_ups
}

/// The orders of this message that are to be looked at again. They came together and go on together, when the last of them
/// is to be looked at.
fn look_again<'a>(message: &'a Incoming, unsettled: &HashMap<&TimeoutId, (&Attempts, When)>) -> Option<FollowUp<'a>> {
    let mut latest: Option<(&Attempts, When)> = None;
    let mut orders = Vec::new();
    for id in &message.content.as_ref().ok()?.ids {
        let Some((attempts, when)) = unsettled.get(id) else { continue };
        if !orders.contains(id) {
            orders.push(id.clone());
        }
        if latest.is_none_or(|(_, latest)| latest.nominal() < when.nominal()) {
            latest = Some((attempts, *when));
        }
    }
    latest.map(|(attempts, when)| FollowUp::LookAgain { message, orders, attempts: attempts.clone(), when })
}

/// What of this message is parked: all of it if it cannot be understood, else the entries that name no order, and the orders
/// that cannot be handled. Those for the same reason are parked together: a message costs no more than itself.
fn park<'a>(message: &'a Incoming, parked: &HashMap<&TimeoutId, (ParkReason, &str)>) -> Vec<FollowUp<'a>> {
    let park = |part, reason, detail| FollowUp::Park { message, part, reason, detail };
    let content = match &message.content {
        Ok(content) => content,
        Err(fault) => return vec![park(Part::Whole, fault.reason(), fault.to_string())],
    };
    let mut bad: BTreeMap<(ParkReason, String), Vec<&RawValue>> = BTreeMap::new();
    for entry in &content.bad_entries {
        bad.entry((entry.fault.reason(), entry.fault.to_string())).or_default().push(&entry.json);
    }
    let bad = bad.into_iter().map(|((reason, detail), entries)| park(Part::Entries(entries), reason, detail));
    // An order that the message names twice is parked once.
    let mut alike: BTreeMap<(ParkReason, &str), BTreeSet<&TimeoutId>> = BTreeMap::new();
    for id in &content.ids {
        if let Some(why) = parked.get(id) {
            alike.entry(*why).or_default().insert(id);
        }
    }
    let orders = alike
        .into_iter()
        .map(|((reason, detail), orders)| park(Part::Orders(orders.into_iter().collect()), reason, detail.to_owned()));
    bad.chain(orders).collect()
}

#[cfg(test)]
mod tests {
    use book::ServerTime;

    use super::*;
    use crate::fakes::{id, now};

    const WINDOW: Duration = Duration::from_millis(10);

    fn message(body: &str) -> Incoming {
        Incoming::untouched_by_a_broker("30m.payment", body.as_bytes())
    }

    fn settled(outcomes: impl IntoIterator<Item = (String, Outcome)>) -> Settled<TimeoutId> {
        let mut settled = Settled::new(0, ServerTime::from(now()));
        settled.outcomes = outcomes.into_iter().map(|(name, outcome)| (id(&name).into(), outcome)).collect();
        settled
    }

    fn deadline(in_ms: u64) -> Deadline {
        Deadline::at(now() + Duration::from_millis(in_ms))
    }

    fn attempts(made: u32) -> Attempts {
        Attempts { made, history: Vec::new() }
    }

    #[test]
    fn orders_that_wait_share_messages_by_deadline_and_the_latest_is_last() {
        let waits = [("a", 1_000), ("b", 1_008), ("c", 1_020), ("d", 60_000)];
        let outcomes = waits.map(|(name, in_ms)| (name.to_owned(), Outcome::Waiting(deadline(in_ms))));
        let settled = settled(outcomes);
        let follow_ups = follow_ups(&[], &settled, Vec::new(), WINDOW, now());
        let groups: Vec<Vec<&str>> = follow_ups
            .iter()
            .map(|follow_up| match follow_up {
                FollowUp::Wait(orders) => orders.iter().map(|(id, _)| id.as_str()).collect(),
                _ => panic!("nothing else follows"),
            })
            .collect();
        assert_eq!(groups, [vec!["a", "b"], vec!["c"], vec!["d"]]);
    }

    #[test]
    fn orders_are_handed_over_in_small_messages() {
        let settled = settled((0..200).map(|number| (format!("o-{number}"), Outcome::HandedOver(deadline(0)))));
        let sizes: Vec<usize> = follow_ups(&[], &settled, Vec::new(), WINDOW, now())
            .iter()
            .map(|follow_up| match follow_up {
                FollowUp::HandOver(orders) => orders.len(),
                _ => panic!("nothing else follows"),
            })
            .collect();
        assert_eq!(sizes, [64, 64, 64, 8]);
    }

    #[test]
    fn rechecks_share_messages_with_the_same_attempts_and_back_off_only() {
        let at = |s| now() + Duration::from_secs(s);
        let recheck = |name: &str, made, not_before, back_off_s| Recheck {
            id: id(name),
            deadline: deadline(0),
            attempts: attempts(made),
            when: When { not_before, back_off: Duration::from_secs(back_off_s) },
        };
        let mut settled = settled([]);
        settled.rechecks = vec![
            recheck("a", 1, at(0), 2),
            recheck("b", 1, at(1), 2),
            recheck("c", 2, at(0), 2),
            recheck("d", 1, at(0), 0),
            recheck("e", 1, at(30), 2),
        ];
        let follow_ups = follow_ups(&[], &settled, Vec::new(), WINDOW, now());
        let mut groups: Vec<(Vec<&str>, u32, OffsetDateTime)> = Vec::new();
        for follow_up in &follow_ups {
            let FollowUp::Recheck { orders, attempts, when } = follow_up else { panic!("nothing else follows") };
            groups.push((orders.iter().map(|(id, _)| id.as_str()).collect(), attempts.made, when.not_before));
        }
        groups.sort();
        let expected =
            [(vec!["a", "b"], 1, at(1)), (vec!["c"], 2, at(0)), (vec!["d"], 1, at(0)), (vec!["e"], 1, at(30))];
        assert_eq!(groups, expected, "a message counts for all its orders, and waits for the latest");
    }

    #[test]
    fn orders_of_a_message_are_looked_at_again_together() {
        let look = |made, in_s| Outcome::LookAgain {
            attempts: attempts(made),
            when: When::at(now() + Duration::from_secs(in_s)),
        };
        let settled =
            settled([("a".to_owned(), look(1, 5)), ("b".to_owned(), look(3, 9)), ("c".to_owned(), Outcome::Closed)]);
        let body = r#"{"v":1,"orders":[{"id":"a"},{"id":"b"},{"id":"c"},{"id":"a"}]}"#;
        let messages = [message(body), message("c")];
        let follow_ups = follow_ups(&messages.iter().collect::<Vec<_>>(), &settled, Vec::new(), WINDOW, now());
        let [FollowUp::LookAgain { orders, attempts, when, .. }] = follow_ups.as_slice() else {
            panic!("{} follow", follow_ups.len())
        };
        assert_eq!(orders, &[id("a").into(), id("b").into()], "each once, and the closed one not at all");
        assert_eq!((attempts.made, *when), (3, When::at(now() + Duration::from_secs(9))));
    }

    #[test]
    fn what_cannot_be_handled_is_parked_part_by_part() {
        let parked = |reason: ParkReason| Outcome::Parked { reason, detail: "why".to_owned() };
        let settled =
            settled([("a".to_owned(), parked(ParkReason::RefusedByDatabase)), ("b".to_owned(), Outcome::Closed)]);
        let mixed = r#"{"v":1,"orders":[{"id":"a"},{"id":"b"},{"id":"no id"},{"id":"a"}]}"#;
        let messages = [message(mixed), message("{"), message("b")];
        let follow_ups = follow_ups(&messages.iter().collect::<Vec<_>>(), &settled, Vec::new(), WINDOW, now());
        let parts: Vec<(String, ParkReason)> = follow_ups
            .iter()
            .map(|follow_up| {
                let FollowUp::Park { part, reason, .. } = follow_up else { panic!("nothing else follows") };
                let part = match part {
                    Part::Whole => "whole".to_owned(),
                    Part::Entries(all) => all.iter().map(|json| json.get()).collect::<Vec<_>>().join(" "),
                    Part::Orders(all) => all.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(" "),
                };
                (part, *reason)
            })
            .collect();
        let expected = [
            (r#"{"id":"no id"}"#.to_owned(), ParkReason::IllegalOrderId),
            ("a".to_owned(), ParkReason::RefusedByDatabase),
            ("whole".to_owned(), ParkReason::NotJson),
        ];
        assert_eq!(parts, expected);
    }
}
