use book::Revision;
use order::{OrderStatus, PaymentFacts, Prepay};
use time::OffsetDateTime;

use super::*;
use crate::fakes::{deadline, id, now, overdue, overdue_at_gateway, payment_facts, receipt};
use crate::gateway_settings::GatewaySettings;

const MINUTE: Duration = Duration::from_mins(1);

fn rules(mode: Mode) -> Rules {
    Rules::new(mode, &GatewaySettings::default(), UnknownOrders::default())
}

fn loaded(facts: OrderFacts) -> ItemReply<Loaded> {
    ItemReply::Done(Loaded { facts, revision: Some(Revision("7".to_owned())) })
}

fn attempts(made: u32) -> Attempts {
    Attempts { made, history: Vec::new() }
}

/// The plan for one order after these attempts, with this reply of the book and this answer of its gateway.
fn plan(mode: Mode, reply: &ItemReply<Loaded>, made: u32, answer: Option<Answer>) -> Plan {
    let (id, attempts) = (id("1"), attempts(made));
    let answers = answer.map(|answer| (id.clone(), answer)).into_iter().collect();
    rules(mode).plan(&[Open { id: &id, reply, attempts: &attempts }], &answers, now())
}

/// What the gateway has said of the trade of `facts`, a second ago.
fn answer(facts: &OrderFacts, verdict: Verdict) -> Answer {
    let payment = facts.payment.clone().unwrap();
    let asked_at = now() - Duration::from_secs(1);
    Answer { question: Question { id: id("1"), deadline: facts.deadline, payment, asked_at }, verdict, exists: false }
}

/// The plan for an overdue order whose gateway has said this, in the pipeline that asks.
fn answered(verdict: Verdict, made: u32) -> Plan {
    let facts = overdue_at_gateway();
    let answer = answer(&facts, verdict);
    plan(Mode::Gateway, &loaded(facts), made, Some(answer))
}

fn ended(plan: &Plan) -> &Outcome {
    let [(_, outcome)] = plan.ended.as_slice() else { panic!("{plan:?}") };
    outcome
}

/// The recheck that a plan makes, and nothing else that changes the order.
fn only_recheck(plan: &Plan) -> (&Recheck, &Outcome) {
    assert!(plan.close.is_empty() && plan.pay.is_empty() && plan.ask.is_empty(), "{plan:?}");
    let [recheck] = plan.rechecks.as_slice() else { panic!("{plan:?}") };
    (recheck, ended(plan))
}

fn parked_for(plan: &Plan) -> ParkReason {
    assert!(plan.close.is_empty() && plan.pay.is_empty() && plan.rechecks.is_empty(), "{plan:?}");
    let Outcome::Parked { reason, .. } = ended(plan) else { panic!("{plan:?}") };
    *reason
}

fn finding(plan: &Plan) -> TradeFinding {
    let [note] = plan.note.as_slice() else { panic!("{plan:?}") };
    note.finding
}

// The rows of the table in `docs/payments.md`.

#[test]
fn paid_as_much_as_it_costs_is_paid() {
    let plan = answered(Verdict::Paid(receipt()), 3);
    let [payment] = plan.pay.as_slice() else { panic!("{plan:?}") };
    assert_eq!((payment.receipt.transaction_id.as_str(), payment.trade_no.as_str()), ("4200", "842317"));
    assert_eq!(payment.refund_no, "overdue-1", "should it turn out to be late");
    assert!(plan.close.is_empty() && plan.ended.is_empty() && plan.rechecks.is_empty());
}

#[test]
fn not_paid_and_closed_there_closes_here() {
    let plan = answered(Verdict::Unpaid, 0);
    let [closing] = plan.close.as_slice() else { panic!("{plan:?}") };
    assert_eq!((closing.deadline, &closing.revision), (deadline(), &Some(Revision("7".to_owned()))));
    assert_eq!(closing.payment, Some(payment_facts()), "so that a payment that changed meanwhile is not closed");
    assert_eq!(closing.recheck, None);
    let [once_closed] = plan.once_closed.as_slice() else { panic!("{plan:?}") };
    assert_eq!((once_closed.note.finding, &once_closed.recheck), (TradeFinding::Gone, &None));
    assert!(plan.note.is_empty(), "nothing is recorded of the trade before the order is closed");
}

