use std::time::Duration;

use book::Audit;
use comfy_table::{Cell, Table, presets};
use database::Purpose;

use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::servers;
use crate::settings::{DatabaseSettings, Human};

/// How late a close, or the sending of a timeout, may be.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: DatabaseSettings,
    /// How late a close, or the sending of a timeout, may be
    #[arg(long, default_value_t = Human(GRACE), value_name = "DURATION")]
    grace: Human,
    /// For machines
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    servers::migrated_database(&args.database).await?;
    let client = servers::client(&args.database, 1, Purpose::Report)?;
    servers::check_columns(&client).await?;
    let audit = book::audit(&client, args.grace.0).await?;
    if args.json {
        print_json(&audit)?;
    } else {
        print(table(&audit));
    }
    verdict(&audit)
}

/// An error if something is off.
pub(crate) fn verdict(audit: &Audit) -> Result<(), Failure> {
    let broken = audit.checks.iter().filter(|check| check.violations > 0).count();
    if audit.clean {
        Ok(())
    } else {
        Err(Failure::negative(format!("the books are not clean: {broken} rules are broken")))
    }
}

/// The audit for a person.
pub(crate) fn table(audit: &Audit) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["rule", "broken by", "for example"]);
    for check in &audit.checks {
        let broken_by = if check.violations == 0 { "-".to_owned() } else { check.violations.to_string() };
        table.add_row([Cell::new(check.rule), Cell::new(broken_by), Cell::new(check.examples.join(" "))]);
    }
    table
}
