//! From order IDs to how each order ended: load, plan, ask, write, note, until nothing is open.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use book::{Closed, Credited, ItemReply, Loaded, MoneyAside, Payment, Reply, ServerTime, TradeNote};
use order::{Attempts, OrderId, ParkReason, TimeoutId};
use retry::Delays;
use time::OffsetDateTime;

use crate::answer::{Answer, GatewayAnswers, Question};
use crate::asking::Asking;
use crate::attempt::AttemptResult;
use crate::evidence::{Begun, Evidence, Fault};
use crate::gateways::Gateways;
use crate::handler::{Context, Handler};
use crate::metrics::WorkerMetrics;
use crate::outcome::{Outcome, Settled, When};
use crate::patience::{BROKEN, Interrupted, Patience};
use crate::plan::{Mode, OnceClosed, Open, Plan, Rules, UnknownOrders};
use crate::shared_book::SharedBook;
use crate::writer::{Calls, HOLD, UNCLEAR_HOLD, is_about_orders};

/// Settles orders by the order book and their gateways.
#[derive(Clone)]
pub(crate) struct Settler {
    book: SharedBook,
    gateways: Gateways,
    rules: Rules,
    metrics: WorkerMetrics,
    warnings: trace::Throttle,
}

/// What is known while orders are settled.
struct Progress<'a> {
    due: &'a BTreeMap<OrderId, Attempts>,
    settled: Settled,
    answers: GatewayAnswers,
    asking: Asking<'a>,
    /// Orders of the next round.
    open: Vec<OrderId>,
    /// Rounds since the last answer of a gateway.
    round: u32,
    /// When the round began, and whether any order had been closed before.
    begun: Begun,
    after_others: bool,
    delays: Delays,
}

/// How often an order may be found changed between load and close before something must be wrong with it.
const ROUNDS_MAX: u32 = 4;

#[async_trait]
impl Handler for Settler {
    async fn handle(
        &self,
        due: &BTreeMap<TimeoutId, Attempts>,
        context: &Context,
    ) -> Result<Settled<TimeoutId>, Interrupted> {
        // There is no other in the queues of orders.
        let orders = due.iter().filter_map(|(id, attempts)| Some((id.order()?.clone(), attempts.clone())));
        Ok(Settled::of(self.settle(&orders.collect(), context).await?))
    }

    async fn is_ready(&self, patience: &Patience) -> Result<Option<ServerTime>, Interrupted> {
        self.book.writes.wait_until_ready(&self.book, patience, "orders cannot be settled").await
    }

    fn closed_for(&self) -> Option<Duration> {
        let gateways = self.rules.mode.asks().then(|| self.gateways.closed_for()).flatten();
        gateways.max(self.book.writes.closed_for())
    }
}

impl Settler {
    pub(crate) fn new(book: &SharedBook, gateways: &Gateways, mode: Mode, unknown: UnknownOrders) -> Self {
        Self {
            book: book.clone(),
            rules: Rules::new(mode, &gateways.settings, unknown),
            metrics: gateways.metrics(),
            warnings: trace::Throttle::default(),
            gateways: gateways.clone(),
        }
    }