#[test]
fn a_customer_who_is_paying_and_a_trade_too_young_are_asked_about_later() {
    let at = now() + Duration::from_secs(5);
    let paying = answered(Verdict::Later { at, why: RetryReason::UserPaying, counts: true }, 0);
    let (recheck, outcome) = only_recheck(&paying);
    assert_eq!((recheck.attempts.made, recheck.when.not_before), (1, at));
    assert_eq!(recheck.when.back_off, Duration::from_secs(2), "the back-off of a first attempt");
    assert_eq!(outcome, &Outcome::Retried(RetryReason::UserPaying));

    let young = answered(Verdict::Later { at, why: RetryReason::TooEarly, counts: false }, 0);
    let (recheck, _) = only_recheck(&young);
    assert_eq!((recheck.attempts.made, recheck.when), (0, When::at(at)), "to wait for a known time is no attempt");
}

#[test]
fn no_such_trade_closes_and_is_looked_for_once_more() {
    let plan = answered(Verdict::Absent, 0);
    let [once_closed] = plan.once_closed.as_slice() else { panic!("{plan:?}") };
    assert_eq!(once_closed.note.finding, TradeFinding::Missed);
    assert_eq!(once_closed.recheck.as_ref().unwrap().when, When::at(now() + 15 * MINUTE));
    assert_eq!(plan.close[0].recheck, None, "a message does it");

    for mode in [Mode::SweepGateway, Mode::Passive] {
        let facts = overdue_at_gateway();
        let answer = answer(&facts, Verdict::Absent);
        let plan = plan_of(mode, facts, answer);
        assert_eq!(plan.close[0].recheck, Some(15 * MINUTE), "{mode:?} publishes nothing, so the book arms it");
        assert_eq!(plan.once_closed[0].recheck, None, "{mode:?}");
    }
}

fn plan_of(mode: Mode, facts: OrderFacts, answer: Answer) -> Plan {
    plan(mode, &loaded(facts), 0, Some(answer))
}

#[test]
fn no_such_trade_yet_is_asked_about_again() {
    let at = now() + Duration::from_secs(30);
    let plan = answered(Verdict::NotFoundYet(at), 0);
    let (recheck, _) = only_recheck(&plan);
    assert_eq!((recheck.attempts.made, recheck.when.not_before), (1, at));
    assert_eq!(finding(&plan), TradeFinding::NotFound);
}

#[test]
fn a_trade_that_was_confirmed_and_is_denied_is_parked() {
    let missing = Verdict::Person { reason: ParkReason::TradeMissing, detail: String::new() };
    assert_eq!(parked_for(&answered(missing, 0)), ParkReason::TradeMissing);
}

#[test]
fn no_clear_answer_is_asked_for_sixty_times_with_growing_delays_and_then_parked() {
    let unclear = || Verdict::Unclear("timeout".to_owned());
    for (made, back_off_s) in [(0, 2), (1, 4), (5, 64), (30, 600), (58, 600)] {
        let plan = answered(unclear(), made);
        let (recheck, outcome) = only_recheck(&plan);
        assert_eq!(recheck.attempts.made, made + 1);
        assert_eq!(recheck.when, When::backed_off(now(), Duration::from_secs(back_off_s)), "after {made}");
        assert_eq!(outcome, &Outcome::Retried(RetryReason::Unclear("timeout".to_owned())));
    }
    assert_eq!(parked_for(&answered(unclear(), 59)), ParkReason::PaymentUnknown);
}

