//! What to do about parked messages, and the rules of the audit. English stands where the reasons and the rules are made.

use order::ParkReason;

use super::Language;

/// What to do about a message that was parked for this reason; empty where the reason is none of ours.
pub(crate) fn advice(reason: &str, language: Language) -> &'static str {
    let Ok(reason) = reason.parse::<ParkReason>() else { return "" };
    match language {
        Language::English => reason.advice(),
        Language::Chinese => chinese(reason),
    }
}

fn chinese(reason: ParkReason) -> &'static str {
    match reason {
        ParkReason::TooLarge
        | ParkReason::NotUtf8
        | ParkReason::NotJson
        | ParkReason::UnknownVersion
        | ParkReason::NoOrders
        | ParkReason::TooManyOrders
        | ParkReason::MalformedEntry
        | ParkReason::IllegalOrderId
        | ParkReason::IllegalTimerId
        | ParkReason::IllegalCommand => "修正发布方并重新发布，然后丢弃此消息。",
        ParkReason::UnknownKind => "部署认识该类型的版本后重新发送；若类型拼写有误，修正发布方并重新发布，然后丢弃。",
        ParkReason::Unroutable => "运行 overdue topology declare，或修正发布方路由键中的通道，然后重新发送。",
        ParkReason::DeliveryLimit => "在工作进程日志中查找使其崩溃的原因，修复后重新发送。",
        ParkReason::UnknownOrder => "确认订单是否已提交：已提交则重新发送，否则丢弃。",
        ParkReason::UnknownTimer => "确认定时器是否登记过（overdue timer show）：已登记则重新发送，否则丢弃。",
        ParkReason::UnexpectedTimer => {
            "在所有进程的 OVERDUE_TIMER_KINDS 中加入该类型后重新发送；若是拼写错误，登记正确的定时器，取消此定时器，然后丢弃。"
        }
        ParkReason::UnreadableOrder | ParkReason::RefusedByDatabase => "修正详情中指出的数据行，然后重新发送。",
        ParkReason::StaysLocked => "找到锁住该行或其库存的会话，或过慢的触发器，处理后重新发送。",
        ParkReason::NotClosed => "找到阻止该行变更的触发器或策略，然后重新发送。",
        ParkReason::PaymentUnknown => "查看网关上的交易和各次尝试，然后重新发送。",
        ParkReason::PaymentMismatch | ParkReason::RefundedAtGateway => {
            "查看网关上的交易和需要人工处理的退款，手工结清订单，然后丢弃。"
        }
        ParkReason::TradeMissing | ParkReason::IllegalTradeNo => {
            "将 payments 中错误的行设为 state = 'closed'，插入正确的行，然后重新发送。"
        }
        ParkReason::NothingToPay => "将订单标记为已支付或取消，或修正其金额或网关并重新发送；然后丢弃。",
        ParkReason::EventTooLarge => "缩短事件内容，手工通知其订阅者，然后丢弃。",
        ParkReason::WebhookExhausted => "确认端点可用，然后重新发送。",
        ParkReason::WebhookRefused => "在端点日志中查找拒绝该事件的原因，修复后重新发送，或丢弃。",
    }
}

/// A rule of the audit by its name; `english` is the same from the audit itself.
pub(crate) fn check_rule<'a>(name: &str, english: &'a str, language: Language) -> &'a str {
    if language == Language::English {
        return english;
    }
    match name {
        "overdue_pending" => "没有订单超过截止时间（加宽限）仍未处理",
        "reserved_stock" => "每个 SKU 的预留库存等于待支付订单的商品数",
        "closed_once" => "每个已关闭订单的日志中恰有一行关闭记录，每次重新打开多一行",
        "closed_in_fact" => "日志中有关闭记录的订单都已关闭，或曾重新打开",
        "closed_on_time" => "没有订单在当时的截止时间之前关闭",
        "keys_kept" => "幂等键记为关闭的订单都已关闭，或曾重新打开",
        "paid_once" => "网关上的每笔支付都已入账或正在退回",
        "no_refund_of_paid" => "已支付订单的支付没有被退回",
        "asked_before_close" => "需询问网关的订单没有未经询问就关闭",
        "payments_followed" => "仍可能完成的支付都有跟踪，即使订单已结束",
        "not_given_up_early" => "网关不认识的交易在仍可能出现时没有被放弃",
        "payable" => "每个待支付订单都可在网关支付：金额大于零，且交易号合规",
        "refunds_arrive" => "没有退款需要人工处理",
        "refunds_move" => "没有退款等待网关受理超过一小时",
        "parked_for_a_reason" => "没有消息因已用其他方式结清的订单而被搁置",
        "overdue_timers" => "没有定时器超过到期时间（加宽限）仍未触发",
        "timers_on_time" => "没有定时器提前触发",
        "outbox_sent" => "发件箱中没有超时或事件等待超过宽限",
        _ => english,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_what_to_do_in_both_languages() {
        for reason in ParkReason::ALL {
            for language in Language::ALL {
                assert!(advice(reason.code(), language).len() > 20, "{reason}");
            }
        }
        assert_eq!(advice("rejected", Language::English), "", "the broker's own word");
    }
}
