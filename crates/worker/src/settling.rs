//! From order IDs to what became of each: load, decide, ask, and write until nothing is open any more.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use order::{
    Attempts, Deadline, Decision, OrderFacts, OrderId, ParkReason, PaymentFacts, Receipt, RetryReason, Verdict, decide,
};
use retry::Policy;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trace::TraceParent;
use tracing::Instrument;

use crate::asking::Asked;
use crate::counters::add;
use crate::database_time::DatabaseTime;
use crate::{Actor, BookError, Closing, Gateways, Loaded, OrderBook, Payment, Told, TradeNote, WorkerCounters};

/// Turns order IDs into what became of each. Whoever brings the IDs (messages, the sweep, a person who looks at an
/// order) goes this way.
#[derive(Clone)]
pub(crate) struct Settler {
    pub(crate) book: OrderBook,
    pub(crate) gateways: Gateways,
    /// Whether gateways are asked. Else orders that need it are handed over to those who ask.
    pub(crate) asks: bool,
    pub(crate) actor: Actor,
    /// Whether what has to be looked at once more after the close is armed along with it, since nobody publishes it.
    pub(crate) arms: bool,
    /// Which trace it is part of.
    pub(crate) traceparent: Option<TraceParent>,
    /// What is done about orders that the database does not know.
    pub(crate) unknown: UnknownOrders,
    /// Tells that there is a refund to be made.
    pub(crate) late: Arc<Notify>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) shutdown: CancellationToken,
    /// Until when servers that are away are waited for; `None`: as long as it takes.
    pub(crate) patience_ends: Option<Instant>,
}

/// What is done about orders that the database does not know: whoever sent the message may have been faster than
/// its own commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownOrders {
    /// After so many attempts the order is parked.
    pub attempts_max: u32,
    /// The delays between them.
    pub back_off: Policy,
}

impl Default for UnknownOrders {
    fn default() -> Self {
        let back_off = Policy { initial: Duration::from_secs(1), max: Duration::from_secs(30) };
        Self { attempts_max: 5, back_off }
    }
}

/// The program is to stop, or patience has come to its end, while something has to be waited out. What was under way
/// is given up, unacked.
pub(crate) struct Interrupted;

/// Between tries of what failed a moment ago: short, so that what breaks sessions again and again is soon at its
/// delivery limit and out of the way.
pub(crate) const BROKEN: Policy = Policy { initial: Duration::from_millis(100), max: Duration::from_millis(500) };

/// Between looks at an order that somebody else has locked.
const LOCKED: Policy = Policy { initial: Duration::from_secs(5), max: Duration::from_secs(300) };

/// How long the gateways are asked for one batch. Whoever had no turn then comes again.
pub(crate) const ASKING_MAX: Duration = Duration::from_secs(300);

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Closed by us.
    Closed,
    /// Paid at its gateway, and we wrote it down.
    Paid,
    /// Closed or cancelled before its payment came: the money goes back.
    Late,
    /// Paid, cancelled or closed before.
    Unchanged,
    /// Not due yet: to be looked at again then.
    Waiting(Deadline),
    /// Its gateway must be asked: for those who do.
    HandedOver(Deadline),
    /// Its gateway gave no clear answer: to be asked again.
    Retried,
    /// Its gateway cannot be asked by anybody now: to be asked again, with no attempt spent.
    Held,
    /// The database does not know it, yet, or somebody else has it locked: to be looked at again then, as one that was
    /// tried so often.
    LookAgain { tried: Attempts, at: OffsetDateTime },
    /// Somebody else has it locked; becomes the one before.
    Busy,
    /// For a person.
    Parked { reason: ParkReason, detail: String },
}

/// An order whose gateway is to be asked again, as one that was tried so often.
#[derive(Debug, Clone)]
pub(crate) struct Again {
    pub(crate) id: OrderId,
    pub(crate) deadline: Deadline,
    /// Attempts that came to nothing.
    pub(crate) tried: Attempts,
    /// Not before.
    pub(crate) at: OffsetDateTime,
}

