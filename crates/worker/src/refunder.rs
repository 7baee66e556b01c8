//! Money that goes back: refunds are requested and followed up until they have arrived or need a person.

use std::time::Duration;

use book::{DueRefund, RefundProgress, RefundStep, Refunds, TrailStep};
use futures_util::future::join_all;
use payment::{Refund, RefundRequest, RefundState};
use retry::Policy;
use tokio_util::sync::CancellationToken;

use crate::gateway_client::{CallKind, NoAnswer};
use crate::gateways::Gateways;
use crate::metrics::WorkerMetrics;

/// Follows refunds up, one process beside another: each refund is claimed for a while.
pub struct Refunder {
    refunds: Refunds,
    gateways: Gateways,
    metrics: WorkerMetrics,
}

/// How often the table is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many refunds are claimed at a time.
const CLAIM_MAX: i64 = 64;

/// How long a claim holds. After this time the process that had it is presumed dead. Longer than a call may take with all
/// its waiting.
const LEASE: Duration = Duration::from_secs(120);

/// A refund that is on its way for longer than this is mentioned in the log.
const LONG: Duration = Duration::from_hours(7 * 24);

impl Refunder {
    /// One that has not begun.
    #[must_use]
    pub fn new(refunds: Refunds, gateways: Gateways) -> Self {
        let metrics = gateways.metrics();
        Self { refunds, gateways, metrics }
    }

    /// Works until told to stop. Without gateways it only waits for that.
    pub async fn run(self, shutdown: CancellationToken) {
        let gateways = self.gateways.names();
        if gateways.is_empty() {
            return shutdown.cancelled().await;
        }
        let mut away = Policy::RECONNECT.delays();
        while !shutdown.is_cancelled() {
            let wait = match self.refunds.claim(&gateways, CLAIM_MAX, LEASE).await {
                Ok(due) if !due.is_empty() => {
                    away.reset();
                    let following_up = join_all(due.iter().map(|refund| self.follow_up(refund)));
                    tokio::select! {
                        _ = following_up => continue,
                        // A refund that was requested is requested again later, under the same number.
                        () = shutdown.cancelled() => return,
                    }
                }
                Ok(_) => retry::varied(LOOK_EVERY),
                Err(error) => {
                    let delay = away.next_delay();
                    tracing::warn!(%error, retry_in_ms = delay.as_millis(), "refunds cannot be looked up");
                    delay
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// One step of one refund.
    async fn follow_up(&self, due: &DueRefund) {
        let Some(client) = self.gateways.client(&due.gateway) else { return };
        let (gateway, refund_no) = (&client.gateway, &due.refund_no);
        let request = RefundRequest {
            trade_no: due.trade_no.clone(),
            transaction_id: due.transaction_id.clone(),
            refund_no: refund_no.clone(),
            amount: due.amount.clone(),
            reason: due.reason.clone(),
        };
        let answer = match due.step {
            // Asking again for a refund that exists gives the refund that exists.
            RefundStep::Request => client.call(CallKind::Refund, refund_no, gateway.refund(&request)).await,
            RefundStep::Query => client.call(CallKind::RefundQuery, refund_no, gateway.query_refund(&request)).await,
        };
        let progress = self.judge(due, answer);
        client.tell(TrailStep::Refund, &due.order_id, &format!("{refund_no}: {}", words(due.step, &progress)));
        match &progress {
            RefundProgress::Succeeded(_) => {
                self.metrics.refunds_arrived.inc();
                tracing::info!(order = %due.order_id, refund = due.refund_no, "a refund has arrived");
            }
            RefundProgress::NeedsPerson(problem) => {
                tracing::error!(order = %due.order_id, refund = due.refund_no, problem, "a refund needs a person");
            }
            RefundProgress::Again { problem: Some(problem), wait, .. } => {
                let retry_in_s = wait.as_secs();
                tracing::warn!(order = %due.order_id, refund = due.refund_no, problem, retry_in_s, "a refund does not go on yet");
            }
            RefundProgress::Again { .. } => {}
        }
        if let Err(error) = self.refunds.record(&due.refund_no, &progress).await {
            // The claim ends by itself, and the step is taken again.
            tracing::warn!(%error, refund = due.refund_no, "the progress of a refund cannot be recorded");
        }
    }

    fn judge(&self, due: &DueRefund, answer: Result<Refund, NoAnswer>) -> RefundProgress {
        let settings = &self.gateways.settings;
        let attempts = due.attempts.saturating_add(1);
        // One that was not even accepted for so long is for a person, whatever the reason.
        let too_old = due.step == RefundStep::Request && due.age >= settings.refund_age_max;
        let again = |step, problem: String| {
            if attempts >= settings.attempts_max || too_old {
                return RefundProgress::NeedsPerson(format!("after {attempts} attempts: {problem}"));
            }
            RefundProgress::Again { step, attempts, problem: Some(problem), wait: settings.back_off.delay(attempts) }
        };
        match answer {
            Ok(Refund { state, succeeded_at }) => match state {
                RefundState::Succeeded => RefundProgress::Succeeded(succeeded_at),
                // It may take days. The older it is, the less often it is asked about.
                RefundState::Processing => RefundProgress::Again {
                    step: RefundStep::Query,
                    attempts: 0,
                    problem: (due.age > LONG).then(|| "it has been on its way for more than a week".to_owned()),
                    wait: (due.age / 10).clamp(settings.back_off.initial, settings.back_off.max),
                },
                RefundState::NotFound => again(RefundStep::Request, "the gateway does not know it".to_owned()),
                RefundState::Closed => RefundProgress::NeedsPerson("the gateway gave it up".to_owned()),
                RefundState::Abnormal => RefundProgress::NeedsPerson(
                    "the gateway cannot complete it (the customer's account may be gone); complete it there".to_owned(),
                ),
                RefundState::Unrecognized(name) => {
                    again(due.step, format!("its state is {name:?}, which is not known here"))
                }
            },
            Err(NoAnswer::Fault(fault)) => again(due.step, fault.to_string()),
            Err(NoAnswer::Held(why)) if too_old => {
                RefundProgress::NeedsPerson(format!("its gateway could not be asked for long: {why}"))
            }
            Err(NoAnswer::Held(why)) => RefundProgress::Again {
                step: due.step,
                attempts: due.attempts,
                problem: Some(why),
                wait: settings.hold,
            },
        }
    }
}

fn words(step: RefundStep, progress: &RefundProgress) -> String {
    let asked = if step == RefundStep::Request { "requested" } else { "asked about" };
    match progress {
        RefundProgress::Succeeded(_) => format!("{asked}: it has arrived"),
        RefundProgress::NeedsPerson(why) => format!("{asked}: a person must look: {why}"),
        RefundProgress::Again { problem: Some(problem), .. } => format!("{asked}: {problem}"),
        RefundProgress::Again { .. } => format!("{asked}: accepted, on its way"),
    }
}
