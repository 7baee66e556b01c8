//! The contract of a payment service: what the client sends and what the simulator answers is what
//! `docs/payment-service.openapi.json` says.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use gateway_sim::SERVICE_KEY;
use http::{HeaderMap, Method, Request, Response};
use order::{CloseOutcome, Money, TradeState};
use payment::{
    Environment, GatewayFault, HttpTransport, Notification, PaymentGateway, RefundRequest, RefundState, SignedHttp,
    SignedHttpSettings, Transport, TransportFault, hmac_signature,
};
use serde_json::{Value, json};
use tests::{service_settings, simulator};

type Exchange = (Request<Vec<u8>>, Response<Vec<u8>>);

/// Passes calls on and keeps them with their answers.
struct Recorder {
    transport: HttpTransport,
    calls: Mutex<Vec<Exchange>>,
}

#[async_trait]
impl Transport for Recorder {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, TransportFault> {
        let response = self.transport.send(request.clone()).await?;
        self.calls.lock().unwrap().push((request, response.clone()));
        Ok(response)
    }
}

fn document() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/payment-service.openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Fails unless the body is of this schema of the document.
fn assert_valid(document: &Value, schema: &Value, body: &[u8], what: &str) {
    let body: Value = serde_json::from_slice(body).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{what}: {errors:?} in {body}");
}

/// The operation that a request is, by method and path.
fn operation<'a>(document: &'a Value, method: &Method, path: &str) -> &'a Value {
    let wanted: Vec<&str> = path.trim_start_matches("/service/").split('/').collect();
    let paths = document["paths"].as_object().unwrap();
    let matches = |template: &str| {
        let parts: Vec<&str> = template.trim_start_matches('/').split('/').collect();
        parts.len() == wanted.len() && parts.iter().zip(&wanted).all(|(part, got)| part.starts_with('{') || part == got)
    };
    let (_, operations) =
        paths.iter().find(|(template, _)| matches(template)).unwrap_or_else(|| panic!("no path {path}"));
    let operation = &operations[method.as_str().to_lowercase()];
    assert!(operation.is_object(), "{path} has no {method}");
    operation
}

fn assert_headers(document: &Value, operation: &Value, headers: &HeaderMap, what: &str) {
    for parameter in operation["parameters"].as_array().unwrap() {
        let Some(reference) = parameter["$ref"].as_str() else { continue };
        let parameter = document.pointer(reference.trim_start_matches('#')).unwrap();
        assert!(headers.contains_key(parameter["name"].as_str().unwrap()), "{what}: {} is missing", parameter["name"]);
    }
}

