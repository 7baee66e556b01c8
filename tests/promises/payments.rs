//! Orders with a payment at a gateway: asked before they close, closed there first, and never closed when paid.
//! Every interleaving is forced: the simulator lets the customer pay, or breaks, at the call that is named.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_sim::Call::{Close, Query};
use gateway_sim::{Call, Mishap, Signer, Simulator, State};
use order::{CloseRules, OrderId};
use shop::Order;
use sqlx::Connection;
use tests::{Foreign, Roles, World, eventually, gateways, impatient, simulator, until_none_is_left};
use worker::{GatewaySettings, Gateways, PipelineSettings};

/// What goes wrong with which call.
type Plan = Vec<(Call, Mishap)>;

/// Everything that a test of payments needs.
struct Scene {
    world: World,
    simulator: Simulator,
    foreign: Foreign,
    worker: Roles,
}

impl Scene {
    async fn open() -> Self {
        Self::asking(impatient()).await
    }

    async fn asking(settings: GatewaySettings) -> Self {
        let (world, simulator) = (World::new().await, simulator().await);
        world.stock("tea", 100_000).await;
        let foreign = world.foreign().await;
        let worker = world.worker_asking(gateways(&simulator, settings), PipelineSettings::default());
        Self { world, simulator, foreign, worker }
    }

    async fn order(&self, plan: &[(Call, Mishap)]) -> Order {
        self.world.order_at_gateway(&self.simulator, plan).await
    }

    async fn due(&self, order: &Order) {
        self.foreign.due_now(order.id.as_str().as_bytes()).await;
    }

    fn ledger(&self, id: &OrderId) -> (State, [u32; 4]) {
        let trade = self.simulator.ledger().trade(id.as_str()).expect("the trade");
        (trade.state, trade.calls)
    }

