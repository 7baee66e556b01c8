//! Alipay's states and error codes. The `sub_code` counts; `code` is the kind of it
//! (<https://opendocs.alipay.com/common/02km9f>).

use order::{CloseOutcome, TradeState};

use crate::GatewayFault;
use crate::gateway::shortened;

pub(super) fn trade_state(name: &str) -> TradeState {
    match name {
        "WAIT_BUYER_PAY" => TradeState::NotPaid,
        // Of the second no refund is possible any more.
        "TRADE_SUCCESS" | "TRADE_FINISHED" => TradeState::Paid,
        "TRADE_CLOSED" => TradeState::Closed,
        other => TradeState::Unrecognized(shortened(other)),
    }
}

/// What an error means, before it is known what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such trade.
    NotFound,
    /// The trade is closed.
    Closed,
    /// The trade is in a state in which this cannot be done.
    State(String),
    Fault(GatewayFault),
}

pub(super) fn refusal(code: &str, sub_code: &str, message: &str) -> Refusal {
    let (code, sub_code) = (shortened(code), shortened(sub_code));
    let detail = format!("{sub_code} ({code}): {}", shortened(message));
    Refusal::Fault(match sub_code.as_str() {
        "ACQ.TRADE_NOT_EXIST" => return Refusal::NotFound,
        "ACQ.TRADE_HAS_CLOSE" => return Refusal::Closed,
        "ACQ.REASON_TRADE_STATUS_INVALID"
        | "ACQ.REASON_ILLEGAL_STATUS"
        | "ACQ.TRADE_STATUS_ERROR"
        | "ACQ.TRADE_HAS_SUCCESS"
        | "ACQ.TRADE_HAS_FINISHED" => return Refusal::State(sub_code),
        "ACQ.SYSTEM_ERROR" | "isp.unknow-error" | "isp.unknown-error" => GatewayFault::Transient(detail),
        sub if sub.contains("call-limited") => GatewayFault::RateLimited(detail),
        sub if is_identity(sub) => GatewayFault::Unauthenticated(detail),
        sub if sub.starts_with("isv.") || sub == "ACQ.INVALID_PARAMETER" => GatewayFault::Misconfigured(detail),
        _ => match code.as_str() {
            "20000" => GatewayFault::Transient(detail),
            "20001" | "40006" => GatewayFault::Unauthenticated(detail),
            "40001" | "40002" | "40003" => GatewayFault::Misconfigured(detail),
            "40005" => GatewayFault::RateLimited(detail),
            _ => GatewayFault::Rejected { code: sub_code, detail: shortened(message) },
        },
    })
}

fn is_identity(sub_code: &str) -> bool {
    matches!(
        sub_code,
        "isv.invalid-signature"
            | "isv.missing-signature"
            | "isv.missing-signature-key"
            | "isv.invalid-signature-type"
            | "isv.invalid-app-id"
            | "isv.missing-app-id"
            | "isv.insufficient-isv-permissions"
            | "isv.insufficient-user-permissions"
            | "ACQ.ACCESS_FORBIDDEN"
    )
}

impl Refusal {
    /// What the refusal of a close means. Whatever it is, the trade is queried once more.
    pub(super) fn of_close(self) -> Result<CloseOutcome, GatewayFault> {
        match self {
            Self::NotFound => Ok(CloseOutcome::NotFound),
            Self::Closed => Ok(CloseOutcome::AlreadyClosed),
            // Most often it was paid.
            Self::State(_) => Ok(CloseOutcome::AlreadyPaid),
            Self::Fault(fault) => Err(fault),
        }
    }

    /// What the refusal of anything else means, where `NotFound` was looked at before.
    pub(super) fn into_fault(self) -> GatewayFault {
        match self {
            Self::Fault(fault) => fault,
            Self::State(code) => GatewayFault::Rejected { code, detail: "not in this state".to_owned() },
            Self::NotFound | Self::Closed => {
                GatewayFault::Rejected { code: format!("{self:?}"), detail: "unexpected here".to_owned() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str, sub_code: &str) -> String {
        match refusal(code, sub_code, "") {
            Refusal::Fault(fault) => fault.kind().to_owned(),
            other => format!("{other:?}").split('(').next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn codes_mean_what_the_documents_say() {
        for (code, sub_code, meaning) in [
            ("40004", "ACQ.TRADE_NOT_EXIST", "NotFound"),
            ("40004", "ACQ.TRADE_HAS_CLOSE", "Closed"),
            ("40004", "ACQ.REASON_TRADE_STATUS_INVALID", "State"),
            ("40004", "ACQ.TRADE_HAS_FINISHED", "State"),
            ("40004", "ACQ.SYSTEM_ERROR", "transient"),
            ("20000", "isp.unknow-error", "transient"),
            ("20000", "", "transient"),
            ("40002", "isv.invalid-signature", "unauthenticated"),
            ("40002", "isv.invalid-app-id", "unauthenticated"),
            ("20001", "aop.invalid-auth-token", "unauthenticated"),
            ("40006", "isv.insufficient-isv-permissions", "unauthenticated"),
            ("40002", "isv.invalid-parameter", "misconfigured"),
            ("40001", "isv.missing-method", "misconfigured"),
            ("40004", "ACQ.INVALID_PARAMETER", "misconfigured"),
            ("40005", "isv.app-call-limited", "rate_limited"),
            ("40004", "ACQ.SELLER_BALANCE_NOT_ENOUGH", "rejected"),
            ("40004", "ACQ.SOMETHING_NEW", "rejected"),
        ] {
            assert_eq!(kind(code, sub_code), meaning, "{code} {sub_code}");
        }
    }

    #[test]
    fn only_known_names_are_states() {
        assert_eq!(trade_state("TRADE_FINISHED"), TradeState::Paid);
        assert_eq!(trade_state("trade_closed"), TradeState::Unrecognized("trade_closed".to_owned()));
    }
}
