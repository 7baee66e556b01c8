//! Alipay: its signatures, checked with code that is not the client's (`openssl`), and orders that are paid there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use book::Credited;
use data_encoding::BASE64;
use gateway_sim::Call::{Close, Query, Refund};
use gateway_sim::{Mishap, Signer, State};
use http::{HeaderMap, Response};
use order::{CloseOutcome, Money, OrderId, TradeState};
use payment::{Alipay, Environment, GatewayFault, Notification, PaymentGateway, RefundRequest, RefundState};
use shop::{NewOrder, Order};
use tests::{World, alipay_settings, eventually, gateways, impatient, keys, simulator};
use url::form_urlencoded::parse;
use worker::{NotificationOutcome, PipelineSettings};

use crate::wechat::{FixedClock, FixedNonce, NOW, Scripted, openssl_signs, openssl_verifies};

async fn scripted() -> (Arc<Scripted>, Alipay) {
    let transport = Arc::<Scripted>::default();
    let environment =
        Environment { transport: transport.clone(), clock: Arc::new(FixedClock), nonce: Arc::new(FixedNonce) };
    (transport, Alipay::new(&alipay_settings(&simulator().await), environment).unwrap())
}

fn refund_request() -> RefundRequest {
    RefundRequest {
        trade_no: "842317".to_owned(),
        transaction_id: "2026".to_owned(),
        refund_no: "overdue-842317".to_owned(),
        amount: Money { minor: 1905, currency: "CNY".to_owned() },
        reason: "the order was closed & gone".to_owned(),
    }
}

