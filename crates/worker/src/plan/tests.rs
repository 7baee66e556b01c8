use book::Revision;
use order::{MoneyTold, OrderStatus, PaymentFacts, Prepay};
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

/// No such trade, and none can appear after a day.
fn absent() -> Verdict {
    Verdict::Absent { payable_until: payment_facts().created_at + 24 * 60 * MINUTE }
}

/// The plan for one order after these attempts, with this reply of the book and this answer of its gateway.
fn plan(mode: Mode, reply: &ItemReply<Loaded>, made: u32, answer: Option<Answer>) -> Plan {
    let (id, attempts) = (id("1"), attempts(made));
    let mut answers = GatewayAnswers::default();
    answer.into_iter().for_each(|answer| answers.add(answer));
    rules(mode).plan(&[Open { id: &id, reply, attempts: &attempts }], &answers, now())
}

/// What the gateway has said of the trade of `facts`, a second ago.
fn answer(facts: &OrderFacts, verdict: Verdict) -> Answer {
    let payment = facts.payments[0].clone();
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
    assert_eq!(closing.payments, [payment_facts()], "so that a payment that changed meanwhile is not closed");
    assert_eq!(closing.recheck, None);
    let [once_closed] = plan.once_closed.as_slice() else { panic!("{plan:?}") };
    assert_eq!((once_closed.notes[0].finding, &once_closed.recheck), (TradeFinding::Gone, &None));
    assert!(plan.note.is_empty(), "nothing is recorded of the trade before the order is closed");
}

#[test]
fn a_customer_who_is_paying_and_a_trade_too_young_are_asked_about_later() {
    let at = now() + Duration::from_secs(5);
    for made in [0, 59] {
        let paying = answered(Verdict::Later { at, why: RetryReason::UserPaying }, made);
        let (recheck, outcome) = only_recheck(&paying);
        assert_eq!((recheck.attempts.made, recheck.when), (made, When::at(at)), "to wait is no attempt");
        assert_eq!(outcome, &Outcome::Retried(RetryReason::UserPaying));
    }
    // The longer it takes, the less often it is asked about; after some hours it counts.
    let after = |waited: Duration, made| {
        let facts = OrderFacts { deadline: Deadline::at(now() - waited), ..overdue_at_gateway() };
        let answer = answer(&facts, Verdict::Later { at, why: RetryReason::UserPaying });
        plan(Mode::Gateway, &loaded(facts), made, Some(answer))
    };
    assert_eq!(only_recheck(&after(20 * MINUTE, 0)).0.when, When::at(now() + 2 * MINUTE));
    assert_eq!(only_recheck(&after(300 * MINUTE, 0)).0.when, When::at(now() + 10 * MINUTE));
    let long = after(361 * MINUTE, 0);
    assert_eq!(only_recheck(&long).0.attempts.made, 1);
    assert_eq!(parked_for(&after(361 * MINUTE, 59)), ParkReason::PaymentUnknown);

    let young = answered(Verdict::Later { at, why: RetryReason::TooEarly }, 0);
    let (recheck, _) = only_recheck(&young);
    assert_eq!((recheck.attempts.made, recheck.when), (0, When::at(at)), "to wait for a known time is no attempt");
}

