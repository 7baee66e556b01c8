use super::*;
use crate::{Deadline, Money, PaymentState};

fn now() -> OffsetDateTime {
    "2026-11-22T08:30:00Z".parse::<Deadline>().unwrap().instant()
}

fn cny(minor: i64) -> Money {
    Money { minor, currency: "CNY".to_owned() }
}

fn payment(prepay: Prepay) -> PaymentFacts {
    PaymentFacts {
        gateway: "wechat".to_owned(),
        trade_no: "842317".to_owned(),
        amount: cny(1999),
        prepay,
        created_at: now() - Duration::from_mins(30),
        not_found_at: None,
        payable_until: None,
        state: PaymentState::Open,
    }
}

fn query(payment: &PaymentFacts, trade: &Trade, after_close: bool) -> Step {
    next_step(payment, &CloseRules::default(), &GatewayAnswer::Trade { trade, after_close }, now())
}

fn state(state: TradeState, after_close: bool) -> Step {
    query(&payment(Prepay::Created), &Trade::in_state(state), after_close)
}

fn concluded(step: Step) -> Verdict {
    let Step::Conclude(verdict) = step else { panic!("{step:?} concludes nothing") };
    verdict
}

#[test]
fn nothing_but_closed_and_revoked_means_unpaid() {
    for after_close in [false, true] {
        for gone in [TradeState::Closed, TradeState::Revoked] {
            assert_eq!(concluded(state(gone, after_close)), Verdict::Unpaid);
        }
        for other in [
            TradeState::NotPaid,
            TradeState::UserPaying,
            TradeState::Authorized,
            TradeState::Paid,
            TradeState::Refunded,
            TradeState::Failed,
            TradeState::NotFound,
            TradeState::Unrecognized("ACCEPT".to_owned()),
        ] {
            let step = state(other.clone(), after_close);
            assert!(
                !matches!(step, Step::Conclude(Verdict::Unpaid | Verdict::Absent { .. })),
                "{other:?}, after_close {after_close}: {step:?}"
            );
        }
    }
    for outcome in [
        CloseOutcome::Accepted,
        CloseOutcome::AlreadyClosed,
        CloseOutcome::AlreadyPaid,
        CloseOutcome::InProgress,
        CloseOutcome::NotFound,
        CloseOutcome::TooEarly,
        CloseOutcome::Unsupported,
    ] {
        let step = next_step(&payment(Prepay::Created), &CloseRules::default(), &GatewayAnswer::Close(outcome), now());
        assert!(!matches!(step, Step::Conclude(Verdict::Unpaid | Verdict::Absent { .. })), "{outcome:?}: {step:?}");
    }
}

#[test]
fn an_attempt_ends_after_three_calls() {
    assert_eq!(state(TradeState::NotPaid, false), Step::Close);
    assert_eq!(state(TradeState::Failed, false), Step::Close);
    for still in [TradeState::NotPaid, TradeState::Failed, TradeState::NotFound] {
        assert!(matches!(concluded(state(still, true)), Verdict::Unclear(_)));
    }
}