#[test]
fn a_gateway_that_cannot_be_asked_costs_no_attempt() {
    let question = answer(&overdue_at_gateway(), Verdict::Unpaid).question;
    let plan = rules(Mode::Gateway).hold(question, &attempts(7), "wrong key".to_owned(), now());
    let (recheck, outcome) = only_recheck(&plan);
    assert_eq!((recheck.attempts.made, recheck.when), (7, When::at(now() + Duration::from_secs(30))));
    assert_eq!(outcome, &Outcome::Held("wrong key".to_owned()));
}

#[test]
fn a_payment_that_is_not_as_it_should_be_is_parked_and_nothing_changes() {
    for reason in [ParkReason::PaymentMismatch, ParkReason::RefundedAtGateway, ParkReason::IllegalTradeNo] {
        let plan = answered(Verdict::Person { reason, detail: String::new() }, 0);
        assert_eq!(parked_for(&plan), reason);
    }
}

// What surrounds the table.

#[test]
fn an_order_without_a_payment_closes_by_its_own_status() {
    let plan = plan(Mode::Payment, &loaded(overdue()), 0, None);
    let [closing] = plan.close.as_slice() else { panic!("{plan:?}") };
    assert_eq!((closing.payment.as_ref(), closing.recheck), (None, None));
    assert!(plan.once_closed.is_empty());
}

#[test]
fn a_gateway_is_asked_by_those_who_ask_and_left_to_them_by_the_others() {
    for mode in [Mode::Gateway, Mode::SweepGateway, Mode::Passive] {
        let plan = plan(mode, &loaded(overdue_at_gateway()), 0, None);
        let [question] = plan.ask.as_slice() else { panic!("{mode:?}: {plan:?}") };
        assert_eq!((question.asked_at, &question.payment), (now(), &payment_facts()));
    }
    for mode in [Mode::Payment, Mode::Sweep] {
        let plan = plan(mode, &loaded(overdue_at_gateway()), 0, None);
        assert_eq!(ended(&plan), &Outcome::HandedOver(deadline()), "{mode:?}");
        assert!(plan.ask.is_empty());
    }
}

#[test]
fn an_order_that_is_settled_or_not_due_needs_nothing() {
    let ahead = OrderFacts { deadline: Deadline::at(now() + MINUTE), ..overdue_at_gateway() };
    let due = ahead.deadline;
    assert_eq!(ended(&plan(Mode::Payment, &loaded(ahead), 0, None)), &Outcome::Waiting(due));
    for status in [OrderStatus::Paid, OrderStatus::Closed, OrderStatus::Cancelled] {
        let settled = OrderFacts { status, ..overdue() };
        assert_eq!(ended(&plan(Mode::Payment, &loaded(settled), 0, None)), &Outcome::Unchanged);
    }
}

#[test]
fn an_answer_about_another_trade_or_another_deadline_does_not_count() {
    let asked = overdue_at_gateway();
    let changed: [fn(&mut OrderFacts, &mut PaymentFacts); 3] = [
        |_, payment| payment.trade_no = "842318".to_owned(),
        |_, payment| payment.prepay = Prepay::Created,
        |facts, _| facts.deadline = Deadline::at(now() - MINUTE),
    ];
    for change in changed {
        let (mut facts, mut payment) = (asked.clone(), payment_facts());
        change(&mut facts, &mut payment);
        facts.payment = Some(payment);
        let plan = plan_of(Mode::Gateway, facts.clone(), answer(&asked, Verdict::Unpaid));
        assert!(plan.close.is_empty() && plan.ask.len() == 1, "{facts:?}: {plan:?}");
        let plan = plan_of(Mode::Gateway, facts, answer(&asked, Verdict::Paid(receipt())));
        assert_eq!(plan.pay.len(), 1, "money that has come in always counts");
    }
}

