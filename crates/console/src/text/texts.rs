/// Declares each text in both languages.
macro_rules! texts {
    ($($name:ident: $english:literal, $chinese:literal;)*) => {
        /// Every text of the pages. `{}` stands for a value.
        pub(crate) struct Texts {
            $(pub(crate) $name: &'static str,)*
        }

        /// In English.
        pub(crate) const EN: Texts = Texts { $($name: $english,)* };

        /// In Chinese.
        pub(crate) const ZH: Texts = Texts { $($name: $chinese,)* };

        #[cfg(test)]
        impl Texts {
            pub(crate) fn all(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

texts! {
    // The frame of every page.
    now: "Now", "现在";
    lanes: "Lanes and queues", "延迟通道与队列";
    orders: "Orders", "订单";
    parked: "Parked messages", "搁置消息";
    refunds: "Refunds", "退款";
    gateways: "Gateways and endpoints", "支付网关与端点";
    processes: "Processes", "进程";
    timers: "Timers", "定时器";
    doctor: "Doctor", "诊断";
    audit: "Audit", "对账";
    actions: "Operator actions", "操作记录";
    skip: "Skip to the content", "跳到正文";
    navigation: "Pages", "页面";
    language: "Language", "语言";
    refresh: "Refresh", "刷新";
    refresh_every: "Refresh every", "刷新间隔";
    refresh_off: "off", "关";
    seconds_short: "{} s", "{} 秒";
    you_are: "{}, may {}", "{}，可{}";
    may_look: "look", "查看";
    may_act: "act", "操作";
    looked_at: "Looked at", "查看时间";
    no_answer: "This page's server does not answer. What you see is old.", "页面服务器没有应答，以下为旧数据。";
    away_database: "The database cannot be asked", "数据库无法查询";
    away_broker: "RabbitMQ cannot be asked", "RabbitMQ 无法查询";
    away_since: "since", "自";
    away_shown: "What is shown below was true at", "下面显示的是此刻的状态：";
    away_nothing: "Nothing is known from before.", "没有此前的数据。";
    cannot_look: "This cannot be looked up now: {}", "现在无法查询：{}";
    not_found_title: "There is no such page", "没有这个页面";
    not_found: "The address leads nowhere. The pages are in the menu.", "该地址不存在，请使用菜单。";
    refused_title: "Not allowed", "不允许";
    failed_title: "Not done", "未完成";
    back: "Back", "返回";
    more: "More", "更多";
    none: "None.", "无。";
    not_known: "Not known.", "未知。";
    or_more: "{} or more", "{} 以上";
    ago: "{} ago", "{}前";
    in_time: "in {}", "{}后";
    why_disabled: "You may look. Somebody with the role act may press this.", "您只能查看；此操作需要 act 角色。";
    why_no_broker: "This process has no RabbitMQ (OVERDUE_AMQP_URL).", "本进程没有配置 RabbitMQ（OVERDUE_AMQP_URL）。";
    note: "Note", "备注";
    reason: "Reason", "原因";
    note_help: "It is kept with your name.", "将与您的名字一起保存。";
    state: "State", "状态";
    since: "Since", "自";
    problem: "Problem", "问题";
    advice: "What to do", "处理办法";
    count: "Count", "数量";
    detail: "Detail", "详情";
    at: "When", "时间";
    who: "Who", "操作者";
    what: "What", "内容";
    // Now.
    all_is_well: "Nothing is wrong.", "一切正常。";
    wrong_count: "Needs a look: {}", "需要关注：{}";
    unknown_now: "It is not known whether anything is wrong.", "现在不知道是否正常。";
    c_overdue: "Orders past their deadline and not closed: {}", "已过期却未关闭的订单：{}";
    c_parked: "Parked messages: {} ({})", "搁置消息：{}（{}）";
    c_refunds: "Refunds that need a person: {}", "需要人工处理的退款：{}";
    c_refunds_waiting: "Refunds that have waited for an hour or more to be accepted: {}", "等待受理超过一小时的退款：{}";
    c_gateway: "Gateway {} is not asked: {}", "网关 {} 已暂停询问：{}";
    c_endpoint: "Endpoint {} is given up for a while: {}", "端点 {} 已暂停投递：{}";
    c_stopped: "Endpoint {} is stopped by {}: {}", "端点 {} 已被 {} 停止：{}";
    c_outbox: "Rows in the outbox that no relay sends: {}", "发件箱中没有中继发送的行：{}";
    c_timers: "Timers past their time that have not fired: {}", "已到期却未触发的定时器：{}";
    c_not_swept: "No process sweeps: an order whose message is lost stays open", "没有进程在清扫：丢失消息的订单不会关闭";
    c_letters: "Queue {} holds {} expired messages that nobody takes", "队列 {} 滞留 {} 条无人接收的过期消息";
    c_no_consumer: "Queue {} has messages and no consumer", "队列 {} 有消息却没有消费者";
    c_abandoned: "How an action of {} ended is not known: {}", "{} 的操作结果未知：{}";
    lateness: "How late orders close", "订单关闭的延迟";
    lateness_help: "From the deadline to the close, by the database's clock. A bound: so many were no later.", "从截止时间到关闭，以数据库时钟为准。数值为上界。";
    span: "Span", "时段";
    span_1: "this minute and the last", "本分钟与上一分钟";
    span_5: "5 minutes", "5 分钟";
    span_60: "60 minutes", "60 分钟";
    closed: "Closed", "已关闭";
    per_second: "A second", "每秒";
    half: "Half", "一半（p50）";
    ninety_nine: "99 of 100", "百分之 99（p99）";
    worst: "Worst", "最大";
    chart: "Lateness by minute, in the last hour; the table has the figures", "最近一小时每分钟的延迟；数字见表格";
    work: "What waits", "等待处理";
    due_in_minutes: "Orders due in 5 minutes", "5 分钟内到期的订单";
    due_in_an_hour: "Orders due in an hour", "一小时内到期的订单";
    timers_due: "Timers due in an hour", "一小时内到期的定时器";
    outbox_timeouts: "Timeouts in the outbox", "发件箱中的超时";
    outbox_events: "Rows of events in the outbox", "发件箱中的事件行";
    held_orders: "Orders held in memory until they are due", "内存中等待到期的订单";
    oldest: "oldest", "最早";
    // Lanes.
    queue: "Queue", "队列";
    ttl: "Waits for", "等待时长";
    waiting: "Waiting", "等待中";
    unacked: "In hand", "处理中";
    letters: "Held", "滞留";
    letters_help: "Held: expired, and their next queue has not confirmed them.", "滞留：已过期，但下一队列尚未确认。";
    consumers: "Consumers", "消费者";
    due_queues: "Due queues", "到期队列";
    lanes_ours: "Lanes of the relay", "中继的延迟通道";
    lanes_foreign: "Lanes of other publishers", "其他发布者的延迟通道";
    endpoint_queues: "Queues of endpoints", "端点队列";
    other_queues: "Others", "其他";
    empty_queues: "Empty: {}", "空队列：{}";
    by_management: "By the management API.", "来自管理接口。";
    by_amqp: "By AMQP, which tells less: set OVERDUE_MANAGEMENT_URL for more.", "来自 AMQP，信息较少；设置 OVERDUE_MANAGEMENT_URL 可获得更多。";
    no_broker: "This process has no RabbitMQ: set OVERDUE_AMQP_URL or OVERDUE_MANAGEMENT_URL.", "本进程没有配置 RabbitMQ：请设置 OVERDUE_AMQP_URL 或 OVERDUE_MANAGEMENT_URL。";
    // Orders.
    order_id: "Order ID, or how it begins", "订单号或其开头";
    find: "Find", "查找";
    found: "Orders that begin like this", "以此开头的订单";
    found_none: "No order is called {}, or begins like this.", "没有订单号为 {} 或以此开头的订单。";
    overdue_now: "Past their deadline and not closed", "已过期却未关闭";
    deadline: "Deadline", "截止时间";
    amount: "Amount", "金额";
    order: "Order", "订单";
    unknown_order: "The database has no order {}. What is known of the ID is below.", "数据库中没有订单 {}。关于此编号的已知信息如下。";
    created_at: "Created", "创建时间";
    items: "Items", "商品";
    payments: "Payments", "支付";
    transaction: "Transaction", "交易号";
    story: "What happened", "经过";
    story_help: "In a burst of orders, not every step of the way is written down. Steps are kept for a week.", "订单突发时，途中步骤可能未全部记录；步骤保存一周。";
    next: "What happens next", "接下来";
    close_now: "Close now", "立即关闭";
    close_help: "It closes as at its deadline: its gateway is asked first.", "与到期时一样关闭：先询问支付网关。";
    extend: "Extend", "延长";
    extend_by: "By", "延长时间";
    minutes: "{} minutes", "{} 分钟";
    hours: "{} hours", "{} 小时";
    look_again: "Look again", "重新检查";
    look_again_help: "A worker looks at it at once: status, deadline and gateway decide.", "工作进程立即检查：由状态、截止时间和网关决定。";
    why_not_pending: "The order is {}.", "订单状态为 {}。";
    why_past: "Its deadline has passed: it is about to be closed.", "截止时间已过，即将关闭。";
    n_outbox: "A timeout waits in the outbox. The relay sends it within a quarter of a second.", "超时在发件箱中等待，中继将在四分之一秒内发送。";
    n_outbox_events: "{} events wait in the outbox for the relay.", "{} 个事件在发件箱中等待中继。";
    n_lane: "Its message comes out of its lanes, and it is held in memory for the last seconds.", "消息离开延迟通道，最后几秒在内存中等待。";
    n_hop: "Its message goes on to the lane {}.", "消息进入延迟通道 {}。";
    n_due: "It falls due: unless it is paid, it closes.", "到期：未支付则关闭。";
    n_sweep: "If no message has come, the sweep closes it.", "若消息未到，由清扫关闭。";
    n_past: "It is past its deadline. {}", "已过截止时间。{}";
    n_past_worker: "A worker is at it, or the sweep looks at it within two minutes.", "工作进程正在处理，或两分钟内由清扫处理。";
    n_ask: "Its payment {} at {} is open still; the gateway is asked again.", "支付 {}（{}）仍未结束；将再次询问网关。";
    n_refund: "Refund {} is taken up again.", "退款 {} 将再次处理。";
    n_refund_person: "Refund {} needs a person.", "退款 {} 需要人工处理。";
    n_parked: "Message {} waits for a person: {}.", "消息 {} 等待人工处理：{}。";
    n_timer: "Timer {} fires.", "定时器 {} 触发。";
    n_nothing: "Nothing. The order has ended.", "没有了，订单已结束。";
    n_no_relay: "No relay is at work: nothing is sent.", "没有中继在运行，不会发送。";
    n_no_worker: "No worker is at work: nothing is closed but by the sweep.", "没有工作进程在运行，只能由清扫关闭。";
    // Steps of a story.
    s_created: "created and armed", "已创建并登记";
    s_relayed: "sent to RabbitMQ", "已发送到 RabbitMQ";
    s_announced: "event sent", "事件已发送";
    s_came: "came to a worker", "到达工作进程";
    s_sent_on: "sent on", "继续等待";
    s_asked: "gateway asked", "询问网关";
    s_notified: "notification", "网关通知";
    s_refund: "refund", "退款";
    s_delivered: "webhook delivered", "Webhook 已投递";
    s_undelivered: "webhook not taken", "Webhook 未被接收";
    s_deadline_moved: "deadline moved", "截止时间变更";
    s_paid: "paid", "已支付";
    s_cancelled: "cancelled", "已取消";
    s_closed: "closed", "已关闭";
    s_pending: "opened again", "重新打开";
    s_refund_recorded: "late payment: refund recorded", "迟到支付：已登记退款";
    s_refund_succeeded: "refund arrived", "退款到账";
    s_trade_not_found: "gateway knew no such trade", "网关无此交易";
    s_timer_armed: "timer armed", "定时器已登记";
    s_timer_fired: "timer fired", "定时器已触发";
    s_timer_cancelled: "timer cancelled", "定时器已取消";
    s_payment_begun: "payment begun", "开始支付";
    s_parked: "message parked", "消息被搁置";
    s_requeued: "parked message sent in again", "搁置消息已重发";
    s_dropped: "parked message dropped", "搁置消息已丢弃";
    s_operator: "operator", "操作员";
    // Parked messages.
    groups: "By reason", "按原因";
    first: "First", "最早";
    last: "Last", "最近";
    list: "List", "列表";
    requeue: "Send in again", "重新发送";
    drop: "Drop", "丢弃";
    restore: "Have back", "恢复";
    undo: "Undo", "撤销";
    show_dropped: "Dropped in the last day", "一天内丢弃的";
    show_held: "Waiting for a person", "等待人工处理";
    message: "Message", "消息";
    times: "Came", "次数";
    orders_of: "Orders", "订单";
    choose_all: "Choose all on this page", "选择本页全部";
    choose: "Choose message {}", "选择消息 {}";
    chosen_requeue: "Send the chosen in again", "重新发送所选";
    chosen_drop: "Drop the chosen", "丢弃所选";
    chosen_restore: "Have the chosen back", "恢复所选";
    filter_order: "Of this order or timer", "属于此订单或定时器";
    routing_key: "Routing key", "路由键";
    attempts: "Attempts", "尝试次数";
    history: "History", "历史";
    headers: "Headers", "消息头";
    properties: "Properties", "属性";
    body_text: "Body as text", "正文（文本）";
    body_hex: "Body as bytes", "正文（字节）";
    bytes_left_out: "The first {} of {} bytes.", "前 {} 字节，共 {} 字节。";
    unknown_message: "There is no message {}. It may have been sent in again or dropped more than a day ago.", "没有消息 {}，可能在一天前已重发或丢弃。";
    confirm_title: "Are you sure?", "确定吗？";
    confirm_requeue: "Messages that are sent in again, with no attempts made: {}", "将重新发送的消息（尝试次数清零）：{}";
    confirm_drop: "Messages that are dropped, and can be had back for 24 hours: {}", "将丢弃的消息（24 小时内可恢复）：{}";
    confirm_restore: "Messages that are parked again: {}", "将恢复的消息：{}";
    confirm_cutoff: "Only messages up to number {}: what comes meanwhile is left alone.", "只处理编号不大于 {} 的消息；其间新来的不受影响。";
    nothing_chosen: "No message was chosen.", "没有选择消息。";
    yes_requeue: "Yes, send them in again", "确定重新发送";
    yes_drop: "Yes, drop them", "确定丢弃";
    yes_restore: "Yes, have them back", "确定恢复";
    progress: "{} of {}", "已处理 {} / {}";
    m_held: "waits for a person", "等待人工处理";
    m_requeued: "sent in again by {}", "由 {} 重新发送";
    m_dropped: "dropped by {}", "由 {} 丢弃";
    // Refunds.
    needs_person: "They need a person", "需要人工处理";
    on_their_way: "On their way, and done", "进行中与已完成";
    why: "Why", "原因";
    said: "What the gateway signed", "网关签名内容";
    resolve: "Done with", "已处理";
    resolve_note: "What was done about it", "处理情况";
    retry: "Ask for it again", "再次申请";
    no_refunds: "No refund needs a person.", "没有需要人工处理的退款。";
    r_requested: "requested", "已申请";
    r_processing: "on its way", "进行中";
    r_succeeded: "done", "已完成";
    r_needs_person: "needs a person", "需要人工处理";
    amount_untold: "not told", "未告知";
    // Gateways and endpoints.
    gateway: "Gateway", "支付网关";
    endpoint: "Endpoint", "端点";
    call: "Call", "调用";
    circuit: "Circuit", "熔断器";
    circuit_closed: "closed: it is asked", "闭合：正常询问";
    circuit_open: "open: it is not asked", "断开：暂停询问";
    endpoint_closed: "delivered to", "正常投递";
    endpoint_open: "given up for a while", "暂停投递";
    endpoint_stopped: "stopped by {}: {}", "已被 {} 停止：{}";
    last_fault: "Last fault", "最近故障";
    next_probe: "Next probe", "下次探测";
    in_flight: "Under way", "进行中";
    probe_now: "Probe now", "立即探测";
    probe_help: "Each process tries it with its next call, within five seconds.", "各进程将在五秒内的下一次调用中尝试。";
    stop: "Stop", "停止";
    resume: "Go on", "恢复投递";
    default_gateway: "default", "默认";
    no_gateways: "No gateway is set up in any process.", "没有进程配置支付网关。";
    no_endpoints: "No process delivers to endpoints.", "没有进程投递到端点。";
    // Processes.
    host: "Host", "主机";
    pid: "PID", "进程号";
    version: "Version", "版本";
    roles: "Roles", "角色";
    up: "Up for", "运行时长";
    last_seen: "Last seen", "最近心跳";
    leads: "leads the sweep", "负责清扫";
    alive: "alive", "存活";
    silent: "silent", "无心跳";
    counters: "Since its start", "自启动以来";
    forget: "Forget", "移除";
    forget_help: "It is gone for good, and is not missed.", "它不会回来，不再视为缺失。";
    rescued: "Settled by the sweep, by hour", "由清扫处理（按小时）";
    rescued_help: "Orders and timers that no message brought in time, in the last day.", "最近一天内没有消息按时送达的订单和定时器。";
    hour: "Hour", "小时";
    no_processes: "No process has said anything in the last hour.", "最近一小时没有任何进程的心跳。";
    // Timers.
    kind: "Kind", "类型";
    subject: "Subject", "对象";
    due: "Due", "到期";
    revision: "Revision", "版次";
    fire: "Fire now", "立即触发";
    cancel: "Cancel", "取消";
    timers_help: "Armed, those due first first.", "已登记，按到期时间排序。";
    timers_of: "Timers of {}", "{} 的定时器";
    t_armed: "armed", "已登记";
    t_fired: "fired", "已触发";
    t_cancelled: "cancelled", "已取消";
    why_not_armed: "It is not armed.", "定时器未登记。";
    // Doctor and audit.
    run_now: "Run now", "立即运行";
    running: "It is running.", "正在运行。";
    ran: "Ran {}, by {}, in {}.", "{}由 {} 运行，耗时 {}。";
    never_ran: "It has not been run from here yet.", "尚未在此运行。";
    doctor_help: "What is wrong with this deployment, and what to do. It asks the servers, as the command does.", "部署有何问题、如何处理；与 overdue doctor 相同。";
    audit_help: "Checks the books, as the command does. It reads whole tables.", "核对账目，与 overdue audit 相同；会读取整表。";
    nothing_wrong: "Nothing was wrong.", "没有发现问题。";
    unchecked: "Not checked", "未检查";
    rule: "Rule", "规则";
    broken_by: "Broken by", "违反数";
    examples: "For example", "例如";
    books_clean: "The books are clean: {} orders.", "账目无误：{} 个订单。";
    books_broken: "The books are not clean.", "账目有误。";
    // Operator actions.
    action: "Action", "操作";
    before: "Before", "之前";
    after: "After", "之后";
    a_begun: "under way", "进行中";
    a_abandoned: "end not known", "结果未知";
    a_done: "done", "完成";
    a_failed: "failed", "失败";
    a_refused: "refused", "被拒绝";
    actions_help: "What was done from this console, and what was refused. Kept for a year.", "通过本控制台执行和被拒绝的操作，保存一年。";
}
