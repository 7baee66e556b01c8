//! Signatures of WeChat Pay's client, checked with code that is not the client's: `openssl`.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use data_encoding::BASE64;
use gateway_sim::{Mishap, PUBLIC_KEY_ID, Signer};
use http::{Request, Response};
use order::{CloseOutcome, OrderId, TradeState};
use payment::{
    Clock, Environment, GatewayFault, Nonce, PaymentGateway, Transport, TransportFault, VerificationKey, WeChatPay,
};
use tests::{World, keys, simulator, wechat, wechat_settings};
use time::OffsetDateTime;

/// A gateway that answers whatever it is told to, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct Scripted {
    pub(crate) asked: Mutex<Vec<Request<Vec<u8>>>>,
    pub(crate) answer: Mutex<Option<Response<Vec<u8>>>>,
}

#[async_trait]
impl Transport for Scripted {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, TransportFault> {
        self.asked.lock().unwrap().push(request);
        self.answer.lock().unwrap().take().ok_or_else(|| TransportFault("no answer".to_owned()))
    }
}

/// The moment at which all of this happens: the simulator's certificates are valid then.
pub(crate) static NOW: LazyLock<OffsetDateTime> = LazyLock::new(OffsetDateTime::now_utc);
const NONCE: &str = "593bec0c930bf1afeb40b4a08c8fb242";

pub(crate) struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> OffsetDateTime {
        *NOW
    }
}

pub(crate) struct FixedNonce;

impl Nonce for FixedNonce {
    fn next(&self) -> String {
        NONCE.to_owned()
    }
}

async fn scripted() -> (Arc<Scripted>, WeChatPay) {
    let transport = Arc::<Scripted>::default();
    let environment =
        Environment { transport: transport.clone(), clock: Arc::new(FixedClock), nonce: Arc::new(FixedNonce) };
    let settings = wechat_settings(&simulator().await);
    (transport, WeChatPay::new(settings, environment).unwrap())
}

/// `openssl dgst -sha256 -verify`.
pub(crate) fn openssl_verifies(public_key: &Path, message: &[u8], signature: &str) -> bool {
    let directory = std::env::temp_dir().join(format!("overdue-verify-{}", uuid::Uuid::now_v7().simple()));
    std::fs::create_dir_all(&directory).unwrap();
    let (message_file, signature_file) = (directory.join("message"), directory.join("signature"));
    std::fs::write(&message_file, message).unwrap();
    std::fs::write(&signature_file, BASE64.decode(signature.as_bytes()).unwrap()).unwrap();
    let verified = Command::new("openssl")
        .args(["dgst", "-sha256", "-verify"])
        .arg(public_key)
        .arg("-signature")
        .args([&signature_file, &message_file])
        .output()
        .unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    verified.status.success()
}

/// `openssl dgst -sha256 -sign`, in base64.
pub(crate) fn openssl_signs(private_key: &Path, message: &[u8]) -> String {
    let file = std::env::temp_dir().join(format!("overdue-sign-{}", uuid::Uuid::now_v7().simple()));
    std::fs::write(&file, message).unwrap();
    let signed =
        Command::new("openssl").args(["dgst", "-sha256", "-sign"]).arg(private_key).arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    BASE64.encode(&signed.stdout)
}

fn field<'a>(authorization: &'a str, name: &str) -> &'a str {
    let (_, rest) = authorization.split_once(&format!("{name}=\"")).unwrap();
    rest.split_once('"').unwrap().0
}

#[tokio::test]
async fn a_known_request_is_signed_so_that_openssl_verifies_it() {
    let (transport, client) = scripted().await;
    let public_key = keys().await.merchant_public_key_file();
    let _ = client.query("trade-842317").await;
    let _ = client.close("trade|842317").await;
    let asked = std::mem::take(&mut *transport.asked.lock().unwrap());
    let timestamp = NOW.unix_timestamp();
    let expected = [
        format!("GET\n/v3/pay/transactions/out-trade-no/trade-842317?mchid=1900009191\n{timestamp}\n{NONCE}\n\n"),
        format!(
            "POST\n/v3/pay/transactions/out-trade-no/trade%7C842317/close\n{timestamp}\n{NONCE}\n{{\"mchid\":\"1900009191\"}}\n"
        ),
    ];
    assert_eq!(asked.len(), 2);
    for (request, message) in asked.iter().zip(&expected) {
        let authorization = request.headers()["authorization"].to_str().unwrap();
        assert!(authorization.starts_with("WECHATPAY2-SHA256-RSA2048 "), "{authorization}");
        assert_eq!(field(authorization, "mchid"), "1900009191");
        assert_eq!(field(authorization, "serial_no"), gateway_sim::MERCHANT_SERIAL);
        assert_eq!(
            (field(authorization, "nonce_str"), field(authorization, "timestamp")),
            (NONCE, timestamp.to_string().as_str())
        );
        let signature = field(authorization, "signature");
        assert!(openssl_verifies(&public_key, message.as_bytes(), signature), "{message}");
        assert!(!openssl_verifies(&public_key, &message.as_bytes()[1..], signature));
        assert_eq!(request.headers()["accept"], "application/json");
    }
}

