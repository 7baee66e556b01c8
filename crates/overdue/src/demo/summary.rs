//! What the customers did, what the books say, and whether the two fit.

use comfy_table::{Table, presets};
use shop::{Stock, Summary, TimerSummary};

use super::customer::{Fate, Visit};
use super::gateway::{HookCounts, LedgerCounts};
use crate::failure::Failure;
use crate::output::print;

/// What the customers did.
#[derive(Default)]
pub(super) struct Played {
    pub(super) created: u32,
    pub(super) paid: u32,
    pub(super) cancelled: u32,
    pub(super) too_late: u32,
    /// Of those that are paid: at the gateway.
    pub(super) paid_at_gateway: u32,
    /// After they had cancelled.
    pub(super) paid_late: u32,
    /// At two gateways.
    pub(super) paid_twice: u32,
    pub(super) sold: i64,
}

impl Played {
    pub(super) fn add(&mut self, visit: Visit) {
        self.created += 1;
        self.too_late += u32::from(visit.too_late);
        match visit.done {
            Some(Fate::Pay) => {
                self.paid += 1;
                self.sold += visit.quantity;
            }
            Some(fate @ (Fate::PayAtGateway | Fate::PayTwice)) => {
                self.paid_twice += u32::from(fate == Fate::PayTwice);
                self.paid += 1;
                self.paid_at_gateway += 1;
                self.sold += visit.quantity;
            }
            Some(Fate::Cancel) => self.cancelled += 1,
            Some(Fate::CancelAndPayAtGateway) => {
                self.cancelled += 1;
                self.paid_late += 1;
            }
            _ => {}
        }
    }
}

/// The gateways' ledger must agree with the shop's books.
pub(super) fn compare(ledger: &LedgerCounts, played: &Played) -> Result<(), Failure> {
    let Played { paid_late, paid_twice, .. } = *played;
    print(format_args!(
        "their ledger: {} trades paid, {} closed unpaid, {} refunded, {} open still",
        ledger.paid, ledger.closed, ledger.refunded, ledger.open
    ));
    print(format_args!(
        "{paid_late} orders were paid after they were cancelled, {paid_twice} were paid twice: of each, one payment is back"
    ));
    let back = u64::from(paid_late + paid_twice);
    if ledger.open > 0 || ledger.refunds != back || ledger.refunded != back {
        return Err(Failure::negative(format!(
            "the gateways' ledger is not as it must be: {back} payments must be back: {ledger:?}"
        )));
    }
    if ledger.paid != u64::from(played.paid_at_gateway) {
        return Err(Failure::negative(format!(
            "{} orders were paid at a gateway, the ledger says {}",
            played.paid_at_gateway, ledger.paid
        )));
    }
    Ok(())
}

/// Prints how the reminders ended.
pub(super) fn tell_of_timers(timers: &TimerSummary) {
    print(format_args!(
        "timers: {} reminders fired a second before the deadline (late p50 {} ms, p99 {} ms), {} were cancelled in time",
        timers.fired,
        timers.p50.as_millis(),
        timers.p99.as_millis(),
        timers.cancelled
    ));
}

/// Each reminder must have arrived at the shop's own service. An earlier demo may have left some behind, which came, too.
pub(super) fn compare_hooks(hooks: &HookCounts, timers: &TimerSummary) -> Result<(), Failure> {
    let HookCounts { received, events, refused } = *hooks;
    print(format_args!(
        "webhooks: {events} reminders were delivered to the shop's own service in {received} deliveries, {refused} were refused"
    ));
    if i64::try_from(events).unwrap_or(i64::MAX) < timers.fired || refused > 0 {
        let fired = timers.fired;
        return Err(Failure::negative(format!("{fired} reminders have fired, and {events} have arrived")));
    }
    Ok(())
}

/// Prints how the orders ended, and how late.
pub(super) fn print_summary(played: &Played, summary: &Summary, before: Stock, after: Stock) {
    let counts = summary.counts;
    print("\nsummary");
    print(format_args!(
        "created {}, paid {}, cancelled {}, closed {}",
        played.created, counts.paid, counts.cancelled, counts.closed
    ));
    if played.too_late > 0 {
        print(format_args!("{} customers wanted to pay or cancel too late and were refused", played.too_late));
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["payment timeout", "closed", "late p50 (ms)", "late p99 (ms)", "late max (ms)"]);
    for (timeout_s, late) in &summary.lateness {
        table.add_row([
            format!("{timeout_s} s"),
            late.closed.to_string(),
            late.p50.as_millis().to_string(),
            late.p99.as_millis().to_string(),
            late.max.as_millis().to_string(),
        ]);
    }
    print(table);
    print(format_args!(
        "stock before: {} available, {} reserved; after: {} available, {} reserved, {} sold (sum {})",
        before.available,
        before.reserved,
        after.available,
        after.reserved,
        played.sold,
        if before.available == after.available + after.reserved + played.sold { "exact" } else { "WRONG" }
    ));
}
