//! What the servers use of the machine: they run on it, as processes that `/proc` tells about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use tests::management;

/// The private servers of `scripts/local`, found by their directory.
#[derive(Clone)]
pub(crate) struct Servers {
    directory: PathBuf,
}

/// CPU seconds since the start of each.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Cpu {
    pub(crate) overdue: f64,
    pub(crate) broker: f64,
    pub(crate) database: f64,
}

impl Cpu {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            overdue: self.overdue - before.overdue,
            broker: self.broker - before.broker,
            database: self.database - before.database,
        }
    }

    pub(crate) fn total(self) -> f64 {
        self.overdue + self.broker + self.database
    }
}

/// In `/proc/*/stat`, times count in these (`getconf CLK_TCK` is 100 on Linux).
const TICKS_PER_SECOND: f64 = 100.0;

impl Servers {
    pub(crate) fn local() -> Result<Self> {
        let directory = std::env::var("OVERDUE_LOCAL_SERVERS").context("run the bench with `make bench`")?;
        Ok(Self { directory: directory.into() })
    }

    /// CPU time of the servers and of these processes of the program.
    pub(crate) fn cpu(&self, overdue: &[u32]) -> Result<Cpu> {
        let postmaster: u32 = first_line(&self.directory.join("postgres/data/postmaster.pid"))?;
        let broker: u32 = first_line(&self.directory.join("rabbitmq/pid"))?;
        let mut cpu = Cpu::default();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let Some(stat) = Stat::of(id) else { continue };
            if id == postmaster {
                // Connections that have ended are among its children's.
                cpu.database += stat.own + stat.ended_children;
            } else if stat.parent == postmaster {
                cpu.database += stat.own;
            } else if id == broker {
                cpu.broker += stat.own;
            } else if overdue.contains(&id) {
                cpu.overdue += stat.own;
            }
        }
        Ok(cpu)
    }

    /// Bytes that the broker keeps on disk.
    pub(crate) fn broker_disk(&self) -> Result<f64> {
        let output = Command::new("du").args(["-sb"]).arg(self.directory.join("rabbitmq/data")).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.split_whitespace().next().and_then(|word| word.parse().ok()).context("du prints a number")
    }

    /// Bytes of memory of the broker: what the queues of a virtual host hold, and the whole node.
    pub(crate) async fn broker_memory(&self, vhost: &str) -> Result<(f64, f64)> {
        // Garbage of the processes is none of what waits.
        let collected = Command::new("scripts/local").args(["rabbitmqctl", "force_gc"]).output()?;
        anyhow::ensure!(
            collected.status.success(),
            "rabbitmqctl force_gc: {}",
            String::from_utf8_lossy(&collected.stderr)
        );
        // The figures of queues are gathered every five seconds.
        tokio::time::sleep(Duration::from_secs(7)).await;
        let queues = management(Method::GET, &["queues", vhost], None).await;
        let queues: f64 = queues.as_array().into_iter().flatten().filter_map(|queue| queue["memory"].as_f64()).sum();
        let nodes = management(Method::GET, &["nodes"], None).await;
        let node = nodes[0]["name"].as_str().context("a node")?.to_owned();
        let memory = management(Method::GET, &["nodes", &node, "memory"], None).await;
        Ok((queues, memory["memory"]["total"]["rss"].as_f64().context("rss")?))
    }

    /// Which machine and servers this is.
    pub(crate) async fn describe(&self, database: &str) -> Value {
        let overview = management(Method::GET, &["overview"], None).await;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
        serde_json::json!({
            "cpu": field(&read("/proc/cpuinfo"), "model name"),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "memory": field(&read("/proc/meminfo"), "MemTotal"),
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "rabbitmq": overview["rabbitmq_version"],
            "erlang": overview["erlang_version"],
            "postgresql": database,
            "commit": commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default(),
        })
    }
}

struct Stat {
    parent: u32,
    own: f64,
    ended_children: f64,
}

impl Stat {
    /// See proc(5); `None`: the process is gone.
    fn of(id: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name in parentheses may contain blanks.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let seconds = |index: usize| fields.get(index)?.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_SECOND);
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: seconds(11)? + seconds(12)?,
            ended_children: seconds(13)? + seconds(14)?,
        })
    }
}

fn first_line<T: std::str::FromStr>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    text.lines()
        .next()
        .and_then(|line| line.trim().parse().ok())
        .with_context(|| format!("{} holds no number", path.display()))
}
