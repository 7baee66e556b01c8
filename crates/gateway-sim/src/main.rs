//! `overdue-gateway-sim`: the simulator as a program of its own.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use overdue_gateway_sim::{
    ALIPAY_APP_ID, API_V3_KEY, APPID, Keys, MCHID, MERCHANT_SERIAL, SERVICE_KEY, Signer, Simulator,
};

/// A payment gateway that exists on this machine only. Prints the settings with which `overdue` uses it, and
/// serves on 127.0.0.1 until it is ended.
///
/// It is told what customers do under /sim: `POST /sim/trades/{no}` with `{"amount_minor":1999,"currency":"CNY"}`
/// opens a trade, `POST /sim/trades/{no}/pay` pays it, `POST /sim/trades/{no}/plan` with
/// `[[{"query":1},"pay_after"]]` lets a call go wrong, `POST /sim/outage` with `{"error":[503,"SYSTEM_ERROR"]}` or
/// `null` all of them, `POST /sim/delay` with milliseconds slows down, `GET /sim/ledger` and `GET
/// /sim/statistics` tell what is true.
#[derive(Parser)]
#[command(name = "overdue-gateway-sim", version)]
struct Settings {
    /// The port; 0: any that is free
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// How much longer each call takes
    #[arg(long, default_value = "0ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    delay: Duration,
    /// Where its keys are; made by `openssl` where they are missing
    #[arg(long, default_value = ".local/gateway-sim", value_name = "DIRECTORY")]
    keys: PathBuf,
    /// End when standard input is closed: with the program that has started it
    #[arg(long)]
    with_parent: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let simulator = Simulator::start(settings.port, Keys::in_directory(&settings.keys)?).await?;
    simulator.delay(settings.delay);
    let keys = simulator.keys();
    let mut out = std::io::stdout();
    for (name, value) in [
        ("OVERDUE_WECHAT_BASE_URL", simulator.url()),
        ("OVERDUE_WECHAT_MCHID", MCHID.to_owned()),
        ("OVERDUE_WECHAT_APPID", APPID.to_owned()),
        ("OVERDUE_WECHAT_SERIAL_NO", MERCHANT_SERIAL.to_owned()),
        ("OVERDUE_WECHAT_PRIVATE_KEY_FILE", keys.merchant_key_file().display().to_string()),
        ("OVERDUE_WECHAT_API_V3_KEY", API_V3_KEY.to_owned()),
        ("OVERDUE_WECHAT_CERTIFICATE_FILES", keys.certificate_file(Signer::Certificate1).display().to_string()),
        ("OVERDUE_WECHAT_MIN_CLOSE_AGE", "0s".to_owned()),
        ("OVERDUE_ALIPAY_APP_ID", ALIPAY_APP_ID.to_owned()),
        ("OVERDUE_ALIPAY_PRIVATE_KEY_FILE", keys.merchant_key_file().display().to_string()),
        ("OVERDUE_ALIPAY_PUBLIC_KEY_FILE", keys.public_key_file(Signer::PublicKey).display().to_string()),
        ("OVERDUE_ALIPAY_BASE_URL", simulator.alipay_url()),
        ("OVERDUE_HTTP_GATEWAY_URL", simulator.service_url()),
        ("OVERDUE_HTTP_GATEWAY_KEY_ID", SERVICE_KEY.0.to_owned()),
        ("OVERDUE_HTTP_GATEWAY_SECRET", SERVICE_KEY.1.to_owned()),
    ] {
        writeln!(out, "export {name}='{value}'")?;
    }
    writeln!(out, "# serving")?;
    out.flush()?;
    if settings.with_parent {
        let closed = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        let _ = closed.await;
    } else {
        tokio::signal::ctrl_c().await?;
    }
    Ok(())
}