/// What became of all orders of a batch.
pub(crate) struct Settled {
    pub(crate) outcomes: HashMap<OrderId, Outcome>,
    pub(crate) again: Vec<Again>,
    pub(crate) time: DatabaseTime,
}

/// What is known while a batch is settled.
struct Progress<'a> {
    settled: Settled,
    tried: &'a BTreeMap<OrderId, Attempts>,
    answers: HashMap<OrderId, Answer>,
    asking: JoinSet<(OrderId, Asked)>,
    /// What is being asked.
    unanswered: HashMap<OrderId, Question>,
    /// When orders with so many attempts are tried again: together, so that they may share messages.
    retries_at: HashMap<u32, OffsetDateTime>,
    /// Why orders are held, for the log.
    held: HashMap<String, Vec<OrderId>>,
}

/// What was asked: the order as it was then.
struct Question {
    deadline: Deadline,
    payment: PaymentFacts,
    asked_at: OffsetDateTime,
}

/// What came of asking.
struct Answer {
    question: Question,
    verdict: Verdict,
    /// Whether the gateway has said that the trade exists.
    exists: bool,
}

/// How often an order may be found changed between load and close before something must be wrong with it.
const ROUNDS_MAX: u32 = 8;

impl Settler {
    /// Settles these orders, with their attempts so far, until it is known of each what became of it. Orders whose
    /// gateways are asked are settled as the answers come in, and hold up nobody else.
    pub(crate) async fn settle(&self, tried: &BTreeMap<OrderId, Attempts>) -> Result<Settled, Interrupted> {
        let time = DatabaseTime::from(OffsetDateTime::UNIX_EPOCH);
        let settled = Settled { outcomes: HashMap::with_capacity(tried.len()), again: Vec::new(), time };
        let mut progress = Progress {
            settled,
            tried,
            answers: HashMap::new(),
            asking: JoinSet::new(),
            unanswered: HashMap::new(),
            retries_at: HashMap::new(),
            held: HashMap::new(),
        };
        let mut open: Vec<OrderId> = tried.keys().cloned().collect();
        let give_up_at = Instant::now() + ASKING_MAX;
        loop {
            self.settle_open(open, &mut progress).await?;
            let answered = self.next_answers(&mut progress.asking, give_up_at).await?;
            if answered.is_empty() {
                break;
            }
            open = Vec::with_capacity(answered.len());
            for (id, asked) in answered {
                let Some(question) = progress.unanswered.remove(&id) else { continue };
                match asked {
                    Asked::Verdict { verdict, exists } => {
                        progress.answers.insert(id.clone(), Answer { question, verdict, exists });
                        open.push(id);
                    }
                    Asked::Held(why) => self.hold(id, question.deadline, why, &mut progress),
                }
            }
            open.sort_unstable();
        }
        for (id, question) in std::mem::take(&mut progress.unanswered) {
            self.hold(id, question.deadline, "the gateway is so slow that it had no turn".to_owned(), &mut progress);
        }
        for (why, orders) in &progress.held {
            self.gateways.warn_of_held(why, orders);
        }
        self.put_off_busy(&mut progress);
        self.count(&progress.settled.outcomes);
        Ok(progress.settled)
    }

    /// Whoever has them locked may take long.
    fn put_off_busy(&self, progress: &mut Progress<'_>) {
        let now = progress.settled.time.now();
        let busy: Vec<OrderId> = progress
            .settled
            .outcomes
            .iter()
            .filter(|(_, outcome)| **outcome == Outcome::Busy)
            .map(|(id, _)| id.clone())
            .collect();
        for id in busy {
            let tried = progress.tried(&id).plus(now, &RetryReason::Locked);
            let at = now + LOCKED.delay(tried.made);
            progress.settled.outcomes.insert(id, Outcome::LookAgain { tried, at });
        }
    }

