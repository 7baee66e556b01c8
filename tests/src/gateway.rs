use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gateway_sim::{
    ALIPAY_APP_ID, API_V3_KEY, APPID, Call, Keys, MCHID, MERCHANT_SERIAL, Mishap, SERVICE_KEY, Signer, Simulator,
};
use order::{CloseRules, OrderId};
use payment::{
    Alipay, AlipaySettings, Environment, PaymentGateway, SignedHttp, SignedHttpSettings, VerificationKey, WeChatPay,
    WeChatSettings,
};
use retry::Policy;
use shop::{NewOrder, Order};
use tokio::process::Command;
use tokio::sync::OnceCell;
use worker::{GatewaySettings, Gateways};

use crate::World;

/// The simulator's keys: made once, kept with the build.
pub async fn keys() -> Keys {
    static KEYS: OnceCell<Keys> = OnceCell::const_new();
    KEYS.get_or_init(async || {
        let directory: PathBuf = crate::process::binary().with_file_name("gateway-sim-keys");
        tokio::task::spawn_blocking(move || Keys::in_directory(&directory).expect("openssl makes keys"))
            .await
            .expect("keys")
    })
    .await
    .clone()
}

/// A payment gateway for one test alone.
pub async fn simulator() -> Simulator {
    crate::servers::install();
    Simulator::start(0, keys().await).await.expect("the simulator serves")
}

/// Waits that suit a test.
#[must_use]
pub fn impatient() -> GatewaySettings {
    GatewaySettings {
        calls_in_flight_max: 64,
        calls_per_second_max: None,
        call_timeout: Duration::from_secs(2),
        tries: 2,
        rules: CloseRules {
            min_close_age: Duration::ZERO,
            user_paying_wait: Duration::from_millis(500),
            not_found_gap: Duration::from_millis(500),
            denied_for: Duration::from_secs(1),
            payable_for: Duration::from_secs(3600),
        },
        back_off: Policy { initial: Duration::from_millis(100), max: Duration::from_millis(500) },
        attempts_max: 30,
        later_max: Duration::ZERO,
        hold: Duration::from_millis(500),
        refund_age_max: Duration::from_secs(3600),
        look_again_after: Duration::from_millis(500),
    }
}

/// How WeChat Pay is set up for the simulator.
#[must_use]
pub fn wechat_settings(simulator: &Simulator) -> WeChatSettings {
    let keys = simulator.keys();
    let certificate = std::fs::read(keys.certificate_file(Signer::Certificate1)).expect("the certificate");
    WeChatSettings {
        base_url: simulator.url().parse().expect("a URL"),
        mchid: MCHID.to_owned(),
        appid: APPID.to_owned(),
        serial_no: MERCHANT_SERIAL.to_owned(),
        private_key_pem: std::fs::read_to_string(keys.merchant_key_file()).expect("the merchant's key").into(),
        api_v3_key: API_V3_KEY.into(),
        keys: vec![VerificationKey::from_certificate(&certificate).expect("a certificate")],
        min_close_age: Duration::ZERO,
    }
}

/// The program's own settings for the simulator's WeChat Pay.
#[must_use]
pub fn wechat_environment(simulator: &Simulator) -> Vec<(&'static str, String)> {
    let keys = simulator.keys();
    let file = |path: std::path::PathBuf| path.display().to_string();
    vec![
        ("OVERDUE_WECHAT_BASE_URL", simulator.url()),
        ("OVERDUE_WECHAT_MCHID", MCHID.to_owned()),
        ("OVERDUE_WECHAT_APPID", APPID.to_owned()),
        ("OVERDUE_WECHAT_SERIAL_NO", MERCHANT_SERIAL.to_owned()),
        ("OVERDUE_WECHAT_PRIVATE_KEY_FILE", file(keys.merchant_key_file())),
        ("OVERDUE_WECHAT_API_V3_KEY", API_V3_KEY.to_owned()),
        ("OVERDUE_WECHAT_CERTIFICATE_FILES", file(keys.certificate_file(Signer::Certificate1))),
        ("OVERDUE_WECHAT_MIN_CLOSE_AGE", "0s".to_owned()),
    ]
}

/// The program's own settings for the simulator's Alipay.
#[must_use]
pub fn alipay_environment(simulator: &Simulator) -> Vec<(&'static str, String)> {
    let keys = simulator.keys();
    vec![
        ("OVERDUE_ALIPAY_APP_ID", ALIPAY_APP_ID.to_owned()),
        ("OVERDUE_ALIPAY_BASE_URL", simulator.alipay_url()),
        ("OVERDUE_ALIPAY_PRIVATE_KEY_FILE", keys.merchant_key_file().display().to_string()),
        ("OVERDUE_ALIPAY_PUBLIC_KEY_FILE", keys.public_key_file(Signer::PublicKey).display().to_string()),
    ]
}

/// A client of the simulator's WeChat Pay.
#[must_use]
pub fn wechat(simulator: &Simulator) -> WeChatPay {
    patient_wechat(simulator, impatient().call_timeout)
}

