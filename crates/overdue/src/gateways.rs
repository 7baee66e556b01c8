//! From settings to payment gateways.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use database::Client;
use payment::{Alipay, Environment, PaymentGateway, SignedHttp, SignedHttpSettings, VerificationKey, WeChatPay};
use url::{Host, Url};
use worker::Gateways;

use crate::failure::Failure;
use crate::settings::{AlipaySettings, GatewayName, GatewaySettings, HttpGatewaySettings, WeChatSettings};

/// Makes a gateway from its settings; `None`: nothing is said of it.
type Build = fn(&GatewaySettings, &Environment) -> Result<Option<Arc<dyn PaymentGateway>>, Failure>;

/// Every gateway that there is. To add one, add a line here, its name and its settings.
const GATEWAYS: [(GatewayName, Build); 3] = [
    (GatewayName::Wechat, |settings, environment| Ok(wechat(&settings.wechat, environment)?.map(shared))),
    (GatewayName::Alipay, |settings, environment| Ok(alipay(&settings.alipay, environment)?.map(shared))),
    (GatewayName::Http, |settings, environment| Ok(signed_http(&settings.http, environment)?.map(shared))),
];

fn shared(gateway: impl PaymentGateway + 'static) -> Arc<dyn PaymentGateway> {
    Arc::new(gateway)
}

/// The gateways whose settings are given.
pub(crate) fn gateways(settings: &GatewaySettings) -> Result<Gateways, Failure> {
    let environment = Environment::system(settings.call_timeout()).map_err(Failure::settings)?;
    let mut gateways = HashMap::new();
    for (name, build) in GATEWAYS {
        gateways.extend(build(settings, &environment)?.map(|gateway| (name.as_str().to_owned(), gateway)));
    }
    if let Some(default) = settings.default.filter(|name| *name != GatewayName::None)
        && !gateways.contains_key(default.as_str())
    {
        return Err(Failure::settings(format!(
            "--gateway (OVERDUE_GATEWAY) is {}, but the settings of that gateway are not given; see `overdue run --help`",
            default.as_str()
        )));
    }
    Ok(Gateways::new(gateways, settings.calls()?))
}

/// Makes sure that this process asks what all others ask: registers what it knows, and refuses where that differs.
/// `settles`: whether it takes orders by itself, so that it must be able to ask about each.
pub(crate) async fn agree(
    gateways: &Gateways,
    settings: &GatewaySettings,
    client: &Client,
    settles: bool,
) -> Result<(), Failure> {
    let default = settings.default.map(GatewayName::as_str);
    let conflicts = book::register_gateways(client, &gateways.entries(), default).await?;
    if !conflicts.is_empty() {
        let sentences: Vec<String> = conflicts.iter().map(ToString::to_string).collect();
        return Err(Failure::settings(sentences.join("; ")));
    }
    let registered = book::registered_gateways(client).await?;
    let unknown = registered.iter().find(|known| known.is_default && !gateways.names().contains(&known.name));
    match unknown {
        Some(known) if settles => Err(Failure::settings(format!(
            "orders without a row in `payments` are paid at {}, as every process has it, and this process has no settings of that gateway: it could settle none of them. Give it those settings, or, for all processes, run `overdue gateway default none`",
            known.name
        ))),
        _ => Ok(()),
    }
}

/// `None`: nothing is said of WeChat Pay.
fn wechat(settings: &WeChatSettings, environment: &Environment) -> Result<Option<WeChatPay>, Failure> {
    let api_v3_key = settings.api_v3_key()?;
    let Some(mchid) = &settings.wechat_mchid else {
        let half = settings.wechat_appid.is_some()
            || settings.wechat_serial_no.is_some()
            || settings.wechat_private_key_file.is_some()
            || api_v3_key.is_some()
            || settings.wechat_public_key_file.is_some()
            || !settings.wechat_certificate_files.is_empty();
        if half {
            return Err(Failure::settings("WeChat Pay needs OVERDUE_WECHAT_MCHID as well".to_owned()));
        }
        return Ok(None);
    };
    for (name, value) in [
        ("OVERDUE_WECHAT_MCHID", Some(mchid)),
        ("OVERDUE_WECHAT_APPID", settings.wechat_appid.as_ref()),
        ("OVERDUE_WECHAT_SERIAL_NO", settings.wechat_serial_no.as_ref()),
    ] {
        if value.is_some_and(|value| value.trim().is_empty()) {
            return Err(Failure::settings(format!("{name} is blank")));
        }
    }
    let missing =
        |name: &str| Failure::settings(format!("WeChat Pay needs {name} in addition to OVERDUE_WECHAT_MCHID"));
    let mut keys = Vec::new();
    for file in &settings.wechat_certificate_files {
        keys.push(VerificationKey::from_certificate(&read(file)?).map_err(|error| bad(file, error))?);
    }
    if let (Some(file), Some(id)) = (&settings.wechat_public_key_file, &settings.wechat_public_key_id) {
        keys.push(VerificationKey::from_public_key(id, &read(file)?).map_err(|error| bad(file, error))?);
    }
    let private_key_file =
        settings.wechat_private_key_file.as_ref().ok_or_else(|| missing("OVERDUE_WECHAT_PRIVATE_KEY_FILE"))?;
    let private_key_pem = String::from_utf8(read(private_key_file)?)
        .map_err(|_| Failure::settings(format!("{} is not in PEM form", private_key_file.display())))?;
    let client = WeChatPay::new(
        payment::WeChatSettings {
            base_url: safe(&settings.wechat_base_url, "OVERDUE_WECHAT_BASE_URL")?,
            mchid: mchid.clone(),
            appid: settings.wechat_appid.clone().ok_or_else(|| missing("OVERDUE_WECHAT_APPID"))?,
            serial_no: settings.wechat_serial_no.clone().ok_or_else(|| missing("OVERDUE_WECHAT_SERIAL_NO"))?,
            private_key_pem: private_key_pem.into(),
            api_v3_key: api_v3_key.ok_or_else(|| missing("OVERDUE_WECHAT_API_V3_KEY"))?,
            keys,
            min_close_age: settings.wechat_min_close_age.0,
        },
        environment.clone(),
    );
    client.map(Some).map_err(|error| bad(private_key_file, error))
}