    /// Waits for an answer, and takes with it what has come in besides. Empty: nobody is asked any more.
    async fn next_answers(
        &self,
        asking: &mut JoinSet<(OrderId, Asked)>,
        give_up_at: Instant,
    ) -> Result<Vec<(OrderId, Asked)>, Interrupted> {
        let first = tokio::select! {
            first = asking.join_next() => first,
            () = tokio::time::sleep_until(give_up_at.into()), if !asking.is_empty() => return Ok(Vec::new()),
            () = self.shutdown.cancelled(), if !asking.is_empty() => return Err(Interrupted),
        };
        let mut answered = Vec::new();
        let mut next = first;
        while let Some(joined) = next {
            match joined {
                Ok(answer) => answered.push(answer),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Nobody aborts them but the end of this batch.
                Err(_) => return Err(Interrupted),
            }
            next = asking.try_join_next();
        }
        Ok(answered)
    }

    /// Loads, decides and writes until each of these is settled or being asked. An order that changed between load
    /// and write (paid, cancelled, extended at that very moment) is looked at once more.
    async fn settle_open(&self, mut open: Vec<OrderId>, progress: &mut Progress<'_>) -> Result<(), Interrupted> {
        let mut delays = BROKEN.delays();
        for round in 1.. {
            if open.is_empty() {
                break;
            }
            if round > 2 {
                // Once is a race. Again and again is a trigger, or a policy, that keeps the order from changing.
                let trouble = format!("{} orders", open.len());
                self.wait(&mut delays, "orders were not closed although they are due", &trouble).await?;
            }
            if round > ROUNDS_MAX {
                let detail = format!("{ROUNDS_MAX} attempts at closing it changed nothing");
                let parked = |id| (id, Outcome::Parked { reason: ParkReason::NotClosed, detail: detail.clone() });
                progress.settled.outcomes.extend(open.drain(..).map(parked));
                break;
            }
            open = self.settle_round(open, progress).await?;
        }
        Ok(())
    }

