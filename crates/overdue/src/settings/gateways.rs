use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use order::CloseRules;
use payment::{Alipay, WeChatPay};
use retry::Policy;
use secrecy::SecretString;
use url::Url;

use super::parse::{Human, positive, positive_up_to_a_day, up_to_a_day};
use super::secret::value_or_file;
use crate::failure::Failure;

/// Payment gateways: those whose settings are given are asked.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Payment gateways")]
pub(crate) struct GatewaySettings {
    /// The gateway of orders that have no row in the table `payments`: none, wechat, alipay or http. The same for all processes; once set
    /// it may be left out
    #[arg(long = "gateway", env = "OVERDUE_GATEWAY", value_name = "NAME")]
    pub(crate) default: Option<GatewayName>,
    #[command(flatten)]
    pub(crate) wechat: WeChatSettings,
    #[command(flatten)]
    pub(crate) alipay: AlipaySettings,
    #[command(flatten)]
    pub(crate) http: HttpGatewaySettings,
    #[command(flatten)]
    calls: CallSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GatewayName {
    /// The order's own status decides
    None,
    /// WeChat Pay, API v3
    Wechat,
    /// Alipay, gateway 1.0 with RSA2
    Alipay,
    /// A payment service that implements `docs/payment-service.openapi.json`
    Http,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WeChatSettings {
    /// WeChat Pay: the merchant's number; with it the gateway `wechat` is configured
    #[arg(long, env = "OVERDUE_WECHAT_MCHID", value_name = "NUMBER")]
    pub(crate) wechat_mchid: Option<String>,
    /// WeChat Pay: the application that the trades belong to
    #[arg(long, env = "OVERDUE_WECHAT_APPID", value_name = "ID")]
    pub(crate) wechat_appid: Option<String>,
    /// WeChat Pay: the serial number of the merchant's certificate
    #[arg(long, env = "OVERDUE_WECHAT_SERIAL_NO", value_name = "HEX")]
    pub(crate) wechat_serial_no: Option<String>,
    /// WeChat Pay: the merchant's private key, PKCS#8 in PEM form
    #[arg(long, env = "OVERDUE_WECHAT_PRIVATE_KEY_FILE", value_name = "FILE")]
    pub(crate) wechat_private_key_file: Option<PathBuf>,
    /// WeChat Pay: the APIv3 key, 32 bytes
    #[arg(long, env = "OVERDUE_WECHAT_API_V3_KEY", hide_env_values = true, value_name = "KEY")]
    wechat_api_v3_key: Option<SecretString>,
    /// A file that holds this key
    #[arg(long, env = "OVERDUE_WECHAT_API_V3_KEY_FILE", value_name = "FILE")]
    wechat_api_v3_key_file: Option<PathBuf>,
    /// WeChat Pay: platform certificates in PEM form; those that follow them are fetched
    #[arg(long, env = "OVERDUE_WECHAT_CERTIFICATE_FILES", value_delimiter = ',', value_name = "FILE,...")]
    pub(crate) wechat_certificate_files: Vec<PathBuf>,
    /// WeChat Pay: its public key in PEM form, in the place of certificates
    #[arg(long, env = "OVERDUE_WECHAT_PUBLIC_KEY_FILE", requires = "wechat_public_key_id", value_name = "FILE")]
    pub(crate) wechat_public_key_file: Option<PathBuf>,
    /// WeChat Pay: the ID of that key, `PUB_KEY_ID_...`
    #[arg(long, env = "OVERDUE_WECHAT_PUBLIC_KEY_ID", requires = "wechat_public_key_file", value_name = "ID")]
    pub(crate) wechat_public_key_id: Option<String>,
    /// WeChat Pay: a trade younger than this is not closed there; five minutes are recommended
    #[arg(long, env = "OVERDUE_WECHAT_MIN_CLOSE_AGE", default_value_t = Human(WeChatPay::MIN_CLOSE_AGE), value_parser = up_to_a_day, value_name = "DURATION")]
    pub(crate) wechat_min_close_age: Human,
    /// WeChat Pay: where its API is
    #[arg(long, env = "OVERDUE_WECHAT_BASE_URL", default_value = WeChatPay::BASE_URL, value_name = "URL")]
    pub(crate) wechat_base_url: Url,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AlipaySettings {
    /// Alipay: the application; with it the gateway `alipay` is configured
    #[arg(long, env = "OVERDUE_ALIPAY_APP_ID", value_name = "ID")]
    pub(crate) alipay_app_id: Option<String>,
    /// Alipay: the application's private key, PKCS#8 in PEM form
    #[arg(long, env = "OVERDUE_ALIPAY_PRIVATE_KEY_FILE", value_name = "FILE")]
    pub(crate) alipay_private_key_file: Option<PathBuf>,
    /// Alipay: its public key (not the application's), in PEM form
    #[arg(long, env = "OVERDUE_ALIPAY_PUBLIC_KEY_FILE", value_name = "FILE")]
    pub(crate) alipay_public_key_file: Option<PathBuf>,
    /// Alipay: where its gateway is
    #[arg(long, env = "OVERDUE_ALIPAY_BASE_URL", default_value = Alipay::BASE_URL, value_name = "URL")]
    pub(crate) alipay_base_url: Url,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct HttpGatewaySettings {
    /// Payment service: where it is; with it the gateway `http` is configured
    #[arg(long, env = "OVERDUE_HTTP_GATEWAY_URL", value_name = "URL")]
    pub(crate) http_gateway_url: Option<Url>,
    /// Payment service: the name of the secret
    #[arg(long, env = "OVERDUE_HTTP_GATEWAY_KEY_ID", default_value = "overdue", value_name = "NAME")]
    pub(crate) http_gateway_key_id: String,
    /// Payment service: the secret that signs both ways, 32 bytes or more
    #[arg(long, env = "OVERDUE_HTTP_GATEWAY_SECRET", hide_env_values = true, value_name = "SECRET")]
    http_gateway_secret: Option<SecretString>,
    /// A file that holds this secret
    #[arg(long, env = "OVERDUE_HTTP_GATEWAY_SECRET_FILE", value_name = "FILE")]
    http_gateway_secret_file: Option<PathBuf>,
    /// Payment service: the secret that was in use before; what is signed with it is believed still
    #[arg(long, env = "OVERDUE_HTTP_GATEWAY_OLD_SECRET", hide_env_values = true, value_name = "SECRET")]
    http_gateway_old_secret: Option<SecretString>,
    /// A file that holds this secret
    #[arg(long, env = "OVERDUE_HTTP_GATEWAY_OLD_SECRET_FILE", value_name = "FILE")]
    http_gateway_old_secret_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct CallSettings {
    /// How many calls to one gateway may be under way at a time
    #[arg(long, env = "OVERDUE_GATEWAY_CALLS_IN_FLIGHT_MAX", default_value_t = calls_in_flight_max(), value_parser = clap::value_parser!(u16).range(1..), value_name = "CALLS")]
    gateway_calls_in_flight_max: u16,
    /// How many calls a second one gateway gets from this process at most; 0: as many as it takes
    #[arg(long, env = "OVERDUE_GATEWAY_CALLS_PER_SECOND_MAX", default_value_t = calls_per_second_max(), value_name = "CALLS")]
    gateway_calls_per_second_max: u32,
    /// How long a call may take
    #[arg(long, env = "OVERDUE_GATEWAY_CALL_TIMEOUT", default_value_t = Human(usual().call_timeout), value_parser = call_timeout, value_name = "DURATION")]
    gateway_call_timeout: Human,
    /// After how long a trade that was not found is looked for once more, although its order is closed
    #[arg(long, env = "OVERDUE_GATEWAY_LOOK_AGAIN_AFTER", default_value_t = Human(usual().look_again_after), value_parser = positive_up_to_a_day, value_name = "DURATION")]
    gateway_look_again_after: Human,
    /// After so many attempts at its payment that settled nothing an order is parked
    #[arg(long, hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    gateway_attempts_max: Option<u32>,
    /// How long an order waits after the first attempt that settled nothing; the wait doubles with each
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    gateway_back_off_initial: Option<Human>,
    /// The longest such wait
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    gateway_back_off_max: Option<Human>,
    /// How long an order waits while its gateway cannot be asked at all
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    gateway_hold: Option<Human>,
    /// How long a customer who is just paying is left alone; gateways ask for 5s or more
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    gateway_user_paying_wait: Option<Human>,
    /// How far apart two answers `no such trade` must be before they are believed
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    gateway_not_found_gap: Option<Human>,
    /// How long a gateway must deny a trade that it had confirmed before a person must look
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    gateway_denied_for: Option<Human>,
    /// How long after it was begun a trade that a gateway does not know may still appear there
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    gateway_payable_for: Option<Human>,
    /// How long after its deadline an order may wait for a customer who is just paying before that counts as an attempt
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    gateway_later_max: Option<Human>,
    /// A refund that has not been accepted after this time needs a person
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    gateway_refund_age_max: Option<Human>,
}

impl GatewayName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Wechat => "wechat",
            Self::Alipay => "alipay",
            Self::Http => "http",
        }
    }

    /// Whether a trade there could have this number, as far as that is known without its settings.
    pub(crate) fn check_trade_no(self, trade_no: &str) -> Result<(), String> {
        match self {
            Self::Wechat => WeChatPay::check_trade_no(trade_no),
            Self::Alipay => Alipay::check_trade_no(trade_no),
            Self::None | Self::Http => Ok(()),
        }
    }
}

impl WeChatSettings {
    pub(crate) fn api_v3_key(&self) -> Result<Option<SecretString>, Failure> {
        let (key, file) = (self.wechat_api_v3_key.as_ref(), self.wechat_api_v3_key_file.as_ref());
        value_or_file("OVERDUE_WECHAT_API_V3_KEY", key, file)
    }
}

impl HttpGatewaySettings {
    pub(crate) fn secret(&self) -> Result<Option<SecretString>, Failure> {
        let (secret, file) = (self.http_gateway_secret.as_ref(), self.http_gateway_secret_file.as_ref());
        value_or_file("OVERDUE_HTTP_GATEWAY_SECRET", secret, file)
    }

    pub(crate) fn old_secret(&self) -> Result<Option<SecretString>, Failure> {
        let (secret, file) = (self.http_gateway_old_secret.as_ref(), self.http_gateway_old_secret_file.as_ref());
        value_or_file("OVERDUE_HTTP_GATEWAY_OLD_SECRET", secret, file)
    }
}

impl GatewaySettings {
    pub(crate) fn call_timeout(&self) -> Duration {
        self.calls.gateway_call_timeout.0
    }

    /// How the worker asks them.
    pub(crate) fn calls(&self) -> Result<worker::GatewaySettings, Failure> {
        let (calls, usual) = (&self.calls, usual());
        let or = |given: Option<Human>, usual: Duration| given.map_or(usual, |given| given.0);
        let back_off = Policy {
            initial: or(calls.gateway_back_off_initial, usual.back_off.initial),
            max: or(calls.gateway_back_off_max, usual.back_off.max),
        };
        if back_off.initial > back_off.max {
            let advice = "--gateway-back-off-initial must not exceed --gateway-back-off-max";
            return Err(Failure::settings(advice.to_owned()));
        }
        Ok(worker::GatewaySettings {
            calls_in_flight_max: calls.gateway_calls_in_flight_max.into(),
            calls_per_second_max: NonZeroU32::new(calls.gateway_calls_per_second_max),
            call_timeout: calls.gateway_call_timeout.0,
            rules: CloseRules {
                user_paying_wait: or(calls.gateway_user_paying_wait, usual.rules.user_paying_wait),
                not_found_gap: or(calls.gateway_not_found_gap, usual.rules.not_found_gap),
                denied_for: or(calls.gateway_denied_for, usual.rules.denied_for),
                payable_for: or(calls.gateway_payable_for, usual.rules.payable_for),
                ..usual.rules
            },
            back_off,
            attempts_max: calls.gateway_attempts_max.unwrap_or(usual.attempts_max),
            later_max: or(calls.gateway_later_max, usual.later_max),
            hold: or(calls.gateway_hold, usual.hold),
            refund_age_max: or(calls.gateway_refund_age_max, usual.refund_age_max),
            look_again_after: calls.gateway_look_again_after.0,
            ..usual
        })
    }
}

fn usual() -> worker::GatewaySettings {
    worker::GatewaySettings::default()
}

fn calls_in_flight_max() -> u16 {
    usual().calls_in_flight_max.try_into().unwrap_or(u16::MAX)
}

fn calls_per_second_max() -> u32 {
    usual().calls_per_second_max.map_or(0, NonZeroU32::get)
}

/// Longer, and a gateway that hangs would hold up other orders for as long.
fn call_timeout(text: &str) -> Result<Human, String> {
    let duration = positive(text)?;
    if duration.0 > Duration::from_mins(1) {
        Err("it must not be longer than a minute".to_owned())
    } else {
        Ok(duration)
    }
}
