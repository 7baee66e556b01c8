//! What is wrong with how the database is set up, for the doctor: durability, triggers, rights, and who holds the sweep's lock.

use std::collections::{BTreeMap, HashSet};

use database::Client;
use tokio_postgres::error::SqlState;

use crate::postgres::{is_bad, one};
use crate::rights::{Right, rights};
use crate::sweep::halves;
use crate::{BookError, sweep};

/// Something that is set up wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Where it is.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub advice: String,
}

impl Flaw {
    pub(crate) fn new(object: impl Into<String>, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { object: object.into(), problem: problem.into(), advice: advice.into() }
    }
}

/// All flaws that can be seen. Changes nothing.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn flaws(client: &Client) -> Result<Vec<Flaw>, BookError> {
    let mut flaws = durability(client).await?;
    flaws.extend(triggers(client).await?);
    flaws.extend(squatter(client).await?);
    flaws.extend(missing_rights(client).await?);
    flaws.extend(try_closing(client).await?);
    Ok(flaws)
}

/// Settings without which a crash takes back what was confirmed, wherever they are made: for the server, a database, a user.
async fn durability(client: &Client) -> Result<Vec<Flaw>, BookError> {
    let asked = client.within(is_bad, async |client| {
        let settings = "select name, '' as database, '' as role from pg_settings
             where name in ('synchronous_commit', 'fsync', 'full_page_writes') and setting = 'off' and source not in ('database', 'user', 'database user')
             union all
             select split_part(s.entry, '=', 1), coalesce(quote_ident(d.datname), ''), coalesce(quote_ident(r.rolname), '')
             from (select setdatabase, setrole, unnest(setconfig) as entry from pg_db_role_setting) s
             left join pg_database d on d.oid = s.setdatabase left join pg_roles r on r.oid = s.setrole
             where s.entry = 'synchronous_commit=off' and (s.setdatabase = 0 or d.datname = current_database())";
        client.query(settings, &[]).await
    });
    let mut flaws = Vec::new();
    for row in asked.await? {
        let (name, database, role): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (whom, advice) = match (database.as_str(), role.as_str()) {
            ("", "") => ("".to_owned(), format!("run `alter system set {name} = on` and `select pg_reload_conf()`")),
            (database, "") => {
                (format!(" for the database {database}"), format!("run `alter database {database} reset {name}`"))
            }
            ("", role) => (format!(" for the user {role}"), format!("run `alter role {role} reset {name}`")),
            (database, role) => (
                format!(" for the user {role} in the database {database}"),
                format!("run `alter role {role} in database {database} reset {name}`"),
            ),
        };
        let problem = format!("is off{whom}: a crash takes back closes and payments that were confirmed already");
        flaws.push(Flaw::new(format!("setting {name}"), problem, advice));
    }
    Ok(flaws)
}

/// Table, trigger, function, what goes wrong without it, and the migration that makes it.
const TRIGGERS: [(&str, &str, &str, &str, &str); 4] = [
    (
        "orders",
        "order_moved",
        "overdue_order_moved",
        "what is changed by hand is neither armed again nor written down",
        "0009_foreign.sql",
    ),
    (
        "orders",
        "order_ended",
        "overdue_order_ended",
        "customers can still pay the open trades of orders that were paid or cancelled",
        "0010_attempts.sql",
    ),
    (
        "payments",
        "payment_written",
        "overdue_payment_written",
        "payments may begin for orders that have ended",
        "0010_attempts.sql",
    ),
    (
        "payments",
        "payment_replaced",
        "overdue_payment_replaced",
        "a trade that was replaced by another is not asked about any more, although it may be paid",
        "0010_attempts.sql",
    ),
];

/// A trigger of ours may be missing, disabled, on another table, or run something else.
async fn triggers(client: &Client) -> Result<Vec<Flaw>, BookError> {
    let is_on = async |table: &str, name: &str, function: &str| {
        let question = "select exists (
             select 1 from pg_trigger t join pg_proc f on f.oid = t.tgfoid
             where t.tgrelid = to_regclass($1) and t.tgname = $2 and f.proname = $3 and t.tgenabled in ('O', 'A'))
             or coalesce((select relkind not in ('r', 'p') from pg_class where oid = to_regclass($1)), true)";
        one::<bool>(client, question, &[&table, &name, &function]).await
    };
    let mut flaws = Vec::new();
    for (table, name, function, consequence, file) in TRIGGERS {
        if !is_on(table, name, function).await? {
            flaws.push(Flaw::new(
                format!("trigger {name}"),
                format!("is missing or disabled on the table {table}: {consequence}"),
                format!("run `alter table {table} enable trigger {name}`, or create it as migrations/{file} does"),
            ));
        }
    }
    Ok(flaws)
}