    /// One round; returns the orders that changed meanwhile.
    async fn settle_round(&self, open: Vec<OrderId>, progress: &mut Progress<'_>) -> Result<Vec<OrderId>, Interrupted> {
        let loaded = self.load(&open).await?;
        progress.settled.time = DatabaseTime::from(loaded.now);
        let (mut closings, mut payments, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        for id in open {
            let facts = match loaded.orders.get(&id) {
                Some(Err(detail)) => {
                    let parked = Outcome::Parked { reason: ParkReason::UnreadableOrder, detail: detail.clone() };
                    progress.settled.outcomes.insert(id, parked);
                    continue;
                }
                Some(Ok(facts)) => Some(facts),
                None => None,
            };
            if progress.answers.get(&id).is_some_and(|answer| !answer.holds_for(facts)) {
                progress.answers.remove(&id);
            }
            let answer = progress.answers.get(&id);
            match decide(facts, answer.map(|answer| &answer.verdict), loaded.now) {
                Decision::Close(deadline) => {
                    let asked = answer.map(|answer| answer.question.payment.clone());
                    let missed = answer.is_some_and(|answer| answer.verdict == Verdict::Absent);
                    let look_again_after = (missed && self.arms).then_some(self.gateways.settings.look_again_after);
                    closings.push(Closing { id, deadline, asked, look_again_after });
                }
                Decision::Pay(receipt) => payments.extend(answer.map(|answer| answer.payment(&id, receipt))),
                Decision::Ask => self.ask(id, facts, progress),
                Decision::Retry { at, counts, why } => {
                    notes.extend(answer.and_then(|answer| answer.note(&id)));
                    self.retry(id, facts, at, counts, why, progress);
                }
                decision => {
                    // The trade of an order that was closed or cancelled before.
                    if matches!(decision, Decision::Nothing(_)) {
                        notes.extend(self.after_close(&id, facts, progress));
                    } else {
                        notes.extend(answer.and_then(|answer| answer.note(&id)));
                    }
                    let outcome = self.plain_outcome(&id, decision, progress);
                    progress.settled.outcomes.insert(id, outcome);
                }
            }
        }
        let asked = closings.iter().filter(|closing| closing.asked.is_some());
        let asked: Vec<OrderId> = asked.map(|closing| closing.id.clone()).collect();
        let changed = self.write(closings, payments, &mut progress.settled.outcomes).await?;
        for id in &asked {
            if progress.settled.outcomes.get(id) == Some(&Outcome::Closed) {
                let facts = loaded.orders.get(id).and_then(|facts| facts.as_ref().ok());
                notes.extend(self.just_closed(id, facts, progress));
            }
        }
        self.note(&notes).await?;
        Ok(changed)
    }

    /// What is left to do about the trade of an order that was closed just now. One that its gateway did not know may
    /// have been on its way: it is looked for once more.
    fn just_closed(&self, id: &OrderId, facts: Option<&OrderFacts>, progress: &mut Progress<'_>) -> Option<TradeNote> {
        let answer = progress.answers.get(id)?;
        if answer.verdict != Verdict::Absent {
            return Some(answer.told(id, Told::Gone));
        }
        let note = answer.told(id, Told::Missed);
        if self.arms {
            return Some(note);
        }
        let at = progress.settled.time.now() + self.gateways.settings.look_again_after;
        progress.settled.again.push(Again {
            id: id.clone(),
            deadline: facts?.deadline,
            tried: Attempts::default(),
            at,
        });
        Some(note)
    }

    /// What is left to do about the trade of an order that was closed or cancelled before. Whether a trade that is
    /// missing is to be looked for once more depends on when it was missed.
    fn after_close(&self, id: &OrderId, facts: Option<&OrderFacts>, progress: &mut Progress<'_>) -> Option<TradeNote> {
        let OrderFacts { deadline, payment: Some(payment), .. } = facts? else { return None };
        let answer = progress.answers.get(id)?;
        if answer.verdict != Verdict::Absent {
            return Some(answer.told(id, Told::Gone));
        }
        let now = progress.settled.time.now();
        let at = payment.not_found_at.unwrap_or(now) + self.gateways.settings.look_again_after;
        // When it was asked counts, not when the answer is written down: the trade may have shown in between.
        if at <= answer.question.asked_at {
            return Some(answer.told(id, Told::Absent));
        }
        let note = answer.told(id, Told::NotFound);
        progress.settled.again.push(Again { id: id.clone(), deadline: *deadline, tried: Attempts::default(), at });
        Some(note)
    }

    /// Has the gateway asked, or hands the order to those who do.
    fn ask(&self, id: OrderId, facts: Option<&OrderFacts>, progress: &mut Progress<'_>) {
        let Some(OrderFacts { deadline, payment: Some(payment), .. }) = facts else { return };
        if !self.asks {
            progress.settled.outcomes.insert(id, Outcome::HandedOver(*deadline));
            return;
        }
        let Some(desk) = self.gateways.desk(&payment.gateway) else {
            let why = format!("no payment gateway called {} is configured here", payment.gateway);
            return self.hold(id, *deadline, why, progress);
        };
        let (desk, payment, time) = (Arc::clone(desk), payment.clone(), progress.settled.time);
        let question = Question { deadline: *deadline, payment: payment.clone(), asked_at: time.now() };
        progress.unanswered.insert(id.clone(), question);
        let span = tracing::info_span!(target: trace::TARGET, "ask gateway", order = %id, gateway = payment.gateway);
        let asking = async move {
            let asked = desk.ask(&payment, time).await;
            (id, asked)
        };
        progress.asking.spawn(asking.instrument(span));
    }

    fn hold(&self, id: OrderId, deadline: Deadline, why: String, progress: &mut Progress<'_>) {
        let tried = progress.tried(&id);
        let at = progress.settled.time.now() + self.gateways.settings.hold;
        progress.settled.again.push(Again { id: id.clone(), deadline, tried, at });
        progress.held.entry(why).or_default().push(id.clone());
        progress.settled.outcomes.insert(id, Outcome::Held);
    }

    fn retry(
        &self,
        id: OrderId,
        facts: Option<&OrderFacts>,
        at: Option<OffsetDateTime>,
        counts: bool,
        why: RetryReason,
        progress: &mut Progress<'_>,
    ) {
        let settings = &self.gateways.settings;
        let Some(facts) = facts else { return };
        let now = progress.settled.time.now();
        let tried = if counts { progress.tried(&id).plus(now, &why) } else { progress.tried(&id) };
        let attempt = tried.made;
        if attempt >= settings.attempts_max {
            let detail = format!("{attempt} attempts at its payment came to nothing; the last: {why}");
            tracing::error!(order = %id, detail, "the payment of an order stays unknown; it is parked");
            progress.settled.outcomes.insert(id, Outcome::Parked { reason: ParkReason::PaymentUnknown, detail });
            return;
        }
        if self.gateways.may_warn(&why.to_string()) {
            tracing::warn!(order = %id, attempt, %why, "the payment of an order is not clear yet; it is asked for again");
        }
        let backed_off = *progress.retries_at.entry(attempt).or_insert_with(|| now + settings.back_off.delay(attempt));
        // Where a time is known, it is kept, but for what has been waiting for long.
        let at = at.map_or(backed_off, |at| if counts { at.max(backed_off) } else { at });
        progress.settled.again.push(Again { id: id.clone(), deadline: facts.deadline, tried, at });
        progress.settled.outcomes.insert(id, Outcome::Retried);
    }

    /// The outcome of a decision after which nothing is written.
    fn plain_outcome(&self, id: &OrderId, decision: Decision, progress: &Progress<'_>) -> Outcome {
        match decision {
            Decision::Wait(deadline) => Outcome::Waiting(deadline),
            Decision::Park { reason, detail } => {
                tracing::error!(order = %id, %reason, detail, "a person must look at an order");
                Outcome::Parked { reason, detail }
            }
            Decision::Unknown => self.unknown(id, progress),
            _ => Outcome::Unchanged,
        }
    }

    /// Whoever sent the message may have been faster than its own commit.
    fn unknown(&self, id: &OrderId, progress: &Progress<'_>) -> Outcome {
        let mut detail = format!("the database has no order {id}");
        if let Some(Verdict::Paid(receipt)) = progress.answers.get(id).map(|answer| &answer.verdict) {
            detail += &format!(" any more; it was paid as {}", receipt.transaction_id);
            return Outcome::Parked { reason: ParkReason::UnknownOrder, detail };
        }
        let now = progress.settled.time.now();
        let tried = progress.tried(id).plus(now, &RetryReason::UnknownOrder);
        if tried.made >= self.unknown.attempts_max {
            tracing::warn!(order = %id, attempts = tried.made, "the database does not know an order; it is parked");
            return Outcome::Parked { reason: ParkReason::UnknownOrder, detail };
        }
        let at = now + self.unknown.back_off.delay(tried.made);
        Outcome::LookAgain { tried, at }
    }

    /// Waits before the next try, unless the program is to stop or patience has come to its end. A batch is held
    /// meanwhile: giving it back would bring it again at once, and count against the queue's delivery limit.
    pub(crate) async fn wait(
        &self,
        delays: &mut retry::Delays,
        trouble: &str,
        error: &impl fmt::Display,
    ) -> Result<(), Interrupted> {
        add(&self.counters.held, 1);
        let delay = delays.next_delay();
        if self.patience_ends.is_some_and(|end| Instant::now() + delay > end) {
            tracing::warn!(%error, "{trouble}; given up for now");
            return Err(Interrupted);
        }
        tracing::warn!(%error, retry_in_ms = delay.as_millis(), "{trouble}");
        tokio::select! {
            () = tokio::time::sleep(delay) => Ok(()),
            () = self.shutdown.cancelled() => Err(Interrupted),
        }
    }

    /// Waits until the database answers: while it is away, nothing needs to be taken out of a queue.
    pub(crate) async fn database_answers(&self) -> Result<(), Interrupted> {
        self.load(&[]).await.map(drop)
    }

    /// Loads, and waits out a database that is away.
    async fn load(&self, ids: &[OrderId]) -> Result<Loaded, Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        loop {
            match self.book.load(ids).await {
                Ok(loaded) => return Ok(loaded),
                Err(error) => self.wait(&mut delays, "orders cannot be loaded", &error).await?,
            }
        }
    }

