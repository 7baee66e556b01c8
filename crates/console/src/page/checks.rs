//! Doctor and audit: what they found last, and a button that runs them.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::Response;
use book::{CheckRow, Checks};
use serde::Deserialize;
use time::OffsetDateTime;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::{duration, plain};
use crate::layout::{Layout, render};
use crate::text::check_rule;

#[derive(Template)]
#[template(path = "doctor.html")]
struct DoctorPage {
    l: Layout,
    last: Result<Option<Ran>, String>,
    report: Option<Diagnosis>,
    is_running: bool,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    l: Layout,
    last: Result<Option<Ran>, String>,
    report: Option<BooksReport>,
    is_running: bool,
}

/// When a check ran.
struct Ran {
    at: OffsetDateTime,
    by: String,
    took: String,
}

/// What doctor prints.
#[derive(Deserialize)]
struct Diagnosis {
    findings: Vec<DoctorFinding>,
    #[serde(default)]
    unchecked: Vec<String>,
}

#[derive(Deserialize)]
struct DoctorFinding {
    object: String,
    problem: String,
    advice: String,
}

/// What audit prints.
#[derive(Deserialize)]
struct BooksReport {
    clean: bool,
    orders: i64,
    checks: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    name: String,
    rule: String,
    violations: i64,
    examples: Vec<String>,
}

pub(crate) async fn doctor(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let title = ask.texts().doctor;
    let (last, report) = last(&console, "doctor").await;
    let l = Layout::new(&console, ask, title).await;
    let is_running = is_running(&l, "doctor.run");
    render(&DoctorPage { last, report, is_running, l })
}

pub(crate) async fn audit(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let title = ask.texts().audit;
    let (last, report) = last(&console, "audit").await;
    let l = Layout::new(&console, ask, title).await;
    let is_running = is_running(&l, "audit.run");
    let in_language = |mut report: BooksReport| {
        for check in &mut report.checks {
            check.rule = check_rule(&check.name, &check.rule, l.ask.language).to_owned();
        }
        report
    };
    render(&AuditPage { last, report: report.map(in_language), is_running, l })
}

async fn last<T: for<'a> Deserialize<'a>>(console: &Console, name: &str) -> (Result<Option<Ran>, String>, Option<T>) {
    match Checks::new(console.client.clone()).last(name).await {
        Ok(None) => (Ok(None), None),
        Ok(Some(CheckRow { ran_at, ran_by, took, report })) => {
            let ran = Ran { at: ran_at, by: plain(&ran_by), took: duration(took) };
            (Ok(Some(ran)), serde_json::from_str(&report).ok())
        }
        Err(error) => (Err(error.to_string()), None),
    }
}

fn is_running(l: &Layout, action: &str) -> bool {
    let books = l.snapshot.books.value();
    books.is_some_and(|books| books.under_way.iter().any(|row| row.action.action == action && row.is_under_way()))
}
