//! The payment gateways of the demo, WeChat Pay and Alipay: a simulator beside this program, ended with it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use http::{Method, Request};
use payment::{HttpTransport, Transport};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::failure::Failure;
use crate::settings::{GatewaySettings, Tuning};

/// A simulator that serves.
pub(crate) struct DemoGateway {
    url: String,
    transport: HttpTransport,
    /// The flags with which roles ask it.
    flags: Vec<String>,
    keys: PathBuf,
    _child: Child,
}

/// The key that the simulator's service knows.
const HOOKS_KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The gateway's ledger, counted.
#[derive(Debug, Default)]
pub(crate) struct LedgerCounts {
    /// Trades that are paid.
    pub(crate) paid: u64,
    /// Trades that were closed unpaid.
    pub(crate) closed: u64,
    /// Trades that were paid and refunded.
    pub(crate) refunded: u64,
    /// Trades that could still be paid.
    pub(crate) open: u64,
    /// Refunds; each number stands for one.
    pub(crate) refunds: u64,
}

/// What the shop's own service was sent, which the simulator plays as well.
#[derive(Debug, Default)]
pub(crate) struct HookCounts {
    /// Deliveries.
    pub(crate) received: u64,
    /// Different events among them.
    pub(crate) events: u64,
    /// Deliveries whose signature was wrong.
    pub(crate) refused: u64,
}

/// Settings of roles that are read apart from a command.
#[derive(Parser)]
struct Standalone {
    #[command(flatten)]
    tuning: Tuning,
    #[command(flatten)]
    gateways: GatewaySettings,
}

/// The settings of the demo's roles, which ask this gateway if there is one.
pub(crate) fn settings(gateway: Option<&DemoGateway>) -> Result<(Tuning, GatewaySettings), Failure> {
    // With so many orders in so short a time, they may as well travel together.
    let fixed = ["demo", "--coalesce-window", "50ms"].map(str::to_owned);
    let flags = gateway.map_or_else(Vec::new, |gateway| gateway.flags.clone());
    let parsed = Standalone::try_parse_from(fixed.into_iter().chain(flags));
    let parsed = parsed.map_err(|error| Failure::settings(error.to_string()))?;
    Ok((parsed.tuning, parsed.gateways))
}

/// The simulator beside this program, if there is one.
pub(crate) fn beside_us() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.with_file_name("overdue-gateway-sim");
    program.exists().then_some(program)
}

impl Drop for DemoGateway {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.keys);
    }
}

impl DemoGateway {
    /// Starts the simulator and reads the settings that it prints.
    pub(crate) async fn start(program: &Path) -> Result<Self, Failure> {
        let failed = |what: String| Failure::settings(format!("{}: {what}", program.display()));
        let keys = std::env::temp_dir().join(format!("overdue-demo-{}", std::process::id()));
        let mut child = Command::new(program)
            .args(["--with-parent", "--keys"])
            .arg(&keys)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let stdout = child.stdout.take().ok_or_else(|| failed("it has no output".to_owned()))?;
        let mut lines = BufReader::new(stdout).lines();
        let (mut flags, mut url) = (Vec::new(), None);
        loop {
            let line = lines.next_line().await.map_err(|error| failed(error.to_string()))?;
            let line = line.ok_or_else(|| failed("it ended at once; is openssl installed?".to_owned()))?;
            if line == "# serving" {
                break;
            }
            let Some((name, value)) = line.strip_prefix("export OVERDUE_").and_then(|line| line.split_once('=')) else {
                continue;
            };
            let value = value.trim_matches('\'').to_owned();
            if name == "WECHAT_BASE_URL" {
                url = Some(value.clone());
            }
            flags.extend([format!("--{}", name.to_lowercase().replace('_', "-")), value]);
        }
        let transport = HttpTransport::new(Duration::from_secs(10)).map_err(Failure::settings)?;
        let url = url.ok_or_else(|| failed("it does not say where it serves".to_owned()))?;
        Ok(Self { url, transport, flags, keys, _child: child })
    }

    /// The shop tells the gateway of a trade, so that the customer can pay.
    pub(crate) async fn open(&self, trade_no: &str, amount_minor: i64, currency: &str) -> Result<(), Failure> {
        let body = json!({ "amount_minor": amount_minor, "currency": currency });
        self.call(Method::POST, &format!("/sim/trades/{trade_no}"), Some(&body)).await.map(drop)
    }

    /// The customer pays. Says whether the gateway still took it.
    pub(crate) async fn pay(&self, trade_no: &str) -> Result<bool, Failure> {
        let answer = self.call(Method::POST, &format!("/sim/trades/{trade_no}/pay"), None).await?;
        Ok(answer["paid"] == true)
    }

    /// Its ledger, counted.
    pub(crate) async fn ledger(&self) -> Result<LedgerCounts, Failure> {
        let ledger = self.call(Method::GET, "/sim/ledger", None).await?;
        let mut states: HashMap<&str, u64> = HashMap::new();
        for trade in ledger["trades"].as_object().into_iter().flat_map(|trades| trades.values()) {
            *states.entry(trade["state"].as_str().unwrap_or_default()).or_default() += 1;
        }
        let of = |state| states.get(state).copied().unwrap_or(0);
        Ok(LedgerCounts {
            paid: of("paid"),
            closed: of("closed"),
            refunded: of("refunded"),
            open: of("not_paid"),
            refunds: ledger["refunds"].as_object().map_or(0, |refunds| refunds.len() as u64),
        })
    }

    /// The file of endpoints that has the shop's own service deliver to it.
    pub(crate) fn endpoints(&self) -> Result<PathBuf, Failure> {
        let path = self.keys.join("endpoints.toml");
        let text = format!(
            "[[endpoint]]\nname = \"demo\"\nurl = \"{}/hooks\"\ntypes = [\"timer.remind\"]\nkeys = [\"{HOOKS_KEY}\"]\nallow_private = true\n",
            self.url
        );
        std::fs::write(&path, text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// What that service was sent.
    pub(crate) async fn hooks(&self) -> Result<HookCounts, Failure> {
        let counts = self.call(Method::GET, "/sim/hooks", None).await?;
        let of = |name: &str| counts[name].as_u64().unwrap_or_default();
        Ok(HookCounts { received: of("received"), events: of("events"), refused: of("refused") })
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let failed = |what: String| Failure::from(anyhow::anyhow!("the simulated gateway: {what}"));
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url)).body(body);
        let request = request.map_err(|error| failed(error.to_string()))?;
        let answer = self.transport.send(request).await.map_err(|error| failed(error.to_string()))?;
        if !answer.status().is_success() {
            return Err(failed(format!("HTTP {}", answer.status())));
        }
        serde_json::from_slice(answer.body()).map_err(|error| failed(error.to_string()))
    }
}
