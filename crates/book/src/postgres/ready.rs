use database::{Client, ServerTime};
use trace::TraceParent;

use super::error::is_bad;
use super::lock::UnderLock;
use super::{load, note, pay, set_aside, settle};
use crate::columns::unfit_columns;
use crate::{Actor, BookError};

/// Runs each statement about no order at all. What is wrong for every order alike (a missing right, table or column, a view
/// that takes no update, a type that does not fit) is wrong then, too; what is wrong with one order is not. Returns the database's time.
pub(super) async fn ready(client: &Client, under_lock: &UnderLock) -> Result<ServerTime, BookError> {
    let (by, trace) = (Actor::on_timeout("worker"), None::<&TraceParent>);
    let tried = async {
        load::load(client, &[], None).await?;
        under_lock.try_out(&settle::SQL, &settle::columns(&by, trace)(&[])).await.map_err(BookError::from)?;
        under_lock.try_out(&pay::SQL, &pay::columns(&by, trace)(&[])).await.map_err(BookError::from)?;
        note::try_out(client).await?;
        set_aside::set_aside(client, &[]).await?;
        time(client).await
    };
    let error = match tried.await {
        Err(BookError::Refused(text)) => text,
        other => return other,
    };
    // A column of a wrong type shows in words about operators; its name helps more.
    let unfit = unfit_columns(client).await.unwrap_or_default();
    Err(BookError::Misconfigured(if unfit.is_empty() { error } else { unfit.join("; ") }))
}

/// The database's time.
pub(crate) async fn time(client: &Client) -> Result<ServerTime, BookError> {
    let row = client.within(is_bad, async |client| client.query_one("select clock_timestamp()", &[]).await);
    Ok(ServerTime::from(row.await?.try_get(0)?))
}
