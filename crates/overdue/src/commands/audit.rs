use comfy_table::{Cell, Table, presets};
use worker::{Audit, Purpose};

use crate::commands::print;
use crate::failure::Failure;
use crate::servers;
use crate::settings::AuditSettings;

pub(crate) async fn run(settings: &AuditSettings) -> Result<(), Failure> {
    servers::migrated_database(&settings.database, 1).await?;
    let pool = servers::worker_database(&settings.database, 1, Purpose::Report)?;
    let audit = worker::audit(&pool, settings.grace).await?;
    if settings.json {
        print(serde_json::to_string_pretty(&audit).map_err(anyhow::Error::from)?);
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
