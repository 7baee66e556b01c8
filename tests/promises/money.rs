//! Money around the close: several payments of an order, payments of orders that have ended, and words of gateways that tell too
//! little. Whatever comes in pays an order, goes back, or is on record for a person.

use std::time::Duration;

use book::{BookError, Credited, GatewayConflict, GatewayEntry};
use database::Purpose;
use gateway_sim::Call::{Query, Refund};
use gateway_sim::{Mishap, SERVICE_KEY, Simulator, State};
use http::HeaderMap;
use order::OrderId;
use serde_json::{Value, json};
use shop::{NewOrder, Order, OrderError};
use sqlx::Connection;
use tests::{Process, World, eventually, gateways, gateways_of, impatient, impatient_command, simulator};
use worker::{GatewaySettings, Gateways, NotificationError, NotificationOutcome, PipelineSettings};

/// A world, a simulator of gateways, and stock.
async fn scene() -> (World, Simulator) {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 1_000).await;
    (world, simulator)
}

/// The program with these roles.
async fn start(world: &World, simulator: &Simulator, only: &str, more: &[&str]) -> Process {
    let mut command = impatient_command(world, simulator, only);
    command.args(more);
    let process = world.start_command(command);
    process.says("running").await;
    process
}

/// An order that has an hour left to be paid, at a trade that the gateway has confirmed.
async fn payable(world: &World, simulator: &Simulator) -> Order {
    let new = world.new_order(&[("tea", 1)], Duration::from_secs(3600));
    let id = OrderId::new(&format!("trade-{}", new.id)).unwrap();
    let order = world.create(&NewOrder { id, gateway: Some("wechat".to_owned()), ..new }).await.unwrap();
    simulator.ledger().open(order.id.as_str(), 1999, "CNY");
    let mut connection = world.connection().await;
    shop::begin_prepay(&mut connection, &order.id, "wechat", None).await.unwrap();
    shop::prepay_created(&mut connection, &order.id, "wechat", None).await.unwrap();
    order
}

async fn due_at_once(world: &World, order: &Order) {
    world.execute(&format!("update orders set payment_deadline = now() where id = '{}'", order.id)).await;
}

fn state(simulator: &Simulator, trade_no: &str) -> State {
    simulator.ledger().trade(trade_no).expect("the trade").state
}

async fn trade_becomes(simulator: &Simulator, trade_no: &str, wanted: State) {
    eventually(&format!("trade {trade_no} is {wanted:?}"), async || state(simulator, trade_no) == wanted).await;
}

/// How many refunds of this order there are in this state.
async fn refunds(world: &World, id: &OrderId, state: &str) -> i64 {
    world.number(&format!("select count(*) from refunds where order_id = '{id}' and state = '{state}'")).await
}

async fn refund_becomes(world: &World, id: &OrderId, state: &str) {
    eventually(&format!("a refund of {id} is {state}"), async || refunds(world, id, state).await == 1).await;
}

async fn stop(mut process: Process) {
    process.terminate().await;
    assert!(process.ended().await.success());
}

/// A notification of the payment service that says this, as it signs it.
fn told(trade: Value) -> (HeaderMap, Vec<u8>) {
    let body = json!({ "event": "trade", "data": trade }).to_string().into_bytes();
    let timestamp = time::OffsetDateTime::now_utc().unix_timestamp().to_string();
    let nonce = uuid::Uuid::now_v7().simple().to_string();
    let signature = payment::hmac_signature(SERVICE_KEY.1.as_bytes(), "NOTIFICATION", &timestamp, &nonce, &body);
    let mut headers = HeaderMap::new();
    for (name, value) in [("overdue-timestamp", timestamp), ("overdue-nonce", nonce), ("overdue-signature", signature)]
    {
        headers.insert(name, value.parse().unwrap());
    }
    (headers, body)
}

/// Sends it, and again while it cannot be taken, as gateways do.
async fn take(world: &World, gateways: &Gateways, trade: Value) -> NotificationOutcome {
    let (headers, body) = told(trade);
    let notifications = world.notifications(gateways);
    loop {
        match notifications.take("http", &headers, &body).await {
            Err(NotificationError::Book(BookError::Busy(_))) => {}
            taken => return taken.unwrap(),
        }
    }
}

