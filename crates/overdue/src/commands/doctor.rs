use anyhow::Context;
use broker::{Finding, Management, Topology};
use serde_json::json;
use time::OffsetDateTime;
use worker::Purpose;

use crate::commands::print;
use crate::failure::Failure;
use crate::servers;
use crate::settings::DoctorSettings;

/// Whatever cannot be asked is a finding itself: a doctor who only says that the patient does not answer is of no use.
pub(crate) async fn run(settings: &DoctorSettings) -> Result<(), Failure> {
    let management = settings.management_url.as_ref().map(Management::new).transpose()?;
    let (mut findings, mut unchecked) = (Vec::new(), Vec::new());
    let clock = database(settings, &mut findings).await?;
    broker(settings, management.as_ref(), clock, &mut findings, &mut unchecked).await?;
    if settings.json {
        let rows: Vec<_> = findings
            .iter()
            .map(|finding| json!({ "object": finding.object, "problem": finding.problem, "advice": finding.advice }))
            .collect();
        let report = json!({ "findings": rows, "unchecked": unchecked });
        print(serde_json::to_string_pretty(&report).context("the report")?);
    } else {
        for finding in &findings {
            print(format_args!("- {}: {}\n  -> {}", finding.object, finding.problem, finding.advice));
        }
        for unchecked in &unchecked {
            complain!("not checked: {unchecked}");
        }
    }
    match findings.len() {
        0 if settings.json => Ok(()),
        0 => {
            print("nothing is wrong, as far as it could be checked");
            Ok(())
        }
        1 => Err(Failure::negative("one thing is wrong".to_owned())),
        count => Err(Failure::negative(format!("{count} things are wrong"))),
    }
}

/// The database; its time, if it answers.
async fn database(settings: &DoctorSettings, findings: &mut Vec<Finding>) -> Result<Option<OffsetDateTime>, Failure> {
    let mut away = |error: String| {
        let advice = "see that it runs, that the URL is right, and that the user may log in".to_owned();
        findings.push(Finding { object: "database".to_owned(), problem: error, advice });
    };
    let pool = match servers::database(&settings.database, 1).await {
        Ok(pool) => pool,
        Err(failure) if failure.is_unreachable() => {
            away(failure.to_string());
            return Ok(None);
        }
        Err(failure) => return Err(failure),
    };
    let now = match publisher::diagnose(&pool, OffsetDateTime::now_utc).await {
        Ok((found, now)) => {
            findings.extend(found);
            now
        }
        Err(error) => {
            away(error.to_string());
            return Ok(None);
        }
    };
    // The worker's own driver, TLS and session settings.
    let pool = servers::worker_database(&settings.database, 1, Purpose::Settle)?;
    match worker::session_is_as_set(&pool).await {
        Ok(true) => {}
        Ok(false) => findings.push(Finding {
            object: "database sessions".to_owned(),
            problem: "do not have the settings that were asked for: a pooler in between drops them".to_owned(),
            advice: "use a pooler that keeps sessions and passes start-up options on, or none".to_owned(),
        }),
        Err(error) => findings.push(Finding {
            object: "database".to_owned(),
            problem: format!("the worker does not get through: {error}"),
            advice: "see that `sslmode` and `sslrootcert` are right".to_owned(),
        }),
    }
    Ok(Some(now))
}

async fn broker(
    settings: &DoctorSettings,
    management: Option<&Management>,
    clock: Option<OffsetDateTime>,
    findings: &mut Vec<Finding>,
    unchecked: &mut Vec<String>,
) -> Result<(), Failure> {
    let broker = match servers::broker(&settings.broker, "doctor").await {
        Ok(broker) => broker,
        Err(failure) if failure.is_unreachable() => {
            let advice = "see that it runs, and that URL, user, password and virtual host are right".to_owned();
            findings.push(Finding { object: "broker".to_owned(), problem: failure.to_string(), advice });
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let topology = Topology::new(&settings.lanes.lanes());
    let verification = broker::diagnose(&topology, &broker, management, clock).await?;
    findings.extend(verification.findings);
    unchecked.extend(verification.unchecked);
    Ok(())
}