    /// Settles these orders, with their attempts so far, until the outcome of each is known.
    pub(crate) async fn settle(
        &self,
        due: &BTreeMap<OrderId, Attempts>,
        context: &Context,
    ) -> Result<Settled, Interrupted> {
        let patience = &context.patience;
        let mut progress = Progress::new(due, &self.gateways, self.book.writes.begin());
        let (by, trace) = (&context.by, context.trace.as_ref());
        let book = &self.book.book;
        while self.begin_round(&mut progress, patience).await? {
            let orders = std::mem::take(&mut progress.open);
            let loads = self.calls(&self.book.loads, patience, "orders cannot be loaded");
            let loaded = loads.in_parts(&orders, progress.settled.time, |part| book.load(part, None)).await?;
            progress.settled.time = loaded.time;
            let now = loaded.time.now();
            let mut plan = self.rules.plan(&progress.opened(&loaded), &progress.answers, now);
            for (id, questions) in plan.ask.drain(..) {
                progress.asking.ask(id, questions, loaded.time);
            }
            let refused = self.set_aside(&plan, patience).await?;
            let closes = self.calls(&self.book.writes, patience, "orders cannot be closed");
            let closed = closes.in_parts(&plan.close, loaded.time, |part| book.settle(part, by, trace)).await?;
            let pays = self.calls(&self.book.writes, patience, "payments cannot be recorded");
            let credited = pays.in_parts(&plan.pay, loaded.time, |part| book.pay(part, by, trace)).await?;
            for (id, item) in closed.items {
                if let ItemReply::Done(closed) = &item {
                    self.count_close(&id, closed);
                }
                progress.take(id, item, |_| Some(Outcome::Closed), now);
            }
            for (id, item) in credited.items {
                progress.take_credited(id, item, &plan.pay, now);
            }
            let mut notes = progress.conclude(plan);
            // They are not done with.
            notes.retain(|note| refused.iter().all(|(id, _)| *id != note.id));
            for (id, detail) in refused {
                let reason = ParkReason::RefusedByDatabase;
                progress.settled.outcomes.insert(id, Outcome::Parked { reason, detail });
            }
            self.note(&notes, patience).await?;
        }
        self.report(&progress.settled);
        self.metrics.count(progress.settled.outcomes.values());
        Ok(progress.settled)
    }

