//! What happens next to an order, and when, as far as it can be foretold.

use book::{ParkedEntry, RefundRecord, TrailRow};
use order::{Deadline, Hop, Lanes};
use outbox::Timer;
use shop::OrderView;
use time::OffsetDateTime;

use crate::text::{Texts, fill};

/// Something that is to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NextStep {
    /// `None`: as soon as somebody does it.
    pub(crate) at: Option<OffsetDateTime>,
    pub(crate) text: String,
    /// Where to press.
    pub(crate) href: Option<String>,
}

/// What is known of an order.
pub(crate) struct KnownOrder<'a> {
    pub(crate) view: Option<&'a OrderView>,
    /// Timeouts and rows of events in the outbox.
    pub(crate) in_outbox: (i64, i64),
    pub(crate) trail: &'a [TrailRow],
    pub(crate) refunds: &'a [RefundRecord],
    pub(crate) parked: &'a [ParkedEntry],
    pub(crate) timers: &'a [Timer],
    /// Whether a relay, and a worker, is at work; `None`: nobody knows.
    pub(crate) relay: Option<bool>,
    pub(crate) worker: Option<bool>,
}

/// By default so long after its deadline the sweep looks at an order, in a round every half minute.
const SWEPT_AFTER: time::Duration = time::Duration::seconds(90);

/// A message takes no more hops than this.
const HOPS_MAX: usize = 32;

/// What happens next, in the order in which it does.
pub(crate) fn next(known: &KnownOrder<'_>, lanes: &Lanes, now: OffsetDateTime, t: &Texts) -> Vec<NextStep> {
    let mut steps = Vec::new();
    let mut add = |at, text: String, href: Option<String>| steps.push(NextStep { at, text, href });
    let (timeouts, events) = known.in_outbox;
    if timeouts > 0 {
        add(None, t.n_outbox.to_owned(), None);
    }
    if events > 0 {
        add(None, fill(t.n_outbox_events, &[&events]), None);
    }
    if timeouts + events > 0 && known.relay == Some(false) {
        add(None, t.n_no_relay.to_owned(), Some("/console/processes".to_owned()));
    }
    for row in known.parked.iter().filter(|row| row.state == "held") {
        let text = fill(t.n_parked, &[&row.id, &row.reason]);
        add(None, text, Some(format!("/console/parked/{}", row.id)));
    }
    let is_pending = known.view.is_some_and(|view| view.status == "pending");
    if let Some(view) = known.view.filter(|_| is_pending) {
        of_pending(view, known, lanes, now, t, &mut add);
    }
    if let Some(view) = known.view.filter(|_| !is_pending) {
        for payment in view.payments.iter().filter(|payment| payment.state == "open") {
            add(Some(payment.ask_at.max(now)), fill(t.n_ask, &[&payment.trade_no, &payment.gateway]), None);
        }
    }
    for refund in known.refunds {
        match refund.state.as_str() {
            "succeeded" => {}
            "needs_person" => {
                add(None, fill(t.n_refund_person, &[&refund.refund_no]), Some("/console/refunds".to_owned()));
            }
            _ => add(Some(refund.next_attempt_at), fill(t.n_refund, &[&refund.refund_no]), None),
        }
    }
    for timer in known.timers.iter().filter(|timer| timer.state == order::TimerState::Armed) {
        add(Some(timer.due_at), fill(t.n_timer, &[&timer.id]), None);
    }
    if steps.is_empty() && known.view.is_some() {
        steps.push(NextStep { at: None, text: t.n_nothing.to_owned(), href: None });
    }
    // What waits for somebody first, then by its time.
    steps.sort_by_key(|step| step.at.unwrap_or(OffsetDateTime::UNIX_EPOCH));
    steps
}

fn of_pending(
    view: &OrderView,
    known: &KnownOrder<'_>,
    lanes: &Lanes,
    now: OffsetDateTime,
    t: &Texts,
    add: &mut impl FnMut(Option<OffsetDateTime>, String, Option<String>),
) {
    let due = view.payment_deadline;
    if due <= now {
        // What a worker said last of it, if it did not come again since.
        let last = known.trail.last().filter(|step| step.step == "sent_on").map(|step| step.detail.clone());
        add(None, fill(t.n_past, &[&last.unwrap_or_else(|| t.n_past_worker.to_owned())]), None);
        if known.worker == Some(false) {
            add(None, t.n_no_worker.to_owned(), Some("/console/processes".to_owned()));
        }
        return;
    }
    if known.in_outbox.0 == 0 {
        for (at, lane) in hops(begin(view, known.trail), due, lanes).into_iter().filter(|(at, _)| *at > now) {
            let text = lane.map_or_else(|| t.n_lane.to_owned(), |lane| fill(t.n_hop, &[&lane]));
            add(Some(at), text, None);
        }
    }
    add(Some(due), t.n_due.to_owned(), None);
    add(due.checked_add(SWEPT_AFTER), t.n_sweep.to_owned(), None);
}

