//! `overdue doctor`: what is wrong with a deployment, and what to do.

mod database;
mod finding;

use serde::Serialize;
use time::OffsetDateTime;

use self::finding::Finding;
use crate::failure::Failure;
use crate::gateways::gateways;
use crate::output::{complain, print, print_json};
use crate::servers;
use crate::settings::{
    BrokerSettings, DatabaseSettings, GatewaySettings, LaneSettings, ManagementSettings, WebhookSettings,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: DatabaseSettings,
    #[command(flatten)]
    broker: BrokerSettings,
    #[command(flatten)]
    lanes: LaneSettings,
    #[command(flatten)]
    webhooks: WebhookSettings,
    #[command(flatten)]
    management: ManagementSettings,
    #[command(flatten)]
    gateways: GatewaySettings,
    /// For machines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    findings: Vec<Finding>,
    /// What could not be checked, and why.
    unchecked: Vec<String>,
}

/// A server that cannot be asked is a finding itself.
pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let mut report = Report::default();
    let entries = gateways(&args.gateways)?.entries();
    let gateways = database::GatewaysHere { entries: &entries, default: args.gateways.default };
    let clock = database::examine(&args.database, &gateways, &mut report.findings).await?;
    examine_broker(args, clock, &mut report).await?;
    if args.json {
        print_json(&report)?;
    } else {
        for finding in &report.findings {
            print(format_args!("- {}: {}\n  -> {}", finding.object, finding.problem, finding.advice));
        }
        for unchecked in &report.unchecked {
            complain(format_args!("not checked: {unchecked}"));
        }
    }
    match report.findings.len() {
        0 if args.json => Ok(()),
        0 => {
            print("nothing is wrong, as far as it could be checked");
            Ok(())
        }
        1 => Err(Failure::negative("one thing is wrong".to_owned())),
        count => Err(Failure::negative(format!("{count} things are wrong"))),
    }
}

/// `clock`: the database's time, if it answers.
async fn examine_broker(args: &Args, clock: Option<OffsetDateTime>, report: &mut Report) -> Result<(), Failure> {
    let management = args.management.management()?;
    let broker = match servers::broker(&args.broker, "doctor").await {
        Ok(broker) => broker,
        Err(failure) if failure.is_unreachable() => {
            let advice = "see that it runs, and that URL, user, password and virtual host are right";
            report.findings.push(Finding::new("broker", failure.to_string(), advice));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let topology = args.webhooks.topology(&args.lanes.lanes())?;
    let verification = broker::diagnose(&topology, &broker, management.as_ref(), clock).await?;
    report.findings.extend(verification.findings.into_iter().map(Finding::from));
    report.unchecked.extend(verification.unchecked);
    Ok(())
}