    fn calls<'a>(
        &'a self,
        evidence: &'a Evidence,
        patience: &'a Patience,
        trouble: &'static str,
    ) -> Calls<'a, OrderId> {
        Calls { to: &self.book, warnings: &self.book.warnings, evidence, patience, trouble }
    }

    fn count_close(&self, id: &OrderId, closed: &Closed) {
        self.metrics.closed_late(closed.lateness);
        if let Some(skus) = &closed.without_stock
            && self.warnings.lets_through("without stock").is_some()
        {
            tracing::warn!(order = %id, skus, "an order was closed of which not all stock came back: there is no such SKU, or its quantity is none");
        }
    }

    /// Makes sure that there are orders to be loaded: those that have changed in the last round, or those whose
    /// gateways have answered meanwhile. `false`: nothing is open any more.
    async fn begin_round(&self, progress: &mut Progress<'_>, patience: &Patience) -> Result<bool, Interrupted> {
        loop {
            if progress.open.is_empty() {
                let answered = progress.asking.next(patience.shutdown()).await?;
                if answered.is_empty() {
                    return Ok(false);
                }
                self.take_answers(answered, progress);
                continue;
            }
            progress.round += 1;
            let others =
                progress.settled.outcomes.values().any(|outcome| matches!(outcome, Outcome::Closed | Outcome::Paid));
            // Where the first were closed in the last round, what kept the rest from it may have ended just then.
            if progress.round > ROUNDS_MAX && others == progress.after_others {
                self.give_up(progress);
                continue;
            }
            (progress.begun, progress.after_others) = (self.book.writes.begin(), others);
            if progress.round > 2 {
                // Once is a race. Again and again is a trigger, or a policy, that keeps the order from changing.
                let trouble = format!("{} orders", progress.open.len());
                let unchanged = "orders were not closed although they are due";
                patience.pause(&mut progress.delays, unchanged, &trouble).await?;
            }
            return Ok(true);
        }
    }

    fn take_answers(&self, answered: Vec<(Question, AttemptResult)>, progress: &mut Progress<'_>) {
        progress.round = 0;
        progress.delays.reset();
        for (question, AttemptResult { verdict, exists }) in answered {
            // The answers about an order come together.
            if progress.open.last() != Some(&question.id) {
                progress.open.push(question.id.clone());
            }
            progress.answers.add(Answer { question, verdict, exists });
        }
    }

    /// Orders that stay as they are although the book takes the change.
    fn give_up(&self, progress: &mut Progress<'_>) {
        let now = progress.settled.time.now();
        let open = std::mem::take(&mut progress.open);
        let failed: Vec<(&OrderId, Begun)> = open.iter().map(|id| (id, progress.begun)).collect();
        let faults = self.book.writes.judge(&failed, progress.after_others);
        let detail = format!("{ROUNDS_MAX} attempts at closing it changed nothing");
        if faults.contains(&Fault::Book) {
            self.book.writes.holds(&format!("every order stays as it is: {detail}"));
        }
        for (id, fault) in open.into_iter().zip(faults) {
            let outcome = match fault {
                Fault::Book | Fault::Unclear => {
                    let hold = if fault == Fault::Book { HOLD } else { UNCLEAR_HOLD };
                    Outcome::LookAgain { attempts: progress.attempts(&id).clone(), when: When::at(now + hold) }
                }
                Fault::Order => Outcome::Parked { reason: ParkReason::NotClosed, detail: detail.clone() },
            };
            progress.settled.outcomes.insert(id, outcome);
        }
    }

    /// Records what gateways have said, and waits out a book that is away.
    async fn note(&self, notes: &[TradeNote], patience: &Patience) -> Result<(), Interrupted> {
        const TROUBLE: &str = "the answers of gateways cannot be recorded";
        if let Err(error) = patience.until(TROUBLE, is_about_orders, || self.book.book.note(notes)).await? {
            // They save calls, no more: without them the gateways are asked again.
            tracing::error!(%error, "{TROUBLE}");
        }
        Ok(())
    }

    /// Records money that cannot be credited, and waits out a book that is away. Returns the orders of which the book
    /// does not take it, and why.
    async fn set_aside(&self, plan: &Plan, patience: &Patience) -> Result<Vec<(OrderId, String)>, Interrupted> {
        const TROUBLE: &str = "money that cannot be credited cannot be recorded";
        let mut refused = Vec::new();
        for money in &plan.aside {
            let MoneyAside { id, gateway, trade_no, problem, .. } = money;
            tracing::error!(
                gateway,
                trade = trade_no,
                problem,
                "money has come in that cannot be credited; it needs a person"
            );
            let record = || self.book.book.set_aside(std::slice::from_ref(money));
            if let (Err(error), Some(id)) = (patience.until(TROUBLE, is_about_orders, record).await?, id) {
                refused.push((id.clone(), format!("{problem}; and that cannot be recorded: {error}")));
            }
        }
        Ok(refused)
    }

    /// Logs how orders ended that a person may want to know about.
    fn report(&self, settled: &Settled) {
        let mut held: HashMap<&str, Vec<&OrderId>> = HashMap::new();
        let mut parked: BTreeMap<ParkReason, Vec<(&OrderId, &String)>> = BTreeMap::new();
        for (id, outcome) in &settled.outcomes {
            match outcome {
                Outcome::Late => {
                    tracing::info!(order = %id, "a payment came for an order that had ended before; `overdue refunds list` shows what becomes of it");
                }
                Outcome::Parked { reason, detail } => parked.entry(*reason).or_default().push((id, detail)),
                Outcome::Retried(why) if self.warnings.lets_through(&why.to_string()).is_some() => {
                    tracing::warn!(order = %id, %why, "the payment of an order is not clear yet; its gateway is asked again later");
                }
                Outcome::Held(why) => held.entry(why).or_default().push(id),
                _ => {}
            }
        }
        for (reason, orders) in parked {
            let (example, detail) = orders[0];
            tracing::error!(orders = orders.len(), %example, %reason, detail, "orders are parked; a person must look at them");
        }
        for (why, orders) in held.into_iter().filter(|(why, _)| self.warnings.lets_through(why).is_some()) {
            let example = orders.first().map_or("", |id| id.as_str());
            tracing::warn!(
                orders = orders.len(),
                example,
                why,
                "orders wait because their payment gateway cannot be asked"
            );
        }
    }
}

