//! What workers, sweep, customers and the shop do in the model.

use order::{
    CloseRules, Decision, GatewayAnswer, Heard, OrderStatus, PaymentFacts, PaymentState, Prepay, Step, TradeState,
    Verdict, decide, next_step,
};
use stateright::{Model, Property};

use crate::world::{Attempt, Gateway, Left, PaidBy, Refund, Row, World, now};

/// The product as it is, or with one of the mistakes that lose money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    /// The classic one: closed here first, and at the gateway afterwards.
    LocalFirst,
    /// The answer of the close is taken for proof.
    WithoutConfirm,
    /// A trade that is replaced by another is not asked about any more.
    OldTradeForgotten,
    /// What was heard of one gateway is taken for the word of another that knows the same number.
    GatewayNotCompared,
    /// A payment may begin for an order that has ended.
    NoFence,
    /// A trade that was missing twice is taken for gone, although it may still appear.
    MissedTwiceIsGone,
    /// Only pending orders are asked about: not those that were cancelled, or paid otherwise.
    EndedOrdersNotAsked,
    /// Money that is back, or on its way, is set aside for a person once more.
    OwnRefundClaimed,
    /// One worker does not know that orders without a row are paid at a gateway.
    NoGatewayHere,
}

impl Mistake {
    /// Asking about orders that have ended heals some of the others: money that they lose is found late, and goes back.
    pub(crate) fn asks_about_ended_orders(self) -> bool {
        !matches!(self, Self::EndedOrdersNotAsked | Self::LocalFirst | Self::GatewayNotCompared)
    }
}

pub(crate) struct Protocol {
    pub(crate) mistake: Mistake,
    pub(crate) first: Attempt,
    pub(crate) left: Left,
    /// Whether the second worker has no settings of any gateway.
    pub(crate) blind: bool,
}

/// A worker and what it has in hand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    /// Whether a message brought the order: it comes again if the worker dies. The sweep brings none.
    message: bool,
    /// The order as it was loaded.
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum At {
    Idle,
    /// To be loaded and decided, with what gateways have said.
    Load(Vec<Answer>),
    /// To be asked: the first of these questions next.
    Ask {
        answers: Vec<Answer>,
        questions: Vec<Question>,
        call: Call,
    },
    /// Decided; to be written.
    Write {
        decision: Write,
        answers: Vec<Answer>,
    },
    /// The mistake: closed here, and to be closed there.
    CloseAfterwards,
    /// All is written; to be acked.
    Done {
        again: bool,
        look_again: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Call {
    Query { after_close: bool },
    Close,
}

/// What is asked, and when.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) attempt: usize,
    /// As it was loaded.
    pub(crate) prepay: Prepay,
    /// As it is known while the gateway is asked.
    facts: PaymentFacts,
    late: bool,
}

/// What came of it: `Answer` of the crate `worker`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    pub(crate) question: Question,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Write {
    Close,
    Pay(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// The customer pays, if the trade waits for it.
    CustomerPays(usize),
    /// The prepay that was under way shows.
    TradeAppears,
    /// No trade can appear any more.
    Expire,
    /// The payment's notification comes; it may come again.
    Notify(usize),
    /// The notification never comes (again).
    LoseNotification(usize),
    /// The shop cancels the order.
    Cancel,
    /// The order is paid in cash.
    PayOtherwise,
    /// The shop begins another attempt beside the first.
    Begin,
    /// The shop begins another attempt in the row of the first.
    Replace,
    /// A worker takes a message.
    Take(usize),
    /// A worker looks at the order because the sweep has found it.
    Sweep(usize),
    /// A message comes twice.
    Duplicate,
    /// A message is lost.
    LoseMessage,
    /// The missing trade is looked for.
    LookAgain,
    /// A worker loads the order and decides.
    Decide(usize),
    /// A worker calls a gateway.
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
    Refund(usize),
}

impl Worker {
    pub(crate) fn is_idle(&self) -> bool {
        self.at == At::Idle
    }
}

impl Answer {
    fn heard(&self) -> Heard<'_> {
        Heard { payment: &self.question.facts, verdict: &self.verdict }
    }

    /// Whether the gateway has shown the trade.
    fn exists(&self) -> bool {
        self.question.facts.prepay == Prepay::Created
    }
}

