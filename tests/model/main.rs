//! The close protocol, checked exhaustively: every interleaving of customer, gateway, notification, two deliveries,
//! the sweep and the refunder, with answers that are lost and workers that die, up to a bound.
//!
//! The model decides nothing itself: it calls the product's own pure functions, [`order::decide`] and
//! [`order::next_step`]. What surrounds them is modelled here:
//!
//! | here | there |
//! | --- | --- |
//! | [`Action::Take`], [`Action::Ack`] | `Session::receive`, `Batch::ack` (crate `broker`) |
//! | [`Protocol::decide`], [`Protocol::once_closed`], [`Protocol::after_close`] | `Rules::plan_order`, `Rules::once_closed`, `Rules::after_close` (crate `worker`) |
//! | [`Answer`], [`Question`] | `Answer`, `Question` (crate `worker`) |
//! | [`Protocol::call`] | `attempt::follow_protocol` (crate `worker`) |
//! | [`World::close_here`], [`World::pay_here`], [`World::note`] | `settle.sql`, `pay.sql`, `note.sql` (crate `book`) |
//! | [`Action::Sweep`] | `Sweep` (crate `worker`) |
//! | [`Action::Notify`] | `Notifications::take` (crate `worker`) |
//! | [`Action::Refund`] | `Refunder` (crate `worker`) |
//! | [`Gateway`] | WeChat Pay: pay and close exclude each other |
//!
//! Time is not modelled: the deadline is past, and every wait that is due has passed. The model assumes one thing about
//! delays: a prepay that was under way at the deadline shows at the gateway before the worker looks for it the last time
//! (`look_again_after`).

use std::time::Duration;

use order::{
    CloseOutcome, CloseRules, Deadline, Decision, GatewayAnswer, Money, OrderFacts, OrderStatus, PaymentFacts, Prepay,
    Step, Trade, TradeState, Verdict, decide, next_step,
};
use stateright::{Checker, Model, Property};
use time::OffsetDateTime;

/// How the worker goes about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As the product does: closed at the gateway, confirmed, and only then here.
    GatewayFirst,
    /// The classic mistake: closed here first, and at the gateway afterwards.
    LocalFirst,
    /// Another: the answer of the close is taken for proof.
    WithoutConfirm,
}

struct Protocol {
    order: Order,
    /// Whether the prepay was still on its way at the deadline.
    prepay_under_way: bool,
}

