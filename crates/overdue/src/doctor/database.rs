//! What is wrong with the database, or with the way to it.

use std::time::Duration;

use book::{
    BookError, Flaw, GatewayEntry, OrderBook, PageRequest, ParkedGroup, ParkedTable, PostgresBook, Processes,
    StoppedEndpoint, StoppedEndpoints, process_flaws,
};
use database::{Client, DatabaseError, Purpose, SchemaError, Seen, SqlxConnection};
use time::OffsetDateTime;

use super::finding::Finding;
use crate::failure::Failure;
use crate::output::plain;
use crate::servers;
use crate::settings::{DatabaseSettings, GatewayName};

/// By how much the clock of this machine may differ from the database's. Only logs depend on it.
const SKEW_MAX: time::Duration = time::Duration::seconds(5);

/// How old the oldest row of the outbox may be.
const OUTBOX_AGE_MAX: Duration = Duration::from_secs(60);

/// Gateways and endpoints, as the settings here have them.
pub(super) struct SettingsHere<'a> {
    pub(super) entries: &'a [GatewayEntry],
    /// Where orders are paid of which nothing else is said; `None`: the settings do not say.
    pub(super) default: Option<GatewayName>,
    /// Whether there are endpoints of webhooks.
    pub(super) has_endpoints: bool,
}

