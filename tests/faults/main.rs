//! With orders flowing in, paid, cancelled and duplicated, one thing after another is killed, cut or filled. After each:
//! no order and no timer is lost, the books are clean, the stock is exact, and every fact was announced and delivered. The last six are no faults of ours but
//! foreign neighbours; the table shows how late the shop's own orders were closed beside them.
//!
//! `make faults` does each often and prints the table; `make test` does each once. The servers that are killed are the
//! private ones of `make up`.

mod neighbours;
mod scenarios;
mod shop;
mod stage;
mod webhooks;

use std::fmt::Write as _;
use std::time::Instant;

use crate::scenarios::{SCENARIOS, Scenario};
use crate::shop::Books;

/// What came of a scenario.
struct Row {
    name: &'static str,
    times: u32,
    books: Books,
    took_s: u64,
}

/// How often each fault is made: `OVERDUE_FAULT_ROUNDS`, and once in a plain test run.
fn rounds() -> u32 {
    std::env::var("OVERDUE_FAULT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Only those whose name contains this: `OVERDUE_FAULT_ONLY`.
fn wanted(name: &str) -> bool {
    std::env::var("OVERDUE_FAULT_ONLY").ok().is_none_or(|part| name.contains(&part))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_nothing_is_lost() {
    let mut rows = Vec::new();
    for Scenario { name, run } in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        let begun = Instant::now();
        println!("{name} ...");
        let (times, books) = run(rounds()).await;
        println!("{name}: {times} times, {} orders, {}", books.orders, books.verdict());
        rows.push(Row { name, times, books, took_s: begun.elapsed().as_secs() });
    }
    let table = table(&rows);
    println!("\n{table}");
    assert!(!rows.is_empty(), "no fault was made");
    let bad: Vec<&str> = rows.iter().filter(|row| row.books.verdict() != "clean").map(|row| row.name).collect();
    assert!(bad.is_empty(), "something was lost or wrong: {bad:?}\n{table}");
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:44} {:>5} {:>7} {:>7} {:>6} {:>9} {:>8} {:>7} {:>7} {:>9} {:>5} {:>8} {:>5}  books\n",
        "fault",
        "times",
        "orders",
        "closed",
        "paid",
        "cancelled",
        "rescued",
        "timers",
        "events",
        "delivered",
        "lost",
        "late max",
        "took"
    );
    for Row { name, times, books, took_s } in rows {
        let _ = writeln!(
            text,
            "{name:44} {times:>5} {:>7} {:>7} {:>6} {:>9} {:>8} {:>7} {:>7} {:>9} {:>5} {:>7.2}s {took_s:>4}s  {}",
            books.orders,
            books.closed,
            books.paid,
            books.cancelled,
            books.rescued,
            books.timers,
            books.events,
            books.delivered,
            books.lost,
            books.late_max_s,
            books.verdict()
        );
    }
    let orders: u64 = rows.iter().map(|row| row.books.orders).sum();
    let lost: u64 = rows.iter().map(|row| row.books.lost).sum();
    let times: u32 = rows.iter().map(|row| row.times).sum();
    let _ = writeln!(text, "\n{times} faults, {orders} orders, {lost} lost");
    text
}