#[tokio::test]
async fn client_and_simulator_keep_the_contract() {
    let simulator = simulator().await;
    let recorder =
        Arc::new(Recorder { transport: HttpTransport::new(Duration::from_secs(2)).unwrap(), calls: Mutex::default() });
    let environment =
        Environment { transport: recorder.clone(), ..Environment::system(Duration::from_secs(2)).unwrap() };
    let client = SignedHttp::new(&service_settings(&simulator), environment).unwrap();
    let ledger = simulator.ledger();
    for trade in ["unpaid", "paid", "closed"] {
        ledger.open(trade, 1999, "CNY");
    }
    ledger.pay("paid");
    assert_eq!(client.close("closed").await.unwrap(), CloseOutcome::Accepted);
    assert_eq!(client.close("closed").await.unwrap(), CloseOutcome::AlreadyClosed);
    assert_eq!(client.close("paid").await.unwrap(), CloseOutcome::AlreadyPaid);
    assert_eq!(client.close("unknown").await.unwrap(), CloseOutcome::NotFound);
    for (trade, state) in [
        ("unpaid", TradeState::NotPaid),
        ("paid", TradeState::Paid),
        ("closed", TradeState::Closed),
        ("unknown", TradeState::NotFound),
    ] {
        assert_eq!(client.query(trade).await.unwrap().state, state);
    }
    let request = RefundRequest {
        trade_no: "paid".to_owned(),
        transaction_id: ledger.trade("paid").unwrap().transaction_id.unwrap(),
        refund_no: "overdue-paid".to_owned(),
        amount: Money { minor: 1999, currency: "CNY".to_owned() },
        reason: "too late".to_owned(),
    };
    for _ in 0..2 {
        assert_eq!(client.refund(&request).await.unwrap().state, RefundState::Processing);
    }
    assert_eq!(client.query_refund(&request).await.unwrap().state, RefundState::Succeeded);
    assert_eq!(
        client.query_refund(&RefundRequest { refund_no: "unknown".to_owned(), ..request }).await.unwrap().state,
        RefundState::NotFound
    );
    assert_eq!(ledger.refunds()["overdue-paid"].requests, 2, "one refund, asked for twice");

    let document = document();
    let calls = std::mem::take(&mut *recorder.calls.lock().unwrap());
    assert_eq!(calls.len(), 12);
    for (request, response) in &calls {
        let what = format!("{} {}", request.method(), request.uri().path());
        let operation = operation(&document, request.method(), request.uri().path());
        assert_headers(&document, operation, request.headers(), &what);
        if request.method() == Method::POST {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            assert_valid(&document, schema, request.body(), &what);
        }
        let answer = &operation["responses"][response.status().as_str()];
        assert!(answer.is_object(), "{what}: {} is not in the contract", response.status());
        assert_valid(&document, &answer["content"]["application/json"]["schema"], response.body(), &what);
        for header in answer["headers"].as_object().unwrap().keys() {
            assert!(response.headers().contains_key(header), "{what}: {header} is missing");
        }
    }
    let (_, body) = simulator.service_notification("closed");
    let schema = &document["webhooks"]["notification"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_valid(&document, schema, &body, "a notification");
}

#[test]
fn the_example_in_the_contract_is_signed_as_it_says() {
    let signature = hmac_signature(
        SERVICE_KEY.1.as_bytes(),
        "GET /payments/trades/842317",
        "1700000000",
        "593bec0c930bf1afeb40b4a08c8fb242",
        b"",
    );
    assert!(document()["info"]["description"].as_str().unwrap().contains(&signature), "{signature}");
}

/// The way of signing that the document describes, done by hand, is the one that client and service use.
#[tokio::test]
async fn a_request_signed_by_hand_is_accepted() {
    let simulator = simulator().await;
    simulator.ledger().open("1", 1999, "CNY");
    let timestamp = time::OffsetDateTime::now_utc().unix_timestamp().to_string();
    let nonce = "0123456789abcdef";
    let key = openssl_hmac(&format!("GET /service/trades/1\n{timestamp}\n{nonce}\n\n"));
    assert_eq!(key, hmac_signature(SERVICE_KEY.1.as_bytes(), "GET /service/trades/1", &timestamp, nonce, b""));
    let transport = HttpTransport::new(Duration::from_secs(2)).unwrap();
    let request = Request::get(format!("{}/trades/1", simulator.service_url()))
        .header("Overdue-Key-Id", SERVICE_KEY.0)
        .header("Overdue-Timestamp", timestamp)
        .header("Overdue-Nonce", nonce)
        .header("Overdue-Signature", key);
    let response = transport.send(request.body(Vec::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(body["state"], json!("not_paid"));
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    let text = String::from_utf8(response.body().clone()).unwrap();
    let message = format!("200 {nonce}\n{}\n{}\n{text}\n", header("overdue-timestamp"), header("overdue-nonce"));
    assert_eq!(header("overdue-signature"), openssl_hmac(&message), "the answer is bound to the request");
}

/// `openssl dgst -hmac`, in base64.
fn openssl_hmac(message: &str) -> String {
    use std::io::Write as _;
    let mut child = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", SERVICE_KEY.1, "-binary"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(message.as_bytes()).unwrap();
    data_encoding::BASE64.encode(&child.wait_with_output().unwrap().stdout)
}

/// The service signs with the old secret still, while Overdue signs with the new one.
#[tokio::test]
async fn a_secret_is_changed_without_a_gap() {
    let simulator = simulator().await;
    simulator.ledger().open("trade-1", 1999, "CNY");
    let client = |secret: &str, old_secret: Option<&str>| {
        let settings = SignedHttpSettings {
            key_id: "next".to_owned(),
            secret: secret.into(),
            old_secret: old_secret.map(Into::into),
            ..service_settings(&simulator)
        };
        SignedHttp::new(&settings, Environment::system(Duration::from_secs(5)).unwrap()).unwrap()
    };
    let next = "another-secret-that-guards-nothing";
    let (headers, body) = simulator.service_notification("trade-1");
    let (changing, changed) = (client(next, Some(SERVICE_KEY.1)), client(next, None));
    assert!(changing.parse_notification(&headers, &body).await.is_ok());
    assert!(matches!(changed.parse_notification(&headers, &body).await, Err(GatewayFault::Protocol(_))));
    let mut forged = body.clone();
    forged.push(b' ');
    assert!(changing.parse_notification(&headers, &forged).await.is_err());
    // The simulator knows only the old one.
    assert!(matches!(changing.query("trade-1").await, Err(GatewayFault::Unauthenticated(_))));
}

/// What a service may say beyond the ordinary, as the document lists it.
#[tokio::test]
async fn every_word_of_the_contract_is_understood() {
    let simulator = simulator().await;
    let environment = Environment::system(Duration::from_secs(5)).unwrap();
    let client = SignedHttp::new(&service_settings(&simulator), environment).unwrap();
    let document: Value = serde_json::from_str(include_str!("../../docs/payment-service.openapi.json")).unwrap();
    for state in document["components"]["schemas"]["Trade"]["properties"]["state"]["enum"].as_array().unwrap() {
        let data = json!({ "trade_no": "t", "state": state, "transaction_id": "1", "amount_minor": 5, "currency": "CNY",
                           "combined": true, "refunded_minor": 2 });
        let body = json!({ "event": "trade", "data": data }).to_string().into_bytes();
        let (timestamp, nonce) = (time::OffsetDateTime::now_utc().unix_timestamp().to_string(), "n".repeat(32));
        let signature = hmac_signature(SERVICE_KEY.1.as_bytes(), "NOTIFICATION", &timestamp, &nonce, &body);
        let mut headers = http::HeaderMap::new();
        headers.insert("overdue-timestamp", timestamp.parse().unwrap());
        headers.insert("overdue-nonce", nonce.parse().unwrap());
        headers.insert("overdue-signature", signature.parse().unwrap());
        let Notification::Trade { trade, .. } = client.parse_notification(&headers, &body).await.unwrap() else {
            panic!("it is about a trade")
        };
        assert!(!matches!(trade.state, TradeState::Unrecognized(_)), "{state}");
        assert_eq!((trade.combined, trade.refunded_minor), (true, 2));
    }
}