#[tokio::test]
async fn an_answer_that_openssl_has_signed_is_believed_and_no_other() {
    let (transport, client) = scripted().await;
    let keys = keys().await;
    let serial = keys.serial(Signer::Certificate1).unwrap();
    let body = r#"{"mchid":"1900009191","out_trade_no":"trade-1","trade_state":"CLOSED","trade_state_desc":"x"}"#;
    let private_key = keys.certificate_file(Signer::Certificate1).with_extension("key");
    let mut number = 0;
    let mut answer = |age_s: i64, sign: &str, body: &str, status: u16| {
        number += 1;
        let (timestamp, nonce) = (NOW.unix_timestamp() - age_s, format!("nonce-{number}"));
        let signature = openssl_signs(&private_key, format!("{timestamp}\n{nonce}\n{sign}\n").as_bytes());
        let response = Response::builder()
            .status(status)
            .header("Wechatpay-Timestamp", timestamp.to_string())
            .header("Wechatpay-Nonce", nonce)
            .header("Wechatpay-Serial", &serial)
            .header("Wechatpay-Signature", signature)
            .body(body.as_bytes().to_vec());
        *transport.answer.lock().unwrap() = Some(response.unwrap());
    };
    for age_s in [0, 299, -299] {
        answer(age_s, body, body, 200);
        assert_eq!(client.query("trade-1").await.unwrap().state, TradeState::Closed);
    }
    // Stale, or from the future.
    for age_s in [300, 301, -300] {
        answer(age_s, body, body, 200);
        assert!(matches!(client.query("trade-1").await, Err(GatewayFault::Protocol(_))), "{age_s}");
    }
    answer(0, &body.replace("CLOSED", "NOTPAY"), body, 200);
    assert!(matches!(client.query("trade-1").await, Err(GatewayFault::Protocol(_))), "another body was signed");
    answer(0, body, body, 200);
    assert!(matches!(client.query("trade-2").await, Err(GatewayFault::Protocol(_))), "about another trade");
    // A 204 has no body, and its line is empty.
    answer(0, "", "", 204);
    assert_eq!(client.close("trade-1").await.unwrap(), CloseOutcome::Accepted);
    answer(0, "x", "", 204);
    assert!(matches!(client.close("trade-1").await, Err(GatewayFault::Protocol(_))));
    // Success of the call is not success of the trade.
    let unpaid = r#"{"mchid":"1900009191","out_trade_no":"trade-1","trade_state":"NOTPAY","code":"SUCCESS"}"#;
    answer(0, unpaid, unpaid, 200);
    assert_eq!(client.query("trade-1").await.unwrap().state, TradeState::NotPaid);
}

/// What the simulator signs is checked by openssl as well: client and simulator could agree on the same mistake.
#[tokio::test]
async fn what_the_simulator_signs_openssl_verifies() {
    let simulator = simulator().await;
    simulator.ledger().open("trade-1", 1999, "CNY");
    for signer in [Signer::Certificate1, Signer::Certificate2, Signer::PublicKey] {
        simulator.sign_with(signer);
        let (headers, body) = simulator.notification("trade-1");
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(text("wechatpay-serial"), simulator.keys().serial(signer).unwrap());
        let message =
            [format!("{}\n{}\n", text("wechatpay-timestamp"), text("wechatpay-nonce")).as_bytes(), &body, b"\n"]
                .concat();
        let public_key = simulator.keys().public_key_file(signer);
        assert!(openssl_verifies(&public_key, &message, &text("wechatpay-signature")), "{signer:?}");
    }
}

