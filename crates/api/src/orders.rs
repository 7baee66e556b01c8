//! Read-only requests. An order that is found past its deadline is closed first.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use order::OrderId;

use crate::body::{OrderView, Timeline, TimelineEntry};
use crate::etag::tagged;
use crate::input::PathOrder;
use crate::problem::Problem;
use crate::replica::wants_fresh;
use crate::service::{OrderService, SETTLE_WAIT};

/// Look at an order. If it is pending although its deadline has passed, it is closed first (or found paid). Where a read
/// replica answers, this may be some moments old; `Cache-Control: no-cache` asks for the state of this moment.
#[utoipa::path(get, path = "/orders/{id}", tag = "orders", security(("bearer" = [])),
    params(PathOrder, ("Cache-Control" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = OrderView), (status = 304, description = "The client has it already: its `ETag` is that of the order as it stands"), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(service): State<Arc<OrderService>>,
    headers: HeaderMap,
    PathOrder(id): PathOrder,
) -> Result<Response, Problem> {
    if let Some(replica) = service.replica.as_ref().filter(|_| !wants_fresh(&headers))
        && let Some(view) = replica.ask(async |connection| shop::show(connection, &id).await).await
        && !view.overdue
    {
        return Ok(tagged(&headers, &OrderView::from(view)));
    }
    let mut view = look_up(&service, &id).await?;
    if view.overdue {
        service.passive.look_at(&id, None, SETTLE_WAIT).await;
        view = look_up(&service, &id).await?;
    }
    Ok(tagged(&headers, &view))
}

/// All that is on record of an order, oldest first. Of a read replica as above.
#[utoipa::path(get, path = "/orders/{id}/timeline", tag = "orders", security(("bearer" = [])),
    params(PathOrder, ("Cache-Control" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = Timeline), (status = 304, description = "The client has it already"), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn timeline(
    State(service): State<Arc<OrderService>>,
    headers: HeaderMap,
    PathOrder(id): PathOrder,
) -> Result<Response, Problem> {
    let replica = service.replica.as_ref().filter(|_| !wants_fresh(&headers));
    let known = match replica {
        Some(replica) => replica.ask(async |connection| shop::timeline(connection, &id).await).await,
        None => None,
    };
    let entries = match known {
        Some(entries) => entries,
        None => shop::timeline(&mut *service.pool.get().await?, &id).await?,
    };
    let entries = entries.into_iter().map(TimelineEntry::from).collect();
    Ok(tagged(&headers, &Timeline { order_id: id.to_string(), entries }))
}

/// How the order stands, by the primary.
pub(crate) async fn look_up(service: &OrderService, id: &OrderId) -> Result<OrderView, Problem> {
    Ok(shop::show(&mut *service.pool.get().await?, id).await?.into())
}
