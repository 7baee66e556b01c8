//! Whether the machine was quiet while something was measured. Virtual machines share their cores with others.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::results::Run;

/// A fixed piece of work, and how long it takes on this machine when nothing disturbs it.
pub(crate) struct Calibration {
    best: Duration,
}

/// Slower than this, the machine is not quiet.
const SLOWDOWN_MAX: f64 = 1.15;

/// If others had more than this share of our cores meanwhile, neither.
const STOLEN_MAX: f64 = 0.03;

/// How often a disturbed run is made at most.
const TRIES: usize = 3;

/// In [`Run::more`]: by how much the fixed work was slower than at best, before or after, whichever is worse.
pub(crate) const SLOWDOWN: &str = "calibration %";

impl Calibration {
    pub(crate) fn new() -> Self {
        let best = (0..10).map(|_| fixed_work()).min().unwrap_or_default();
        Self { best }
    }

    /// Runs between two calibrations, once more if it was disturbed. After some tries the last one counts.
    pub(crate) async fn quiet(&self, mut run: impl AsyncFnMut() -> Result<Run>) -> Result<Run> {
        for try_number in 1.. {
            let (before, stolen) = (self.slowdown().await, stolen_and_total());
            let mut measured = run().await?;
            let stolen = stolen_share(stolen, stolen_and_total());
            let slowdown = before.max(self.slowdown().await);
            measured.more.insert(SLOWDOWN, (slowdown - 1.0) * 100.0);
            if slowdown <= SLOWDOWN_MAX && stolen <= STOLEN_MAX || try_number == TRIES {
                return Ok(measured);
            }
            eprintln!(
                "        disturbed: the fixed work took {slowdown:.2} times as long as at best, {:.1} % of the cores were elsewhere; once more",
                stolen * 100.0
            );
        }
        unreachable!("the last try returns")
    }

    /// So many runs.
    pub(crate) async fn repeat(&self, runs: usize, mut run: impl AsyncFnMut() -> Result<Run>) -> Result<Vec<Run>> {
        let mut all = Vec::with_capacity(runs);
        for _ in 0..runs {
            all.push(self.quiet(&mut run).await?);
        }
        Ok(all)
    }

    async fn slowdown(&self) -> f64 {
        // What the servers still have to do after a run is not the machine's noise.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = (0..5).map(|_| fixed_work()).min().unwrap_or_default();
        now.as_secs_f64() / self.best.as_secs_f64()
    }
}

/// The same arithmetic on every core; how long the last of them takes.
fn fixed_work() -> Duration {
    let begun = Instant::now();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for seed in 1..=cores as u64 {
            scope.spawn(move || {
                let mut state = seed;
                for _ in 0..10_000_000 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                }
                std::hint::black_box(state)
            });
        }
    });
    begun.elapsed()
}

/// From proc(5), `/proc/stat`: time that the hypervisor gave to others, and all time.
fn stolen_and_total() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (fields.get(7).copied().unwrap_or_default(), fields.iter().take(8).sum())
}

fn stolen_share(before: (f64, f64), after: (f64, f64)) -> f64 {
    let total = after.1 - before.1;
    if total > 0.0 { (after.0 - before.0) / total } else { 0.0 }
}