#[test]
fn what_was_paid_must_be_what_was_to_be_paid() {
    let trade = |minor, currency: &str| Trade {
        transaction_id: Some("4200".to_owned()),
        amount: Some(Money { minor, currency: currency.to_owned() }),
        ..Trade::in_state(TradeState::Paid)
    };
    let verdict = |trade: &Trade| concluded(query(&payment(Prepay::Created), trade, false));
    assert!(matches!(verdict(&trade(1999, "CNY")), Verdict::Paid(receipt) if receipt.transaction_id == "4200"));
    let partly = Trade { refunded_minor: 1, ..trade(1999, "CNY") };
    assert!(matches!(verdict(&partly), Verdict::Person { reason: ParkReason::RefundedAtGateway, .. }));
    for wrong in [trade(1998, "CNY"), trade(1999, "USD")] {
        assert!(matches!(verdict(&wrong), Verdict::Person { reason: ParkReason::PaymentMismatch, .. }));
    }
    let foreign = Trade { discrepancy: Some("another merchant".to_owned()), ..trade(1999, "CNY") };
    assert!(matches!(verdict(&foreign), Verdict::Person { reason: ParkReason::PaymentMismatch, .. }));
    for odd in ["9".repeat(9000), "a\0b".to_owned(), String::new()] {
        let odd = Trade { transaction_id: Some(odd), ..trade(1999, "CNY") };
        assert!(matches!(verdict(&odd), Verdict::Person { reason: ParkReason::PaymentMismatch, .. }));
    }
    // However little it tells, money has come in.
    let nameless = Trade { transaction_id: None, said: b"signed".to_vec(), ..trade(1999, "CNY") };
    let priceless = Trade { amount: None, ..nameless.clone() };
    for told in [nameless, priceless, Trade { said: b"signed".to_vec(), ..Trade::in_state(TradeState::Refunded) }] {
        let Verdict::Person { money: Some(money), .. } = verdict(&told) else { panic!("{told:?}") };
        assert_eq!((money.said.as_slice(), &money.amount), (b"signed".as_slice(), &told.amount));
    }
}

#[test]
fn a_missing_trade_is_believed_by_what_the_shop_knows() {
    let missing = Trade::in_state(TradeState::NotFound);
    let verdict = |payment: &PaymentFacts| concluded(query(payment, &missing, false));
    let rules = CloseRules::default();
    let payable_until = payment(Prepay::None).created_at + rules.payable_for;
    let absent = Verdict::Absent { payable_until };
    assert_eq!(verdict(&payment(Prepay::None)), absent);
    let gap = rules.not_found_gap;
    assert_eq!(verdict(&payment(Prepay::Attempted)), Verdict::NotFoundYet(now() + gap));
    let since = |prepay, age| PaymentFacts { not_found_at: Some(now() - age), ..payment(prepay) };
    let second = Duration::from_secs(1);
    assert_eq!(verdict(&since(Prepay::Attempted, gap - second)), Verdict::NotFoundYet(now() + second));
    assert_eq!(verdict(&since(Prepay::Attempted, gap)), absent);
    // The shop may know for how long it can be paid.
    let known = PaymentFacts { payable_until: Some(now()), ..payment(Prepay::None) };
    assert_eq!(verdict(&known), Verdict::Absent { payable_until: now() });
    // What the gateway had confirmed is not denied by one answer that is not signed.
    assert_eq!(verdict(&payment(Prepay::Created)), Verdict::NotFoundYet(now() + gap));
    assert_eq!(verdict(&since(Prepay::Created, rules.denied_for - second)), Verdict::NotFoundYet(now() + gap));
    let denied = verdict(&since(Prepay::Created, rules.denied_for));
    assert!(matches!(denied, Verdict::Person { reason: ParkReason::TradeMissing, .. }), "{denied:?}");
}

#[test]
fn where_trades_cannot_be_closed_their_time_must_be_over() {
    let answer = GatewayAnswer::Close(CloseOutcome::Unsupported);
    let at = |seconds: i64| Some(now() + time::Duration::seconds(seconds));
    let step = |payable_until| {
        let payment = PaymentFacts { payable_until, ..payment(Prepay::Created) };
        concluded(next_step(&payment, &CloseRules::default(), &answer, now()))
    };
    let later = Verdict::Later { at: now() + Duration::from_secs(60), why: RetryReason::NotClosable };
    assert_eq!((step(at(60)), step(at(0))), (later, Verdict::Unpaid));
}

#[test]
fn a_trade_that_is_too_young_is_closed_later() {
    let rules = CloseRules { min_close_age: Duration::from_mins(40), ..CloseRules::default() };
    let payment = payment(Prepay::Created);
    let trade = Trade::in_state(TradeState::NotPaid);
    let step = next_step(&payment, &rules, &GatewayAnswer::Trade { trade: &trade, after_close: false }, now());
    let at = payment.created_at + rules.min_close_age;
    assert_eq!(step, Step::Conclude(Verdict::Later { at, why: RetryReason::TooEarly }));
}