const DONE: At = At::Done { again: false, look_again: false };

impl Protocol {
    /// `Rules::plan_order`.
    fn decide(&self, world: &mut World, worker: usize, answers: Vec<Answer>) {
        let mut facts = world.facts();
        if self.mistake == Mistake::NoGatewayHere && worker == 1 && world.attempts.iter().all(|a| a.row.is_none()) {
            facts.payments.clear();
        }
        // `Answer::holds_for`.
        let holds = |answer: &Answer| {
            let pending = facts.status == OrderStatus::Pending;
            let is_open = |now: &PaymentFacts| {
                pending || now.state != PaymentState::Paid || self.mistake == Mistake::OwnRefundClaimed
            };
            let same = |now: &PaymentFacts| {
                now.is_of_trade(&answer.question.facts) && now.prepay == answer.question.prepay && is_open(now)
            };
            matches!(answer.verdict, Verdict::Paid(_)) || facts.payments.iter().any(same)
        };
        let answers: Vec<Answer> = answers.into_iter().filter(holds).collect();
        let heard: Vec<Heard<'_>> = answers.iter().map(Answer::heard).collect();
        let decision = decide(Some(&facts), &heard, now());
        let next = match decision {
            Decision::Ask(_) if self.mistake == Mistake::LocalFirst && facts.status == OrderStatus::Pending => {
                At::Write { decision: Write::Close, answers }
            }
            // `Decision::Hold`: without settings it cannot ask.
            Decision::Ask(_) if self.blind && worker == 1 => At::Done { again: true, look_again: false },
            Decision::Ask(payments) => {
                let question = |facts: &PaymentFacts| Question {
                    attempt: usize::from(facts.gateway == "1"),
                    prepay: facts.prepay,
                    facts: facts.clone(),
                    late: world.late,
                };
                let questions = payments.into_iter().map(question).collect();
                At::Ask { answers, questions, call: Call::Query { after_close: false } }
            }
            Decision::Close(_) => At::Write { decision: Write::Close, answers },
            Decision::Pay(payment, _) => {
                let attempt = usize::from(payment.gateway == "1");
                At::Write { decision: Write::Pay(attempt), answers }
            }
            Decision::Retry(_) | Decision::Hold(_) => {
                answers.iter().for_each(|answer| note(world, answer));
                At::Done { again: true, look_again: false }
            }
            Decision::Nothing(_) => self.after_end(world, &answers),
            Decision::Wait(_) | Decision::Park { .. } | Decision::Unknown => DONE,
        };
        world.workers[worker].at = next;
    }

    /// `Rules::once_closed`.
    fn once_closed(&self, world: &mut World, answers: &[Answer]) -> At {
        let mut look_again = false;
        for answer in answers {
            let attempt = answer.question.attempt;
            if matches!(answer.verdict, Verdict::Absent { .. }) {
                look_again = true;
                world.note(attempt, |row| row.missed = true);
            } else {
                world.note(attempt, |row| row.state = PaymentState::Closed);
            }
        }
        if look_again {
            // What was asked before was asked before the time that counts from now.
            world.late = false;
            for worker in &mut world.workers {
                match &mut worker.at {
                    At::Ask { questions, answers, .. } => {
                        questions.iter_mut().for_each(|question| question.late = false);
                        answers.iter_mut().for_each(|answer| answer.question.late = false);
                    }
                    At::Load(answers) | At::Write { answers, .. } => {
                        answers.iter_mut().for_each(|answer| answer.question.late = false);
                    }
                    _ => {}
                }
            }
        }
        At::Done { again: false, look_again }
    }