/// What there is in the world. Small numbers are what is left of things that may happen so often.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    gateway: Gateway,
    status: OrderStatus,
    /// How often the stock was released.
    released: u8,
    /// The row in `payments`.
    prepay: Prepay,
    missed: bool,
    state: PaymentState,
    refund: RefundRow,
    /// Messages in the queues.
    messages: u8,
    /// The message by which a missing trade is looked for once more; it comes when nothing else does.
    look_again: bool,
    /// Whether the time has come for that: whatever was under way has shown.
    late: bool,
    workers: [Worker; 2],
    /// Whether a notification is on its way. It may never come.
    notification: bool,
    left: Left,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Left {
    duplicates: u8,
    sweeps: u8,
    crashes: u8,
    lost_answers: u8,
    /// The trade shows at the gateway.
    appearances: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Gateway {
    Absent,
    NotPaid,
    Paid,
    Closed,
    Refunded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PaymentState {
    Open,
    Paid,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum RefundRow {
    None,
    Recorded,
    Succeeded,
}

/// A worker and what it has in hand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Worker {
    /// Whether a message brought the order: it comes again if the worker dies. The sweep brings none.
    message: bool,
    /// The order as it was loaded.
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum At {
    Idle,
    /// To be loaded and decided, with what the gateway has said.
    Load(Option<Answer>),
    /// To be asked next; `after_close`: told to close already.
    Query {
        question: Question,
        after_close: bool,
    },
    Close {
        question: Question,
    },
    /// Decided; to be written.
    Write {
        decision: Write,
        answer: Option<Answer>,
    },
    /// The mistake: closed here, and to be closed there.
    CloseAfterwards,
    /// All is written; to be acked.
    Done {
        again: bool,
        look_again: bool,
    },
}

/// What is asked, and when.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    /// As it was loaded.
    prepay: Prepay,
    /// As it is known while the gateway is asked.
    facts: PaymentFacts,
    late: bool,
}

/// What came of it: `Answer` of the crate `worker`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Answer {
    question: Question,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Write {
    Close,
    Pay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    /// The customer pays, if the trade waits for it.
    CustomerPays,
    /// The prepay that was under way shows.
    TradeAppears,
    /// The payment's notification comes; it may come again.
    Notify,
    /// The notification never comes (again).
    LoseNotification,
    /// A worker takes a message.
    Take(usize),
    /// A worker looks at the order because the sweep has found it.
    Sweep(usize),
    /// A message comes twice.
    Duplicate,
    /// The missing trade is looked for.
    LookAgain,
    /// A worker loads the order and decides.
    Decide(usize),
    /// A worker calls the gateway.
    Call(usize),
    /// The same, and the answer is lost.
    CallAndLose(usize),
    /// A worker writes what it has decided.
    Write(usize),
    /// A worker acks.
    Ack(usize),
    /// A worker dies.
    Crash(usize),
    /// The refund is asked for, and arrives.
    Refund,
}

fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn price() -> Money {
    Money { minor: 1999, currency: "CNY".to_owned() }
}

impl World {
    fn facts(&self) -> OrderFacts {
        let payment = PaymentFacts {
            gateway: "wechat".to_owned(),
            trade_no: "1".to_owned(),
            amount: price(),
            prepay: self.prepay,
            created_at: now() - Duration::from_secs(3600),
            // Whoever looks again looks after the gap.
            not_found_at: self.missed.then(|| now() - Duration::from_secs(3600)),
            open: self.state == PaymentState::Open,
        };
        OrderFacts {
            status: self.status,
            deadline: Deadline::at(now() - Duration::from_secs(60)),
            payment: Some(payment),
        }
    }

    fn trade(&self) -> Trade {
        let state = match self.gateway {
            Gateway::Absent => TradeState::NotFound,
            Gateway::NotPaid => TradeState::NotPaid,
            Gateway::Paid => TradeState::Paid,
            Gateway::Closed => TradeState::Closed,
            Gateway::Refunded => TradeState::Refunded,
        };
        let paid = state == TradeState::Paid;
        Trade { transaction_id: paid.then(|| "4200".to_owned()), amount: paid.then(price), ..Trade::in_state(state) }
    }

    fn close_at_gateway(&mut self) -> CloseOutcome {
        match self.gateway {
            Gateway::Absent => CloseOutcome::NotFound,
            Gateway::NotPaid => {
                self.gateway = Gateway::Closed;
                CloseOutcome::Accepted
            }
            Gateway::Closed => CloseOutcome::AlreadyClosed,
            Gateway::Paid | Gateway::Refunded => CloseOutcome::AlreadyPaid,
        }
    }

    /// `settle.sql`: what is pending closes, and its stock comes back, unless there is more to its payment by now than
    /// was asked about.
    fn close_here(&mut self, answer: Option<&Answer>) -> bool {
        let heard = answer.is_none_or(|answer| answer.question.prepay == self.prepay);
        let won = self.status == OrderStatus::Pending && heard;
        if won {
            self.status = OrderStatus::Closed;
            self.released += 1;
        }
        won
    }

    /// `pay.sql`: what is pending is paid; what was closed before is to be refunded, once.
    fn pay_here(&mut self) {
        match self.status {
            OrderStatus::Pending => self.status = OrderStatus::Paid,
            OrderStatus::Closed | OrderStatus::Cancelled => {
                if self.refund == RefundRow::None {
                    self.refund = RefundRow::Recorded;
                }
            }
            OrderStatus::Paid => {}
        }
        self.state = PaymentState::Paid;
    }

    /// `note.sql`: what is known to be paid stays so.
    fn note(&mut self, state: PaymentState) {
        if self.state != PaymentState::Paid {
            self.state = state;
        }
    }

    /// Nobody is at work and nothing is on its way.
    fn is_quiet(&self) -> bool {
        self.messages == 0
            && !self.look_again
            && self.refund != RefundRow::Recorded
            && self.workers.iter().all(|worker| worker.at == At::Idle)
    }
}

impl Protocol {
    /// `Rules::plan_order`.
    fn decide(&self, world: &mut World, worker: usize, answer: Option<Answer>) {
        let facts = world.facts();
        // `Answer::holds_for`.
        let answer = answer
            .filter(|answer| matches!(answer.verdict, Verdict::Paid(_)) || answer.question.prepay == world.prepay);
        let done = At::Done { again: false, look_again: false };
        world.workers[worker].at = match decide(Some(&facts), answer.as_ref().map(|answer| &answer.verdict), now()) {
            Decision::Ask if self.order == Order::LocalFirst && facts.status == OrderStatus::Pending => {
                At::Write { decision: Write::Close, answer: None }
            }
            Decision::Ask => {
                let Some(facts) = facts.payment else { return };
                let question = Question { prepay: world.prepay, facts, late: world.late };
                after(
                    &question,
                    next_step(&question.facts, &CloseRules::default(), &GatewayAnswer::Nothing, now()),
                    false,
                )
            }
            Decision::Close(_) => At::Write { decision: Write::Close, answer },
            Decision::Pay(_) => At::Write { decision: Write::Pay, answer },
            Decision::Retry { .. } => {
                // `Answer::note`.
                if let Some(answer) = &answer {
                    if matches!(answer.verdict, Verdict::NotFoundYet(_)) {
                        world.missed = true;
                    } else if answer.question.facts.prepay == Prepay::Created {
                        world.prepay = Prepay::Created;
                        world.note(PaymentState::Open);
                    }
                }
                At::Done { again: true, look_again: false }
            }
            Decision::Nothing(_) => self.after_close(world, answer.as_ref()),
            Decision::Wait(_) | Decision::Park { .. } | Decision::Unknown => done,
        };
    }

    /// `Rules::once_closed`.
    fn once_closed(&self, world: &mut World, answer: Option<&Answer>) -> At {
        let look_again = answer.is_some_and(|answer| answer.verdict == Verdict::Absent);
        if look_again {
            (world.missed, world.late) = (true, false);
            // What was asked before was asked before the time that counts from now.
            for worker in &mut world.workers {
                match &mut worker.at {
                    At::Query { question, .. } | At::Close { question } => question.late = false,
                    At::Load(Some(answer)) | At::Write { answer: Some(answer), .. } => answer.question.late = false,
                    _ => {}
                }
            }
        } else {
            world.note(PaymentState::Closed);
        }
        At::Done { again: false, look_again }
    }

    /// `Rules::after_close`.
    fn after_close(&self, world: &mut World, answer: Option<&Answer>) -> At {
        let mut look_again = false;
        match answer.map(|answer| (&answer.verdict, answer.question.late)) {
            None => {}
            // Unless somebody has seen it meanwhile.
            Some((Verdict::Absent, true)) if world.missed && world.prepay == Prepay::Created => {}
            Some((Verdict::Absent, true)) if world.missed => world.note(PaymentState::Closed),
            Some((Verdict::Absent, _)) => (world.missed, look_again) = (true, true),
            Some(_) => world.note(PaymentState::Closed),
        }
        At::Done { again: false, look_again }
    }

    /// One call to the gateway, and what follows from its answer; `lost`: it is done, and the answer never comes.
    fn call(&self, world: &mut World, worker: usize, lost: bool) {
        let (step, question, after_close) = match world.workers[worker].at.clone() {
            At::Query { mut question, after_close } => {
                let trade = world.trade();
                if trade.state != TradeState::NotFound && !lost {
                    question.facts.prepay = Prepay::Created;
                }
                let heard = GatewayAnswer::Trade { trade: &trade, after_close };
                (next_step(&question.facts, &CloseRules::default(), &heard, now()), question, after_close)
            }
            At::Close { question } => {
                let outcome = world.close_at_gateway();
                let step = match self.order {
                    Order::WithoutConfirm => Step::Conclude(Verdict::Unpaid),
                    _ => next_step(&question.facts, &CloseRules::default(), &GatewayAnswer::Close(outcome), now()),
                };
                (step, question, true)
            }
            At::CloseAfterwards => {
                world.close_at_gateway();
                world.workers[worker].at = At::Done { again: false, look_again: false };
                return;
            }
            _ => return,
        };
        let step = if lost { Step::Conclude(Verdict::Unclear("no answer".to_owned())) } else { step };
        world.workers[worker].at = after(&question, step, after_close);
    }

    fn write(&self, world: &mut World, worker: usize) {
        let At::Write { decision, answer } = world.workers[worker].at.clone() else { return };
        world.workers[worker].at = match decision {
            Write::Pay => {
                world.pay_here();
                At::Done { again: false, look_again: false }
            }
            Write::Close if world.close_here(answer.as_ref()) => match self.order {
                Order::LocalFirst => At::CloseAfterwards,
                _ => self.once_closed(world, answer.as_ref()),
            },
            // Somebody was first: looked at once more.
            Write::Close => At::Load(answer),
        };
    }
}

fn after(question: &Question, step: Step, after_close: bool) -> At {
    let question = question.clone();
    match step {
        Step::Query => At::Query { question, after_close },
        Step::Close => At::Close { question },
        Step::Conclude(verdict) => At::Load(Some(Answer { question, verdict })),
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let idle = Worker { message: false, at: At::Idle };
        vec![World {
            gateway: if self.prepay_under_way { Gateway::Absent } else { Gateway::NotPaid },
            status: OrderStatus::Pending,
            released: 0,
            prepay: if self.prepay_under_way { Prepay::Attempted } else { Prepay::Created },
            missed: false,
            state: PaymentState::Open,
            refund: RefundRow::None,
            messages: 1,
            look_again: false,
            late: false,
            workers: [idle.clone(), idle],
            notification: false,
            left: Left {
                duplicates: 1,
                sweeps: 1,
                crashes: 2,
                lost_answers: 1,
                appearances: u8::from(self.prepay_under_way),
            },
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.gateway == Gateway::NotPaid {
            actions.push(Action::CustomerPays);
        }
        if world.gateway == Gateway::Absent && world.left.appearances > 0 {
            actions.push(Action::TradeAppears);
        }
        if world.notification {
            actions.extend([Action::Notify, Action::LoseNotification]);
        }
        if world.left.duplicates > 0 && world.messages > 0 {
            actions.push(Action::Duplicate);
        }
        // The last look comes after everything that was on its way has shown.
        if world.look_again && world.left.appearances == 0 {
            actions.push(Action::LookAgain);
        }
        if world.refund == RefundRow::Recorded {
            actions.push(Action::Refund);
        }
        for (number, worker) in world.workers.iter().enumerate() {
            match &worker.at {
                At::Idle => {
                    if world.messages > 0 {
                        actions.push(Action::Take(number));
                    }
                    if world.left.sweeps > 0 && world.status == OrderStatus::Pending {
                        actions.push(Action::Sweep(number));
                    }
                    continue;
                }
                At::Load(_) => actions.push(Action::Decide(number)),
                At::Query { .. } | At::Close { .. } | At::CloseAfterwards => {
                    actions.push(Action::Call(number));
                    if world.left.lost_answers > 0 {
                        actions.push(Action::CallAndLose(number));
                    }
                }
                At::Write { .. } => actions.push(Action::Write(number)),
                At::Done { .. } => actions.push(Action::Ack(number)),
            }
            if world.left.crashes > 0 {
                actions.push(Action::Crash(number));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::CustomerPays => {
                world.gateway = Gateway::Paid;
                world.notification = true;
            }
            Action::TradeAppears => {
                world.left.appearances -= 1;
                world.gateway = Gateway::NotPaid;
            }
            // It stays: notifications come more than once.
            Action::Notify => world.pay_here(),
            Action::LoseNotification => world.notification = false,
            Action::Duplicate => {
                world.left.duplicates -= 1;
                world.messages += 1;
            }
            Action::LookAgain => {
                (world.look_again, world.late) = (false, true);
                world.messages += 1;
            }
            Action::Refund => {
                // Under the same number, however often: the trade can be refunded once.
                world.gateway = Gateway::Refunded;
                world.refund = RefundRow::Succeeded;
            }
            Action::Take(worker) => {
                world.messages -= 1;
                world.workers[worker] = Worker { message: true, at: At::Load(None) };
            }
            Action::Sweep(worker) => {
                world.left.sweeps -= 1;
                world.workers[worker] = Worker { message: false, at: At::Load(None) };
            }
            Action::Decide(worker) => {
                let At::Load(answer) = world.workers[worker].at.clone() else { return None };
                self.decide(&mut world, worker, answer);
            }
            Action::Call(worker) => self.call(&mut world, worker, false),
            Action::CallAndLose(worker) => {
                world.left.lost_answers -= 1;
                self.call(&mut world, worker, true);
            }
            Action::Write(worker) => self.write(&mut world, worker),
            Action::Ack(worker) => {
                let At::Done { again, look_again } = world.workers[worker].at else { return None };
                world.messages += u8::from(again);
                world.look_again |= look_again;
                world.workers[worker] = Worker { message: false, at: At::Idle };
            }
            Action::Crash(worker) => {
                world.left.crashes -= 1;
                world.messages += u8::from(world.workers[worker].message);
                world.workers[worker] = Worker { message: false, at: At::Idle };
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("stock is released at most once, and never for a paid order", |_, world: &World| {
                world.released <= 1 && (world.released == 0 || world.status == OrderStatus::Closed)
            }),
            Property::always("what is paid here was paid there", |_, world: &World| {
                world.status != OrderStatus::Paid || world.gateway == Gateway::Paid
            }),
            Property::always("no refund of an order that is paid", |_, world: &World| {
                world.refund == RefundRow::None || world.status == OrderStatus::Closed
            }),
            // When nobody has anything in hand and no notification will ever come: money that was taken belongs to a
            // paid order or is back, and no closed order can be paid any more.
            Property::always("in the end nothing is closed and paid", |_, world: &World| {
                let over = world.is_quiet() && !world.notification;
                !over
                    || match world.gateway {
                        Gateway::Paid => world.status == OrderStatus::Paid,
                        Gateway::NotPaid => false,
                        // A trade that shows later is found by the last look, so this is not the end.
                        Gateway::Absent => world.left.appearances > 0 || world.status == OrderStatus::Closed,
                        Gateway::Closed | Gateway::Refunded => world.status == OrderStatus::Closed,
                    }
            }),
            Property::sometimes("an order is closed", |_, world: &World| {
                world.status == OrderStatus::Closed && world.is_quiet()
            }),
            Property::sometimes("an order is paid", |_, world: &World| {
                world.status == OrderStatus::Paid && world.is_quiet()
            }),
            Property::sometimes("late money is back", |_, world: &World| world.refund == RefundRow::Succeeded),
        ]
    }
}

const CLOSED_AND_PAID: &str = "in the end nothing is closed and paid";

fn check(order: Order, prepay_under_way: bool) -> impl Checker<Protocol> {
    // One thread, so that a counter-example is a shortest one.
    Protocol { order, prepay_under_way }.checker().spawn_bfs().join()
}

#[test]
fn the_close_protocol_holds_in_every_interleaving() {
    for prepay_under_way in [false, true] {
        let checked = check(Order::GatewayFirst, prepay_under_way);
        println!(
            "gateway first, prepay {}: {} states, {} of them distinct, at most {} steps deep",
            if prepay_under_way { "under way at the deadline" } else { "confirmed" },
            checked.state_count(),
            checked.unique_state_count(),
            checked.max_depth()
        );
        for property in checked.model().properties() {
            // Without a prepay under way, no order is closed unheard, and so no money is late.
            if property.name == "late money is back" && !prepay_under_way {
                checked.assert_no_discovery(property.name);
                continue;
            }
            match property.expectation {
                stateright::Expectation::Sometimes => drop(checked.assert_any_discovery(property.name)),
                _ => checked.assert_no_discovery(property.name),
            }
        }
        assert!(checked.is_done(), "every state was looked at");
    }
}

/// The checks would be worth nothing if they passed whatever the order of the steps.
#[test]
fn the_classic_mistakes_are_found() {
    for (name, order) in [("local first", Order::LocalFirst), ("without confirm", Order::WithoutConfirm)] {
        let checked = check(order, false);
        let counter_example = checked.assert_any_discovery(CLOSED_AND_PAID);
        println!("{name}: closed and paid after {:?}", counter_example.into_actions());
    }
}

/// The table above is checked, since nothing else would notice a name that has gone.
#[test]
fn what_the_model_mirrors_exists() {
    let crates = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates");
    let mut files = Vec::new();
    let mut directories = vec![std::path::PathBuf::from(crates)];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    let source = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let sources: Vec<String> =
        files.iter().filter(|path| source(path)).map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let exists = |name: &str| {
        let last = name.rsplit("::").next().unwrap();
        let defined = |text: &String| {
            ["fn ", "struct ", "enum "].iter().any(|word| {
                text.match_indices(&format!("{word}{last}")).any(|(at, found)| {
                    !text[at + found.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
                })
            })
        };
        files.iter().any(|path| path.ends_with(name)) || sources.iter().any(defined)
    };
    let rows = include_str!("main.rs").lines().filter_map(|line| line.strip_prefix("//! | [")?.split_once(" | "));
    let names: Vec<&str> = rows.flat_map(|(_, there)| there.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names.iter().filter(|name| !["broker", "worker", "book"].contains(name)) {
        assert!(exists(name), "{name} is gone; the table of the model names it still");
    }
    assert!(!exists("Desk::follow_protocols"), "the test can tell");
}