#[test]
fn no_such_trade_closes_and_is_looked_for_once_more() {
    let plan = answered(absent(), 0);
    let [once_closed] = plan.once_closed.as_slice() else { panic!("{plan:?}") };
    assert_eq!(once_closed.notes[0].finding, TradeFinding::Missed);
    assert_eq!(once_closed.recheck.as_ref().unwrap().when, When::at(now() + 15 * MINUTE));
    assert_eq!(plan.close[0].recheck, None, "a message does it");

    for mode in [Mode::SweepGateway, Mode::Passive] {
        let facts = overdue_at_gateway();
        let answer = answer(&facts, absent());
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
    let missing = Verdict::person(ParkReason::TradeMissing, String::new());
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
    let plan = answered(Verdict::Held("wrong key".to_owned()), 7);
    let (recheck, outcome) = only_recheck(&plan);
    assert_eq!((recheck.attempts.made, recheck.when), (7, When::at(now() + Duration::from_secs(30))));
    assert_eq!(outcome, &Outcome::Held("wrong key".to_owned()));
}

#[test]
fn a_payment_that_is_not_as_it_should_be_is_parked_and_nothing_changes() {
    for reason in [ParkReason::PaymentMismatch, ParkReason::RefundedAtGateway, ParkReason::IllegalTradeNo] {
        let plan = answered(Verdict::person(reason, String::new()), 0);
        assert_eq!(parked_for(&plan), reason);
    }
}

// What surrounds the table.

#[test]
fn an_order_without_a_payment_closes_by_its_own_status() {
    let plan = plan(Mode::Payment, &loaded(overdue()), 0, None);
    let [closing] = plan.close.as_slice() else { panic!("{plan:?}") };
    assert_eq!((closing.payments.len(), closing.recheck), (0, None));
    assert!(plan.once_closed.is_empty());
}

#[test]
fn a_gateway_is_asked_by_those_who_ask_and_left_to_them_by_the_others() {
    for mode in [Mode::Gateway, Mode::SweepGateway, Mode::Passive] {
        let plan = plan(mode, &loaded(overdue_at_gateway()), 0, None);
        let [(_, questions)] = plan.ask.as_slice() else { panic!("{mode:?}: {plan:?}") };
        let [question] = questions.as_slice() else { panic!("{mode:?}: {plan:?}") };
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
        facts.payments = vec![payment];
        let plan = plan_of(Mode::Gateway, facts.clone(), answer(&asked, Verdict::Unpaid));
        assert!(plan.close.is_empty() && plan.ask.len() == 1, "{facts:?}: {plan:?}");
        let plan = plan_of(Mode::Gateway, facts, answer(&asked, Verdict::Paid(receipt())));
        assert_eq!(plan.pay.len(), 1, "money that has come in always counts");
    }
}

#[test]
fn the_trade_of_an_order_that_has_ended_is_looked_for_until_it_can_no_longer_appear() {
    let first_missed = |ago: Duration, payable_until: Option<OffsetDateTime>, verdict: Verdict| {
        let payment = PaymentFacts { not_found_at: Some(now() - ago), payable_until, ..payment_facts() };
        let facts = OrderFacts { status: OrderStatus::Cancelled, payments: vec![payment], ..overdue() };
        let answer = answer(&facts, verdict);
        plan_of(Mode::Gateway, facts, answer)
    };
    let early = first_missed(MINUTE, None, absent());
    assert_eq!((finding(&early), ended(&early)), (TradeFinding::NotFound, &Outcome::Unchanged));
    assert_eq!(early.rechecks[0].when, When::at(now() + 14 * MINUTE));
    // It was asked a second ago, half a second before its time: it may have appeared since.
    let barely = first_missed(15 * MINUTE + Duration::from_millis(500), None, absent());
    assert_eq!((finding(&barely), barely.rechecks.len()), (TradeFinding::NotFound, 1));
    // From then on the sweep looks, until nothing can appear any more.
    let late = first_missed(15 * MINUTE + Duration::from_secs(1), None, absent());
    assert_eq!((finding(&late), late.rechecks.len()), (TradeFinding::NotFound, 0));
    let over = Verdict::Absent { payable_until: now() - Duration::from_secs(2) };
    let last = first_missed(20 * MINUTE, None, over);
    assert_eq!((finding(&last), last.rechecks.len()), (TradeFinding::Absent, 0));
    let denied = || Verdict::person(ParkReason::TradeMissing, String::new());
    assert_eq!(finding(&first_missed(20 * MINUTE, None, denied())), TradeFinding::NotFound);
    let since = Some(now() - MINUTE);
    assert_eq!(finding(&first_missed(20 * MINUTE, since, denied())), TradeFinding::Gone);

    let facts = OrderFacts { status: OrderStatus::Cancelled, ..overdue_at_gateway() };
    let answer = answer(&facts, Verdict::Unpaid);
    assert_eq!(finding(&plan_of(Mode::Gateway, facts, answer)), TradeFinding::Gone);
}

#[test]
fn money_that_cannot_be_credited_is_set_aside_whatever_becomes_of_the_order() {
    let money = MoneyTold { transaction_id: None, paid_at: None, amount: None, said: b"signed".to_vec() };
    for status in [OrderStatus::Pending, OrderStatus::Closed, OrderStatus::Paid] {
        let facts = OrderFacts { status, ..overdue_at_gateway() };
        let (reason, money) = (ParkReason::PaymentMismatch, Some(Box::new(money.clone())));
        let answer = answer(&facts, Verdict::Person { reason, detail: "too little".to_owned(), money });
        let plan = plan_of(Mode::Gateway, facts, answer);
        let [aside] = plan.aside.as_slice() else { panic!("{plan:?}") };
        assert_eq!((aside.problem.as_str(), aside.money.said.as_slice()), ("too little", b"signed".as_slice()));
        let parked = matches!(ended(&plan), Outcome::Parked { .. });
        assert_eq!(parked, status == OrderStatus::Pending, "{status}: what has ended needs nothing but that");
        assert_eq!(plan.note.len(), usize::from(!parked), "it is not asked about any more");
    }
}

/// Two attempts, of which one was made elsewhere.
fn two_attempts(status: OrderStatus) -> OrderFacts {
    let elsewhere = PaymentFacts { gateway: "http".to_owned(), ..payment_facts() };
    OrderFacts { status, payments: vec![payment_facts(), elsewhere], ..overdue() }
}

fn plan_of_two(facts: &OrderFacts, verdicts: [Verdict; 2]) -> Plan {
    let mut answers = GatewayAnswers::default();
    for (payment, verdict) in facts.payments.iter().zip(verdicts) {
        let question = Question { id: id("1"), deadline: facts.deadline, payment: payment.clone(), asked_at: now() };
        answers.add(Answer { question, verdict, exists: false });
    }
    let (id, attempts) = (id("1"), attempts(0));
    let open = [Open { id: &id, reply: &loaded(facts.clone()), attempts: &attempts }];
    rules(Mode::Gateway).plan(&open, &answers, now())
}

#[test]
fn an_order_with_several_attempts_closes_on_the_word_of_each_gateway() {
    let facts = two_attempts(OrderStatus::Pending);
    let asked = plan(Mode::Gateway, &loaded(facts.clone()), 0, None);
    assert_eq!(asked.ask[0].1.len(), 2);
    let closed = plan_of_two(&facts, [Verdict::Unpaid, absent()]);
    assert_eq!(closed.close[0].payments, facts.payments);
    let notes: Vec<TradeFinding> = closed.once_closed[0].notes.iter().map(|note| note.finding).collect();
    assert_eq!(notes, [TradeFinding::Gone, TradeFinding::Missed]);
    assert!(closed.once_closed[0].recheck.is_some());

    // What is known of one is kept while the other is not clear.
    let waits = plan_of_two(&facts, [Verdict::Unpaid, Verdict::Unclear("timeout".to_owned())]);
    assert_eq!((finding(&waits), waits.close.len()), (TradeFinding::Gone, 0));
    let held = plan_of_two(&facts, [Verdict::Unpaid, Verdict::Held("down".to_owned())]);
    assert_eq!((finding(&held), ended(&held)), (TradeFinding::Gone, &Outcome::Held("down".to_owned())));
    for (verdicts, gateway) in [
        ([Verdict::Unclear("timeout".to_owned()), Verdict::Paid(receipt())], "http"),
        ([Verdict::Paid(receipt()), Verdict::Held("down".to_owned())], "wechat"),
    ] {
        let paid = plan_of_two(&facts, verdicts);
        assert_eq!((paid.pay.len(), paid.pay[0].gateway.as_str()), (1, gateway));
    }
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
    for verdict in [Verdict::Unpaid, absent(), Verdict::NotFoundYet(at), Verdict::Unclear("x".to_owned())] {
        assert_eq!(answered(verdict.clone(), 9), answered(verdict, 9), "nothing in it is left to chance");
    }
}