#[test]
fn the_trade_of_an_order_that_was_cancelled_is_looked_for_until_its_time_is_over() {
    let first_missed = |ago: Duration| {
        let payment = PaymentFacts { not_found_at: Some(now() - ago), ..payment_facts() };
        let facts = OrderFacts { status: OrderStatus::Cancelled, payment: Some(payment), ..overdue() };
        let answer = answer(&facts, Verdict::Absent);
        plan_of(Mode::Gateway, facts, answer)
    };
    let early = first_missed(MINUTE);
    assert_eq!((finding(&early), ended(&early)), (TradeFinding::NotFound, &Outcome::Unchanged));
    assert_eq!(early.rechecks[0].when, When::at(now() + 14 * MINUTE));
    // It was asked a second ago, half a second before its time: it may have appeared since.
    let barely = first_missed(15 * MINUTE + Duration::from_millis(500));
    assert_eq!((finding(&barely), barely.rechecks.len()), (TradeFinding::NotFound, 1));
    let late = first_missed(15 * MINUTE + Duration::from_secs(1));
    assert_eq!((finding(&late), late.rechecks.len()), (TradeFinding::Absent, 0));

    let facts = OrderFacts { status: OrderStatus::Cancelled, ..overdue_at_gateway() };
    let answer = answer(&facts, Verdict::Unpaid);
    assert_eq!(finding(&plan_of(Mode::Gateway, facts, answer)), TradeFinding::Gone);
}

#[test]
fn a_trade_that_was_seen_is_recorded_as_existing() {
    let facts = overdue_at_gateway();
    let seen = Answer { exists: true, ..answer(&facts, Verdict::Unclear("timeout".to_owned())) };
    assert_eq!(finding(&plan_of(Mode::Gateway, facts, seen)), TradeFinding::Exists);
}

#[test]
fn an_order_that_nobody_knows_is_looked_up_again_and_then_parked() {
    for (made, back_off_s) in [(0, 1), (3, 8)] {
        let plan = plan(Mode::Payment, &ItemReply::Unknown, made, None);
        let Outcome::LookAgain { attempts, when } = ended(&plan) else { panic!("{plan:?}") };
        assert_eq!((attempts.made, when), (made + 1, &When::backed_off(now(), Duration::from_secs(back_off_s))));
    }
    assert_eq!(parked_for(&plan(Mode::Payment, &ItemReply::Unknown, 4, None)), ParkReason::UnknownOrder);

    let paid = answer(&overdue_at_gateway(), Verdict::Paid(receipt()));
    let plan = plan(Mode::Gateway, &ItemReply::Unknown, 0, Some(paid));
    let Outcome::Parked { detail, .. } = ended(&plan) else { panic!("{plan:?}") };
    assert!(detail.contains("4200"), "money must be mentioned: {detail}");
}

#[test]
fn other_replies_of_the_book_lead_to_another_look() {
    let locked = plan(Mode::Payment, &ItemReply::Locked("in use".to_owned()), 1, None);
    let Outcome::LookAgain { attempts, when } = ended(&locked) else { panic!("{locked:?}") };
    assert_eq!((attempts.made, *when), (2, When::backed_off(now(), Duration::from_secs(2))));
    let locked = plan(Mode::Payment, &ItemReply::Locked("in use".to_owned()), 31, None);
    assert_eq!(parked_for(&locked), ParkReason::StaysLocked);

    let later = plan(Mode::Payment, &ItemReply::Later(MINUTE), 1, None);
    let Outcome::LookAgain { attempts, when } = ended(&later) else { panic!("{later:?}") };
    assert_eq!((attempts.made, *when), (1, When::at(now() + MINUTE)));

    assert_eq!(plan(Mode::Payment, &ItemReply::Changed, 0, None).reload, [id("1")]);
    let unreadable = plan(Mode::Payment, &ItemReply::Refused("no deadline".to_owned()), 0, None);
    assert_eq!(parked_for(&unreadable), ParkReason::UnreadableOrder);
}

#[test]
fn the_same_orders_answers_and_time_give_the_same_plan() {
    let at: OffsetDateTime = now() + MINUTE;
    for verdict in [Verdict::Unpaid, Verdict::Absent, Verdict::NotFoundYet(at), Verdict::Unclear("x".to_owned())] {
        assert_eq!(answered(verdict.clone(), 9), answered(verdict, 9), "nothing in it is left to chance");
    }
}