impl<'a> Progress<'a> {
    fn new(due: &'a BTreeMap<OrderId, Attempts>, gateways: &'a Gateways, begun: Begun) -> Self {
        Self {
            due,
            // Until the book has told its time, that of this machine.
            settled: Settled::new(due.len(), ServerTime::from(OffsetDateTime::now_utc())),
            answers: GatewayAnswers::default(),
            asking: Asking::new(gateways),
            open: due.keys().cloned().collect(),
            round: 0,
            begun,
            after_others: false,
            delays: BROKEN.delays(),
        }
    }

    fn attempts(&self, id: &OrderId) -> &'a Attempts {
        static NONE: Attempts = Attempts { made: 0, history: Vec::new() };
        self.due.get(id).unwrap_or(&NONE)
    }

    /// The orders that were loaded, in the order of their IDs.
    fn opened<'b>(&self, loaded: &'b Reply<Loaded>) -> Vec<Open<'b>>
    where
        'a: 'b,
    {
        let open = loaded.items.iter().map(|(id, reply)| Open { id, reply, attempts: self.attempts(id) });
        let mut open: Vec<Open<'b>> = open.collect();
        open.sort_unstable_by_key(|open| open.id);
        open
    }

    /// What the book has replied about an order that was to be changed.
    fn take<R>(
        &mut self,
        id: OrderId,
        item: ItemReply<R>,
        outcome: impl FnOnce(R) -> Option<Outcome>,
        now: OffsetDateTime,
    ) {
        match Outcome::of(item, self.attempts(&id), now, outcome) {
            Some(outcome) => drop(self.settled.outcomes.insert(id, outcome)),
            None => self.open.push(id),
        }
    }

    /// What the book has replied about a payment. Where another payment of the order was made as well, that is next.
    fn take_credited(&mut self, id: OrderId, item: ItemReply<Credited>, paid: &[Payment], now: OffsetDateTime) {
        let recorded = matches!(&item, ItemReply::Done(credited) if *credited != Credited::Unchanged);
        let payment = paid.iter().find(|payment| payment.id == id).filter(|_| recorded);
        let more = payment.is_some_and(|payment| self.answers.is_recorded(payment));
        self.take(id.clone(), item, outcome_of_payment, now);
        if more {
            self.open.push(id);
        }
    }

    /// Takes over the rest of a plan, once its writes are made. Returns what is to be recorded.
    fn conclude(&mut self, plan: Plan) -> Vec<TradeNote> {
        let Plan { mut note, once_closed, ended, rechecks, reload, .. } = plan;
        for (id, outcome) in ended {
            // That nothing more is to be done says nothing of what was done.
            if outcome == Outcome::Unchanged && self.settled.outcomes.contains_key(&id) {
                continue;
            }
            self.settled.outcomes.insert(id, outcome);
        }
        self.settled.rechecks.extend(rechecks);
        self.open.extend(reload);
        for OnceClosed { id, notes, recheck } in once_closed {
            if self.settled.outcomes.get(&id) == Some(&Outcome::Closed) {
                note.extend(notes);
                self.settled.rechecks.extend(recheck);
            }
        }
        note
    }
}

/// `None`: the order must be loaded again.
fn outcome_of_payment(credited: Credited) -> Option<Outcome> {
    match credited {
        Credited::Paid => Some(Outcome::Paid),
        Credited::Already => Some(Outcome::Unchanged),
        Credited::Late | Credited::Twice | Credited::Disputed => Some(Outcome::Late),
        Credited::Shared => {
            let detail = "the transaction that paid it is on record for another trade".to_owned();
            Some(Outcome::Parked { reason: ParkReason::PaymentMismatch, detail })
        }
        Credited::Unchanged => None,
    }
}

#[cfg(test)]
mod tests;
