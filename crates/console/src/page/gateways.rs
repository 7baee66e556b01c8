//! Payment gateways and endpoints of webhooks: whether they are called, and what went wrong last.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::Response;
use book::{CircuitOf, CircuitState, ProcessRow};
use time::OffsetDateTime;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::{number, plain};
use crate::layout::{Layout, render};
use crate::snapshot::Books;
use crate::text::fill;

#[derive(Template)]
#[template(path = "gateways.html")]
struct GatewaysPage {
    l: Layout,
    gateways: Vec<Row>,
    endpoints: Vec<Row>,
}

/// A circuit breaker, over all processes.
struct Row {
    name: String,
    call: String,
    is_default: bool,
    open_since: Option<OffsetDateTime>,
    /// In how many of the processes that have it.
    open_in: String,
    next_probe: Option<OffsetDateTime>,
    fault: Option<String>,
    fault_at: Option<OffsetDateTime>,
    in_flight: String,
    /// By whom and why an endpoint is stopped.
    stopped: Option<(String, OffsetDateTime)>,
}

pub(crate) async fn show(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let title = ask.texts().gateways;
    let l = Layout::new(&console, ask, title).await;
    let (gateways, endpoints) = match l.snapshot.books.value() {
        Some(books) => (gateways(books), endpoints(books, &l)),
        None => (Vec::new(), Vec::new()),
    };
    render(&GatewaysPage { gateways, endpoints, l })
}

/// By name and kind of call.
type Circuits<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a CircuitState>>;

fn circuits(processes: &[ProcessRow], of: CircuitOf) -> Circuits<'_> {
    let mut circuits = Circuits::new();
    let alive = processes.iter().filter(|process| !process.is_silent());
    for circuit in alive.flat_map(|process| &process.said.circuits).filter(|circuit| circuit.of == of) {
        circuits.entry((&circuit.name, &circuit.call)).or_default().push(circuit);
    }
    circuits
}

fn gateways(books: &Books) -> Vec<Row> {
    let mut circuits = circuits(&books.processes, CircuitOf::Gateway);
    for gateway in &books.gateways {
        // One that no process has settings of is shown all the same.
        if !circuits.keys().any(|(name, _)| *name == gateway.name) {
            circuits.insert((&gateway.name, ""), Vec::new());
        }
    }
    let is_default = |name: &str| books.gateways.iter().any(|gateway| gateway.name == name && gateway.is_default);
    circuits.into_iter().map(|((name, call), states)| row(name, call, &states, is_default(name))).collect()
}

fn endpoints(books: &Books, l: &Layout) -> Vec<Row> {
    let mut circuits = circuits(&books.processes, CircuitOf::Endpoint);
    for stopped in &books.stopped {
        circuits.entry((&stopped.name, "")).or_default();
    }
    let with_stop = |((name, call), states): ((&str, &str), Vec<&CircuitState>)| {
        let stopped = books.stopped.iter().find(|stopped| stopped.name == name);
        let stopped =
            stopped.map(|it| (plain(&fill(l.t.endpoint_stopped, &[&it.stopped_by, &it.reason])), it.stopped_at));
        Row { stopped, ..row(name, call, &states, false) }
    };
    circuits.into_iter().map(with_stop).collect()
}

fn row(name: &str, call: &str, states: &[&CircuitState], is_default: bool) -> Row {
    let open: Vec<&&CircuitState> = states.iter().filter(|state| state.open_since.is_some()).collect();
    let newest = states.iter().filter(|state| state.fault_at.is_some()).max_by_key(|state| state.fault_at);
    let in_flight: u64 = states.iter().map(|state| state.in_flight).sum();
    Row {
        name: name.to_owned(),
        call: call.to_owned(),
        is_default,
        open_since: open.iter().filter_map(|state| state.open_since).min(),
        open_in: format!("{} / {}", open.len(), states.len()),
        next_probe: open.iter().filter_map(|state| state.next_probe).min(),
        fault: newest.and_then(|state| state.fault.as_deref()).map(plain),
        fault_at: newest.and_then(|state| state.fault_at),
        in_flight: number(in_flight),
        stopped: None,
    }
}
