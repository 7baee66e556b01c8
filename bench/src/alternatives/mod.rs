//! Other ways to close orders at their deadlines, put through the same.

mod arming;
mod contest;
mod plain;
pub(crate) mod redis_server;
mod scheduler;

use anyhow::Result;

use crate::alternatives::contest::Amounts;
use crate::alternatives::redis_server::RedisServer;
use crate::alternatives::scheduler::Kind;
use crate::calibration::Calibration;
use crate::results::Measurement;
use crate::servers::Servers;

pub(crate) use scheduler::Scheduler;

const ALL: [(Option<Kind>, &str, &str); 6] = [
    (None, "overdue", "Overdue, relay and worker in one process"),
    (Some(Kind::Scan), "scan", "a scan of the table every second, closing one by one"),
    (Some(Kind::TtlQueue), "ttl_queue", "one TTL queue with a dead-letter exchange, closing one by one"),
    (Some(Kind::Redis), "redis", "a Redis sorted set popped by a script every 100 ms, closing one by one"),
    (Some(Kind::Memory), "memory", "a delay queue in memory, closing one by one"),
    (Some(Kind::MemoryRefilled), "memory_refilled", "the same, filled from the table at its start"),
];

pub(crate) async fn measure(
    servers: &Servers,
    calibration: &Calibration,
    runs: usize,
    burst: u32,
    seconds: u32,
) -> Result<Vec<Measurement>> {
    let redis = RedisServer::start().await?;
    let amounts = Amounts { burst, killed: burst / 2, seconds };
    let mut measurements = Vec::new();
    for (kind, name, what) in ALL {
        let run = async || contest::run(kind, servers, &redis, amounts).await;
        let runs = calibration.repeat(runs, run).await?;
        measurements.push(Measurement { name: format!("alternative_{name}"), what: what.to_owned(), beside: "", runs });
    }
    Ok(measurements)
}