/// Somebody else who holds the lock of the sweep.
async fn squatter(client: &Client) -> Result<Option<Flaw>, BookError> {
    let (high, low) = halves();
    let asked = client.within(is_bad, async |client| {
        let holder = format!(
            "select a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, '') from ({}) l
             join pg_stat_activity a on a.pid = l.pid where a.application_name <> current_setting('application_name')",
            sweep::HOLDERS
        );
        client.query_opt(&holder, &[&high, &low]).await
    });
    let Some(row) = asked.await? else { return Ok(None) };
    let (pid, application, user): (i32, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let problem = format!(
        "the lock of the sweep is held by somebody else (process {pid}, user {user:?}, application {application:?}): nothing sweeps"
    );
    let advice = format!("run `select pg_terminate_backend({pid})`, and have that program use another advisory lock");
    Ok(Some(Flaw::new("sweep", problem, advice)))
}

/// Rights of the roles of `docs/database-roles.sql`, where those are used.
async fn missing_rights(client: &Client) -> Result<Vec<Flaw>, BookError> {
    let rights = rights();
    let column = |of: fn(&Right) -> &str| rights.iter().map(of).collect::<Vec<&str>>();
    let (roles, tables) = (column(|right| &right.role), column(|right| &right.table));
    let (columns, privileges) = (column(|right| &right.column), column(|right| &right.privilege));
    let asked = client.within(is_bad, async |client| {
        let all = "select r.role, r.tab, r.col, r.privilege, case
                 when not exists (select 1 from pg_roles where rolname = r.role) then null
                 when r.privilege = 'execute' then
                     case when to_regproc(r.tab) is not null then has_function_privilege(r.role, to_regproc(r.tab), r.privilege) end
                 when to_regclass(r.tab) is null then null
                 when r.col = '' then has_table_privilege(r.role, r.tab, r.privilege)
                 when not exists (select 1 from pg_attribute where attrelid = to_regclass(r.tab) and attname = r.col) then null
                 else has_column_privilege(r.role, r.tab, r.col, r.privilege) end as has
             from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as r (role, tab, col, privilege)";
        client.query(all, &[&roles, &tables, &columns, &privileges]).await
    });
    // A role without any right here is one of another database.
    let (mut used, mut missing) = (HashSet::new(), BTreeMap::<String, Vec<String>>::new());
    for row in asked.await? {
        let (role, table): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (column, privilege): (String, String) = (row.try_get(2)?, row.try_get(3)?);
        let column = if column.is_empty() { column } else { format!(" ({column})") };
        let table = if privilege == "execute" { format!("function {table}") } else { table };
        match row.try_get(4)? {
            Some(true) => drop(used.insert(role)),
            Some(false) => missing.entry(role).or_default().push(format!("{privilege}{column} on {table}")),
            None => {}
        }
    }
    let flaw = |(role, rights): (String, Vec<String>)| {
        let problem = format!("lacks rights in this database: {}", rights.join(", "));
        let grants: Vec<String> = rights.iter().map(|right| format!("grant {right} to {role}")).collect();
        let advice = format!("run `{}`, or docs/database-roles.sql again", grants.join("; "));
        Flaw::new(format!("role {role}"), problem, advice)
    };
    Ok(missing.into_iter().filter(|(role, _)| used.contains(role)).map(flaw).collect())
}

/// Closes an order in a transaction that is rolled back: what keeps every order from being closed shows then. Nothing is
/// tried without the right to it, or without an order.
async fn try_closing(client: &Client) -> Result<Option<Flaw>, BookError> {
    const TRY: &str = "begin; set local lock_timeout = '300ms'; select set_config('overdue.writes_log', 'on', true)";
    let may = "select has_table_privilege('orders', 'update') or has_any_column_privilege('orders', 'update')";
    let writable = "select not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off'";
    if !one::<bool>(client, may, &[]).await? || !one::<bool>(client, writable, &[]).await? {
        return Ok(None);
    }
    let tried = client.within(is_bad, async |client| {
        client.batch_execute(TRY).await?;
        let outcome = async {
            let pending = "select id::text from orders where status = 'pending' order by payment_deadline limit 1 for update skip locked";
            let Some(order) = client.query_opt(pending, &[]).await? else { return Ok(None) };
            let id: String = order.try_get(0)?;
            let close = "update orders set status = 'closed', closed_at = clock_timestamp() where id = $1 and status = 'pending'";
            let changed = client.execute(close, &[&id]).await?;
            Ok(Some((id, changed)))
        };
        let outcome: Result<Option<(String, u64)>, tokio_postgres::Error> = outcome.await;
        client.batch_execute("rollback").await?;
        Ok(outcome)
    });
    let advice = "correct the trigger, the rule or the policy that does this; `\\d orders` in psql lists them";
    Ok(match tried.await? {
        Ok(Some((id, 0))) => {
            let by = suspects(client).await?;
            let problem = format!(
                "the database takes the close of the order {id} and leaves it as it is: something swallows it{by}"
            );
            Some(Flaw::new("orders", problem, advice))
        }
        Ok(_) => None,
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => None,
        Err(error) => {
            let problem = format!("the database refuses to close the first order: {}", trace::causes(&error));
            Some(Flaw::new("orders", problem, advice))
        }
    })
}

/// Triggers, rules and policies on orders that are none of ours.
async fn suspects(client: &Client) -> Result<String, BookError> {
    let question = "select coalesce(string_agg(what, ', '), '') from (
             select 'trigger ' || tgname as what from pg_trigger
             where tgrelid = 'orders'::regclass and not tgisinternal and tgname not in ('order_moved', 'order_ended') and tgenabled <> 'D'
             union all select 'rule ' || rulename from pg_rewrite where ev_class = 'orders'::regclass and rulename <> '_RETURN'
             union all select 'policy ' || polname from pg_policy where polrelid = 'orders'::regclass) s";
    let named: String = one(client, question, &[]).await?;
    Ok(if named.is_empty() { named } else { format!(" ({named})") })
}
