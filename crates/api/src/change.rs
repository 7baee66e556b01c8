//! A change in a transaction of its own.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use shop::{Change, PgConnection, Request};

use crate::problem::{Problem, ProblemKind};
use crate::service::OrderService;

/// How long a request waits for what another transaction holds.
const LOCKED_WAIT: Duration = Duration::from_secs(2);

/// How long it lets its connection go in between.
const LOCKED_PAUSE: Duration = Duration::from_millis(200);

/// Makes a change, as often as it is tried.
pub(crate) trait Make<T>:
    for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Problem>> + Send + Sync
{
}

impl<T, F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Problem>> + Send + Sync> Make<T> for F {}

/// Tells the compiler of what form a closure is.
pub(crate) fn made_by<T, F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Problem>>>(make: F) -> F {
    make
}

/// Makes a change in a transaction of its own, unless it was made for this request before (`None`). What another transaction
/// holds is waited for without a connection: the requests of others need them.
pub(crate) async fn change<T>(
    service: &OrderService,
    request: Option<&Request>,
    make: impl Make<T>,
) -> Result<Option<T>, Problem> {
    let give_up_at = Instant::now() + LOCKED_WAIT;
    loop {
        match try_change(service, request, &make).await {
            Err(problem) if problem.is(ProblemKind::OrderLocked) && Instant::now() < give_up_at => {
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

async fn try_change<T>(
    service: &OrderService,
    request: Option<&Request>,
    make: &impl Make<T>,
) -> Result<Option<T>, Problem> {
    let mut connection = service.pool.get().await?;
    let Some(mut change) = Change::begin(&mut connection, request).await? else { return Ok(None) };
    let made = make(change.connection()).await?;
    change.commit().await?;
    Ok(Some(made))
}