async fn refused_code(world: &World, statement: &str) -> String {
    let error = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&world.pool).await.unwrap_err();
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trade_that_was_replaced_by_another_is_asked_about_still() {
    let (world, simulator) = scene().await;
    let (paid, unpaid, notified) =
        (payable(&world, &simulator).await, payable(&world, &simulator).await, payable(&world, &simulator).await);
    for order in [&paid, &unpaid, &notified] {
        // The customer comes back, and the shop begins anew in the same row.
        let second = format!("{}-2", order.id);
        world.execute(&format!("update payments set trade_no = '{second}' where order_id = '{}'", order.id)).await;
        simulator.ledger().open(&second, 1999, "CNY");
    }
    // The old trade is open in the customer's app.
    assert!(simulator.ledger().pay(paid.id.as_str()));
    assert!(simulator.ledger().pay(notified.id.as_str()));
    let (headers, body) = simulator.notification(notified.id.as_str());
    let taken = world.notifications(&gateways(&simulator, impatient())).take("wechat", &headers, &body).await.unwrap();
    assert_eq!(taken, NotificationOutcome::Credited(notified.id.clone(), Credited::Paid), "money finds its order");
    for order in [&paid, &unpaid] {
        due_at_once(&world, order).await;
    }
    let process = start(&world, &simulator, "relay,worker", &[]).await;
    world.becomes(&paid.id, "paid").await;
    world.becomes(&unpaid.id, "closed").await;
    for order in [&paid, &notified] {
        assert_eq!(state(&simulator, order.id.as_str()), State::Paid);
        trade_becomes(&simulator, &format!("{}-2", order.id), State::Closed).await;
    }
    for trade in [unpaid.id.to_string(), format!("{}-2", unpaid.id)] {
        assert_eq!(state(&simulator, &trade), State::Closed);
    }
    let open = "select count(*) from payments where state = 'open'";
    eventually("nothing is left open", async || world.number(open).await == 0).await;
    stop(process).await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_with_several_payments_keeps_one_and_gives_the_others_back() {
    let (world, simulator) = scene().await;
    let other = tests::simulator().await;
    let pending = payable(&world, &simulator).await;
    let late = payable(&world, &simulator).await;
    let mut connection = world.connection().await;
    for order in [&pending, &late] {
        let id = order.id.as_str();
        // A second attempt elsewhere, under the same number, and a third one.
        shop::begin_prepay(&mut connection, &order.id, "http", None).await.unwrap();
        shop::begin_prepay(&mut connection, &order.id, "wechat", Some(&format!("{id}-3"))).await.unwrap();
        other.ledger().open(id, 1999, "CNY");
        simulator.ledger().open(&format!("{id}-3"), 1999, "CNY");
        assert!(simulator.ledger().pay(id) && other.ledger().pay(id));
    }
    drop(connection);
    world.cancel(&late.id).await.unwrap();
    world.execute("update orders set payment_deadline = now()").await;
    let gateways = gateways_of(&simulator, &other, impatient());
    let (relay, worker) = (world.relay(), world.worker_asking(gateways, PipelineSettings::default()));
    world.becomes(&pending.id, "paid").await;
    eventually("one of two is back", async || refunds(&world, &pending.id, "succeeded").await == 1).await;
    eventually("both are back", async || refunds(&world, &late.id, "succeeded").await == 2).await;
    for order in [&pending, &late] {
        trade_becomes(&simulator, &format!("{}-3", order.id), State::Closed).await;
    }
    let back = |order: &Order| {
        [&simulator, &other].iter().filter(|gateway| state(gateway, order.id.as_str()) == State::Refunded).count()
    };
    assert_eq!((back(&pending), back(&late)), (1, 2));
    assert_eq!(world.shelf("tea").await, (999, 0));
    // Events are no payments of orders that were closed or cancelled alone.
    relay.stop().await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_payment_of_a_cancelled_order_whose_message_is_lost_goes_back() {
    let (world, simulator) = scene().await;
    let (paid, unpaid) = (payable(&world, &simulator).await, payable(&world, &simulator).await);
    for order in [&paid, &unpaid] {
        world.cancel(&order.id).await.unwrap();
    }
    // Every message is lost, and the time of the deadline comes.
    world
        .execute("delete from outbox; update orders set payment_deadline = now(); update payments set ask_at = now()")
        .await;
    assert!(simulator.ledger().pay(paid.id.as_str()));
    let process = start(&world, &simulator, "worker,sweep", &[]).await;
    refund_becomes(&world, &paid.id, "succeeded").await;
    trade_becomes(&simulator, unpaid.id.as_str(), State::Closed).await;
    stop(process).await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_payment_begins_for_an_order_that_has_ended_whoever_writes_it() {
    let (world, simulator) = scene().await;
    let (closed, cancelled, paid) =
        (world.overdue_order("tea").await, payable(&world, &simulator).await, payable(&world, &simulator).await);
    let never = world.order_without_trade("wechat").await;
    world.execute(&format!("update payments set state = 'closed' where order_id = '{}'", never.id)).await;
    world
        .execute(&format!(
            "update orders set status = 'closed', closed_at = now() where id in ('{}', '{}')",
            closed.id, never.id
        ))
        .await;
    world.cancel(&cancelled.id).await.unwrap();
    world.pay(&paid.id, None).await.unwrap();
    let before = world.number("select count(*) from payments").await;
    for order in [&closed, &cancelled, &paid] {
        let begin = format!(
            "insert into payments (order_id, gateway, trade_no) values ('{}', 'wechat', 'another-1')",
            order.id
        );
        assert_eq!(refused_code(&world, &begin).await, "OV001", "{begin}");
        let call = format!("select overdue_begin_payment('{}', 'wechat', 'another-1')", order.id);
        assert_eq!(refused_code(&world, &call).await, "OV001", "{call}");
        let mut connection = world.connection().await;
        let begun = shop::begin_prepay(&mut connection, &order.id, "wechat", Some("another-1")).await;
        assert!(matches!(begun, Err(OrderError::NotPending { .. })), "{begun:?}");
    }
    for change in
        ["prepay = 'attempted'", "prepay = 'attempted', state = 'open'", "trade_no = 'another-2', prepay = 'attempted'"]
    {
        let update = format!("update payments set {change} where order_id = '{}'", never.id);
        assert_eq!(refused_code(&world, &update).await, "OV001", "{update}");
    }
    assert_eq!(world.number("select count(*) from payments").await, before, "nothing was written");
    // One that is pending and past its deadline is refused by the function.
    let overdue = world.overdue_order("tea").await;
    let call = format!("select overdue_begin_payment('{}', 'wechat')", overdue.id);
    assert_eq!(refused_code(&world, &call).await, "OV001");
    // What the gateway has done all the same is written down and looked at: some make a trade only when the customer comes.
    simulator.ledger().open("lazy-trade", 1999, "CNY");
    assert!(simulator.ledger().pay("lazy-trade"));
    world
        .execute(&format!(
            "insert into payments (order_id, gateway, trade_no, prepay) values ('{}', 'wechat', 'lazy-trade', 'created')",
            closed.id
        ))
        .await;
    let process = start(&world, &simulator, "worker,sweep", &[]).await;
    refund_becomes(&world, &closed.id, "succeeded").await;
    stop(process).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trade_that_appears_long_after_it_was_missed_twice_is_found() {
    let (world, simulator) = scene().await;
    let order = world.order_without_trade("wechat").await;
    world.cancel(&order.id).await.unwrap();
    let process = start(&world, &simulator, "relay,worker,sweep", &[]).await;
    // By messages: a query each, the second after the time for another look.
    eventually("it was missed twice", async || simulator.statistics().calls >= 2).await;
    let still_open = format!("select count(*) from payments where order_id = '{}' and state = 'open'", order.id);
    assert_eq!(world.number(&still_open).await, 1, "it may appear still");
    simulator.ledger().open(order.id.as_str(), 1999, "CNY");
    assert!(simulator.ledger().pay(order.id.as_str()));
    let in_a_minute = "select count(*) from payments where ask_at <= now() + interval '1 minute'";
    assert_eq!(world.number(in_a_minute).await, 1, "the sweep is going to look");
    world.execute("update payments set ask_at = now()").await;
    refund_becomes(&world, &order.id, "succeeded").await;
    // One that can no longer appear is done with.
    let over = world.order_without_trade("wechat").await;
    world.execute(&format!("update payments set payable_until = now() where order_id = '{}'", over.id)).await;
    world.becomes(&over.id, "closed").await;
    let gone = format!("select count(*) from payments where order_id = '{}' and state = 'closed'", over.id);
    let look = async || {
        world.execute("update payments set ask_at = now() where state = 'open'").await;
        world.number(&gone).await == 1
    };
    eventually("it is given up", look).await;
    stop(process).await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_trade_of_an_order_that_is_paid_otherwise_is_closed_and_its_money_is_on_record() {
    let (world, simulator) = scene().await;
    let (unpaid, twice, unnumbered) =
        (payable(&world, &simulator).await, payable(&world, &simulator).await, payable(&world, &simulator).await);
    let same = payable(&world, &simulator).await;
    assert!(simulator.ledger().pay(same.id.as_str()));
    for (order, transaction) in
        [(&unpaid, Some("cash-1")), (&twice, Some("cash-2")), (&unnumbered, None), (&same, None)]
    {
        world.pay(&order.id, transaction).await.unwrap();
    }
    // The customers of these pay a second time, in the app.
    for order in [&twice, &unnumbered] {
        assert!(simulator.ledger().pay(order.id.as_str()));
    }
    let (headers, body) = simulator.notification(twice.id.as_str());
    let taken = world.notifications(&gateways(&simulator, impatient())).take("wechat", &headers, &body).await.unwrap();
    assert_eq!(taken, NotificationOutcome::Credited(twice.id.clone(), Credited::Disputed));
    let process = start(&world, &simulator, "relay,worker", &[]).await;
    trade_becomes(&simulator, unpaid.id.as_str(), State::Closed).await;
    for order in [&twice, &unnumbered] {
        refund_becomes(&world, &order.id, "needs_person").await;
    }
    // A payment that was made before the shop marked the order as paid is the one that the shop meant.
    let known = format!("select count(*) from payments where order_id = '{}' and state = 'paid'", same.id);
    eventually("it is on record", async || world.number(&known).await == 1).await;
    assert_eq!(refunds(&world, &same.id, "needs_person").await, 0);
    assert_eq!(simulator.ledger().refunds().len(), 0, "what goes back is for a person to say");
    stop(process).await;
    let audit = world.look_at_the_books().await;
    let broken: Vec<&str> = audit.checks.iter().filter(|check| check.violations > 0).map(|check| check.name).collect();
    assert_eq!(broken, ["refunds_arrive"], "the audit names them");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signed_word_about_money_leaves_a_row_however_little_it_tells() {
    let (world, simulator) = scene().await;
    let gateways = gateways(&simulator, impatient());
    let order = world.order_at("http", &simulator, &[]).await;
    world.execute("update orders set status = 'closed', closed_at = now(); update payments set state = 'closed'").await;
    let id = order.id.as_str();
    let long = "9".repeat(9_000);
    let cases = [
        json!({ "trade_no": id, "state": "paid" }),
        json!({ "trade_no": id, "state": "paid", "transaction_id": "t-1" }),
        json!({ "trade_no": id, "state": "paid", "transaction_id": "t-2", "amount_minor": 1999 }),
        json!({ "trade_no": id, "state": "paid", "transaction_id": "t-3", "amount_minor": 1, "currency": "CNY" }),
        json!({ "trade_no": id, "state": "paid", "transaction_id": "t-4", "amount_minor": -5, "currency": "yuan" }),
        json!({ "trade_no": id, "state": "paid", "transaction_id": long, "amount_minor": 1999, "currency": "CNY" }),
        json!({ "trade_no": id, "state": "refunded", "transaction_id": "t-5", "amount_minor": 1999, "currency": "CNY" }),
        json!({ "trade_no": "of-nobody", "state": "paid" }),
    ];
    for (number, case) in cases.iter().enumerate() {
        for _ in 0..2 {
            let outcome = take(&world, &gateways, case.clone()).await;
            let kept = matches!(outcome, NotificationOutcome::Mismatch(..) | NotificationOutcome::UnknownOrder);
            assert!(kept, "{case}: {outcome:?}");
        }
        let rows = world.number("select count(*) from refunds where state = 'needs_person'").await;
        assert_eq!(rows, i64::try_from(number + 1).unwrap(), "{case}");
    }
    let said = "select count(*) from refunds where convert_from(said, 'UTF8') like '%\"state\":\"%'";
    assert_eq!(world.number(said).await, i64::try_from(cases.len()).unwrap(), "with the gateway's own words");
    let listed = world.overdue(&["refunds", "list"]).await;
    let table = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(table.contains("not told") && table.contains("t-3") && !table.contains(&long), "{table}");
    let listed = world.overdue(&["refunds", "list", "--json"]).await;
    let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(listed.iter().all(|refund| refund["said"].as_str().is_some_and(|said| said.contains("trade_no"))));
    let audit = world.look_at_the_books().await;
    let found = audit.checks.iter().find(|check| check.name == "refunds_arrive").unwrap();
    assert_eq!(found.violations, i64::try_from(cases.len()).unwrap());
    // Once the gateway tells all of it, the money is no riddle any more.
    let whole =
        json!({ "trade_no": id, "state": "paid", "transaction_id": "t-3", "amount_minor": 1999, "currency": "CNY" });
    let outcome = take(&world, &gateways, whole).await;
    assert_eq!(outcome, NotificationOutcome::Credited(order.id.clone(), Credited::Late));
    let resolved = "select count(*) from refunds where problem like '%is on record' and state = 'succeeded'";
    assert_eq!(world.number(resolved).await, 2, "the word without a number, and the one with this number");
    world.close().await;
}

/// While closing waits for the order's lock, the shop moves its payment to another gateway, where it is paid.
#[tokio::test(flavor = "multi_thread")]
async fn the_word_of_one_gateway_does_not_close_what_is_paid_at_another() {
    let (world, simulator) = scene().await;
    let other = tests::simulator().await;
    let order = world.order_at_gateway(&simulator, &[]).await;
    let mut shop = sqlx::PgConnection::connect(&world.database_url).await.unwrap();
    let mut moving = shop.begin().await.unwrap();
    let lock = "select 1 from orders where id = $1 for update";
    sqlx::query(lock).bind(order.id.as_str()).execute(&mut *moving).await.unwrap();
    let worker = world.worker_asking(gateways_of(&simulator, &other, impatient()), PipelineSettings::default());
    world.foreign().await.due_now(order.id.as_str().as_bytes()).await;
    eventually("closing waits for the shop", async || world.waiting_for_locks().await == 1).await;
    assert_eq!(state(&simulator, order.id.as_str()), State::Closed, "the first gateway has confirmed");
    other.ledger().open(order.id.as_str(), 1999, "CNY");
    assert!(other.ledger().pay(order.id.as_str()));
    sqlx::query("update payments set gateway = 'http', prepay = 'created'").execute(&mut *moving).await.unwrap();
    moving.commit().await.unwrap();
    world.becomes(&order.id, "paid").await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_that_are_not_possible_hold_up_no_other_and_reach_a_person() {
    let (world, simulator) = scene().await;
    let gateways = gateways(&simulator, GatewaySettings { attempts_max: 3, ..impatient() });
    let never: Vec<_> = (1..=9).map(|call| (Refund(call), Mishap::Error(400, "INVALID_REQUEST".to_owned()))).collect();
    let mut orders = Vec::new();
    for plan in [&never[..], &never[..], &never[..], &[]] {
        let order = world.order_at_gateway(&simulator, plan).await;
        world.cancel(&order.id).await.unwrap();
        assert!(simulator.ledger().pay(order.id.as_str()));
        let (headers, body) = simulator.notification(order.id.as_str());
        world.notifications(&gateways).take("wechat", &headers, &body).await.unwrap();
        orders.push(order);
    }
    let worker = world.worker_asking(gateways, PipelineSettings::default());
    for order in &orders[..3] {
        refund_becomes(&world, &order.id, "needs_person").await;
    }
    refund_becomes(&world, &orders[3].id, "succeeded").await;
    assert_eq!(worker.counted().gateway_circuits_open, 0);
    // A person has made room at the gateway, and has one asked for again.
    let refund_no = format!("overdue-{}", orders[0].id);
    let again = world.overdue(&["refunds", "retry", &refund_no]).await;
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    refund_becomes(&world, &orders[0].id, "needs_person").await;
    assert_eq!(world.overdue(&["refunds", "retry", "overdue-nothing"]).await.status.code(), Some(1));
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_refunds_that_wait_for_long_and_settings_that_differ() {
    let world = World::new().await;
    world
        .execute(
            "insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, created_at)
             values ('overdue-1', '1', 'wechat', '1', 't', 1, 'CNY', 'late', now() - interval '2 hours')",
        )
        .await;
    crate::doctor::finds(&world, "refunds", "have waited for an hour or more").await;
    let client = world.client(1, Purpose::Shop);
    let entry = GatewayEntry { name: "wechat".to_owned(), account: "another merchant".to_owned(), trade_numbers: None };
    book::register_gateways(&client, &[entry], None).await.unwrap();
    let simulator = simulator().await;
    let mut doctor = world.command(&["doctor"]);
    let found = doctor.envs(tests::wechat_environment(&simulator)).output().await.unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.contains("is registered for another merchant"), "{found}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_no_gateway_takes_for_long_reaches_a_person_though_its_circuit_is_open() {
    let (world, simulator) = scene().await;
    let order = world.order_at_gateway(&simulator, &[]).await;
    world.cancel(&order.id).await.unwrap();
    assert!(simulator.ledger().pay(order.id.as_str()));
    let settings = GatewaySettings { refund_age_max: Duration::from_secs(2), ..impatient() };
    let gateways = gateways(&simulator, settings);
    let (headers, body) = simulator.notification(order.id.as_str());
    world.notifications(&gateways).take("wechat", &headers, &body).await.unwrap();
    simulator.outage(Some(Mishap::Error(401, "SIGN_ERROR".to_owned())));
    let worker = world.worker_asking(gateways, PipelineSettings::default());
    refund_becomes(&world, &order.id, "needs_person").await;
    assert_eq!(worker.counted().gateway_circuits_open, 1);
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_pays_two_orders_where_the_gateway_says_so_and_is_for_a_person_where_not() {
    let (world, simulator) = scene().await;
    let gateways = gateways(&simulator, impatient());
    let mut orders = Vec::new();
    for _ in 0..4 {
        orders.push(world.order_at("http", &simulator, &[]).await);
    }
    let paid = |order: &Order, transaction: &str, combined: bool| {
        json!({ "trade_no": order.id.as_str(), "state": "paid", "transaction_id": transaction, "amount_minor": 1999,
                "currency": "CNY", "combined": combined })
    };
    for order in &orders[..2] {
        let outcome = take(&world, &gateways, paid(order, "both", true)).await;
        assert_eq!(outcome, NotificationOutcome::Credited(order.id.clone(), Credited::Paid));
        assert_eq!(world.status(&order.id).await, "paid");
    }
    let first = take(&world, &gateways, paid(&orders[2], "one", false)).await;
    assert_eq!(first, NotificationOutcome::Credited(orders[2].id.clone(), Credited::Paid));
    for (transaction, combined) in [("one", false), ("one", true), ("both", false)] {
        let second = take(&world, &gateways, paid(&orders[3], transaction, combined)).await;
        assert_eq!(second, NotificationOutcome::Credited(orders[3].id.clone(), Credited::Shared), "{transaction}");
    }
    assert_eq!(world.status(&orders[3].id).await, "pending");
    assert_eq!(refunds(&world, &orders[3].id, "needs_person").await, 2, "one for each transaction");
    // Both at the same moment: the table itself refuses the second, which is looked at again.
    let (left, right) = (world.order_at("http", &simulator, &[]).await, world.order_at("http", &simulator, &[]).await);
    let both = [&left, &right].map(|order| take(&world, &gateways, paid(order, "race", false)));
    let mut outcomes: Vec<Credited> = futures_util::future::join_all(both)
        .await
        .into_iter()
        .map(|outcome| match outcome {
            NotificationOutcome::Credited(_, credited) => credited,
            other => panic!("{other:?}"),
        })
        .collect();
    outcomes.sort_by_key(|credited| format!("{credited:?}"));
    assert_eq!(outcomes, [Credited::Paid, Credited::Shared]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_closes_unasked_what_the_others_ask_about() {
    let (world, simulator) = scene().await;
    let mut command = impatient_command(&world, &simulator, "worker");
    command.args(["--gateway", "wechat"]);
    let first = world.start_command(command);
    first.says("running").await;
    stop(first).await;
    // Of neither order the database knows a payment; one of them was paid.
    let (paid, unpaid) = (world.overdue_order("tea").await, world.overdue_order("tea").await);
    let ids = [format!("trade-{}", paid.id), format!("trade-{}", unpaid.id)];
    for (order, id) in [&paid, &unpaid].into_iter().zip(&ids) {
        let renamed = format!(
            "alter table order_items drop constraint if exists order_items_order_id_fkey; update order_items set order_id = '{id}' where order_id = '{0}'; update orders set id = '{id}' where id = '{0}'",
            order.id
        );
        world.execute(&renamed).await;
        simulator.ledger().open(id, 1999, "CNY");
    }
    assert!(simulator.ledger().pay(&ids[0]));
    let ids = ids.map(|id| OrderId::new(&id).unwrap());
    // A worker that was set up before, or elsewhere, and knows of no gateway.
    let foreign = world.foreign().await;
    let blind = world.worker();
    for id in &ids {
        foreign.due_now(id.as_str().as_bytes()).await;
    }
    eventually("they are held", async || blind.counted().gateway_held >= 2).await;
    assert_eq!((blind.counted().closed, world.status(&ids[0]).await.as_str()), (0, "pending"));
    blind.stop().await;
    // One that starts now is told.
    for (more, sentence) in
        [(&[][..], "no settings of that gateway"), (&["--gateway", "none"][..], "overdue gateway default none")]
    {
        let mut command = world.command(&["run", "--only", "worker"]);
        let refused = command.args(more).output().await.unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
    let mut command = impatient_command(&world, &simulator, "worker");
    let refused = command.env("OVERDUE_WECHAT_MCHID", "1900000001").output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("overdue gateway forget wechat"), "{said}");
    let mut doctor = world.command(&["doctor", "--gateway", "none"]);
    let found = String::from_utf8_lossy(&doctor.output().await.unwrap().stdout).into_owned();
    assert!(found.contains("paid at wechat"), "{found}");
    let listed = world.overdue(&["gateway", "list"]).await;
    assert!(String::from_utf8_lossy(&listed.stdout).contains("merchant 1900009191"), "{listed:?}");
    // The right settings, without a word about the default.
    let process = start(&world, &simulator, "relay,worker,sweep", &[]).await;
    world.becomes(&ids[0], "paid").await;
    world.becomes(&ids[1], "closed").await;
    assert_eq!(state(&simulator, ids[1].as_str()), State::Closed);
    // A cancelled order of which the book knows no payment is asked about, too.
    let cancelled = world.new_order(&[("tea", 1)], Duration::from_secs(3600));
    let id = OrderId::new("trade-cancelled").unwrap();
    let cancelled = world.create(&NewOrder { id, ..cancelled }).await.unwrap();
    simulator.ledger().open("trade-cancelled", 1999, "CNY");
    world.cancel(&cancelled.id).await.unwrap();
    trade_becomes(&simulator, "trade-cancelled", State::Closed).await;
    stop(process).await;
    for (arguments, code) in [
        (&["gateway", "default", "none"][..], 0),
        (&["gateway", "default", "http"][..], 0),
        (&["gateway", "forget", "http"][..], 0),
        (&["gateway", "forget", "none"][..], 1),
    ] {
        let output = world.overdue(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_two_processes_are_compared() {
    let world = World::new().await;
    let client = world.client(1, Purpose::Shop);
    let entry =
        |account: &str| GatewayEntry { name: "wechat".to_owned(), account: account.to_owned(), trade_numbers: None };
    let register = async |account, default| book::register_gateways(&client, &[entry(account)], default).await.unwrap();
    assert_eq!(register("a", None).await, []);
    assert_eq!(register("a", Some("wechat")).await, []);
    let other_account = |conflict: &GatewayConflict| matches!(conflict, GatewayConflict::Account { .. });
    assert!(register("b", None).await.iter().all(other_account));
    assert_eq!(register("b", None).await.len(), 1);
    let default = |conflict: &GatewayConflict| matches!(conflict, GatewayConflict::Default { .. });
    assert!(register("a", Some("none")).await.iter().any(default));
    assert_eq!(register("a", None).await, [], "to say nothing is to agree");
    // A merchant's account changes: the default stays, so that no order is closed unasked in between.
    assert!(book::forget_gateway(&client, "wechat").await.unwrap());
    assert_eq!(register("b", Some("wechat")).await, []);
    assert_eq!(register("a", None).await.len(), 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_that_is_found_by_asking_is_on_record_too() {
    let (world, simulator) = scene().await;
    let always: Vec<_> = (1..=9).map(|call| (Query(call), Mishap::WrongAmount)).collect();
    let with_pay = [&always[..], &[(Query(1), Mishap::PayBefore)]].concat();
    let (cancelled, pending) =
        (world.order_at_gateway(&simulator, &with_pay).await, world.order_at_gateway(&simulator, &with_pay).await);
    world.cancel(&cancelled.id).await.unwrap();
    let worker = world.worker_asking(gateways(&simulator, impatient()), PipelineSettings::default());
    let foreign = world.foreign().await;
    for order in [&cancelled, &pending] {
        foreign.due_now(order.id.as_str().as_bytes()).await;
        refund_becomes(&world, &order.id, "needs_person").await;
    }
    assert_eq!(
        foreign.parked(1).await[0].reason(),
        "payment_mismatch",
        "only the one that is pending holds a message up"
    );
    let with_words = "select count(*) from refunds where convert_from(said, 'UTF8') like '%out_trade_no%'";
    assert_eq!(world.number(with_words).await, 2);
    assert_eq!(world.status(&pending.id).await, "pending");
    worker.stop().await;
    let audit = world.look_at_the_books().await;
    let found = audit.checks.iter().find(|check| check.name == "refunds_arrive").unwrap();
    assert_eq!(found.violations, 2);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_denial_parks_no_order_and_to_wait_for_a_customer_is_no_failure() {
    let (world, simulator) = scene().await;
    let denied = [(Query(1), Mishap::NotExist), (Query(2), Mishap::PayBefore)];
    let mut paying: Vec<_> = (1..=8).map(|call| (Query(call), Mishap::UserPaying)).collect();
    paying.push((Query(9), Mishap::PayBefore));
    let orders = [world.order_at_gateway(&simulator, &denied).await, world.order_at_gateway(&simulator, &paying).await];
    let settings = GatewaySettings { attempts_max: 3, later_max: Duration::from_secs(3600), ..impatient() };
    let worker = world.worker_asking(gateways(&simulator, settings), PipelineSettings::default());
    let foreign = world.foreign().await;
    for order in &orders {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    for order in &orders {
        world.becomes(&order.id, "paid").await;
    }
    assert_eq!(worker.counted().parked, 0);
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_messages_of_orders_that_settle_in_another_way_are_dropped_with_a_note() {
    let (world, simulator) = scene().await;
    let trouble: Vec<_> = (1..=2).map(|call| (Query(call), Mishap::Error(400, "TRADE_ERROR".to_owned()))).collect();
    let (paid, stuck) =
        (world.order_at_gateway(&simulator, &trouble).await, world.order_at_gateway(&simulator, &trouble).await);
    let process = start(&world, &simulator, "worker", &["--gateway-attempts-max", "2"]).await;
    let foreign = world.foreign().await;
    // One after the other, so that each is parked by itself.
    for (order, parked) in [(&paid, 1), (&stuck, 2)] {
        foreign.due_now(order.id.as_str().as_bytes()).await;
        let held = "select count(*) from parked where state = 'held'";
        eventually("it is parked", async || world.number(held).await == parked).await;
    }
    // One of them is paid, as the next message finds.
    assert!(simulator.ledger().pay(paid.id.as_str()));
    foreign.due_now(paid.id.as_str().as_bytes()).await;
    world.becomes(&paid.id, "paid").await;
    let dropped = "select count(*) from parked where state = 'dropped' and changed_by = 'overdue' and note is not null";
    eventually("its message is dropped", async || world.number(dropped).await == 1).await;
    assert_eq!(world.number("select count(*) from parked where state = 'held'").await, 1, "the other stays");
    let id: i64 = world.number("select id from parked where state = 'dropped'").await;
    let shown = world.overdue(&["parked", "show", &id.to_string()]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("settled in another way"), "{shown:?}");
    stop(process).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_cannot_take_is_refused_when_it_is_written() {
    let (world, simulator) = scene().await;
    let client = world.client(1, Purpose::Shop);
    let entries = gateways(&simulator, impatient()).entries();
    assert_eq!(book::register_gateways(&client, &entries, Some("wechat")).await.unwrap(), []);
    let new = |id: &str, amount_minor| NewOrder {
        id: OrderId::new(id).unwrap(),
        gateway: Some("wechat".to_owned()),
        amount_minor,
        ..world.new_order(&[("tea", 1)], Duration::from_secs(3600))
    };
    let short = world.create(&new("short", 1999)).await;
    assert!(matches!(&short, Err(OrderError::BadTradeNo(why)) if why.contains("6 to 32 characters")), "{short:?}");
    assert!(matches!(world.create(&new("long-enough", 0)).await, Err(OrderError::NothingToPay)));
    let (good, free) =
        (world.order("tea", Duration::from_secs(3600)).await, world.order("tea", Duration::from_secs(3600)).await);
    let insert = |id: &OrderId, trade_no: &str| {
        format!(
            "insert into payments (order_id, gateway, trade_no, prepay) values ('{id}', 'wechat', {trade_no}, 'none')"
        )
    };
    for trade_no in ["null", "'a.b.c.d'", "'123456789012345678901234567890123'"] {
        assert_eq!(refused_code(&world, &insert(&good.id, trade_no)).await, "OV003", "{trade_no}");
    }
    world.execute(&format!("update orders set amount_minor = 0 where id = '{}'", free.id)).await;
    assert_eq!(refused_code(&world, &insert(&free.id, "'good-number'")).await, "OV002");
    world.execute(&insert(&good.id, "'good-number'")).await;
    // What was written past all that is named before its deadline.
    let audit = world.look_at_the_books().await;
    let found = audit.checks.iter().find(|check| check.name == "payable").unwrap();
    assert_eq!((found.violations, found.examples.as_slice()), (1, [free.id.to_string()].as_slice()));
    world.close().await;
}
