//! Waiting out a server that is away.

use std::fmt;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use retry::{Delays, Policy};
use tokio_util::sync::CancellationToken;

/// For how long, and until when at the latest, a server that is away is waited for. Work is held meanwhile: a batch that
/// was given back would come again at once, and count against its queue's delivery limit.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    shutdown: CancellationToken,
    /// `None`: as long as it takes.
    ends: Option<Instant>,
    waits: Counter,
}

/// The program is to stop, or patience has come to its end, while something has to be waited out. The work under way is
/// given up, unacked.
#[derive(Debug)]
pub(crate) struct Interrupted;

/// Between tries of something that failed a moment ago: short, so that a message that breaks sessions again and again is
/// soon at its delivery limit and out of the way.
pub(crate) const BROKEN: Policy = Policy { initial: Duration::from_millis(100), max: Duration::from_millis(500) };

impl Patience {
    /// Patience without an end but `shutdown`. Each wait is counted.
    pub(crate) fn endless(shutdown: CancellationToken, waits: Counter) -> Self {
        Self { shutdown, ends: None, waits }
    }

    /// The same, for this long from now on.
    pub(crate) fn lasting(&self, limit: Duration) -> Self {
        Self { ends: Some(Instant::now() + limit), ..self.clone() }
    }

    /// The program's wish to stop.
    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Whether patience has come to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.ends.is_some_and(|end| Instant::now() > end)
    }

    /// Calls until there is an answer: a success, or an error that `is_answer` says is one. Other errors are waited out.
    pub(crate) async fn until<T, E: fmt::Display, F: Future<Output = Result<T, E>>>(
        &self,
        trouble: &str,
        is_answer: fn(&E) -> bool,
        mut call: impl FnMut() -> F,
    ) -> Result<Result<T, E>, Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        loop {
            match call().await {
                Err(error) if !is_answer(&error) => self.pause(&mut delays, trouble, &error).await?,
                answer => return Ok(answer),
            }
        }
    }

    /// Waits before the next try.
    pub(crate) async fn pause(
        &self,
        delays: &mut Delays,
        trouble: &str,
        error: &impl fmt::Display,
    ) -> Result<(), Interrupted> {
        self.waits.inc();
        let delay = delays.next_delay();
        if self.ends.is_some_and(|end| Instant::now() + delay > end) {
            tracing::warn!(%error, "{trouble}; given up for now");
            return Err(Interrupted);
        }
        tracing::warn!(%error, retry_in_ms = delay.as_millis(), "{trouble}");
        tokio::select! {
            () = tokio::time::sleep(delay) => Ok(()),
            () = self.shutdown.cancelled() => Err(Interrupted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience() -> Patience {
        Patience::endless(CancellationToken::new(), Counter::default())
    }

    #[tokio::test]
    async fn trouble_is_waited_out_and_an_answer_is_not() {
        let patience = patience();
        let mut calls = 0;
        let answer = patience.until(
            "trouble",
            |error: &&str| *error == "answer",
            || {
                calls += 1;
                std::future::ready(Err::<(), _>(if calls < 3 { "trouble" } else { "answer" }))
            },
        );
        assert_eq!(answer.await.unwrap(), Err("answer"));
        assert_eq!((calls, patience.waits.get()), (3, 2));
    }

    #[tokio::test]
    async fn patience_ends_and_so_does_waiting_when_the_program_stops() {
        let short = patience().lasting(Duration::ZERO);
        let never = || std::future::ready(Err::<(), _>("trouble"));
        assert!(short.until("trouble", |_| false, never).await.is_err());

        let patience = patience();
        let waiting = patience.until("trouble", |_: &&str| false, never);
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            patience.shutdown().cancel();
        };
        let (ended, ()) = tokio::join!(waiting, stopping);
        assert!(ended.is_err());
    }
}