    /// Stands at the end of every test: what the gateway holds and what the shop holds agree, and the books are
    /// clean.
    async fn close(self) {
        self.worker.stop().await;
        for (trade_no, trade) in self.simulator.ledger().trades() {
            let status = self.world.status(&OrderId::new(&trade_no).unwrap()).await;
            let agree = match trade.state {
                State::Paid => status == "paid",
                State::Closed | State::Refunded => status == "closed" || status == "cancelled",
                State::NotPaid => status == "pending",
            };
            assert!(agree, "{trade_no} is {status} here and {:?} at the gateway", trade.state);
        }
        self.world.audit().await;
        self.world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_at_any_boundary_is_found_or_refused_by_the_gateway() {
    let scene = Scene::open().await;
    let cases: Vec<(&str, Plan, &str)> = vec![
        ("never", vec![], "closed"),
        ("before the query", vec![(Query(1), Mishap::PayBefore)], "paid"),
        ("between query and close", vec![(Query(1), Mishap::PayAfter)], "paid"),
        (
            "between close and confirm, at a gateway that did not close",
            vec![(Close(1), Mishap::PretendToClose), (Query(2), Mishap::PayBefore)],
            "paid",
        ),
        ("between close and confirm: too late", vec![(Close(1), Mishap::PayAfter)], "closed"),
        ("after the confirm: too late", vec![(Query(2), Mishap::PayAfter)], "closed"),
        ("never, and the gateway only pretended to close", vec![(Close(1), Mishap::PretendToClose)], "closed"),
        ("never, and the confirm is a stale read", vec![(Query(2), Mishap::StaleRead)], "closed"),
        (
            "before the query, which is a stale read",
            vec![(Query(1), Mishap::PayBefore), (Query(1), Mishap::StaleRead)],
            "paid",
        ),
    ];
    let mut orders = Vec::new();
    for (_, plan, _) in &cases {
        orders.push(scene.order(plan).await);
    }
    for order in &orders {
        scene.due(order).await;
    }
    for ((when, _, status), order) in cases.iter().zip(&orders) {
        eventually(&format!("paid {when}: {status}"), async || scene.world.status(&order.id).await == *status).await;
    }
    let paid = cases.iter().filter(|(.., status)| *status == "paid").count();
    assert_eq!(scene.world.shelf("tea").await, (100_000 - i64::try_from(paid).unwrap(), 0), "sold what was paid");
    let with_payment =
        "select count(*) from orders where status = 'paid' and transaction_id is not null and paid_at is not null";
    assert_eq!(scene.world.number(with_payment).await, i64::try_from(paid).unwrap());
    let logged = "select count(*) from order_log where to_status = 'paid' and reason = 'paid at the gateway' and actor = 'worker'";
    assert_eq!(scene.world.number(logged).await, i64::try_from(paid).unwrap());
    assert_eq!(scene.simulator.ledger().refunds().len(), 0);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_closes_only_after_a_query_a_close_and_a_confirm() {
    let scene = Scene::open().await;
    let order = scene.order(&[]).await;
    scene.due(&order).await;
    scene.world.becomes(&order.id, "closed").await;
    assert_eq!(scene.ledger(&order.id), (State::Closed, [2, 1, 0, 0]));
    // A duplicate finds it closed and asks nobody.
    scene.due(&order).await;
    eventually("the duplicate is handled", async || scene.worker.counted().unchanged == 1).await;
    assert_eq!(scene.ledger(&order.id), (State::Closed, [2, 1, 0, 0]));
    scene.close().await;
}

/// Every row of faults: whichever call it strikes, nothing changes by it alone, and in the end the order is closed
/// here because it is closed there.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_alone_changes_nothing() {
    let scene = Scene::open().await;
    let mut faults = vec![
        Mishap::LoseRequest,
        Mishap::LoseAnswer,
        Mishap::Hang(2_500),
        Mishap::Html(502),
        Mishap::Empty(404),
        Mishap::Empty(503),
        Mishap::Unsigned,
        Mishap::BadSignature,
        Mishap::Probe,
        Mishap::Stale,
        Mishap::UnknownKey,
        Mishap::OtherTrade,
        Mishap::Drip(20),
    ];
    for (status, code) in [
        (500, "SYSTEM_ERROR"),
        (429, "FREQUENCY_LIMITED"),
        (429, "RATELIMIT_EXCEEDED"),
        (403, "RATE_LIMITED"),
        (403, "RULE_LIMIT"),
        (400, "TRADE_ERROR"),
        (202, "USERPAYING"),
        (400, "USER_PAYING"),
        (202, "ACCEPTED"),
        (400, "ORDER_CLOSED"),
        (400, "ORDERCLOSED"),
        (400, "ORDERPAID"),
        (418, "SOMETHING_NEW"),
    ] {
        faults.push(Mishap::Error(status, code.to_owned()));
    }
    let mut orders = Vec::new();
    for call in [Query(1), Close(1), Query(2)] {
        for fault in &faults {
            orders.push((call, fault, scene.order(&[(call, fault.clone())]).await));
        }
    }
    for (.., order) in &orders {
        scene.due(order).await;
    }
    for (call, fault, order) in &orders {
        let what = format!("{fault:?} at {call:?}: closed");
        eventually(&what, async || scene.world.status(&order.id).await == "closed").await;
        assert_eq!(scene.ledger(&order.id).0, State::Closed, "{what}");
    }
    assert_eq!(scene.worker.counted().parked, 0);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_cannot_be_trusted_never_close_an_order() {
    let scene = Scene::open().await;
    let order = scene.order(&[]).await;
    for lie in [Mishap::Unsigned, Mishap::BadSignature, Mishap::Probe, Mishap::Stale, Mishap::UnknownKey] {
        // The gateway has closed the trade, as far as anybody can say, and nobody can prove it.
        scene.simulator.outage(Some(lie.clone()));
        let asked = scene.worker.counted().gateway_faults;
        scene.due(&order).await;
        eventually("it was asked and believed nothing", async || scene.worker.counted().gateway_faults > asked).await;
        assert_eq!(scene.world.status(&order.id).await, "pending", "{lie:?}");
    }
    scene.simulator.outage(None);
    scene.world.becomes(&order.id, "closed").await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_once() {
    let scene = Scene::open().await;
    // The answer to this one's last query is kept; it says CLOSED, of another trade.
    let first = scene.order(&[]).await;
    scene.due(&first).await;
    scene.world.becomes(&first.id, "closed").await;
    let order = scene.order(&[(Query(1), Mishap::Replay), (Query(2), Mishap::PayBefore)]).await;
    scene.due(&order).await;
    scene.world.becomes(&order.id, "paid").await;
    // An answer about the very trade, from before the payment, replayed.
    let order = scene.order(&[(Query(2), Mishap::Replay), (Query(3), Mishap::PayBefore)]).await;
    scene.simulator.ledger().plan(order.id.as_str(), Close(1), Mishap::PretendToClose);
    scene.due(&order).await;
    scene.world.becomes(&order.id, "paid").await;
    assert!(scene.worker.counted().gateway_faults >= 2);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_such_trade_is_believed_by_what_the_shop_knows() {
    let scene = Scene::open().await;
    let world = &scene.world;
    // The gateway was never called: one answer will do.
    let never = world.order_without_trade("wechat").await;
    // It was called, and nobody knows the outcome: two answers, apart.
    let attempted = world.order_without_trade("wechat").await;
    world.execute(&format!("update payments set prepay = 'attempted' where order_id = '{}'", attempted.id)).await;
    // It was called, and the trade shows only at the second look.
    let shy = scene.order(&[(Query(1), Mishap::NotExist)]).await;
    world.execute(&format!("update payments set prepay = 'attempted' where order_id = '{}'", shy.id)).await;
    // The same, and it was paid meanwhile.
    let paid = scene.order(&[(Query(1), Mishap::NotExist), (Query(2), Mishap::PayBefore)]).await;
    world.execute(&format!("update payments set prepay = 'attempted' where order_id = '{}'", paid.id)).await;
    // The gateway had confirmed it, and now denies it.
    let denied = world.order_without_trade("wechat").await;
    let mut connection = world.connection().await;
    shop::prepay_created(&mut connection, &denied.id, "wechat", None).await.unwrap();
    drop(connection);

    for order in [&never, &attempted, &shy, &paid, &denied] {
        scene.due(order).await;
    }
    world.becomes(&never.id, "closed").await;
    world.becomes(&attempted.id, "closed").await;
    world.becomes(&shy.id, "closed").await;
    world.becomes(&paid.id, "paid").await;
    assert_eq!(scene.ledger(&shy.id).0, State::Closed);
    // It was due a second after its deadline, and asked about twice.
    let apart = format!(
        "select count(*) from orders where id = '{}' and closed_at - payment_deadline >= interval '1500 ms'",
        attempted.id
    );
    assert_eq!(world.number(&apart).await, 1, "the two answers were apart");
    assert!(scene.worker.counted().retried >= 1);
    let parked = scene.foreign.parked(1).await.remove(0);
    assert_eq!(parked.reason(), "trade_missing");
    assert_eq!(world.status(&denied.id).await, "pending");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trade_that_appears_after_its_order_was_closed_is_found_all_the_same() {
    let scene = Scene::asking(GatewaySettings { look_again_after: Duration::from_secs(3), ..impatient() }).await;
    let world = &scene.world;
    // The shop says that it never called the gateway. It is wrong.
    let (unpaid, paid) = (world.order_without_trade("wechat").await, world.order_without_trade("wechat").await);
    for order in [&unpaid, &paid] {
        scene.due(order).await;
        world.becomes(&order.id, "closed").await;
    }
    // A duplicate finds the order closed and the trade missing still, and does not end the matter.
    scene.due(&unpaid).await;
    eventually("the duplicate is handled", async || scene.worker.counted().unchanged == 1).await;
    for order in [&unpaid, &paid] {
        scene.simulator.ledger().open(order.id.as_str(), 1999, "CNY");
    }
    assert!(scene.simulator.ledger().pay(paid.id.as_str()));
    eventually("the trade is closed at the gateway too", async || scene.ledger(&unpaid.id).0 == State::Closed).await;
    eventually("the late payment is back", async || scene.ledger(&paid.id).0 == State::Refunded).await;
    eventually("that is on record", async || {
        world.number("select count(*) from refunds where state = 'succeeded'").await == 1
    })
    .await;
    scene.close().await;
}

/// Errors are not signed. One that says "no such trade" is not believed once the gateway has said otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_trade_that_was_seen_cannot_be_denied() {
    let scene = Scene::open().await;
    let trouble = || Mishap::Error(500, "SYSTEM_ERROR".to_owned());
    let mut plan = vec![(Close(1), trouble()), (Close(2), trouble())];
    plan.extend((3..20).map(|call| (Query(call), Mishap::NotExist)));
    let order = scene.order(&plan).await;
    scene.world.execute("update payments set prepay = 'none'").await;
    scene.due(&order).await;
    assert_eq!(scene.foreign.parked(1).await[0].reason(), "trade_missing");
    assert_eq!(scene.world.status(&order.id).await, "pending");
    scene.close().await;
}

/// The order was loaded as one without a payment; the customer goes to the gateway before it is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_begins_between_load_and_close_is_asked_for() {
    let scene = Scene::open().await;
    let order = scene.world.overdue_order("tea").await;
    let mut shop = sqlx::PgConnection::connect(&scene.world.database_url).await.unwrap();
    let mut beginning = shop.begin().await.unwrap();
    let lock = "select 1 from orders where id = $1 for update";
    sqlx::query(lock).bind(order.id.as_str()).execute(&mut *beginning).await.unwrap();
    scene.due(&order).await;
    eventually("closing waits for the shop", async || scene.world.waiting_for_locks().await == 1).await;
    // WeChat Pay would not know so short a number.
    let payment = "insert into payments (order_id, gateway, trade_no) values ($1, 'wechat', 'trade-of-late')";
    sqlx::query(payment).bind(order.id.as_str()).execute(&mut *beginning).await.unwrap();
    scene.simulator.ledger().open("trade-of-late", 1999, "CNY");
    assert!(scene.simulator.ledger().pay("trade-of-late"));
    beginning.commit().await.unwrap();
    scene.world.becomes(&order.id, "paid").await;
    scene.worker.stop().await;
    scene.world.audit().await;
    scene.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_must_look_at_is_parked_and_changes_nothing() {
    let scene = Scene::asking(GatewaySettings { attempts_max: 3, ..impatient() }).await;
    let always = |mishap: Mishap| (1..=30).map(|call| (Query(call), mishap.clone())).collect::<Vec<_>>();
    let with = |mishap: Mishap, more: &[(Call, Mishap)]| [&always(mishap)[..], more].concat();
    let pay = [(Query(1), Mishap::PayBefore)];
    let cases = [
        ("payment_mismatch", with(Mishap::WrongAmount, &pay)),
        ("payment_mismatch", with(Mishap::WrongApplication, &pay)),
        ("refunded_at_gateway", with(Mishap::State("REFUND".to_owned()), &[])),
        ("payment_unknown", with(Mishap::State("ACCEPT".to_owned()), &[])),
        ("payment_unknown", with(Mishap::Error(400, "TRADE_ERROR".to_owned()), &[])),
        ("payment_unknown", with(Mishap::UserPaying, &[])),
    ];
    let mut expected = BTreeMap::new();
    for (reason, plan) in &cases {
        let order = scene.order(plan).await;
        scene.due(&order).await;
        expected.insert(order.id.to_string(), (*reason).to_owned());
    }
    // No gateway knows a number like this one.
    let long = shop::NewOrder {
        id: OrderId::new(&"9".repeat(33)).unwrap(),
        gateway: Some("wechat".to_owned()),
        ..scene.world.new_order(&[("tea", 1)], Duration::from_secs(3600))
    };
    let long = scene.world.create(&long).await.unwrap();
    scene.world.set_deadline(&long.id, -1.0).await;
    scene.due(&long).await;
    expected.insert(long.id.to_string(), "illegal_trade_no".to_owned());

    let parked = scene.foreign.parked(expected.len()).await;
    let found: BTreeMap<String, String> = parked
        .iter()
        .map(|parked| {
            let body = String::from_utf8_lossy(&parked.body);
            let id = expected.keys().find(|id| body.contains(id.as_str())).expect("one of ours");
            (id.clone(), parked.reason())
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(scene.world.number("select count(*) from orders where status <> 'pending'").await, 0);
    assert_eq!(scene.world.shelf("tea").await, (100_000 - 7, 7));
    for id in expected.keys().filter(|id| id.as_str() != long.id.as_str()) {
        assert_eq!(scene.ledger(&OrderId::new(id).unwrap()).1[1], 0, "nothing was closed at the gateway");
    }
    scene.worker.stop().await;
    scene.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_who_is_just_paying_is_left_alone() {
    let scene = Scene::open().await;
    let order = scene.order(&[(Query(1), Mishap::UserPaying), (Query(2), Mishap::UserPaying)]).await;
    let paying = scene.order(&[(Query(1), Mishap::UserPaying), (Query(2), Mishap::PayBefore)]).await;
    scene.due(&order).await;
    scene.due(&paying).await;
    scene.world.becomes(&order.id, "closed").await;
    scene.world.becomes(&paying.id, "paid").await;
    assert_eq!(scene.ledger(&order.id).1[..2], [4, 1], "asked twice in vain, then query, close, confirm");
    assert_eq!(scene.ledger(&paying.id).1[..2], [2, 0], "nobody tried to close it");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trade_that_is_too_young_is_closed_later() {
    let rules = CloseRules { min_close_age: Duration::from_secs(2), ..impatient().rules };
    let later_max = Duration::from_secs(3600);
    let scene = Scene::asking(GatewaySettings { rules, attempts_max: 1, later_max, ..impatient() }).await;
    let order = scene.order(&[]).await;
    scene.due(&order).await;
    // It costs no attempt, of which there is only one.
    scene.world.becomes(&order.id, "closed").await;
    let old_enough = "select count(*) from orders o join payments p on p.order_id = o.id
         where o.status = 'closed' and o.closed_at >= p.created_at + interval '2 seconds'";
    assert_eq!(scene.world.number(old_enough).await, 1);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_cancelled_is_closed_at_the_gateway_too() {
    let scene = Scene::open().await;
    let (unpaid, paid) = (scene.order(&[]).await, scene.order(&[(Query(1), Mishap::PayBefore)]).await);
    for order in [&unpaid, &paid] {
        scene.world.cancel(&order.id).await.unwrap();
        scene.due(order).await;
    }
    eventually("the trade is closed", async || scene.ledger(&unpaid.id).0 == State::Closed).await;
    eventually("the payment is back", async || scene.ledger(&paid.id).0 == State::Refunded).await;
    let noted = "select count(*) from payments where state = 'closed'";
    eventually("that is on record", async || scene.world.number(noted).await == 1).await;
    // And once only.
    let calls = scene.simulator.statistics().calls;
    scene.due(&unpaid).await;
    eventually("the duplicate is handled", async || scene.worker.counted().unchanged >= 2).await;
    assert_eq!(scene.ledger(&unpaid.id).1, [2, 1, 0, 0]);
    assert!(scene.simulator.statistics().calls >= calls);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_while_the_gateway_is_asked_holds() {
    let scene = Scene::open().await;
    let order = scene.order(&[(Query(1), Mishap::Slow(1_000))]).await;
    scene.due(&order).await;
    eventually("the gateway is being asked", async || scene.ledger(&order.id).1[0] == 1).await;
    scene.world.set_deadline(&order.id, 3600.0).await;
    eventually("the order was sent on", async || scene.worker.counted().waiting == 1).await;
    assert_eq!(scene.world.status(&order.id).await, "pending");
    scene.worker.stop().await;
    scene.world.close().await;
}

/// While the gateway is asked for one trade, the shop extends the order and begins another, which is paid.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_of_one_trade_says_nothing_of_the_next() {
    let scene = Scene::open().await;
    let order = scene.order(&[(Query(2), Mishap::Slow(1_500))]).await;
    scene.due(&order).await;
    eventually("the first trade is being confirmed", async || scene.ledger(&order.id).1[0] == 2).await;
    scene.simulator.ledger().open("trade-two", 1999, "CNY");
    assert!(scene.simulator.ledger().pay("trade-two"));
    scene.world.execute("update payments set trade_no = 'trade-two'").await;
    // The extension is over, too, when the answer comes.
    scene.world.set_deadline(&order.id, -0.5).await;
    scene.world.becomes(&order.id, "paid").await;
    assert_eq!(scene.ledger(&order.id).0, State::Closed, "the first trade is closed");
    scene.worker.stop().await;
    scene.world.audit().await;
    scene.world.close().await;
}

/// The gateway has said that nobody can pay any more; the shop's own payment comes in before that is written down.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_between_confirm_and_settle_wins() {
    let scene = Scene::open().await;
    let order = scene.order(&[]).await;
    let mut shop = sqlx::PgConnection::connect(&scene.world.database_url).await.unwrap();
    let mut payment = shop.begin().await.unwrap();
    let lock = "select 1 from orders where id = $1 for update";
    sqlx::query(lock).bind(order.id.as_str()).execute(&mut *payment).await.unwrap();
    scene.due(&order).await;
    eventually("closing waits for the shop", async || scene.world.waiting_for_locks().await == 1).await;
    assert_eq!(scene.ledger(&order.id), (State::Closed, [2, 1, 0, 0]), "the gateway has confirmed");
    let pay = "update orders set status = 'paid', paid_at = clock_timestamp(), transaction_id = 'cash' where id = $1";
    sqlx::query(pay).bind(order.id.as_str()).execute(&mut *payment).await.unwrap();
    let sold = "update inventory set reserved = reserved - 1 where sku_id = 'tea'";
    sqlx::query(sold).execute(&mut *payment).await.unwrap();
    payment.commit().await.unwrap();
    eventually("the worker has seen it", async || scene.worker.counted().unchanged == 1).await;
    assert_eq!(scene.world.status(&order.id).await, "paid");
    assert_eq!(scene.world.shelf("tea").await, (99_999, 0));
    scene.worker.stop().await;
    scene.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_the_gateways_keys_holds_nobody_up() {
    let scene = Scene::open().await;
    for signer in [Signer::Certificate1, Signer::Certificate2, Signer::Certificate1] {
        // In the middle of a run: the first orders are asked under the old key.
        let orders = join_all((0..20).map(async |_| scene.order(&[]).await)).await;
        for order in &orders {
            scene.due(order).await;
        }
        scene.simulator.sign_with(signer);
        for order in &orders {
            scene.world.becomes(&order.id, "closed").await;
        }
    }
    assert_eq!(scene.worker.counted().gateway_faults, 0);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_down_for_a_while_costs_no_attempts() {
    // With three attempts an order would be parked long before the gateway is back.
    let scene = Scene::asking(GatewaySettings { attempts_max: 3, tries: 1, ..impatient() }).await;
    scene.simulator.outage(Some(Mishap::LoseRequest));
    let orders = join_all((0..60).map(async |_| scene.order(&[]).await)).await;
    for order in &orders {
        scene.due(order).await;
    }
    eventually("every order was held several times", async || scene.worker.counted().gateway_held >= 400).await;
    let held = scene.worker.counted();
    assert_eq!((held.parked, held.closed, held.paid), (0, 0, 0));
    assert!(held.gateway_calls < 200, "{} calls although it is down", held.gateway_calls);
    scene.simulator.outage(None);
    for order in &orders {
        scene.world.becomes(&order.id, "closed").await;
    }
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_stops_the_asking_and_changes_no_order() {
    let settings = GatewaySettings { attempts_max: 2, calls_in_flight_max: 4, ..impatient() };
    for code in ["SIGN_ERROR", "NO_AUTH", "PARAM_ERROR", "INVALID_REQUEST", "MCH_NOT_EXISTS", "APPID_MCHID_NOT_MATCH"] {
        let scene = Scene::asking(settings.clone()).await;
        scene.simulator.outage(Some(Mishap::Error(401, code.to_owned())));
        let orders = join_all((0..20).map(async |_| scene.order(&[]).await)).await;
        for order in &orders {
            scene.due(order).await;
        }
        eventually("the orders are held", async || scene.worker.counted().gateway_held >= 60).await;
        let held = scene.worker.counted();
        assert_eq!((held.parked, held.closed, held.paid), (0, 0, 0), "{code}");
        assert_eq!(held.gateway_circuits_open, 1, "{code}");
        assert!(held.gateway_calls <= 15, "{code}: {} calls", held.gateway_calls);
        scene.simulator.outage(None);
        for order in &orders {
            scene.world.becomes(&order.id, "closed").await;
        }
        scene.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_order_that_the_gateway_cannot_stand_does_not_stop_the_others() {
    let scene = Scene::asking(GatewaySettings { attempts_max: 3, ..impatient() }).await;
    let poison: Vec<_> = (1..=50).map(|call| (Query(call), Mishap::Error(400, "PARAM_ERROR".to_owned()))).collect();
    let poisoned = scene.order(&poison).await;
    scene.due(&poisoned).await;
    let orders = join_all((0..30).map(async |_| scene.order(&[]).await)).await;
    for order in &orders {
        scene.due(order).await;
    }
    for order in &orders {
        scene.world.becomes(&order.id, "closed").await;
    }
    // As long as others are asked, its attempts are its own.
    let parked = async || {
        let more = scene.order(&[]).await;
        scene.due(&more).await;
        scene.world.becomes(&more.id, "closed").await;
        scene.worker.counted().parked == 1
    };
    eventually("it is parked", parked).await;
    assert_eq!(scene.foreign.parked(1).await[0].reason(), "payment_unknown");
    assert_eq!(scene.world.status(&poisoned.id).await, "pending");
    assert_eq!(scene.worker.counted().gateway_held, 0, "nobody was held up");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_gateway_slows_nobody_who_does_not_need_it() {
    // Nothing ends the calls but the test.
    let scene = Scene::asking(GatewaySettings { call_timeout: Duration::from_secs(600), ..impatient() }).await;
    scene.simulator.outage(Some(Mishap::Hang(600_000)));
    let slow = join_all((0..300).map(async |_| scene.order(&[]).await)).await;
    for order in &slow {
        scene.due(order).await;
    }
    eventually("the gateway is being asked", async || scene.worker.counted().gateway_calls > 0).await;
    let quick = join_all((0..100).map(async |_| scene.world.overdue_order("tea").await)).await;
    // One message names both kinds.
    let both = format!(r#"{{"v":1,"orders":[{{"id":"{}"}},{{"id":"{}"}}]}}"#, slow[0].id, quick[0].id);
    scene.foreign.due_now(both.as_bytes()).await;
    for order in &quick[1..] {
        scene.due(order).await;
    }
    for order in &quick {
        scene.world.becomes(&order.id, "closed").await;
    }
    let pending = "select count(*) from orders where status = 'pending'";
    assert_eq!(scene.world.number(pending).await, 300, "all of the others still wait for their gateway");
    scene.worker.stop().await;
    scene.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_a_gateway_that_nobody_has_set_up_are_held() {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 10).await;
    let order = world.order_at_gateway(&simulator, &[]).await;
    let foreign = world.foreign().await;
    let asking = Gateways::new([].into(), GatewaySettings { attempts_max: 1, ..impatient() });
    let without = world.worker_asking(asking, PipelineSettings::default());
    foreign.due_now(order.id.as_str().as_bytes()).await;
    eventually("it is held again and again", async || without.counted().gateway_held >= 2).await;
    assert_eq!((world.status(&order.id).await.as_str(), without.counted().parked), ("pending", 0));
    without.stop().await;
    let with = world.worker_asking(gateways(&simulator, impatient()), PipelineSettings::default());
    world.becomes(&order.id, "closed").await;
    with.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_service_behind_the_signed_contract_is_asked_in_the_same_way() {
    let scene = Scene::open().await;
    let world = &scene.world;
    let unpaid = world.order_at("http", &scene.simulator, &[]).await;
    let paid = world.order_at("http", &scene.simulator, &[(Query(1), Mishap::PayBefore)]).await;
    let caught = world.order_at("http", &scene.simulator, &[(Close(1), Mishap::PayBefore)]).await;
    let broken = world.order_at("http", &scene.simulator, &[(Query(1), Mishap::LoseRequest)]).await;
    let never = world.order_without_trade("http").await;
    for order in [&unpaid, &paid, &caught, &broken, &never] {
        scene.due(order).await;
    }
    for (order, status) in
        [(&unpaid, "closed"), (&paid, "paid"), (&caught, "paid"), (&broken, "closed"), (&never, "closed")]
    {
        world.becomes(&order.id, status).await;
    }
    scene.close().await;
}

/// Not a measurement: it shows that calls are made side by side. Prints the rate for those who look.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_orders_are_asked_side_by_side() {
    // No call may time out, or it is made again and counts twice.
    let call_timeout = Duration::from_secs(60);
    let scene = Scene::asking(GatewaySettings { calls_in_flight_max: 128, call_timeout, ..impatient() }).await;
    scene.simulator.delay(Duration::from_millis(20));
    let count: u32 = 10_000;
    scene
        .world
        .execute(&format!(
            "insert into orders (id, amount_minor, currency, payment_deadline) select 'many-' || g, 1999, 'CNY', clock_timestamp() from generate_series(1, {count}) g;
             insert into order_items select 'many-' || g, 'tea', 1 from generate_series(1, {count}) g;
             update inventory set available = available - {count}, reserved = reserved + {count};
             insert into payments (order_id, gateway, prepay) select 'many-' || g, 'wechat', 'created' from generate_series(1, {count}) g"
        ))
        .await;
    let ids: Vec<String> = (1..=count).map(|number| format!("many-{number}")).collect();
    for id in &ids {
        scene.simulator.ledger().open(id, 1999, "CNY");
    }
    let begun = std::time::Instant::now();
    for chunk in ids.chunks(256) {
        let entries: Vec<String> = chunk.iter().map(|id| format!(r#"{{"id":"{id}"}}"#)).collect();
        let body = format!(r#"{{"v":1,"orders":[{}]}}"#, entries.join(","));
        scene.foreign.due_now(body.as_bytes()).await;
    }
    until_none_is_left("all are closed", async || u64::from(count) - scene.worker.counted().closed).await;
    let took = begun.elapsed();
    let statistics = scene.simulator.statistics();
    println!(
        "{count} orders in {took:.1?}: {:.0} orders/s, {:.0} calls/s at 20 ms a call, at most {} calls at a time",
        f64::from(count) / took.as_secs_f64(),
        statistics.calls as f64 / took.as_secs_f64(),
        statistics.in_flight_max
    );
    assert_eq!(statistics.calls, 3 * u64::from(count), "query, close, confirm, once each");
    assert!(statistics.in_flight_max >= 64, "at most {} calls at a time", statistics.in_flight_max);
    assert!(statistics.in_flight_max <= 128, "more calls at a time than are allowed");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_kept() {
    let rate = NonZeroU32::new(50);
    let scene = Scene::asking(GatewaySettings { calls_per_second_max: rate, ..impatient() }).await;
    let orders = join_all((0..50).map(async |_| scene.order(&[]).await)).await;
    let begun = std::time::Instant::now();
    for order in &orders {
        scene.due(order).await;
    }
    for order in &orders {
        scene.world.becomes(&order.id, "closed").await;
    }
    // 150 calls, ten of them at once, take 2.8 seconds at the least, whatever the machine.
    assert!(begun.elapsed() >= Duration::from_millis(2_700), "{:?}", begun.elapsed());
    scene.close().await;
}
