//! Whether anything is wrong, what, since when, and where to press.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::Response;
use book::{CircuitOf, Count, Flaw, Lateness, ProcessRow, process_flaws};
use broker::QueueState;
use serde_json::json;
use time::OffsetDateTime;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::{duration, number, plain};
use crate::layout::{Layout, render};
use crate::snapshot::{Books, GROUP_MAX, MINUTES, Snapshot};
use crate::text::{Texts, fill};

#[derive(Template)]
#[template(path = "now.html")]
struct NowPage {
    l: Layout,
    concerns: Vec<Concern>,
    /// Whether the database was heard of at all.
    is_known: bool,
    spans: Vec<Span>,
    /// For the chart, as JSON.
    points: String,
    waiting: Vec<(&'static str, String, Option<OffsetDateTime>)>,
}

/// Something that needs a look.
pub(crate) struct Concern {
    /// The worst is the greatest.
    pub(crate) weight: u8,
    pub(crate) text: String,
    pub(crate) advice: String,
    pub(crate) since: Option<OffsetDateTime>,
    pub(crate) href: String,
}

/// How late orders were closed in a span of time.
struct Span {
    name: &'static str,
    closed: String,
    per_second: String,
    bounds: [String; 3],
}

/// Money at stake, or nothing closes; something waits for a person; something is worth a look.
const WORST: u8 = 3;
const PERSON: u8 = 2;
const LOOK: u8 = 1;

/// How old the oldest row of the outbox may be.
const OUTBOX_AGE_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn show(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let title = ask.texts().now;
    let l = Layout::new(&console, ask, title).await;
    let concerns = concerns(&l.snapshot, &l.ask, l.t, l.now);
    let books = l.snapshot.books.value();
    let page = NowPage {
        is_known: books.is_some(),
        concerns,
        spans: books.map_or_else(Vec::new, |books| spans(books, l.t, l.now)),
        points: books.map_or_else(String::new, |books| points(books, l.now)),
        waiting: books.map_or_else(Vec::new, |books| waiting(books, l.t)),
        l,
    };
    render(&page)
}

/// What is wrong, the worst first, and of what is as bad that which is so for the longest.
pub(crate) fn concerns(snapshot: &Snapshot, ask: &Ask, t: &Texts, now: OffsetDateTime) -> Vec<Concern> {
    let mut found = Vec::new();
    if let Some(books) = snapshot.books.value() {
        of_books(books, ask, t, now, &mut found);
    }
    if let Some(queues) = snapshot.queues.value() {
        of_queues(queues, snapshot.books.value(), ask, t, &mut found);
    }
    found.sort_by_key(|concern| (u8::MAX - concern.weight, concern.since.unwrap_or(now)));
    found
}

fn of_books(books: &Books, ask: &Ask, t: &Texts, now: OffsetDateTime, found: &mut Vec<Concern>) {
    let mut add = |weight, text: String, since, path: &str| {
        found.push(Concern { weight, text: plain(&text), advice: String::new(), since, href: ask.link(path) });
    };
    let overview = &books.overview;
    if overview.overdue.count.number > 0 {
        add(WORST, fill(t.c_overdue, &[&count(overview.overdue.count, t)]), overview.overdue.oldest, "/console/orders");
    }
    if !overview.is_swept {
        add(WORST, t.c_not_swept.to_owned(), None, "/console/processes");
    }
    let waits = [overview.timeouts, overview.events]
        .into_iter()
        .filter(|waiting| waiting.oldest.is_some_and(|oldest| now - oldest > OUTBOX_AGE_MAX));
    for waiting in waits {
        add(WORST, fill(t.c_outbox, &[&count(waiting.count, t)]), waiting.oldest, "/console/processes");
    }
    if overview.timers_overdue.count.number > 0 {
        let text = fill(t.c_timers, &[&count(overview.timers_overdue.count, t)]);
        add(WORST, text, overview.timers_overdue.oldest, "/console/timers");
    }
    if overview.refunds.count.number > 0 {
        add(
            PERSON,
            fill(t.c_refunds, &[&count(overview.refunds.count, t)]),
            overview.refunds.oldest,
            "/console/refunds",
        );
    }
    if overview.refunds_waiting.count.number > 0 {
        let text = fill(t.c_refunds_waiting, &[&count(overview.refunds_waiting.count, t)]);
        add(PERSON, text, overview.refunds_waiting.oldest, "/console/refunds");
    }
    for group in &books.groups {
        let messages = messages(group.messages, t);
        add(PERSON, fill(t.c_parked, &[&messages, &group.reason]), Some(group.first_at), "/console/parked");
    }
    for stopped in &books.stopped {
        let text = fill(t.c_stopped, &[&stopped.name, &stopped.stopped_by, &stopped.reason]);
        add(PERSON, text, Some(stopped.stopped_at), "/console/gateways");
    }
    for (of, name, since, fault) in open_circuits(&books.processes) {
        let (text, weight) = match of {
            CircuitOf::Gateway => (t.c_gateway, WORST),
            CircuitOf::Endpoint => (t.c_endpoint, PERSON),
        };
        add(weight, fill(text, &[&name, &fault]), Some(since), "/console/gateways");
    }
    for row in books.under_way.iter().filter(|row| row.is_abandoned()) {
        let text =
            fill(t.c_abandoned, &[&row.action.operator, &format!("{} {}", row.action.action, row.action.subject)]);
        add(PERSON, text, Some(row.at), "/console/actions");
    }
    // The endpoints that there are, only those who deliver know.
    for Flaw { object, problem, advice } in process_flaws(&books.processes, false) {
        let is_role = object.starts_with("role") || object == "processes" && !problem.contains("version");
        let weight = if is_role { WORST } else { LOOK };
        let since = None;
        let text = plain(&format!("{object}: {problem}"));
        found.push(Concern { weight, text, advice, since, href: ask.link("/console/processes") });
    }
}

fn of_queues(queues: &[QueueState], books: Option<&Books>, ask: &Ask, t: &Texts, found: &mut Vec<Concern>) {
    let attended = books.map(attended_endpoints).unwrap_or_default();
    for queue in queues {
        let mut add = |text: String| {
            let href = ask.link("/console/lanes");
            found.push(Concern { weight: WORST, text, advice: String::new(), since: None, href });
        };
        // Some are on their way at any moment.
        if queue.held() > 0 && queue.ttl_ms().is_some() && queue.messages_ready == 0 {
            add(fill(t.c_letters, &[&queue.name, &number(queue.held())]));
        }
        if queue.consumers == 0 && queue.messages > 0 && is_consumed(&queue.name, &attended) {
            add(fill(t.c_no_consumer, &[&queue.name]));
        }
    }
}

/// Whether a process is to consume it whenever there is anything in it. The queue of an endpoint that somebody attends
/// to is left alone while the endpoint rests.
pub(crate) fn is_consumed(queue: &str, attended: &BTreeSet<String>) -> bool {
    queue.starts_with("overdue.v1.due.")
        || matches!(queue, "overdue.v1.commands" | "overdue.v1.parked")
        || queue.strip_prefix("overdue.v1.webhook.").is_some_and(|endpoint| !attended.contains(endpoint))
}

/// Endpoints that are stopped, or that a living process delivers to.
pub(crate) fn attended_endpoints(books: &Books) -> BTreeSet<String> {
    let stopped = books.stopped.iter().map(|stopped| stopped.name.clone());
    let served =
        books.processes.iter().filter(|process| !process.is_silent()).flat_map(|process| &process.said.circuits);
    let served = served.filter(|circuit| circuit.of == CircuitOf::Endpoint).map(|circuit| circuit.name.clone());
    stopped.chain(served).collect()
}

/// Gateways and endpoints whose circuit is open in a process that is alive: since when first, and why.
fn open_circuits(processes: &[ProcessRow]) -> Vec<(CircuitOf, String, OffsetDateTime, String)> {
    let mut open: Vec<(CircuitOf, String, OffsetDateTime, String)> = Vec::new();
    for circuit in processes.iter().filter(|process| !process.is_silent()).flat_map(|process| &process.said.circuits) {
        let Some(since) = circuit.open_since else { continue };
        let fault = circuit.fault.clone().unwrap_or_default();
        match open.iter_mut().find(|(of, name, ..)| *of == circuit.of && *name == circuit.name) {
            Some(known) => known.2 = known.2.min(since),
            None => open.push((circuit.of, circuit.name.clone(), since, fault)),
        }
    }
    open
}

pub(crate) fn count(count: Count, t: &Texts) -> String {
    let counted = number(count.number);
    if count.is_more { fill(t.or_more, &[&counted]) } else { counted }
}

/// How many messages a group has.
pub(crate) fn messages(counted: i64, t: &Texts) -> String {
    match counted > GROUP_MAX {
        true => fill(t.or_more, &[&number(GROUP_MAX)]),
        false => number(counted),
    }
}

fn spans(books: &Books, t: &'static Texts, now: OffsetDateTime) -> Vec<Span> {
    let span = |(name, minutes): (&'static str, i64)| {
        let begin = begin_of_minute(now) - time::Duration::minutes(minutes);
        let mut late = Lateness::default();
        for minute in books.minutes.iter().filter(|minute| minute.at >= begin) {
            late.add(&minute.late);
        }
        let seconds = (now - begin).as_seconds_f64().max(1.0);
        let bound = |share| late.bound_of(share).map_or("–".to_owned(), duration);
        let worst = if late.count() == 0 { "–".to_owned() } else { duration(late.max) };
        Span {
            name,
            closed: number(late.count()),
            per_second: format!("{:.1}", late.count() as f64 / seconds),
            bounds: [bound(0.5), bound(0.99), worst],
        }
    };
    [(t.span_1, 1), (t.span_5, 5), (t.span_60, i64::from(MINUTES))].map(span).into()
}

fn begin_of_minute(now: OffsetDateTime) -> OffsetDateTime {
    now - time::Duration::seconds(now.unix_timestamp().rem_euclid(60))
        - time::Duration::nanoseconds(now.nanosecond().into())
}

/// Four rows: the minutes in seconds since 1970; half, ninety-nine of a hundred, and the worst in milliseconds. A
/// minute without a close has none of them.
fn points(books: &Books, now: OffsetDateTime) -> String {
    let last = begin_of_minute(now);
    let minutes: Vec<OffsetDateTime> =
        (0..=i64::from(MINUTES)).rev().map(|ago| last - time::Duration::minutes(ago)).collect();
    let of = |value: fn(&Lateness) -> Option<Duration>| -> Vec<Option<f64>> {
        let at = |minute: &OffsetDateTime| {
            let late = &books.minutes.iter().find(|known| known.at == *minute)?.late;
            value(late).map(|bound| bound.as_secs_f64() * 1_000.0)
        };
        minutes.iter().map(at).collect()
    };
    let worst = |late: &Lateness| (late.count() > 0).then_some(late.max);
    let seconds: Vec<i64> = minutes.iter().map(|minute| minute.unix_timestamp()).collect();
    json!([seconds, of(|late| late.bound_of(0.5)), of(|late| late.bound_of(0.99)), of(worst)]).to_string()
}

fn waiting(books: &Books, t: &'static Texts) -> Vec<(&'static str, String, Option<OffsetDateTime>)> {
    let overview = &books.overview;
    let held: i64 =
        books.processes.iter().filter(|process| !process.is_silent()).map(|process| process.said.held_orders).sum();
    vec![
        (t.due_in_minutes, count(overview.due_in_minutes, t), None),
        (t.due_in_an_hour, count(overview.due_in_an_hour, t), None),
        (t.timers_due, count(overview.timers_due, t), None),
        (t.held_orders, number(held), None),
        (t.outbox_timeouts, count(overview.timeouts.count, t), overview.timeouts.oldest),
        (t.outbox_events, count(overview.events.count, t), overview.events.oldest),
    ]
}
