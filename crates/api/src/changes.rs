//! Requests that change orders: each is one transaction, and done once for an idempotency key.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use book::Actor;
use http::{HeaderMap, StatusCode};
use order::{BadDeadline, Deadline, OrderId, TRANSACTION_ID_BYTES_MAX, is_transaction_id};

use crate::body::{Close, CreateOrder, Extend, OrderView, Pay};
use crate::change::{Make, change, made_by};
use crate::idempotency::{Answer, KeyHeader, once, require_key};
use crate::input::{PathOrder, invalid, operator, order_id, parse, parse_or_default, text};
use crate::orders::look_up;
use crate::problem::{Problem, ProblemKind};
use crate::service::{OrderService, SETTLE_WAIT};

/// Create an order, reserve its stock and arm its timeout.
#[utoipa::path(post, path = "/orders", request_body = CreateOrder, tag = "orders", security(("bearer" = [])),
    params(KeyHeader<false>),
    responses((status = 201, body = OrderView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(service): State<Arc<OrderService>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let wanted: CreateOrder = parse(&body)?;
    once(&service.pool, &headers, "POST /orders", &body, async |request| {
        let id = order_id(&wanted.id)?;
        if let Some(gateway) = wanted.gateway.as_deref().filter(|name| !service.takes_payments_at(name)) {
            let detail = format!("no payment gateway called {gateway} is configured here");
            return Err(Problem::new(ProblemKind::UnknownGateway, detail));
        }
        if let Some(gateway) = wanted.gateway.as_deref() {
            // The gateway knows the trade by the order's ID.
            let taken = service.gateways.check_trade_no(gateway, id.as_str());
            taken.map_err(|why| {
                Problem::new(ProblemKind::InvalidOrder, format!("order {id} cannot be paid at {gateway}: {why}"))
            })?;
        }
        let new = Arc::new(wanted.into_new(id.clone()));
        let make = made_by(move |connection| {
            let new = Arc::clone(&new);
            Box::pin(async move {
                shop::create_in(connection, &new).await?;
                Ok(())
            })
        });
        change(&service, request.as_ref(), make).await?;
        Ok(Answer::new(StatusCode::CREATED, &look_up(&service, &id).await?))
    })
    .await
}

/// Mark an order as paid. Refused once its deadline has passed; it is closed then.
#[utoipa::path(post, path = "/orders/{id}/pay", request_body = Pay, tag = "orders", security(("bearer" = [])),
    params(PathOrder, KeyHeader<false>),
    responses((status = 200, body = OrderView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn pay(
    State(service): State<Arc<OrderService>>,
    PathOrder(id): PathOrder,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let payment: Pay = parse_or_default(&body)?;
    if payment.transaction_id.as_deref().is_some_and(|id| !is_transaction_id(id)) {
        return Err(invalid(&format!(
            "transaction_id must have 1 to {TRANSACTION_ID_BYTES_MAX} bytes and no control characters"
        )));
    }
    let target = format!("POST /orders/{id}/pay");
    let (order, payment) = (id.clone(), Arc::new(payment));
    let make = made_by(move |connection| {
        let (order, payment) = (order.clone(), Arc::clone(&payment));
        Box::pin(async move {
            shop::pay_in(connection, &order, payment.transaction_id.as_deref()).await?;
            Ok(())
        })
    });
    change_order(&service, &id, &headers, &target, &body, make).await
}

/// Cancel an order and give its stock back.
#[utoipa::path(post, path = "/orders/{id}/cancel", tag = "orders", security(("bearer" = [])),
    params(PathOrder, KeyHeader<false>),
    responses((status = 200, body = OrderView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    State(service): State<Arc<OrderService>>,
    PathOrder(id): PathOrder,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let target = format!("POST /orders/{id}/cancel");
    let order = id.clone();
    let make = made_by(move |connection| {
        let order = order.clone();
        Box::pin(async move {
            shop::cancel_in(connection, &order).await?;
            Ok(())
        })
    });
    change_order(&service, &id, &headers, &target, &body, make).await
}

/// Give the customer more time to pay.
#[utoipa::path(post, path = "/orders/{id}/extend", request_body = Extend, tag = "orders", security(("bearer" = [])),
    params(PathOrder, KeyHeader<false>),
    responses((status = 200, body = OrderView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn extend(
    State(service): State<Arc<OrderService>>,
    PathOrder(id): PathOrder,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let wanted: Extend = parse(&body)?;
    let target = format!("POST /orders/{id}/extend");
    let (order, wanted) = (id.clone(), Arc::new(wanted));
    let make = made_by(move |connection| {
        let (order, wanted) = (order.clone(), Arc::clone(&wanted));
        Box::pin(async move {
            let to = wanted.payment_deadline.parse();
            let to: Deadline = to.map_err(|error: BadDeadline| invalid(&error.to_string()))?;
            let operator = operator(wanted.operator_type.clone(), wanted.operator.clone())?;
            let reason = text("reason", wanted.reason.clone().unwrap_or_else(|| "no reason given".to_owned()))?;
            shop::extend_in(connection, &order, to, &reason, operator.as_ref()).await?;
            Ok(())
        })
    });
    change_order(&service, &id, &headers, &target, &body, make).await
}

/// Close an order now, whether or not its deadline has passed, with the same care as at its deadline: its gateway is
/// asked first. 202: that takes longer; it goes on by itself.
#[utoipa::path(post, path = "/orders/{id}/close", request_body = Close, tag = "orders", security(("bearer" = [])),
    params(PathOrder, KeyHeader<true>),
    responses((status = 200, body = OrderView), (status = 202, body = OrderView),
              (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn close(
    State(service): State<Arc<OrderService>>,
    PathOrder(id): PathOrder,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    require_key(&headers)?;
    let wanted: Close = parse(&body)?;
    once(&service.pool, &headers, &format!("POST /orders/{id}/close"), &body, async |request| {
        let operator = operator(Some(wanted.operator_type), Some(wanted.operator))?;
        let reason = text("reason", wanted.reason)?;
        let why = Arc::new((id.clone(), reason.clone(), operator.clone()));
        let make = made_by(move |connection| {
            let why = Arc::clone(&why);
            Box::pin(async move {
                let (id, reason, operator) = &*why;
                shop::make_due_in(connection, id, reason, operator.as_ref()).await?;
                Ok(())
            })
        });
        match change(&service, request.as_ref(), make).await {
            Ok(_) => {
                let by = Actor { name: "api".to_owned(), reason, operator };
                service.passive.look_at(&id, Some(by), SETTLE_WAIT).await;
            }
            // It may be closed already, and that is what the client asked for.
            Err(problem) if problem.is(ProblemKind::OrderNotPending) => {}
            Err(problem) => return Err(problem),
        }
        let view = look_up(&service, &id).await?;
        match view.status.as_str() {
            "closed" => Ok(Answer::new(StatusCode::OK, &view)),
            "pending" => Ok(Answer::new(StatusCode::ACCEPTED, &view)),
            status => Err(Problem::new(ProblemKind::OrderNotPending, format!("order {id} is {status} already"))),
        }
    })
    .await
}

/// Changes an order, and answers with it as it stands then.
async fn change_order(
    service: &OrderService,
    id: &OrderId,
    headers: &HeaderMap,
    target: &str,
    body: &[u8],
    make: impl Make<()>,
) -> Result<Response, Problem> {
    once(&service.pool, headers, target, body, async |request| {
        if let Err(problem) = change(service, request.as_ref(), make).await {
            if problem.is(ProblemKind::OrderOverdue) {
                // It is closed now. The client need not wait for that.
                service.passive.look_at(id, None, Duration::ZERO).await;
            }
            return Err(problem);
        }
        Ok(Answer::new(StatusCode::OK, &look_up(service, id).await?))
    })
    .await
}
