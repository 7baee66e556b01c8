//! From decisions to the order book: closings and payments, in transactions that take the good with them and leave the
//! bad alone.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use order::{OrderId, ParkReason};
use retry::Policy;

use crate::settling::{Interrupted, Outcome, Settler};
use crate::{BookError, Closing, Credited, Payment, Written};

/// What is to be written into the order book together.
enum Work {
    Close(Vec<Closing>),
    Pay(Vec<Payment>),
}

/// Why some orders could not be written together.
enum Setback {
    /// One of them breaks a rule; what the database said.
    Refused(String),
    /// They are too many for one statement.
    Slow,
}

impl Settler {
    /// Writes, and returns the orders that have changed meanwhile. Where the database refuses the whole, or does
    /// not get through with it in time, it is halved and halved again: until the order that breaks a rule stands
    /// alone, and is parked, or the rest is quick enough.
    pub(crate) async fn write(
        &self,
        closings: Vec<Closing>,
        payments: Vec<Payment>,
        outcomes: &mut HashMap<OrderId, Outcome>,
    ) -> Result<Vec<OrderId>, Interrupted> {
        let mut changed = Vec::new();
        let mut parts = vec![Work::Pay(payments), Work::Close(closings)];
        while let Some(mut part) = parts.pop() {
            match self.write_part(&part).await? {
                Ok(written) => {
                    let known: HashSet<&OrderId> = written.iter().map(|(id, _)| id).collect();
                    changed.extend(part.ids().filter(|id| !known.contains(id)).cloned());
                    outcomes.extend(written);
                }
                Err(_) if part.len() > 1 => parts.extend([part.split_half(), part]),
                // A statement of its own, and it is too slow still.
                Err(Setback::Slow) => outcomes.extend(part.ids().map(|id| (id.clone(), Outcome::Busy))),
                Err(Setback::Refused(detail)) => {
                    let detail = part.of_payment(detail);
                    for id in part.ids() {
                        tracing::error!(order = %id, %detail, "the order cannot be changed; it is parked");
                        let parked = Outcome::Parked { reason: ParkReason::RefusedByDatabase, detail: detail.clone() };
                        outcomes.insert(id.clone(), parked);
                    }
                }
            }
        }
        Ok(changed)
    }

    /// Writes, and waits out a database that is away. A setback is an answer.
    async fn write_part(&self, part: &Work) -> Result<Result<Vec<(OrderId, Outcome)>, Setback>, Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        loop {
            let written = match part {
                Work::Close(closings) => self.close(closings).await,
                Work::Pay(payments) => self.pay(payments).await,
            };
            match written {
                Ok(written) => return Ok(Ok(written)),
                Err(BookError::Refused(detail)) => return Ok(Err(Setback::Refused(detail))),
                Err(BookError::Slow(_)) => return Ok(Err(Setback::Slow)),
                Err(error) => self.wait(&mut delays, "orders cannot be closed", &error).await?,
            }
        }
    }

    async fn close(&self, closings: &[Closing]) -> Result<Vec<(OrderId, Outcome)>, BookError> {
        let Written { done: closed, locked } =
            self.book.settle(closings, &self.actor, self.traceparent.as_ref()).await?;
        for closed in &closed {
            self.counters.lateness.observe(closed.lateness.as_secs_f64());
        }
        let lateness_max = closed.iter().map(|closed| closed.lateness).max().unwrap_or(Duration::ZERO);
        let lateness_max_ms = u64::try_from(lateness_max.as_millis()).unwrap_or(u64::MAX);
        self.counters.lateness_max_ms.fetch_max(lateness_max_ms, Ordering::Relaxed);
        let closed = closed.into_iter().map(|closed| (closed.id, Outcome::Closed));
        Ok(closed.chain(busy(locked)).collect())
    }

    async fn pay(&self, payments: &[Payment]) -> Result<Vec<(OrderId, Outcome)>, BookError> {
        let mut written = Vec::with_capacity(payments.len());
        let Written { done, locked } = self.book.pay(payments, &self.actor.name, self.traceparent.as_ref()).await?;
        for (id, credited) in done {
            let outcome = match credited {
                Credited::Paid => Outcome::Paid,
                Credited::Already => Outcome::Unchanged,
                Credited::Late => {
                    tracing::info!(order = %id, "a payment came for an order that was closed or cancelled before; it goes back");
                    Outcome::Late
                }
                Credited::Twice => {
                    let detail = "another payment of it is on record; one of them must go back".to_owned();
                    tracing::error!(order = %id, "an order was paid twice; it is parked");
                    Outcome::Parked { reason: ParkReason::PaidTwice, detail }
                }
                Credited::Unchanged => continue,
            };
            if outcome == Outcome::Late {
                self.late.notify_one();
            }
            written.push((id, outcome));
        }
        written.extend(busy(locked));
        Ok(written)
    }
}

/// Orders that somebody else has in hand: they are looked at again later, and hold up nobody meanwhile.
fn busy(locked: Vec<OrderId>) -> impl Iterator<Item = (OrderId, Outcome)> {
    if let Some(example) = locked.first() {
        tracing::warn!(orders = locked.len(), %example, "orders are held locked by somebody else; they are looked at again later");
    }
    locked.into_iter().map(|id| (id, Outcome::Busy))
}

impl Work {
    fn len(&self) -> usize {
        match self {
            Self::Close(closings) => closings.len(),
            Self::Pay(payments) => payments.len(),
        }
    }

    fn ids(&self) -> impl Iterator<Item = &OrderId> {
        let (closings, payments): (&[Closing], &[Payment]) = match self {
            Self::Close(closings) => (closings, &[]),
            Self::Pay(payments) => (&[], payments),
        };
        closings.iter().map(|closing| &closing.id).chain(payments.iter().map(|payment| &payment.id))
    }

    /// Money must not go unmentioned.
    fn of_payment(&self, detail: String) -> String {
        match self {
            Self::Pay(payments) => {
                let paid: Vec<&str> = payments.iter().map(|payment| payment.receipt.transaction_id.as_str()).collect();
                format!("paid at the gateway as {}, but: {detail}", paid.join(", "))
            }
            Self::Close(_) => detail,
        }
    }

    /// Takes the second half out.
    fn split_half(&mut self) -> Self {
        let half = self.len() / 2;
        match self {
            Self::Close(closings) => Self::Close(closings.split_off(half)),
            Self::Pay(payments) => Self::Pay(payments.split_off(half)),
        }
    }
}
