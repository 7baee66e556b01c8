//! The gateways as every process knows them. What one process asks before an order closes, no other may leave out; so the database
//! holds where orders are paid of which nothing else is said, and whose trades each gateway's are.

use database::Client;
use serde::Serialize;
use time::OffsetDateTime;

use crate::BookError;
use crate::postgres::is_bad;

/// A gateway, as a process has settings of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayEntry {
    /// Its name in the table of payments.
    pub name: String,
    /// Whose trades it tells of.
    pub account: String,
    /// What its trade numbers may be like: a regular expression, and the same in words. `None`: anything.
    pub trade_numbers: Option<(String, String)>,
}

/// A gateway, as it is registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegisteredGateway {
    /// Its name in the table of payments.
    pub name: String,
    /// Whose trades it tells of; `None`: as the next process says that has settings of it.
    pub account: Option<String>,
    /// Whether orders without a payment on record are paid there.
    pub is_default: bool,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub registered_at: OffsetDateTime,
}

/// Why the settings of a process do not fit those of the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayConflict {
    /// The same name, and another account.
    #[error(
        "the gateway {name} is registered for {registered}, and the settings here are for {here}: a process would hear of none of the other's trades. Correct the settings, or, once no process uses the old ones, run `overdue gateway forget {name}`"
    )]
    Account {
        /// The gateway.
        name: String,
        /// Whose trades its are, as registered.
        registered: String,
        /// And as the settings say.
        here: String,
    },
    /// Another gateway is the default.
    #[error(
        "orders without a row in `payments` are paid at {registered}, as every process has it, and the settings here say {here}. Set OVERDUE_GATEWAY={registered} or leave it out, or, for all processes, run `overdue gateway default {here}`"
    )]
    Default {
        /// The default, as registered.
        registered: String,
        /// And as the settings say.
        here: String,
    },
}

/// Registers the gateways of which a process has settings, and where orders are paid of which nothing else is said (`None`: the
/// process does not say). Returns what does not fit; then nothing of that was changed.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn register_gateways(
    client: &Client,
    entries: &[GatewayEntry],
    default: Option<&str>,
) -> Result<Vec<GatewayConflict>, BookError> {
    for GatewayEntry { name, account, trade_numbers } in entries {
        let (pattern, rule) = trade_numbers.clone().unzip();
        let registered = client.within(is_bad, async |client| {
            let register = "insert into gateways (name, account, trade_nos, rule) values ($1, $2, $3, $4)
                 on conflict (name) do update
                 set account = excluded.account, trade_nos = excluded.trade_nos, rule = excluded.rule
                 where coalesce(gateways.account, excluded.account) = excluded.account
                   and (gateways.account, gateways.trade_nos, gateways.rule)
                       is distinct from (excluded.account, excluded.trade_nos, excluded.rule)";
            client.execute(register, &[name, account, &pattern, &rule]).await
        });
        registered.await?;
    }
    if let Some(name) = default.filter(|name| *name != NONE) {
        let first = client.within(is_bad, async |client| {
            let set = "update gateways set is_default = true, default_since = clock_timestamp()
                       where name = $1 and not exists (select from gateways where is_default)";
            client.execute(set, &[&name]).await
        });
        first.await?;
    }
    gateway_conflicts(client, entries, default).await
}

/// What of a process's settings does not fit what is registered. Changes nothing.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn gateway_conflicts(
    client: &Client,
    entries: &[GatewayEntry],
    default: Option<&str>,
) -> Result<Vec<GatewayConflict>, BookError> {
    let registered = registered_gateways(client).await?;
    let mut conflicts = Vec::new();
    for known in &registered {
        let Some(registered) = &known.account else { continue };
        let here = entries.iter().find(|entry| entry.name == known.name && entry.account != *registered);
        conflicts.extend(here.map(|here| GatewayConflict::Account {
            name: known.name.clone(),
            registered: registered.clone(),
            here: here.account.clone(),
        }));
    }
    let known = registered.iter().find(|gateway| gateway.is_default).map(|gateway| gateway.name.as_str());
    if let Some(here) = default
        && here != known.unwrap_or(NONE)
    {
        let registered = known.unwrap_or(NONE).to_owned();
        conflicts.push(GatewayConflict::Default { registered, here: here.to_owned() });
    }
    Ok(conflicts)
}

/// Every gateway that is registered.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn registered_gateways(client: &Client) -> Result<Vec<RegisteredGateway>, BookError> {
    let rows = client.within(is_bad, async |client| {
        let all = "select name, account, is_default, registered_at from gateways order by name";
        client.query(&client.prepare_cached(all).await?, &[]).await
    });
    let gateway = |row: &tokio_postgres::Row| {
        Ok(RegisteredGateway {
            name: row.try_get("name")?,
            account: row.try_get("account")?,
            is_default: row.try_get("is_default")?,
            registered_at: row.try_get("registered_at")?,
        })
    };
    Ok(rows.await?.iter().map(gateway).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// Sets where orders are paid of which nothing else is said; `none`: nowhere, their own status decides. `false`: no gateway of
/// this name is registered.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn set_default_gateway(client: &Client, name: &str) -> Result<bool, BookError> {
    let set = client.within(is_bad, async |client| {
        let transaction = client.transaction().await?;
        let no_other = "update gateways set is_default = false, default_since = null where is_default and name <> $1";
        transaction.execute(no_other, &[&name]).await?;
        let this = "update gateways set is_default = true, default_since = coalesce(default_since, clock_timestamp()) where name = $1";
        let found = transaction.execute(this, &[&name]).await?;
        if found == 0 && name != NONE {
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction.commit().await?;
        Ok(true)
    });
    Ok(set.await?)
}

/// Forgets whose trades a gateway's are, so that the next process that starts says it anew. Where orders are paid stays as it is.
/// `false`: there is no gateway of this name.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn forget_gateway(client: &Client, name: &str) -> Result<bool, BookError> {
    let forgotten = client.within(is_bad, async |client| {
        client.execute("update gateways set account = null where name = $1", &[&name]).await
    });
    Ok(forgotten.await? == 1)
}

/// No gateway.
const NONE: &str = "none";