/// When its message last set out, as far as it is on record.
fn begin(view: &OrderView, trail: &[TrailRow]) -> OffsetDateTime {
    let set_out = trail.iter().rev().find(|step| matches!(step.step.as_str(), "relayed" | "sent_on"));
    set_out.map_or(view.created_at, |step| step.at)
}

/// When a message that sets out then comes out of each of its lanes, and where it goes from there; `None`: it is held.
fn hops(mut at: OffsetDateTime, due: OffsetDateTime, lanes: &Lanes) -> Vec<(OffsetDateTime, Option<String>)> {
    let mut hops: Vec<(OffsetDateTime, Option<String>)> = Vec::new();
    while hops.len() < HOPS_MAX {
        let hop = lanes.choose(Deadline::at(due).remaining(at));
        let Hop::Lane { lane, .. } = hop else { break };
        if let Some(last) = hops.last_mut() {
            last.1 = Some(lane.to_string());
        }
        at += hop.wait();
        hops.push((at, None));
    }
    hops
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use order::OrderId;

    use super::*;
    use crate::text::EN;

    fn at(s: u64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + s)
    }

    fn view(status: &str, due_in_s: u64) -> OrderView {
        OrderView {
            id: OrderId::new("A-1").unwrap(),
            status: status.to_owned(),
            amount_minor: 1,
            currency: "CNY".to_owned(),
            payment_deadline: at(due_in_s),
            overdue: false,
            created_at: at(0),
            paid_at: None,
            closed_at: None,
            transaction_id: None,
            payments: Vec::new(),
            items: Vec::new(),
            log: Vec::new(),
        }
    }

    fn known(view: &OrderView) -> KnownOrder<'_> {
        let (trail, refunds, parked, timers) = (&[][..], &[][..], &[][..], &[][..]);
        KnownOrder {
            view: Some(view),
            in_outbox: (0, 0),
            trail,
            refunds,
            parked,
            timers,
            relay: Some(true),
            worker: Some(true),
        }
    }

    fn told(known: &KnownOrder<'_>, now: OffsetDateTime) -> Vec<(Option<i64>, String)> {
        let steps = next(known, &Lanes::standard(&[]), now, &EN).into_iter();
        steps.map(|step| (step.at.map(|at| at.unix_timestamp() - 1_700_000_000), step.text)).collect()
    }

    #[test]
    fn a_pending_order_goes_by_its_lanes_and_then_falls_due() {
        let view = view("pending", 1_800);
        let steps = told(&known(&view), at(1));
        let last: Vec<&str> = steps.iter().rev().take(3).map(|(_, text)| text.as_str()).collect();
        assert_eq!(last, [EN.n_sweep, EN.n_due, EN.n_lane]);
        let hops: Vec<i64> = steps.iter().filter_map(|(at, _)| *at).collect();
        assert!(hops.is_sorted() && hops.iter().all(|at| *at > 1), "{steps:?}");
        let out = steps.iter().find(|(_, text)| text == EN.n_lane).unwrap().0.unwrap();
        assert!((1_780..1_800).contains(&out), "it comes out some seconds before: {out}");
        assert_eq!(told(&known(&view), at(1_799)).len(), 2, "it is held");
    }

    #[test]
    fn what_waits_for_somebody_comes_first() {
        let view = view("pending", 10);
        let waiting = KnownOrder { in_outbox: (1, 2), relay: Some(false), ..known(&view) };
        let steps = told(&waiting, at(1));
        assert!(
            steps[0].1 == EN.n_outbox && steps[1].1.contains("2 events") && steps[2].1 == EN.n_no_relay,
            "{steps:?}"
        );
        let late = KnownOrder { worker: Some(false), ..known(&view) };
        let steps = told(&late, at(20));
        assert!(steps[0].1.contains(EN.n_past_worker) && steps[1].1 == EN.n_no_worker, "{steps:?}");
    }

    #[test]
    fn nothing_more_happens_to_an_order_that_has_ended() {
        let view = view("closed", 10);
        assert_eq!(told(&known(&view), at(20)), [(None, EN.n_nothing.to_owned())]);
    }
}