    /// Notes down what gateways have said, and waits out a database that is away.
    async fn note(&self, notes: &[TradeNote]) -> Result<(), Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        loop {
            match self.book.note(notes).await {
                Ok(()) => return Ok(()),
                // They save questions, no more: without them the gateways are asked again.
                Err(BookError::Refused(detail) | BookError::Slow(detail)) => {
                    tracing::error!(detail, "what gateways said cannot be noted down");
                    return Ok(());
                }
                Err(error) => self.wait(&mut delays, "what gateways said cannot be noted down", &error).await?,
            }
        }
    }

    fn count(&self, outcomes: &HashMap<OrderId, Outcome>) {
        let counters = &self.counters;
        add(&counters.orders, outcomes.len());
        for outcome in outcomes.values() {
            let counter = match outcome {
                Outcome::Closed => &counters.closed,
                Outcome::Paid => &counters.paid,
                Outcome::Late => &counters.late,
                Outcome::Unchanged => &counters.unchanged,
                Outcome::Waiting(_) => &counters.waiting,
                Outcome::HandedOver(_) => &counters.handed_over,
                Outcome::Retried => &counters.retried,
                Outcome::Held => &counters.gateway_held,
                Outcome::LookAgain { .. } | Outcome::Busy => &counters.looked_at_again,
                // Counted by what is set aside, message by message.
                Outcome::Parked { .. } => continue,
            };
            add(counter, 1);
        }
    }
}