    /// `Rules::after_end`.
    fn after_end(&self, world: &mut World, answers: &[Answer]) -> At {
        let mut look_again = false;
        for answer in answers {
            let Question { attempt, late, .. } = answer.question;
            let Verdict::Absent { payable_until } = answer.verdict else {
                if matches!(answer.verdict, Verdict::Person { .. }) {
                    // `Rules::plan_order` sets the money aside, for a person.
                    world.own_money_claimed |= world.attempts[attempt].refund != Refund::None;
                }
                world.note(attempt, |row| row.state = PaymentState::Closed);
                continue;
            };
            let over = payable_until <= now() || self.mistake == Mistake::MissedTwiceIsGone;
            if late && over {
                // Unless it was seen meanwhile.
                world.note(attempt, |row| {
                    if row.prepay != Prepay::Created {
                        row.state = PaymentState::Closed;
                    }
                });
            } else {
                world.note(attempt, |row| row.missed = true);
                look_again |= !late;
            }
        }
        At::Done { again: false, look_again }
    }

    /// One call to a gateway, and what follows from its answer; `lost`: it is done, and the answer never comes.
    fn call(&self, world: &mut World, worker: usize, lost: bool) {
        let (mut answers, mut questions, call) = match world.workers[worker].at.clone() {
            At::Ask { answers, questions, call } => (answers, questions, call),
            At::CloseAfterwards => {
                world.close_at_gateway(0);
                world.workers[worker].at = DONE;
                return;
            }
            _ => return,
        };
        let question = &mut questions[0];
        let rules = CloseRules::default();
        let (step, after_close) = match call {
            Call::Query { after_close } => {
                let trade = world.trade(question.attempt);
                if trade.state != TradeState::NotFound && !lost {
                    question.facts.prepay = Prepay::Created;
                }
                let heard = GatewayAnswer::Trade { trade: &trade, after_close };
                (next_step(&question.facts, &rules, &heard, now()), after_close)
            }
            Call::Close => {
                let outcome = world.close_at_gateway(question.attempt);
                let step = match self.mistake {
                    Mistake::WithoutConfirm => Step::Conclude(Verdict::Unpaid),
                    _ => next_step(&question.facts, &rules, &GatewayAnswer::Close(outcome), now()),
                };
                (step, true)
            }
        };
        let step = if lost { Step::Conclude(Verdict::Unclear("no answer".to_owned())) } else { step };
        world.workers[worker].at = match step {
            Step::Query => At::Ask { answers, questions, call: Call::Query { after_close } },
            Step::Close => At::Ask { answers, questions, call: Call::Close },
            Step::Conclude(verdict) => {
                let question = questions.remove(0);
                answers.retain(|known| known.question.attempt != question.attempt);
                answers.push(Answer { question, verdict });
                if questions.is_empty() {
                    At::Load(answers)
                } else {
                    At::Ask { answers, questions, call: Call::Query { after_close: false } }
                }
            }
        };
    }

    fn write(&self, world: &mut World, worker: usize) {
        let At::Write { decision, mut answers } = world.workers[worker].at.clone() else { return };
        world.workers[worker].at = match decision {
            Write::Pay(attempt) => {
                world.pay_here(attempt, self.mistake);
                // `Progress::take_credited`: another payment of the order is next.
                answers.retain(|answer| answer.question.attempt != attempt);
                let more = answers.iter().any(|answer| matches!(answer.verdict, Verdict::Paid(_)));
                if more { At::Load(answers) } else { DONE }
            }
            Write::Close if world.close_here(&answers, self.mistake) => match self.mistake {
                Mistake::LocalFirst => At::CloseAfterwards,
                _ => self.once_closed(world, &answers),
            },
            // Somebody was first: looked at once more.
            Write::Close => At::Load(answers),
        };
    }
}

