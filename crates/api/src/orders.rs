//! Orders over HTTP. Whoever comes upon an order that is past its deadline closes it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use order::{Deadline, Operator, OrderId, OrderStatus};
use publisher::{Change, Item, NewOrder, OrderError, OrderView, TimelineEntry};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use worker::Actor;

use crate::body::{parse, parse_or_default};
use crate::idempotency::{Answer, once, require_key};
use crate::replica::wants_fresh;
use crate::{Problem, SETTLE_WAIT, Shop};

/// An order that is to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateOrder {
    /// 1 to 64 characters of `A-Z a-z 0-9 . _ : -`.
    id: String,
    /// What is ordered; at least one line.
    items: Vec<Item>,
    /// What is to be paid, in the currency's smallest unit.
    amount_minor: i64,
    /// Three capital letters (ISO 4217).
    currency: String,
    /// The gateway where it is to be paid, such as `wechat`; none: the shop itself marks it as paid.
    gateway: Option<String>,
    /// How long the customer has to pay, in seconds; half an hour if it is not said.
    payment_timeout_s: Option<u64>,
}

/// That an order was paid.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pay {
    /// The payment's ID at the gateway.
    transaction_id: Option<String>,
}

/// That an order is to be closed now, by whom and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Close {
    /// As what the person acts: `merchant`, `customer`, `support` and so on.
    operator_type: String,
    /// Who it is.
    operator: String,
    /// Why; kept in the order's log.
    reason: String,
}

/// That an order may be paid for longer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Extend {
    /// The new deadline, in RFC 3339 form.
    #[schema(format = DateTime)]
    payment_deadline: String,
    /// Why; kept in the order's log.
    reason: Option<String>,
    /// As what the person acts that has it done.
    operator_type: Option<String>,
    /// Who it is.
    operator: Option<String>,
}

/// What happened to an order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Timeline {
    order_id: String,
    /// Oldest first.
    entries: Vec<TimelineEntry>,
}

/// Create an order, reserve its stock and arm its timeout.
#[utoipa::path(post, path = "/orders", request_body = CreateOrder, tag = "orders", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = OrderView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(shop): State<Arc<Shop>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let wanted: CreateOrder = parse(&body)?;
    once(&shop.pool, &headers, "POST /orders", &body, async |request| {
        let id = order_id(&wanted.id)?;
        if let Some(gateway) = wanted.gateway.as_deref().filter(|name| !is_configured(&shop, name)) {
            let detail = format!("no payment gateway called {gateway} is configured here");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown-gateway", detail));
        }
        let new = NewOrder {
            id: id.clone(),
            amount_minor: wanted.amount_minor,
            currency: wanted.currency,
            items: wanted.items,
            gateway: wanted.gateway,
            payment_timeout: Duration::from_secs(wanted.payment_timeout_s.unwrap_or(1800)),
        };
        if let Some(mut change) = Change::begin(&shop.pool, request.as_ref()).await? {
            publisher::create_in(change.connection(), &new).await?;
            change.commit().await?;
        }
        Ok(Answer::new(StatusCode::CREATED, &publisher::show(&shop.pool, &id).await?))
    })
    .await
}

/// Look at an order. If it is pending although its deadline has passed, it is closed first (or found paid). Where a read
/// replica answers, this may be some moments old; `Cache-Control: no-cache` asks for what is true now.
#[utoipa::path(get, path = "/orders/{id}", tag = "orders", security(("bearer" = [])), params(("id" = String, Path), ("Cache-Control" = Option<String>, Header)),
    responses((status = 200, body = OrderView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(shop): State<Arc<Shop>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    if let Some(replica) = shop.replica.as_ref().filter(|_| !wants_fresh(&headers))
        && let Some(view) = replica.ask(publisher::show(&replica.pool, &id)).await
        && !view.overdue
    {
        return Ok(respond(&view));
    }
    let mut view = publisher::show(&shop.pool, &id).await?;
    if view.overdue {
        shop.passive.look_at(&id, None, SETTLE_WAIT).await;
        view = publisher::show(&shop.pool, &id).await?;
    }
    Ok(respond(&view))
}

/// All that is on record of an order, oldest first. Of a read replica as above.
#[utoipa::path(get, path = "/orders/{id}/timeline", tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path), ("Cache-Control" = Option<String>, Header)),
    responses((status = 200, body = Timeline), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn timeline(
    State(shop): State<Arc<Shop>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    let replica = shop.replica.as_ref().filter(|_| !wants_fresh(&headers));
    let old = match replica {
        Some(replica) => replica.ask(publisher::timeline(&replica.pool, &id)).await,
        None => None,
    };
    let entries = match old {
        Some(entries) => entries,
        None => publisher::timeline(&shop.pool, &id).await?,
    };
    Ok(respond(&Timeline { order_id: id.to_string(), entries }))
}

/// Mark an order as paid. Refused once its deadline has passed; it is closed then.
#[utoipa::path(post, path = "/orders/{id}/pay", request_body = Pay, tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = OrderView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn pay(
    State(shop): State<Arc<Shop>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    let payment: Pay = parse_or_default(&body)?;
    once(&shop.pool, &headers, &format!("POST /orders/{id}/pay"), &body, async |request| {
        let paid = async {
            if let Some(mut change) = Change::begin(&shop.pool, request.as_ref()).await? {
                publisher::pay_in(change.connection(), &id, payment.transaction_id.as_deref()).await?;
                change.commit().await?;
            }
            Ok::<_, OrderError>(())
        };
        match paid.await {
            Ok(()) => Ok(Answer::new(StatusCode::OK, &publisher::show(&shop.pool, &id).await?)),
            Err(error) => {
                if matches!(error, OrderError::Overdue { .. }) {
                    // Whoever asked need not wait for it.
                    shop.passive.look_at(&id, None, Duration::ZERO).await;
                }
                Err(error.into())
            }
        }
    })
    .await
}

/// Cancel an order and give its stock back.
#[utoipa::path(post, path = "/orders/{id}/cancel", tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = OrderView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    State(shop): State<Arc<Shop>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    once(&shop.pool, &headers, &format!("POST /orders/{id}/cancel"), &body, async |request| {
        if let Some(mut change) = Change::begin(&shop.pool, request.as_ref()).await? {
            publisher::cancel_in(change.connection(), &id).await?;
            change.commit().await?;
        }
        Ok(Answer::new(StatusCode::OK, &publisher::show(&shop.pool, &id).await?))
    })
    .await
}

