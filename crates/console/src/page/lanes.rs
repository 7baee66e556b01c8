//! What waits in RabbitMQ, queue by queue.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::Response;
use broker::QueueState;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::{duration, number};
use crate::layout::{Layout, render};
use crate::page::now::{attended_endpoints, is_consumed};

#[derive(Template)]
#[template(path = "lanes.html")]
struct LanesPage {
    l: Layout,
    source: &'static str,
    knows_queues: bool,
    groups: Vec<Group>,
}

/// Queues of one kind. Lanes that are empty are many, and only named.
struct Group {
    name: &'static str,
    rows: Vec<Row>,
    empty: Vec<String>,
}

struct Row {
    name: String,
    ttl: String,
    waiting: String,
    in_hand: String,
    held: String,
    consumers: String,
    /// Whether something is wrong with it.
    is_wrong: bool,
}

pub(crate) async fn show(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let title = ask.texts().lanes;
    let l = Layout::new(&console, ask, title).await;
    let by_management = console.snapshots.by_management();
    let names = [l.t.due_queues, l.t.lanes_ours, l.t.lanes_foreign, l.t.endpoint_queues, l.t.other_queues];
    let mut groups: Vec<Group> = names.map(|name| Group { name, rows: Vec::new(), empty: Vec::new() }).into();
    let attended = l.snapshot.books.value().map(attended_endpoints).unwrap_or_default();
    let mut queues: Vec<&QueueState> = l.snapshot.queues.value().into_iter().flatten().collect();
    queues.sort_by_key(|queue| (queue.ttl_ms().or_else(|| ttl_by_name(&queue.name)), queue.name.clone()));
    for queue in queues {
        let name = queue.name.as_str();
        let group = match name {
            _ if name.starts_with("overdue.v1.due.") => 0,
            _ if name.starts_with("overdue.v1.delay.") => 1,
            _ if name.starts_with("overdue.v1.foreign.") => 2,
            _ if name.starts_with("overdue.v1.webhook.") => 3,
            _ => 4,
        };
        let is_lane = matches!(group, 1 | 2);
        match is_lane && queue.messages == 0 {
            true => groups[group].empty.push(queue.name.clone()),
            false => groups[group].rows.push(row(queue, &attended, by_management)),
        }
    }
    groups.retain(|group| !group.rows.is_empty() || !group.empty.is_empty());
    let source = if by_management { l.t.by_management } else { l.t.by_amqp };
    render(&LanesPage { source, knows_queues: console.snapshots.knows_queues(), groups, l })
}

fn row(queue: &QueueState, attended: &BTreeSet<String>, by_management: bool) -> Row {
    let unknown = || "–".to_owned();
    let ttl_ms = queue.ttl_ms().or_else(|| ttl_by_name(&queue.name));
    let is_alone = queue.consumers == 0 && queue.messages > 0 && is_consumed(&queue.name, attended);
    Row {
        name: queue.name.clone(),
        ttl: ttl_ms.map_or_else(unknown, |ms| duration(Duration::from_millis(ms))),
        waiting: number(queue.messages_ready),
        in_hand: if by_management { number(queue.messages_unacknowledged) } else { unknown() },
        held: if by_management { number(queue.held()) } else { unknown() },
        consumers: number(queue.consumers),
        is_wrong: is_alone || (queue.held() > 0 && queue.messages_ready == 0 && ttl_ms.is_some()),
    }
}

/// A lane is called after its TTL.
fn ttl_by_name(queue: &str) -> Option<u64> {
    let rest = ["overdue.v1.delay.", "overdue.v1.foreign."].iter().find_map(|prefix| queue.strip_prefix(prefix))?;
    let lane = rest.split('.').next()?;
    lane.parse::<order::Lane>().ok().map(order::Lane::ttl_ms)
}
