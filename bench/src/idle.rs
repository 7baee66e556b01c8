//! What a deployment costs in which nothing happens.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::calibration::Calibration;
use crate::results::{Measurement, Run};
use crate::servers::Servers;
use crate::stage::Stage;

pub(crate) const CPU: &str = "CPU of a core %";
pub(crate) const MEMORY: &str = "memory MB";
pub(crate) const CONNECTIONS: &str = "database connections";
const TRANSACTIONS: &str = "transactions/s";

/// For how long.
const FOR: Duration = Duration::from_secs(20);

/// All roles in one process.
pub(crate) async fn measure(servers: &Servers, calibration: &Calibration, runs: usize) -> Result<Measurement> {
    let run = async || {
        let stage = Stage::set(servers).await;
        let arguments = ["--only", "relay,worker,sweep,api", "--listen", "127.0.0.1:0"];
        let watched = stage.start_quietly(&arguments, "consuming").await?;
        watched.processes[0].says("sweeping").await;
        // Until the last connection has been opened.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let transactions = "select xact_commit from pg_stat_database where datname = current_database()";
        let (before, made_before) = (stage.used(&watched)?, stage.world.number(transactions).await);
        tokio::time::sleep(FOR).await;
        let used = stage.used(&watched)?.since(before);
        let made = stage.world.number(transactions).await - made_before;
        let id = watched.processes[0].id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kilobytes: f64 = resident.trim().trim_end_matches(" kB").parse()?;
        let mut run = Run { cpu: Some(used), ..Run::default() };
        run.more.insert(CPU, used.overdue / FOR.as_secs_f64() * 100.0);
        run.more.insert(MEMORY, kilobytes / 1024.0);
        run.more.insert(TRANSACTIONS, made as f64 / FOR.as_secs_f64());
        let connections = "select count(*) from pg_stat_activity
                           where datname = current_database() and application_name like 'overdue%'";
        run.more.insert(CONNECTIONS, stage.world.number(connections).await as f64);
        stage.close(Some(watched)).await?;
        Ok(run)
    };
    Ok(Measurement {
        name: "idle".to_owned(),
        what: format!("idle: all roles in one process, for {} s", FOR.as_secs()),
        beside: "",
        runs: calibration.repeat(runs, run).await?,
    })
}
