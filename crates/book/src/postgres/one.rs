use database::Client;
use tokio_postgres::types::{FromSql, ToSql};

use super::error::is_bad;
use crate::BookError;

/// The one value that a question has for an answer.
pub(crate) async fn one<T>(client: &Client, question: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<T, BookError>
where
    T: for<'a> FromSql<'a>,
{
    let row = client
        .within(is_bad, async |client| client.query_one(&client.prepare_cached(question).await?, arguments).await);
    Ok(row.await?.try_get(0)?)
}
