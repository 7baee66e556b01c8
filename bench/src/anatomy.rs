//! What each part of a close costs the database: the settle statement alone, with one part left out at a time.

use anyhow::Result;

use crate::limits;
use crate::results::{Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// A name, what it leaves out, and how.
const PARTS: [(&str, &str, &str); 7] = [
    ("whole", "nothing left out", ""),
    (
        "log",
        "without the row of the log",
        "create trigger skip before insert on order_log for each row execute function skip()",
    ),
    (
        "key",
        "without the idempotency key",
        "create trigger skip before insert on idempotency_keys for each row execute function skip()",
    ),
    ("event", "without the event", "create trigger skip before insert on outbox for each row execute function skip()"),
    ("pending_index", "without the index of pending orders", "drop index orders_pending_by_deadline"),
    ("payments", "with an empty table of payments, vacuumed", "vacuum payments"),
    ("stock", "without items and stock", "delete from order_items; update inventory set reserved = 0"),
];

pub(crate) async fn measure(servers: &Servers, orders: u32, runs: usize) -> Result<Vec<Measurement>> {
    let mut measurements: Vec<Measurement> = PARTS
        .iter()
        .map(|(name, what, _)| Measurement {
            name: format!("anatomy_{name}"),
            what: format!("the settle statement alone, {orders} orders, {what}"),
            beside: "",
            runs: Vec::new(),
        })
        .collect();
    // Round by round, so that each round shares its noise.
    for _ in 0..runs {
        for ((_, _, statements), measurement) in PARTS.iter().zip(&mut measurements) {
            let stage = Stage::set(servers).await;
            let due = Orders { armed: false, ..Orders::due_at(stage.after(-1.0).await?, orders) };
            stage.seed(due).await?;
            stage
                .world
                .execute("create function skip() returns trigger language plpgsql as 'begin return null; end'")
                .await;
            stage.world.execute(statements).await;
            stage.settle_down().await?;
            measurement.runs.push(Run { rate: Some(limits::settle(&stage, due).await?), ..Run::default() });
            stage.world.close().await;
        }
    }
    let whole = measurements[0].rate();
    for measurement in &mut measurements {
        let saved = 1e6 / whole - 1e6 / measurement.rate();
        for run in &mut measurement.runs {
            run.more.insert("µs an order less", saved);
        }
    }
    Ok(measurements)
}
