//! Whether both drivers reach the same server as the same user and see the same there.

use std::time::Duration;

use sqlx::PgConnection;

use crate::pool::{PoolSettings, SqlxPool};
use crate::{CallError, Client, DatabaseError, DatabaseUrl, Purpose};

/// What a session sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Each thing with its name: `database`, `user`, `search path` and so on.
    pub facts: Vec<(&'static str, String)>,
    /// Whether the server is a standby.
    pub in_recovery: bool,
    /// Whether the session takes no writes.
    pub read_only: bool,
    /// Whether the settings that were asked for are in effect: a pooler in between may drop them.
    pub is_as_set: bool,
}

/// Something that the two drivers see differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is.
    pub what: &'static str,
    /// As sqlx sees it, for relay and orders.
    pub sqlx: String,
    /// As tokio-postgres sees it, for worker and sweep.
    pub tokio: String,
}

const NAMES: [&str; 6] = ["address", "database", "user", "search path", "TLS", "in recovery"];

/// One row: the facts in the order of [`NAMES`], whether it is read-only, and the plan cache mode.
const QUESTION: &str =
    "select coalesce(host(inet_server_addr()) || ' port ' || inet_server_port(), 'Unix-domain socket'),
    current_database()::text, current_user::text, current_setting('search_path'),
    coalesce((select version from pg_stat_ssl where pid = pg_backend_pid() and ssl), 'none'),
    pg_is_in_recovery()::text, current_setting('transaction_read_only'), current_setting('plan_cache_mode')";

/// Asks through both drivers.
///
/// # Errors
/// [`DatabaseError`] of the driver that does not get through.
pub async fn seen_by_both(url: &DatabaseUrl, statement_timeout: Duration) -> Result<(Seen, Seen), DatabaseError> {
    let settings = PoolSettings { connections_max: 1, statement_timeout, purpose: Purpose::Settle };
    let unreachable = |reason: String| DatabaseError::Unreachable { address: url.address(), reason };
    let mut connection = SqlxPool::new(url, &settings)?.get().await?;
    let by_sqlx = ask(&mut connection).await.map_err(|error| unreachable(trace::causes(&error)))?;
    let client = Client::new(url, &settings)?;
    let row = client.within(|_| true, async |client| client.query_one(QUESTION, &[]).await).await;
    let row = row.map_err(|error| match error {
        CallError::Unreachable(error) => error,
        other => unreachable(other.to_string()),
    })?;
    let fields: Vec<String> = (0..row.len()).map(|place| row.get(place)).collect();
    Ok((by_sqlx, seen(&fields)))
}

async fn ask(connection: &mut PgConnection) -> Result<Seen, sqlx::Error> {
    let row: (String, String, String, String, String, String, String, String) =
        sqlx::query_as(QUESTION).fetch_one(connection).await?;
    Ok(seen(&[row.0, row.1, row.2, row.3, row.4, row.5, row.6, row.7]))
}

fn seen(fields: &[String]) -> Seen {
    Seen {
        facts: NAMES.into_iter().zip(fields.iter().cloned()).collect(),
        in_recovery: fields[5] == "true",
        read_only: fields[6] == "on",
        is_as_set: fields[7] == "force_generic_plan",
    }
}

/// What the drivers see differently.
#[must_use]
pub fn differences(sqlx: &Seen, tokio: &Seen) -> Vec<Difference> {
    let pairs = sqlx.facts.iter().zip(&tokio.facts).filter(|(ours, theirs)| ours.1 != theirs.1);
    let difference = |((what, sqlx), (_, tokio)): (&(&'static str, String), &(&'static str, String))| Difference {
        what,
        sqlx: sqlx.clone(),
        tokio: tokio.clone(),
    };
    pairs.map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_named() {
        let of = |database: &str| {
            let texts = ["127.0.0.1 port 5432", database, "u", "public", "none", "false", "off", "force_generic_plan"];
            seen(&texts.map(str::to_owned))
        };
        assert_eq!(differences(&of("shop"), &of("shop")), []);
        let found = differences(&of("shop"), &of("stock"));
        assert_eq!(found, [Difference { what: "database", sqlx: "shop".to_owned(), tokio: "stock".to_owned() }]);
    }
}