#[tokio::test]
async fn a_public_key_serves_in_the_place_of_certificates() {
    let simulator = simulator().await;
    simulator.ledger().open("trade-1", 1999, "CNY");
    simulator.sign_with(Signer::PublicKey);
    let pem = std::fs::read(simulator.keys().public_key_file(Signer::PublicKey)).unwrap();
    let mut settings = wechat_settings(&simulator);
    // Without it, there is no certificate of that name to fetch.
    let environment = Environment::system(std::time::Duration::from_secs(2)).unwrap();
    let without = WeChatPay::new(settings.clone(), environment.clone()).unwrap();
    assert!(matches!(without.query("trade-1").await, Err(GatewayFault::Protocol(_))));
    settings.keys.push(VerificationKey::from_public_key(PUBLIC_KEY_ID, &pem).unwrap());
    let with = WeChatPay::new(settings, environment).unwrap();
    assert_eq!(with.query("trade-1").await.unwrap().state, TradeState::NotPaid);
    // Both are accepted while a merchant changes over.
    simulator.sign_with(Signer::Certificate1);
    assert_eq!(with.query("trade-1").await.unwrap().state, TradeState::NotPaid);
}

#[tokio::test]
async fn new_certificates_are_fetched_and_forged_ones_are_not() {
    let simulator = simulator().await;
    simulator.ledger().open("trade-1", 1999, "CNY");
    let client = wechat(&simulator);
    simulator.sign_with(Signer::Certificate2);
    assert_eq!(client.query("trade-1").await.unwrap().state, TradeState::NotPaid);
    let calls = simulator.statistics().calls;
    for _ in 0..5 {
        simulator.ledger().plan("trade-1", gateway_sim::Call::Query(2), Mishap::UnknownKey);
        let _ = client.query("trade-1").await;
    }
    assert_eq!(simulator.statistics().calls - calls, 5, "an unknown serial number does not make us fetch each time");
    // With another APIv3 key nothing can be decrypted, and nothing is believed.
    let settings = payment::WeChatSettings { api_v3_key: "f".repeat(32).into(), ..wechat_settings(&simulator) };
    let environment = Environment::system(std::time::Duration::from_secs(2)).unwrap();
    let other = WeChatPay::new(settings, environment).unwrap();
    assert!(matches!(other.query("trade-1").await, Err(GatewayFault::Protocol(_))));
}

/// Settings of a gateway that cannot be used are told at the start, each with a sentence.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_used_are_refused_with_a_sentence() {
    let world = World::new().await;
    let key = keys().await.merchant_key_file().display().to_string();
    let certificate = keys().await.certificate_file(Signer::Certificate1).display().to_string();
    let wechat = ["run", "--wechat-mchid", "1", "--wechat-appid", "wx", "--wechat-serial-no", "5157"];
    let with = |more: &[&str]| [&wechat[..], more].concat().iter().map(ToString::to_string).collect::<Vec<_>>();
    let secret = "--wechat-api-v3-key=0123456789abcdef0123456789abcdef";
    let cases = [
        (vec!["run".to_owned(), "--gateway".to_owned(), "wechat".to_owned()], "settings of that gateway are not given"),
        (with(&[]), "OVERDUE_WECHAT_PRIVATE_KEY_FILE"),
        (with(&["--wechat-private-key-file", "/nowhere"]), "/nowhere"),
        (with(&["--wechat-private-key-file", &certificate, secret]), "PKCS#8"),
        (with(&["--wechat-private-key-file", &key]), "OVERDUE_WECHAT_API_V3_KEY"),
        (with(&["--wechat-private-key-file", &key, "--wechat-api-v3-key", "short"]), "32 bytes"),
        (with(&["--wechat-private-key-file", &key, secret, "--wechat-certificate-files", &key]), "CERTIFICATE"),
        (with(&["--wechat-private-key-file", &key, secret, "--wechat-base-url", "http://example.com"]), "https://"),
        (
            vec!["run".to_owned(), "--http-gateway-url=https://x".to_owned(), "--http-gateway-secret=short".to_owned()],
            "32 bytes",
        ),
    ];
    for (arguments, sentence) in &cases {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let refused = world.overdue(&arguments).await;
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(sentence), "{arguments:?}: {error}");
        assert!(!error.contains("0123456789abcdef"), "a secret is in {error}");
    }
    assert_eq!(payment::refund_no(&OrderId::new("842317").unwrap()), "overdue-842317");
    world.close().await;
}