fn patient_wechat(simulator: &Simulator, call_timeout: Duration) -> WeChatPay {
    let environment = Environment::system(call_timeout).expect("an HTTP client");
    WeChatPay::new(wechat_settings(simulator), environment).expect("keys that can be used")
}

/// How Alipay is set up for the simulator.
#[must_use]
pub fn alipay_settings(simulator: &Simulator) -> AlipaySettings {
    let keys = simulator.keys();
    AlipaySettings {
        base_url: simulator.alipay_url().parse().expect("a URL"),
        app_id: ALIPAY_APP_ID.to_owned(),
        private_key_pem: std::fs::read_to_string(keys.merchant_key_file()).expect("the application's key").into(),
        public_key_pem: std::fs::read(keys.public_key_file(Signer::PublicKey)).expect("Alipay's key"),
    }
}

fn alipay(simulator: &Simulator, call_timeout: Duration) -> Alipay {
    let environment = Environment::system(call_timeout).expect("an HTTP client");
    Alipay::new(&alipay_settings(simulator), environment).expect("keys that can be used")
}

/// How a payment service is set up for the simulator.
#[must_use]
pub fn service_settings(simulator: &Simulator) -> SignedHttpSettings {
    SignedHttpSettings {
        base_url: simulator.service_url().parse().expect("a URL"),
        key_id: SERVICE_KEY.0.to_owned(),
        secret: SERVICE_KEY.1.into(),
        old_secret: None,
        min_close_age: Duration::ZERO,
    }
}

fn signed_http(simulator: &Simulator, call_timeout: Duration) -> SignedHttp {
    let environment = Environment::system(call_timeout).expect("an HTTP client");
    SignedHttp::new(&service_settings(simulator), environment).expect("a secret that can be used")
}

/// Both gateways of the simulator, as the worker asks them.
#[must_use]
pub fn gateways(simulator: &Simulator, settings: GatewaySettings) -> Gateways {
    gateways_of(simulator, simulator, settings)
}

/// WeChat Pay of one simulator and the payment service of another: a number means another trade at each.
#[must_use]
pub fn gateways_of(wechat: &Simulator, http: &Simulator, settings: GatewaySettings) -> Gateways {
    let mut gateways: HashMap<String, Arc<dyn PaymentGateway>> = HashMap::new();
    gateways.insert("alipay".to_owned(), Arc::new(alipay(wechat, settings.call_timeout)));
    gateways.insert("wechat".to_owned(), Arc::new(patient_wechat(wechat, settings.call_timeout)));
    gateways.insert("http".to_owned(), Arc::new(signed_http(http, settings.call_timeout)));
    Gateways::new(gateways, settings)
}

/// The program with these roles, all gateways of the simulator, and waits that suit a test.
#[must_use]
pub fn impatient_command(world: &World, simulator: &Simulator, only: &str) -> Command {
    let mut command = world.command(&["run", "--only", only]);
    command.envs(wechat_environment(simulator));
    command.envs(alipay_environment(simulator));
    command.env("OVERDUE_HTTP_GATEWAY_URL", simulator.service_url());
    command.env("OVERDUE_HTTP_GATEWAY_KEY_ID", SERVICE_KEY.0).env("OVERDUE_HTTP_GATEWAY_SECRET", SERVICE_KEY.1);
    for (setting, value) in [
        ("--sweep-every", "100ms"),
        ("--sweep-grace", "100ms"),
        ("--gateway-calls-per-second-max", "0"),
        ("--gateway-call-timeout", "2s"),
        ("--gateway-back-off-initial", "100ms"),
        ("--gateway-back-off-max", "500ms"),
        ("--gateway-hold", "500ms"),
        ("--gateway-user-paying-wait", "500ms"),
        ("--gateway-not-found-gap", "500ms"),
        ("--gateway-denied-for", "2s"),
        ("--gateway-look-again-after", "500ms"),
    ] {
        command.args([setting, value]);
    }
    command
}

impl World {
    /// An order of one `tea` that is due already and whose trade waits at the gateway, which has confirmed it.
    pub async fn order_at_gateway(&self, simulator: &Simulator, plan: &[(Call, Mishap)]) -> Order {
        self.order_at("wechat", simulator, plan).await
    }

    /// The same at the gateway of this name.
    pub async fn order_at(&self, gateway: &str, simulator: &Simulator, plan: &[(Call, Mishap)]) -> Order {
        let order = self.order_without_trade(gateway).await;
        simulator.ledger().open(order.id.as_str(), 1999, "CNY");
        for (call, mishap) in plan {
            simulator.ledger().plan(order.id.as_str(), *call, mishap.clone());
        }
        let mut connection = self.connection().await;
        let created = shop::prepay_created(&mut connection, &order.id, gateway, None);
        created.await.expect("the payment is on record");
        order
    }

    /// An order of one `tea` that is due already and is to be paid at this gateway, which was not told of it.
    pub async fn order_without_trade(&self, gateway: &str) -> Order {
        let new = self.new_order(&[("tea", 1)], Duration::from_secs(3600));
        let id = OrderId::new(&format!("trade-{}", new.id)).expect("an order ID");
        let new = NewOrder { id, gateway: Some(gateway.to_owned()), ..new };
        self.create_overdue(&new).await
    }
}