/// `Answer::note`.
fn note(world: &mut World, answer: &Answer) {
    let attempt = answer.question.attempt;
    match answer.verdict {
        Verdict::NotFoundYet(_) => world.note(attempt, |row| row.missed = true),
        Verdict::Unpaid => world.note(attempt, |row| row.state = PaymentState::Closed),
        _ if answer.exists() => world.note(attempt, |row| {
            *row = Row { prepay: Prepay::Created, missed: false, state: PaymentState::Open };
        }),
        _ => {}
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let idle = Worker { message: false, at: At::Idle };
        vec![World {
            status: OrderStatus::Pending,
            paid_by: PaidBy::Nothing,
            released: 0,
            attempts: [self.first.clone(), Attempt::none()],
            messages: 1,
            look_again: false,
            late: false,
            expired: false,
            own_money_claimed: false,
            workers: [idle.clone(), idle],
            left: self.left.clone(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let pending = world.status == OrderStatus::Pending;
        for (number, attempt) in world.attempts.iter().enumerate() {
            if attempt.gateway == Gateway::NotPaid {
                actions.push(Action::CustomerPays(number));
            }
            if attempt.notification {
                actions.extend([Action::Notify(number), Action::LoseNotification(number)]);
            }
            if attempt.refund == Refund::Recorded {
                actions.push(Action::Refund(number));
            }
        }
        if world.attempts[0].gateway == Gateway::Absent && world.left.appearances > 0 && !world.expired {
            actions.push(Action::TradeAppears);
        }
        if world.left.appearances == 0
            && !world.expired
            && world.attempts.iter().any(|a| a.gateway == Gateway::Absent && a.row.is_some())
        {
            actions.push(Action::Expire);
        }
        if world.left.ends > 0 && pending {
            actions.extend([Action::Cancel, Action::PayOtherwise]);
        }
        // The fence: `payment_written` refuses it for an order that has ended.
        if world.left.begins > 0 && (pending || self.mistake == Mistake::NoFence) {
            actions.push(Action::Begin);
        }
        if world.left.begins > 0 && pending && world.attempts[0].is_open() {
            actions.push(Action::Replace);
        }
        if world.left.duplicates > 0 && world.messages > 0 {
            actions.push(Action::Duplicate);
        }
        if world.left.lost_messages > 0 && world.messages > 0 {
            actions.push(Action::LoseMessage);
        }
        if world.look_again {
            actions.push(Action::LookAgain);
        }
        for (number, worker) in world.workers.iter().enumerate() {
            match &worker.at {
                At::Idle => {
                    if world.messages > 0 {
                        actions.push(Action::Take(number));
                    }
                    // The sweep can ask wherever one process can.
                    let sweeps = world.left.sweeps > 0 || world.is_quiet();
                    if sweeps && world.is_swept(self.mistake) && (number == 0 || !self.blind) {
                        actions.push(Action::Sweep(number));
                    }
                    continue;
                }
                At::Load(_) => actions.push(Action::Decide(number)),
                At::Ask { .. } | At::CloseAfterwards => {
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
            Action::CustomerPays(attempt) => {
                world.attempts[attempt].gateway = Gateway::Paid;
                world.attempts[attempt].notification = true;
            }
            Action::TradeAppears => {
                world.left.appearances -= 1;
                world.attempts[0].gateway = Gateway::NotPaid;
            }
            Action::Expire => world.expired = true,
            // It stays: notifications come more than once. Money for a trade that is not on record is for a person.
            Action::Notify(attempt)
                if world.attempts[attempt].row.is_none() && world.attempts.iter().any(|a| a.row.is_some()) =>
            {
                world.attempts[attempt].refund = Refund::ForAPerson;
            }
            Action::Notify(attempt) => world.pay_here(attempt, self.mistake),
            Action::LoseNotification(attempt) => world.attempts[attempt].notification = false,
            Action::Cancel => {
                world.left.ends -= 1;
                world.status = OrderStatus::Cancelled;
                world.released += 1;
                world.ended(self.mistake);
            }
            Action::PayOtherwise => {
                world.left.ends -= 1;
                (world.status, world.paid_by) = (OrderStatus::Paid, PaidBy::Otherwise);
                world.ended(self.mistake);
            }
            Action::Begin => {
                world.left.begins -= 1;
                world.attempts[1] = Attempt::begun(Gateway::NotPaid, Prepay::Created);
                if world.status != OrderStatus::Pending {
                    // Without the fence, a row that was done with says `attempted` again.
                    world.attempts[1].row =
                        Some(Row { prepay: Prepay::Attempted, missed: true, state: PaymentState::Closed });
                }
            }
            Action::Replace => {
                world.left.begins -= 1;
                world.attempts[1] = Attempt::begun(Gateway::NotPaid, world.attempts[0].row.as_ref()?.prepay);
                // The trigger `payment_replaced` keeps the old one.
                if self.mistake == Mistake::OldTradeForgotten {
                    world.attempts[0].row = None;
                }
            }
            Action::Duplicate => {
                world.left.duplicates -= 1;
                world.messages += 1;
            }
            Action::LoseMessage => {
                world.left.lost_messages -= 1;
                world.messages -= 1;
            }
            Action::LookAgain => {
                (world.look_again, world.late) = (false, true);
                world.messages += 1;
            }
            Action::Refund(attempt) => {
                // Under the same number, however often: the trade can be refunded once.
                world.attempts[attempt].gateway = Gateway::Refunded;
                world.attempts[attempt].refund = Refund::Arrived;
            }
            Action::Take(worker) => {
                world.messages -= 1;
                world.workers[worker] = Worker { message: true, at: At::Load(Vec::new()) };
            }
            Action::Sweep(worker) => {
                world.left.sweeps = world.left.sweeps.saturating_sub(1);
                world.workers[worker] = Worker { message: false, at: At::Load(Vec::new()) };
            }
            Action::Decide(worker) => {
                let At::Load(answers) = world.workers[worker].at.clone() else { return None };
                self.decide(&mut world, worker, answers);
            }
            Action::Call(worker) => self.call(&mut world, worker, false),
            Action::CallAndLose(worker) => {
                world.left.lost_answers -= 1;
                self.call(&mut world, worker, true);
            }
            Action::Write(worker) => self.write(&mut world, worker),
            Action::Ack(worker) => {
                let At::Done { again, look_again } = world.workers[worker].at else { return None };
                // A sweep sends nothing: it comes again by itself, and the book arms the second look.
                world.messages += u8::from(again && world.workers[worker].message);
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
                let gone = matches!(world.status, OrderStatus::Closed | OrderStatus::Cancelled);
                world.released <= 1 && (world.released == 0 || gone)
            }),
            Property::always("what is paid here was paid there", |_, world: &World| match world.paid_by {
                PaidBy::Attempt(attempt) => world.attempts[attempt].gateway == Gateway::Paid,
                PaidBy::Otherwise | PaidBy::Nothing => true,
            }),
            Property::always("no refund of what pays the order", |_, world: &World| match world.paid_by {
                PaidBy::Attempt(attempt) => world.attempts[attempt].refund == Refund::None,
                PaidBy::Otherwise | PaidBy::Nothing => true,
            }),
            Property::always(crate::CLAIMED_TWICE, |_, world: &World| !world.own_money_claimed),
            Property::always(crate::CLOSED_AND_PAID, |protocol: &Self, world: &World| {
                let notified = world.attempts.iter().any(|attempt| attempt.notification);
                let over = world.is_quiet() && !world.is_swept(protocol.mistake) && !notified;
                !over || world.agrees()
            }),
            Property::sometimes("an order is closed", |_, world: &World| {
                world.status == OrderStatus::Closed && world.is_quiet()
            }),
            Property::sometimes("an order is paid", |_, world: &World| {
                world.status == OrderStatus::Paid && world.is_quiet()
            }),
            Property::sometimes("money is back", |_, world: &World| {
                world.attempts.iter().any(|attempt| attempt.refund == Refund::Arrived)
            }),
            Property::sometimes("all is over", |protocol: &Self, world: &World| {
                world.is_quiet() && !world.is_swept(protocol.mistake) && world.agrees()
            }),
        ]
    }
}