/// What Alipay's documents say is signed: every parameter but `sign`, sorted, unescaped.
fn text_to_sign(pairs: &BTreeMap<String, String>) -> String {
    let signed = pairs.iter().filter(|(name, value)| *name != "sign" && !value.is_empty());
    signed.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[tokio::test]
async fn every_request_is_signed_so_that_openssl_verifies_it() {
    let (transport, client) = scripted().await;
    let public_key = keys().await.merchant_public_key_file();
    let _ = client.query("842317").await;
    let _ = client.close("842317").await;
    let _ = client.refund(&refund_request()).await;
    let _ = client.query_refund(&refund_request()).await;
    let asked = std::mem::take(&mut *transport.asked.lock().unwrap());
    let methods =
        ["alipay.trade.query", "alipay.trade.close", "alipay.trade.refund", "alipay.trade.fastpay.refund.query"];
    assert_eq!(asked.len(), methods.len());
    for (request, method) in asked.iter().zip(methods) {
        let mut pairs: BTreeMap<String, String> =
            parse(request.uri().query().unwrap().as_bytes()).into_owned().collect();
        pairs.extend(parse(request.body()).into_owned());
        assert_eq!(
            (pairs["method"].as_str(), pairs["sign_type"].as_str(), pairs["version"].as_str()),
            (method, "RSA2", "1.0")
        );
        let text = text_to_sign(&pairs);
        assert!(openssl_verifies(&public_key, text.as_bytes(), &pairs["sign"]), "{text}");
        assert!(!openssl_verifies(&public_key, &text.as_bytes()[1..], &pairs["sign"]));
        let content: serde_json::Value = serde_json::from_str(&pairs["biz_content"]).unwrap();
        assert_eq!(content["out_trade_no"], "842317");
        if method == "alipay.trade.refund" {
            assert_eq!(
                (&content["refund_amount"], &content["out_request_no"]),
                (&"19.05".into(), &"overdue-842317".into())
            );
        }
    }
}

#[tokio::test]
async fn an_answer_that_openssl_has_signed_is_believed_and_no_other() {
    let (transport, client) = scripted().await;
    let keys = keys().await;
    let key = keys.public_key_file(Signer::PublicKey).with_extension("key");
    let foreign = keys.public_key_file(Signer::Unknown).with_extension("key");
    let answer = |method: &str, node: &str, signature: Option<&str>| {
        let sign = signature.map_or_else(String::new, |signature| format!(r#","sign":"{signature}""#));
        let body = format!(r#"{{"{}_response":{node}{sign}}}"#, method.replace('.', "_"));
        let response = Response::builder().status(200).body(body.into_bytes()).unwrap();
        *transport.answer.lock().unwrap() = Some(response);
    };
    // To the byte, blanks and escapes as well.
    let node = r#"{ "code":"10000" ,"msg":"\u6210\u529f","out_trade_no":"842317","trade_status":"TRADE_CLOSED"}"#;
    let signature = openssl_signs(&key, node.as_bytes());
    answer("alipay.trade.query", node, Some(&signature));
    assert_eq!(client.query("842317").await.unwrap().state, TradeState::Closed);
    answer("alipay.trade.query", node, Some(&signature));
    assert!(matches!(client.query("842318").await, Err(GatewayFault::Protocol(_))), "about another trade");
    let altered = node.replace("TRADE_CLOSED", "WAIT_BUYER_PAY");
    let others =
        [Some(signature.clone()), Some(openssl_signs(&foreign, altered.as_bytes())), Some("!".to_owned()), None];
    for other in others {
        answer("alipay.trade.query", &altered, other.as_deref());
        assert!(matches!(client.query("842317").await, Err(GatewayFault::Protocol(_))), "{other:?}");
    }
    let closed = r#"{"code":"10000","msg":"Success"}"#;
    answer("alipay.trade.close", closed, Some(&openssl_signs(&key, closed.as_bytes())));
    assert_eq!(client.close("842317").await.unwrap(), CloseOutcome::Accepted);
    answer("alipay.trade.close", closed, None);
    assert!(matches!(client.close("842317").await, Err(GatewayFault::Protocol(_))), "a success must be signed");
    // A refusal may come without a signature, but not with a wrong one.
    let missing = r#"{"code":"40004","msg":"Business Failed","sub_code":"ACQ.TRADE_NOT_EXIST","sub_msg":"x"}"#;
    answer("alipay.trade.query", missing, None);
    assert_eq!(client.query("842317").await.unwrap().state, TradeState::NotFound);
    answer("alipay.trade.query", missing, Some(&signature));
    assert!(matches!(client.query("842317").await, Err(GatewayFault::Protocol(_))));
    // Money moved; or it had moved before.
    for (change, state) in [("Y", RefundState::Succeeded), ("N", RefundState::Processing)] {
        let node = format!(r#"{{"code":"10000","msg":"Success","fund_change":"{change}"}}"#);
        answer("alipay.trade.refund", &node, Some(&openssl_signs(&key, node.as_bytes())));
        assert_eq!(client.refund(&refund_request()).await.unwrap().state, state);
    }
    for (node, state) in [
        (
            r#"{"code":"10000","out_request_no":"overdue-842317","refund_status":"REFUND_SUCCESS"}"#,
            RefundState::Succeeded,
        ),
        (r#"{"code":"10000","msg":"Success"}"#, RefundState::NotFound),
    ] {
        answer("alipay.trade.fastpay.refund.query", node, Some(&openssl_signs(&key, node.as_bytes())));
        assert_eq!(client.query_refund(&refund_request()).await.unwrap().state, state);
    }
}

#[tokio::test]
async fn a_notification_that_openssl_has_signed_is_believed_and_no_other() {
    let (_, client) = scripted().await;
    let simulator = simulator().await;
    simulator.ledger().open("trade_1", 1999, "CNY");
    assert!(simulator.ledger().pay("trade_1"));
    // What the simulator signs, openssl verifies: both could share a mistake with the client.
    let (headers, body) = simulator.alipay_notification("trade_1");
    let mut pairs: BTreeMap<String, String> = parse(&body).into_owned().collect();
    pairs.remove("sign_type");
    let text = text_to_sign(&pairs);
    let public_key = keys().await.public_key_file(Signer::PublicKey);
    assert!(openssl_verifies(&public_key, text.as_bytes(), &pairs["sign"]), "{text}");
    let Notification::Trade { trade_no, trade } = client.parse_notification(&headers, &body).await.unwrap() else {
        panic!("it is about a trade")
    };
    assert_eq!((trade_no.as_str(), &trade.state), ("trade_1", &TradeState::Paid));
    assert_eq!(trade.amount, Some(Money { minor: 1999, currency: "CNY".to_owned() }));
    assert!(trade.discrepancy.is_none() && trade.paid_at.is_some() && trade.transaction_id.is_some());
    let key = public_key.with_extension("key");
    let signed = |form: &str| {
        let pairs: BTreeMap<String, String> = parse(form.as_bytes()).into_owned().collect();
        let signature = openssl_signs(&key, text_to_sign(&pairs).as_bytes());
        let escaped: String = url::form_urlencoded::byte_serialize(signature.as_bytes()).collect();
        format!("{form}&sign={escaped}&sign_type=RSA2").into_bytes()
    };
    let form = "app_id=2021000000000001&out_trade_no=t_2&trade_no=2026&trade_status=TRADE_SUCCESS&total_amount=19.99";
    for (form, state) in [
        (form.to_owned(), TradeState::Paid),
        (form.replace("TRADE_SUCCESS", "TRADE_FINISHED"), TradeState::Paid),
        (form.replace("TRADE_SUCCESS", "WAIT_BUYER_PAY"), TradeState::NotPaid),
        (form.replace("TRADE_SUCCESS", "TRADE_CLOSED"), TradeState::Closed),
        (format!("{form}&gmt_payment=2026-11-22 08:30:00&refund_fee=0.01"), TradeState::Refunded),
    ] {
        let parsed = client.parse_notification(&HeaderMap::new(), &signed(&form)).await.unwrap();
        let Notification::Trade { trade, .. } = parsed else { panic!("{form}") };
        assert_eq!(trade.state, state, "{form}");
    }
    let foreign = signed(&form.replace("2021000000000001", "2021000000000009"));
    let Notification::Trade { trade, .. } = client.parse_notification(&headers, &foreign).await.unwrap() else {
        panic!("it is about a trade")
    };
    assert!(trade.discrepancy.is_some(), "another application's");
    let genuine = String::from_utf8(signed(form)).unwrap();
    let bad = BASE64.encode(b"no signature");
    for forged in [
        form.to_owned(),
        format!("{form}&sign={bad}"),
        genuine.replace("19.99", "1.99"),
        genuine.replace("trade_status=TRADE_SUCCESS", "trade_status=TRADE_CLOSED"),
        format!("{genuine}&trade_status=TRADE_CLOSED"),
        format!("{genuine}&more=1"),
        String::new(),
    ] {
        let refused = client.parse_notification(&headers, forged.as_bytes()).await;
        assert!(matches!(refused, Err(GatewayFault::Protocol(_))), "{forged}: {refused:?}");
    }
    assert_eq!(client.acknowledgement().body, "success");
}

/// An order that is due already and whose trade waits at Alipay. Its numbers have no hyphens.
async fn order(world: &World, simulator: &gateway_sim::Simulator, plan: &[(gateway_sim::Call, Mishap)]) -> Order {
    let order = untold(world).await;
    simulator.ledger().open(order.id.as_str(), 1999, "CNY");
    for (call, mishap) in plan {
        simulator.ledger().plan(order.id.as_str(), *call, mishap.clone());
    }
    let mut connection = world.connection().await;
    shop::prepay_created(&mut connection, &order.id, "alipay", None).await.unwrap();
    order
}

/// The same, before the customer has scanned the code.
async fn untold(world: &World) -> Order {
    let new = world.new_order(&[("tea", 1)], Duration::from_secs(3600));
    let id = OrderId::new(&format!("trade_{}", new.id.as_str().replace('-', "_"))).unwrap();
    world.create_overdue(&NewOrder { id, gateway: Some("alipay".to_owned()), ..new }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_at_alipay_close_when_it_says_so_and_are_paid_when_they_were() {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 1_000).await;
    let worker = world.worker_asking(gateways(&simulator, impatient()), PipelineSettings::default());
    let fault = |code: &str| Mishap::Error(200, code.to_owned());
    let mut cases: Vec<(Vec<(gateway_sim::Call, Mishap)>, &str)> = vec![
        (vec![], "closed"),
        (vec![(Query(1), Mishap::PayBefore)], "paid"),
        (vec![(Query(1), Mishap::PayAfter)], "paid"),
        (vec![(Close(1), Mishap::PayAfter)], "closed"),
        (vec![(Close(1), Mishap::PretendToClose), (Query(2), Mishap::PayBefore)], "paid"),
        (vec![(Query(1), Mishap::State("TRADE_SOMETHING".to_owned()))], "closed"),
    ];
    for mishap in [
        Mishap::LoseRequest,
        Mishap::LoseAnswer,
        Mishap::Html(502),
        Mishap::Empty(404),
        Mishap::Unsigned,
        Mishap::BadSignature,
        Mishap::UnknownKey,
        Mishap::OtherTrade,
        fault("ACQ.SYSTEM_ERROR"),
        fault("ACQ.SOMETHING_NEW"),
        fault("isv.app-call-limited"),
    ] {
        cases.extend([Query(1), Close(1), Query(2)].map(|call| (vec![(call, mishap.clone())], "closed")));
    }
    let mut orders = Vec::new();
    for (plan, _) in &cases {
        orders.push(order(&world, &simulator, plan).await);
    }
    let unscanned = untold(&world).await;
    let foreign = world.foreign().await;
    for order in orders.iter().chain([&unscanned]) {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    for ((plan, status), order) in cases.iter().zip(&orders) {
        eventually(&format!("{plan:?}: {status}"), async || world.status(&order.id).await == *status).await;
        let there = simulator.ledger().trade(order.id.as_str()).unwrap().state;
        assert_eq!(there, if *status == "paid" { State::Paid } else { State::Closed }, "{plan:?}");
    }
    world.becomes(&unscanned.id, "closed").await;
    // The code can be scanned for days still.
    let open = format!("select count(*) from payments where order_id = '{}' and state = 'open'", unscanned.id);
    eventually("it is not given up", async || world.number(&open).await == 1).await;
    simulator.ledger().open(unscanned.id.as_str(), 1999, "CNY");
    assert!(simulator.ledger().pay(unscanned.id.as_str()));
    foreign.due_now(unscanned.id.as_str().as_bytes()).await;
    let back = "select count(*) from refunds where state = 'succeeded'";
    eventually("the late payment is back", async || world.number(back).await == 1).await;
    assert_eq!((worker.counted().parked, worker.counted().gateway_circuits_open), (0, 0));
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alipay_notifies_and_refunds_once_whatever_is_lost() {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 1_000).await;
    let gateways = gateways(&simulator, impatient());
    let (paid, late) = (
        order(&world, &simulator, &[]).await,
        order(&world, &simulator, &[(Refund(1), Mishap::LoseAnswer), (Refund(2), Mishap::NotEnough)]).await,
    );
    world.cancel(&late.id).await.unwrap();
    for order in [&paid, &late] {
        assert!(simulator.ledger().pay(order.id.as_str()));
    }
    for (order, credited) in [(&paid, Credited::Paid), (&late, Credited::Late)] {
        let (headers, body) = simulator.alipay_notification(order.id.as_str());
        let taken = world.notifications(&gateways).take("alipay", &headers, &body).await.unwrap();
        assert_eq!(taken, NotificationOutcome::Credited(order.id.clone(), credited));
    }
    let worker = world.worker_asking(gateways.clone(), PipelineSettings::default());
    let back = "select count(*) from refunds where state = 'succeeded'";
    eventually("the late payment is back", async || world.number(back).await == 1).await;
    assert_eq!(simulator.ledger().refunds().len(), 1);
    // What it tells of a refund that we made needs nobody.
    let (headers, body) = simulator.alipay_notification(late.id.as_str());
    let taken = world.notifications(&gateways).take("alipay", &headers, &body).await.unwrap();
    assert_eq!(taken, NotificationOutcome::Nothing);
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_alipay_that_cannot_be_used_are_refused_with_a_sentence() {
    let world = World::new().await;
    let key = keys().await.merchant_key_file().display().to_string();
    let public = keys().await.public_key_file(Signer::PublicKey).display().to_string();
    let cases: [(&[&str], &str); 5] = [
        (&["--gateway", "alipay"], "settings of that gateway are not given"),
        (&["--alipay-app-id", "2021"], "OVERDUE_ALIPAY_PRIVATE_KEY_FILE"),
        (
            &["--alipay-app-id", "2021", "--alipay-private-key-file", "/nowhere", "--alipay-public-key-file", &public],
            "/nowhere",
        ),
        (
            &["--alipay-app-id", "2021", "--alipay-private-key-file", &public, "--alipay-public-key-file", &public],
            "PKCS#8",
        ),
        (
            &["--alipay-app-id", "2021", "--alipay-private-key-file", &key, "--alipay-public-key-file", &key],
            "PUBLIC KEY",
        ),
    ];
    for (arguments, sentence) in cases {
        let refused = world.overdue(&[&["run"], arguments].concat()).await;
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(sentence), "{arguments:?}: {error}");
    }
    let odd = world
        .overdue(&["order", "create", "A-1", "--item", "tea=1", "--amount-minor", "1", "--gateway", "alipay"])
        .await;
    assert!(String::from_utf8_lossy(&odd.stderr).contains("Alipay's trade numbers"), "{odd:?}");
    assert!(NOW.unix_timestamp() > 0);
    world.close().await;
}
