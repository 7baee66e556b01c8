//! The gateway's states and error codes. The JSON `code` counts: a code can come with different HTTP statuses and
//! spellings, and the message is for people.

use order::{CloseOutcome, TradeState};

use crate::gateway::shortened;
use crate::{GatewayFault, RefundState};

pub(super) fn trade_state(name: &str) -> TradeState {
    match name {
        "SUCCESS" => TradeState::Paid,
        "NOTPAY" => TradeState::NotPaid,
        "CLOSED" => TradeState::Closed,
        "REFUND" => TradeState::Refunded,
        "USERPAYING" => TradeState::UserPaying,
        "PAYERROR" => TradeState::Failed,
        "REVOKED" => TradeState::Revoked,
        other => TradeState::Unrecognized(shortened(other)),
    }
}

pub(super) fn refund_state(name: &str) -> RefundState {
    match name {
        "PROCESSING" => RefundState::Processing,
        "SUCCESS" => RefundState::Succeeded,
        "CLOSED" => RefundState::Closed,
        "ABNORMAL" => RefundState::Abnormal,
        other => RefundState::Unrecognized(shortened(other)),
    }
}

/// What an error means, before it is known what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such trade.
    NotFound,
    /// There is no such thing: said of refunds.
    NoSuchResource,
    Paid,
    Closed,
    UserPaying,
    Fault(GatewayFault),
}

/// `code` is that of the JSON body, if there is one.
pub(super) fn refusal(status: u16, code: Option<&str>, message: &str) -> Refusal {
    let detail = match code {
        Some(code) => format!("{code} (HTTP {status}): {message}"),
        None => format!("HTTP {status} without a code"),
    };
    let Some(code) = code else {
        return Refusal::Fault(match status {
            429 => GatewayFault::RateLimited(detail),
            202 => return Refusal::UserPaying,
            // An empty 404 is a wrong URL, not a missing trade; one answer in the middle of others may also be a
            // proxy's, so it is unknown, not a fault of the settings.
            404 => GatewayFault::Protocol(detail),
            500..=599 | 408 => GatewayFault::Transient(detail),
            _ => GatewayFault::Protocol(detail),
        });
    };
    let folded: String = code.chars().filter(|c| *c != '_').collect();
    match folded.to_ascii_uppercase().as_str() {
        "ORDERNOTEXIST" => Refusal::NotFound,
        "RESOURCENOTEXISTS" => Refusal::NoSuchResource,
        "ORDERPAID" => Refusal::Paid,
        "ORDERCLOSED" => Refusal::Closed,
        "USERPAYING" => Refusal::UserPaying,
        "FREQUENCYLIMITED" | "RATELIMITEXCEEDED" | "RATELIMITED" | "FREQUENCYLIMITEXCEED" => {
            Refusal::Fault(GatewayFault::RateLimited(detail))
        }
        "SYSTEMERROR" | "BANKERROR" => Refusal::Fault(GatewayFault::Transient(detail)),
        "SIGNERROR" | "NOAUTH" => Refusal::Fault(GatewayFault::Unauthenticated(detail)),
        "PARAMERROR" | "INVALIDREQUEST" | "MCHNOTEXISTS" | "APPIDMCHIDNOTMATCH" => {
            Refusal::Fault(GatewayFault::Misconfigured(detail))
        }
        _ if status == 202 => Refusal::UserPaying,
        _ if status == 401 => Refusal::Fault(GatewayFault::Unauthenticated(detail)),
        _ if status == 429 => Refusal::Fault(GatewayFault::RateLimited(detail)),
        _ if status >= 500 => Refusal::Fault(GatewayFault::Transient(detail)),
        _ => Refusal::Fault(GatewayFault::Rejected { code: code.to_owned(), detail: message.to_owned() }),
    }
}

impl Refusal {
    /// What the refusal of a close means.
    pub(super) fn of_close(self) -> Result<CloseOutcome, GatewayFault> {
        match self {
            Self::NotFound => Ok(CloseOutcome::NotFound),
            Self::Paid => Ok(CloseOutcome::AlreadyPaid),
            Self::Closed => Ok(CloseOutcome::AlreadyClosed),
            Self::UserPaying => Ok(CloseOutcome::InProgress),
            Self::NoSuchResource => Err(self.into_fault()),
            Self::Fault(fault) => Err(fault),
        }
    }

    /// What the refusal of anything else means, where `NotFound` was looked at before.
    pub(super) fn into_fault(self) -> GatewayFault {
        match self {
            Self::Fault(fault) => fault,
            other => GatewayFault::Rejected { code: format!("{other:?}"), detail: "unexpected here".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, code: &str) -> String {
        match refusal(status, Some(code), "") {
            Refusal::Fault(fault) => fault.kind().to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_a_code_means_the_same_whatever_the_status() {
        for status in [400, 403, 404, 500] {
            for (code, meaning) in [
                ("ORDERPAID", "Paid"),
                ("ORDER_PAID", "Paid"),
                ("ORDER_CLOSED", "Closed"),
                ("ORDERCLOSED", "Closed"),
                ("USERPAYING", "UserPaying"),
                ("USER_PAYING", "UserPaying"),
                ("ORDER_NOT_EXIST", "NotFound"),
                ("ORDERNOTEXIST", "NotFound"),
                ("FREQUENCY_LIMITED", "rate_limited"),
                ("RATELIMIT_EXCEEDED", "rate_limited"),
                ("RATE_LIMITED", "rate_limited"),
                ("SYSTEM_ERROR", "transient"),
                ("SIGN_ERROR", "unauthenticated"),
                ("NO_AUTH", "unauthenticated"),
                ("PARAM_ERROR", "misconfigured"),
                ("INVALID_REQUEST", "misconfigured"),
                ("MCH_NOT_EXISTS", "misconfigured"),
                ("APPID_MCHID_NOT_MATCH", "misconfigured"),
            ] {
                assert_eq!(kind(status, code), meaning, "{code} with {status}");
            }
        }
        assert_eq!(kind(400, "RULE_LIMIT"), "rejected");
        assert_eq!(kind(400, "TRADE_ERROR"), "rejected");
        assert_eq!(kind(202, "ACCEPTED"), "UserPaying");
        assert_eq!(kind(503, "SOMETHING_NEW"), "transient");
    }

    #[test]
    fn without_a_code_nothing_is_known_of_the_trade() {
        let fault = |status| refusal(status, None, "");
        assert!(matches!(fault(404), Refusal::Fault(GatewayFault::Protocol(_))));
        assert!(matches!(fault(502), Refusal::Fault(GatewayFault::Transient(_))));
        assert!(matches!(fault(429), Refusal::Fault(GatewayFault::RateLimited(_))));
        assert!(matches!(fault(403), Refusal::Fault(GatewayFault::Protocol(_))));
    }

    #[test]
    fn only_known_names_are_states() {
        assert_eq!(trade_state("CLOSED"), TradeState::Closed);
        assert_eq!(trade_state("closed"), TradeState::Unrecognized("closed".to_owned()));
        assert_eq!(refund_state("ABNORMAL"), RefundState::Abnormal);
        assert_eq!(refund_state("LOST"), RefundState::Unrecognized("LOST".to_owned()));
    }
}