/// `None`: nothing is said of Alipay.
fn alipay(settings: &AlipaySettings, environment: &Environment) -> Result<Option<Alipay>, Failure> {
    let AlipaySettings { alipay_app_id, alipay_private_key_file, alipay_public_key_file, alipay_base_url } = settings;
    let (app_id, private_key_file, public_key_file) = match (
        alipay_app_id,
        alipay_private_key_file,
        alipay_public_key_file,
    ) {
        (None, None, None) => return Ok(None),
        (Some(app_id), Some(private), Some(public)) if !app_id.trim().is_empty() => (app_id, private, public),
        _ => {
            let advice = "Alipay needs OVERDUE_ALIPAY_APP_ID, OVERDUE_ALIPAY_PRIVATE_KEY_FILE and OVERDUE_ALIPAY_PUBLIC_KEY_FILE";
            return Err(Failure::settings(advice.to_owned()));
        }
    };
    let private_key_pem = String::from_utf8(read(private_key_file)?)
        .map_err(|_| Failure::settings(format!("{} is not in PEM form", private_key_file.display())))?;
    let settings = payment::AlipaySettings {
        base_url: safe(alipay_base_url, "OVERDUE_ALIPAY_BASE_URL")?,
        app_id: app_id.clone(),
        private_key_pem: private_key_pem.into(),
        public_key_pem: read(public_key_file)?,
    };
    let files = format!("{} or {}", private_key_file.display(), public_key_file.display());
    let client = Alipay::new(&settings, environment.clone());
    client.map(Some).map_err(|error| Failure::settings(format!("{files}: {error}")))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::settings(format!("cannot read {}: {error}", file.display())))
}

fn bad(file: &Path, error: payment::BadKey) -> Failure {
    Failure::settings(format!("{}: {error}", file.display()))
}

/// `None`: nothing is said of a payment service.
fn signed_http(settings: &HttpGatewaySettings, environment: &Environment) -> Result<Option<SignedHttp>, Failure> {
    let (url, secret) = match (&settings.http_gateway_url, settings.secret()?) {
        (None, None) => return Ok(None),
        (Some(url), Some(secret)) => (url, secret),
        _ => {
            let advice = "a payment service needs both OVERDUE_HTTP_GATEWAY_URL and OVERDUE_HTTP_GATEWAY_SECRET";
            return Err(Failure::settings(advice.to_owned()));
        }
    };
    let settings = SignedHttpSettings {
        base_url: safe(url, "OVERDUE_HTTP_GATEWAY_URL")?,
        key_id: settings.http_gateway_key_id.clone(),
        secret,
        old_secret: settings.old_secret()?,
        // A service that needs one says `too early` by itself.
        min_close_age: Duration::ZERO,
    };
    SignedHttp::new(&settings, environment.clone()).map(Some).map_err(Failure::settings)
}

/// Calls to a gateway go over TLS, unless they do not leave this machine.
fn safe(url: &Url, name: &str) -> Result<Url, Failure> {
    let here = match url.host() {
        Some(Host::Domain(host)) => host == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Failure::settings(format!("{name} must have neither a query nor a fragment")));
    }
    match url.scheme() {
        "https" => Ok(url.clone()),
        "http" if here => Ok(url.clone()),
        _ => Err(Failure::settings(format!("{name} must begin with https:// (http:// only on this machine)"))),
    }
}
