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
    scope: Scope,
    /// For machines
    #[arg(long)]
    json: bool,
}

/// What is looked at.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Scope {
    #[command(flatten)]
    pub(crate) database: DatabaseSettings,
    #[command(flatten)]
    pub(crate) broker: BrokerSettings,
    #[command(flatten)]
    pub(crate) lanes: LaneSettings,
    #[command(flatten)]
    pub(crate) webhooks: WebhookSettings,
    #[command(flatten)]
    pub(crate) management: ManagementSettings,
    #[command(flatten)]
    pub(crate) gateways: GatewaySettings,
}

/// What is wrong.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    findings: Vec<Finding>,
    /// What could not be checked, and why.
    unchecked: Vec<String>,
}

/// Looks at everything. A server that cannot be asked is a finding itself. Where the process need know no broker, that
/// is not looked at.
pub(crate) async fn examine(scope: &Scope, needs_broker: bool) -> Result<Report, Failure> {
    let mut report = Report::default();
    let entries = gateways(&scope.gateways)?.entries();
    let has_endpoints = scope.webhooks.webhooks.is_some();
    let here = database::SettingsHere { entries: &entries, default: scope.gateways.default, has_endpoints };
    let clock = database::examine(&scope.database, &here, &mut report.findings).await?;
    if needs_broker || scope.broker.is_set() {
        examine_broker(scope, clock, &mut report).await?;
    } else {
        report.unchecked.push("RabbitMQ: this process does not know its URL (OVERDUE_AMQP_URL)".to_owned());
    }
    Ok(report)
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let report = examine(&args.scope, true).await?;
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
async fn examine_broker(scope: &Scope, clock: Option<OffsetDateTime>, report: &mut Report) -> Result<(), Failure> {
    let management = scope.management.management()?;
    let broker = match servers::broker(&scope.broker, "doctor").await {
        Ok(broker) => broker,
        Err(failure) if failure.is_unreachable() => {
            let advice = "see that it runs, and that URL, user, password and virtual host are right";
            report.findings.push(Finding::new("broker", failure.to_string(), advice));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let topology = scope.webhooks.topology(&scope.lanes.lanes())?;
    let verification = broker::diagnose(&topology, &broker, management.as_ref(), clock).await?;
    report.findings.extend(verification.findings.into_iter().map(Finding::from));
    report.unchecked.extend(verification.unchecked);
    Ok(())
}