impl Progress<'_> {
    fn tried(&self, id: &OrderId) -> Attempts {
        self.tried.get(id).cloned().unwrap_or_default()
    }
}

impl Answer {
    /// Whether it still tells something of the order. What was heard of one trade says nothing of another, and what
    /// was heard before an extension nothing of the time after it. Only money that has come in stays.
    fn holds_for(&self, facts: Option<&OrderFacts>) -> bool {
        let Question { deadline, payment: asked, .. } = &self.question;
        let same = |now: &PaymentFacts| {
            (&now.gateway, &now.trade_no, now.prepay) == (&asked.gateway, &asked.trade_no, asked.prepay)
        };
        matches!(self.verdict, Verdict::Paid(_))
            || facts.is_none_or(|facts| facts.deadline == *deadline && facts.payment.as_ref().is_some_and(same))
    }

    fn payment(&self, id: &OrderId, receipt: Receipt) -> Payment {
        let PaymentFacts { gateway, trade_no, .. } = &self.question.payment;
        Payment { id: id.clone(), gateway: gateway.clone(), trade_no: trade_no.clone(), receipt }
    }

    /// What is to be kept of an answer that settles nothing.
    fn note(&self, id: &OrderId) -> Option<TradeNote> {
        match self.verdict {
            Verdict::NotFoundYet(_) => Some(self.told(id, Told::NotFound)),
            _ => self.exists.then(|| self.told(id, Told::Exists)),
        }
    }

    fn told(&self, id: &OrderId, told: Told) -> TradeNote {
        let PaymentFacts { gateway, trade_no, .. } = &self.question.payment;
        TradeNote { id: id.clone(), gateway: gateway.clone(), trade_no: trade_no.clone(), told }
    }
}