/// Close an order now, whether or not its deadline has passed, with the same care as at its deadline: its gateway is
/// asked first. 202: that takes longer; it goes on by itself.
#[utoipa::path(post, path = "/orders/{id}/close", request_body = Close, tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path), ("Idempotency-Key" = String, Header)),
    responses((status = 200, body = OrderView), (status = 202, body = OrderView),
              (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn close(
    State(shop): State<Arc<Shop>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    require_key(&headers)?;
    let wanted: Close = parse(&body)?;
    once(&shop.pool, &headers, &format!("POST /orders/{id}/close"), &body, async |request| {
        let operator = operator(Some(wanted.operator_type), Some(wanted.operator))?;
        let reason = text("reason", wanted.reason)?;
        let made_due = async {
            if let Some(mut change) = Change::begin(&shop.pool, request.as_ref()).await? {
                publisher::make_due_in(change.connection(), &id, &reason, operator.as_ref()).await?;
                change.commit().await?;
            }
            Ok::<_, OrderError>(())
        };
        match made_due.await {
            Ok(()) => {
                let actor = Actor { name: "api".to_owned(), reason, operator };
                shop.passive.look_at(&id, Some(actor), SETTLE_WAIT).await;
            }
            // Whoever closed it: that is what was asked for.
            Err(OrderError::NotPending { status: OrderStatus::Closed, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let view = publisher::show(&shop.pool, &id).await?;
        match view.status.as_str() {
            "closed" => Ok(Answer::new(StatusCode::OK, &view)),
            "pending" => Ok(Answer::new(StatusCode::ACCEPTED, &view)),
            status => {
                let detail = format!("order {id} is {status}, which was found out when it was to be closed");
                Err(Problem::new(StatusCode::CONFLICT, "order-not-pending", detail))
            }
        }
    })
    .await
}

/// Give the customer more time to pay.
#[utoipa::path(post, path = "/orders/{id}/extend", request_body = Extend, tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = OrderView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn extend(
    State(shop): State<Arc<Shop>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    let wanted: Extend = parse(&body)?;
    once(&shop.pool, &headers, &format!("POST /orders/{id}/extend"), &body, async |request| {
        let to: Deadline =
            wanted.payment_deadline.parse().map_err(|error: order::BadDeadline| invalid(error.to_string()))?;
        let operator = operator(wanted.operator_type, wanted.operator)?;
        let reason = text("reason", wanted.reason.unwrap_or_else(|| "no reason given".to_owned()))?;
        let extended = async {
            if let Some(mut change) = Change::begin(&shop.pool, request.as_ref()).await? {
                publisher::extend_in(change.connection(), &id, to, &reason, operator.as_ref()).await?;
                change.commit().await?;
            }
            Ok::<_, OrderError>(())
        };
        match extended.await {
            Ok(()) => Ok(Answer::new(StatusCode::OK, &publisher::show(&shop.pool, &id).await?)),
            Err(error) => {
                if matches!(error, OrderError::Overdue { .. }) {
                    shop.passive.look_at(&id, None, Duration::ZERO).await;
                }
                Err(error.into())
            }
        }
    })
    .await
}

fn respond(body: &impl Serialize) -> Response {
    use axum::response::IntoResponse;
    Answer::new(StatusCode::OK, body).into_response()
}

fn is_configured(shop: &Shop, name: &str) -> bool {
    name == "none" || shop.gateways.names().iter().any(|known| known == name)
}

fn order_id(text: &str) -> Result<OrderId, Problem> {
    OrderId::new(text)
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "illegal-order-id", error.to_string()))
}

/// Both, or neither.
fn operator(kind: Option<String>, name: Option<String>) -> Result<Option<Operator>, Problem> {
    match (kind, name) {
        (None, None) => Ok(None),
        (Some(kind), Some(name)) => {
            Ok(Some(Operator { kind: text("operator_type", kind)?, name: text("operator", name)? }))
        }
        _ => Err(invalid("operator_type and operator come together".to_owned())),
    }
}

/// The most characters of a text that is kept in the log.
const TEXT_CHARACTERS_MAX: usize = 500;

fn text(name: &str, value: String) -> Result<String, Problem> {
    let length = value.chars().count();
    if value.trim().is_empty() || length > TEXT_CHARACTERS_MAX || value.chars().any(char::is_control) {
        let detail = format!("{name} must have 1 to {TEXT_CHARACTERS_MAX} characters, in one line");
        return Err(invalid(detail));
    }
    Ok(value)
}

fn invalid(detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", detail)
}