/// Adds what is wrong. Returns the database's time, if it answers.
pub(super) async fn examine(
    settings: &DatabaseSettings,
    here: &SettingsHere<'_>,
    findings: &mut Vec<Finding>,
) -> Result<Option<OffsetDateTime>, Failure> {
    let away = |problem: String| {
        let advice = "see that it runs, that the URL and its certificates are right, and that the user may log in";
        Finding::new("database", problem, advice)
    };
    let (by_sqlx, by_tokio) = match database::seen_by_both(&settings.url()?, settings.statement_timeout.0).await {
        Ok(seen) => seen,
        Err(error @ DatabaseError::Unreachable { .. }) => {
            findings.push(away(error.to_string()));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    findings.extend(way(&by_sqlx, &by_tokio));
    let examined = async {
        let mut connection = servers::pool(settings, 1, Purpose::Shop)?.get().await?;
        let client = servers::client(settings, 1, Purpose::Report)?;
        let now = clock(&mut connection, findings).await?;
        match database::check(&mut connection).await {
            Ok(()) => state(&mut connection, &client, here, findings).await?,
            Err(SchemaError::Database(error)) => return Err(error.into()),
            Err(error) => {
                let advice = "without the right schema nothing else can be checked";
                findings.push(Finding::new("schema", error.to_string(), advice));
            }
        }
        Ok(now)
    };
    match examined.await {
        Ok(now) => Ok(Some(now)),
        Err(failure) => {
            let failure: Failure = failure;
            findings.push(away(failure.to_string()));
            Ok(None)
        }
    }
}

/// What both drivers see of the server must be the same.
fn way(by_sqlx: &Seen, by_tokio: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for difference in database::differences(by_sqlx, by_tokio) {
        let database::Difference { what, sqlx, tokio } = difference;
        let problem = format!("{what} is {sqlx} for relay and orders, and {tokio} for worker and sweep");
        let advice = "a load balancer or a pooler in between sends connections to different servers: send all to one";
        findings.push(Finding::new("database sessions", problem, advice));
    }
    if by_tokio.in_recovery || by_tokio.read_only {
        let problem = if by_tokio.in_recovery { "is a standby" } else { "takes no writes" };
        let advice = "name the primary in the URL, or all hosts: the one that takes writes is found";
        findings.push(Finding::new("database", problem, advice));
    }
    if !by_tokio.is_as_set {
        let problem = "do not have the settings that were asked for: a pooler in between drops them";
        let advice = "use a pooler that keeps sessions and passes start-up options on, or none";
        findings.push(Finding::new("database sessions", problem, advice));
    }
    findings
}

async fn clock(connection: &mut SqlxConnection, findings: &mut Vec<Finding>) -> Result<OffsetDateTime, Failure> {
    let before = OffsetDateTime::now_utc();
    let now = database::read_clock(connection).await?;
    // The database's clock was read somewhere in between.
    let here = before + (OffsetDateTime::now_utc() - before) / 2;
    findings.extend(skew(here, now));
    Ok(now)
}

fn skew(here: OffsetDateTime, there: OffsetDateTime) -> Option<Finding> {
    let skew: time::Duration = here - there;
    let problem = format!("is {} s off the database's", skew.whole_seconds());
    let finding = || Finding::new("clock of this machine", problem, "set the machines' clocks by NTP");
    (skew.abs() > SKEW_MAX).then(finding)
}

async fn state(
    connection: &mut SqlxConnection,
    client: &Client,
    here: &SettingsHere<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    for column in book::unfit_columns(client).await? {
        findings.push(Finding::new("columns", column, "change it, or the view that stands in its place"));
    }
    for (index, consequence) in book::missing_indexes(client).await? {
        let problem = format!("is missing or invalid: {consequence}");
        let advice = "create it as migrations/ does (`create index concurrently`), or `reindex` it if it is invalid";
        findings.push(Finding::new(format!("index {index}"), problem, advice));
    }
    let processes = process_flaws(&Processes::new(client.clone()).all().await?, here.has_endpoints);
    for Flaw { object, problem, advice } in processes.into_iter().chain(book::flaws(client).await?) {
        findings.push(Finding::new(object, plain(&problem), advice));
    }
    let backlog = relay::backlog(connection).await?;
    let age = Duration::try_from_secs_f64(backlog.oldest_age_s).unwrap_or_default();
    if age > OUTBOX_AGE_MAX {
        let age = rough(age);
        let problem =
            format!("holds {} timeouts and {} events, the oldest for {age}", backlog.timeouts, backlog.events);
        findings.push(Finding::new("outbox", problem, "start a relay; if one runs, its log says why it cannot send"));
    }
    let overdue = book::orders_past_deadline(client).await?;
    if overdue > 0 {
        let problem = format!("{overdue} are pending although their deadline passed a minute ago or more");
        let advice = "start worker and sweep; if they run, their logs name the orders that they cannot settle";
        findings.push(Finding::new("orders", problem, advice));
    }
    let unclear = book::orders_unclear_at_gateway(client).await?;
    if unclear > 0 {
        let problem = format!(
            "{unclear} are pending ten minutes after their deadline: their gateway has not said how they stand"
        );
        let advice = "`overdue parked list` names those that were given up; the worker's log says why the others wait";
        findings.push(Finding::new("orders at a gateway", problem, advice));
    }
    let timers = book::timers_past_due(client).await?;
    if timers > 0 {
        let problem = format!("{timers} are armed although they were due a minute ago or more");
        let advice = "start worker and sweep; if they run, their logs name the timers that they cannot fire";
        findings.push(Finding::new("timers", problem, advice));
    }
    for stopped in StoppedEndpoints::new(client.clone()).all().await? {
        let StoppedEndpoint { name, stopped_by, reason, .. } = stopped;
        let problem = format!("is stopped by {}: {}", plain(&stopped_by), plain(&reason));
        let advice = format!("`overdue webhook resume {name}` lets it go on");
        findings.push(Finding::new(format!("endpoint {name}"), problem, advice));
    }
    let is_led = book::is_led(client).await?;
    findings.extend(sweep(&PostgresBook::new(client.clone()), is_led).await?);
    for ParkedGroup { reason, messages, detail, .. } in ParkedTable::new(client.clone()).groups().await? {
        let detail = detail.map_or_else(String::new, |detail| format!(" ({})", plain(&detail)));
        let problem = format!("{messages} messages wait for a person: {}{detail}", plain(&reason));
        findings.push(Finding::new("parked messages", problem, "run `overdue parked groups`, it tells what to do"));
    }
    for conflict in book::gateway_conflicts(client, here.entries, here.default.map(GatewayName::as_str)).await? {
        let advice = "no process starts with these settings: it would ask less than the others, or somebody else";
        findings.push(Finding::new("payment gateways", conflict.to_string(), advice));
    }
    let waiting = book::refunds_waiting(client).await?;
    if waiting > 0 {
        let problem = format!("{waiting} have waited for an hour or more to be accepted by their gateway");
        let advice = "`overdue refunds list --state requested` says why; after a day each needs a person";
        findings.push(Finding::new("refunds", problem, advice));
    }
    let refunds = book::refunds_needing_person(client).await?;
    if refunds > 0 {
        let advice = "`overdue refunds list --state needs_person` says why";
        findings.push(Finding::new("refunds", format!("{refunds} cannot go on by themselves"), advice));
    }
    Ok(())
}

async fn sweep(book: &dyn OrderBook, is_led: bool) -> Result<Option<Finding>, BookError> {
    let page = PageRequest { grace: Duration::ZERO, after: None, orders_max: 1 };
    if book.overdue(&page).await?.is_none() {
        let problem = "there is none: this order book cannot tell which orders are overdue";
        let advice = "give the book a way to list them, or watch the orders past their deadline yourself";
        return Ok(Some(Finding::new("sweep", problem, advice)));
    }
    let advice = "start a process with the role sweep: without it, orders whose messages are lost stay pending";
    Ok((!is_led).then(|| Finding::new("sweep", "no process sweeps", advice)))
}

fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use book::{Actor, BookResult, Closed, Closing, Credited, Loaded, MoneyAside, OverduePage, Payment, TradeNote};
    use order::OrderId;

    use super::*;

    /// A book without orders, which can tell what is overdue, or cannot.
    struct Empty {
        has_pages: bool,
    }

    #[async_trait]
    impl OrderBook for Empty {
        async fn load(&self, _: &[OrderId], _: Option<&str>) -> BookResult<Loaded> {
            Err(BookError::Away(String::new()))
        }

        async fn settle(&self, _: &[Closing], _: &Actor, _: Option<&trace::TraceParent>) -> BookResult<Closed> {
            Err(BookError::Away(String::new()))
        }

        async fn pay(&self, _: &[Payment], _: &Actor, _: Option<&trace::TraceParent>) -> BookResult<Credited> {
            Err(BookError::Away(String::new()))
        }

        async fn note(&self, _: &[TradeNote]) -> Result<(), BookError> {
            Ok(())
        }

        async fn set_aside(&self, _: &[MoneyAside]) -> Result<(), BookError> {
            Ok(())
        }

        async fn overdue(&self, _: &PageRequest) -> Result<Option<OverduePage>, BookError> {
            Ok(self.has_pages.then(|| OverduePage { ids: Vec::new(), next: None }))
        }
    }

    #[tokio::test]
    async fn a_book_without_a_sweep_is_a_finding_and_so_is_a_sweep_that_does_not_run() {
        let problem =
            async |has_pages, is_led| sweep(&Empty { has_pages }, is_led).await.unwrap().map(|finding| finding.problem);
        assert!(problem(false, true).await.unwrap().contains("cannot tell"));
        assert_eq!(problem(true, false).await.unwrap(), "no process sweeps");
        assert_eq!(problem(true, true).await, None);
    }

    #[test]
    fn a_clock_that_is_off_is_a_finding() {
        let now = OffsetDateTime::UNIX_EPOCH;
        for (offset_s, is_off) in [(0, false), (5, false), (-5, false), (6, true), (-6, true), (3600, true)] {
            let found = skew(now + time::Duration::seconds(offset_s), now);
            assert_eq!(found.is_some(), is_off, "{offset_s} s");
            assert!(found.is_none_or(|finding| finding.problem.contains(&format!("is {offset_s} s off"))));
        }
    }

    #[test]
    fn drivers_that_see_different_servers_are_a_finding() {
        let seen = |database: &str, read_only| Seen {
            facts: vec![("database", database.to_owned())],
            in_recovery: false,
            read_only,
            is_as_set: true,
        };
        assert_eq!(way(&seen("shop", false), &seen("shop", false)), []);
        assert!(way(&seen("shop", false), &seen("stock", false))[0].problem.contains("shop"));
        assert_eq!(way(&seen("shop", true), &seen("shop", true))[0].problem, "takes no writes");
    }
}
