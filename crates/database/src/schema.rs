use std::sync::LazyLock;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqlSafeStr as _};

/// The files of `migrations/`. sqlx has a macro for this, which costs half a minute of compiling.
const FILES: [(&str, &str); 14] = [
    ("0001_orders", include_str!("../../../migrations/0001_orders.sql")),
    ("0002_payments", include_str!("../../../migrations/0002_payments.sql")),
    ("0003_events", include_str!("../../../migrations/0003_events.sql")),
    ("0004_sweep", include_str!("../../../migrations/0004_sweep.sql")),
    ("0005_operators", include_str!("../../../migrations/0005_operators.sql")),
    ("0006_traces", include_str!("../../../migrations/0006_traces.sql")),
    ("0007_fillfactor", include_str!("../../../migrations/0007_fillfactor.sql")),
    ("0008_kinds_and_events", include_str!("../../../migrations/0008_kinds_and_events.sql")),
    ("0009_foreign", include_str!("../../../migrations/0009_foreign.sql")),
    ("0010_attempts", include_str!("../../../migrations/0010_attempts.sql")),
    ("0011_on_time", include_str!("../../../migrations/0011_on_time.sql")),
    ("0012_timers", include_str!("../../../migrations/0012_timers.sql")),
    ("0013_webhooks", include_str!("../../../migrations/0013_webhooks.sql")),
    ("0014_console", include_str!("../../../migrations/0014_console.sql")),
];

/// Where it is written down which migrations were applied. A table of our own: a shop may use sqlx as well, in the same database.
const TABLE: &str = "overdue_migrations";

/// Where earlier versions wrote it down, and where a shop that uses sqlx does.
const SHARED_TABLE: &str = "_sqlx_migrations";

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |(version, (name, sql)): (i64, (&'static str, &'static str))| {
        let description = name.split_once('_').map_or(name, |(_, words)| words).replace('_', " ");
        Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations((1..).zip(FILES).map(migration).collect());
    migrator.dangerous_set_table_name(TABLE);
    migrator
});

/// Why the schema is not the one that this program works with.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Migrations that this program brings have not been applied.
    #[error(
        "the database's schema is behind: it has version {found}, this program needs {needed}; run `overdue migrate`"
    )]
    Behind {
        /// The newest migration in the database; 0 if there is none.
        found: i64,
        /// The newest that this program brings.
        needed: i64,
    },
    /// The database has migrations that this program does not know.
    #[error("the database's schema is ahead: it has version {found}, this program knows {needed}; run a newer overdue")]
    Ahead {
        /// The newest migration in the database.
        found: i64,
        /// The newest that this program brings.
        needed: i64,
    },
    /// The tables are there, but not where the search path leads.
    #[error(
        "Overdue's tables are in the schema {schema}, and the search path ({search_path}) does not lead there: add `?search_path={schema}` to the database URL"
    )]
    OutOfSight {
        /// Where they are.
        schema: String,
        /// Where the session looks.
        search_path: String,
    },
    /// A migration was applied only in part, or is not the one that this program brings.
    #[error("the database's schema is not this program's: {0}; restore the migrations that it was made with")]
    Foreign(String),
    /// A table of that name is there already, and it is not ours.
    #[error(
        "the database has a table or view `orders` of its own, and Overdue has made no tables here yet. There are two ways. Keep Overdue's tables apart in a schema: `create schema overdue`, and `?search_path=overdue` at the end of every process's database URL. Or let Overdue work on your own orders: make its tables in such a schema first, then put views in the place of `orders`, `order_items` and `inventory`, as docs/contract.md tells"
    )]
    ForeignOrders,
    /// The database could not be asked.
    #[error("cannot read the schema's version: {0}")]
    Database(#[from] sqlx::Error),
}

/// Brings the schema up to the version that this program needs. Does nothing where it is there already. Several processes
/// may run it at once.
///
/// # Errors
/// [`SchemaError`].
pub async fn migrate(connection: &mut PgConnection) -> Result<(), SchemaError> {
    take_over(connection).await?;
    if is_first_run(connection).await? && has_foreign_orders(connection).await? {
        return Err(SchemaError::ForeignOrders);
    }
    match MIGRATOR.run(connection).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(found)) => Err(SchemaError::Ahead { found, needed: needed() }),
        Err(MigrateError::Execute(error)) => Err(SchemaError::Database(error)),
        Err(error) => Err(SchemaError::Foreign(error.to_string())),
    }
}

/// Fails unless the schema is exactly the one that this program needs. Every role checks this before it starts.
///
/// # Errors
/// [`SchemaError`].
pub async fn check(connection: &mut PgConnection) -> Result<(), SchemaError> {
    let exists: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(TABLE).fetch_one(&mut *connection).await?;
    if !exists {
        return Err(missing(connection).await?);
    }
    let applied: Vec<(i64, bool, Vec<u8>)> =
        sqlx::query_as("select version, success, checksum from overdue_migrations order by version")
            .fetch_all(&mut *connection)
            .await?;
    if let Some((version, ..)) = applied.iter().find(|(_, success, _)| !success) {
        return Err(SchemaError::Foreign(format!("migration {version} was applied only in part")));
    }
    let found = applied.last().map_or(0, |(version, ..)| *version);
    if found < needed() {
        return Err(SchemaError::Behind { found, needed: needed() });
    }
    if found > needed() {
        return Err(SchemaError::Ahead { found, needed: needed() });
    }
    let differs = |(version, _, checksum): &&(i64, bool, Vec<u8>)| {
        !MIGRATOR.iter().any(|known| known.version == *version && *known.checksum == **checksum)
    };
    match applied.iter().find(differs) {
        Some((version, ..)) => Err(SchemaError::Foreign(format!("migration {version} has another content"))),
        None => Ok(()),
    }
}

/// Earlier versions wrote down their migrations in sqlx's own table. Rows that are ours move to ours; those of a shop stay.
async fn take_over(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let (ours, shared): (bool, bool) =
        sqlx::query_as("select to_regclass($1) is not null, to_regclass($2) is not null")
            .bind(TABLE)
            .bind(SHARED_TABLE)
            .fetch_one(&mut *connection)
            .await?;
    if ours || !shared {
        return Ok(());
    }
    let (versions, checksums): (Vec<i64>, Vec<&[u8]>) =
        MIGRATOR.iter().map(|migration| (migration.version, &*migration.checksum)).unzip();
    let mut transaction = connection.begin().await?;
    let is_ours = "(version, checksum) in (select * from unnest($1::bigint[], $2::bytea[]))";
    let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {SHARED_TABLE} where {is_ours}")))
        .bind(&versions)
        .bind(&checksums)
        .fetch_one(&mut *transaction)
        .await?;
    if count == 0 {
        return Ok(());
    }
    sqlx::query(AssertSqlSafe(format!("create table {TABLE} (like {SHARED_TABLE} including all)")))
        .execute(&mut *transaction)
        .await?;
    let moved = format!(
        "with moved as (delete from {SHARED_TABLE} where {is_ours} returning *) insert into {TABLE} select * from moved"
    );
    sqlx::query(AssertSqlSafe(moved)).bind(&versions).bind(&checksums).execute(&mut *transaction).await?;
    let left: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {SHARED_TABLE}")))
        .fetch_one(&mut *transaction)
        .await?;
    if left == 0 {
        sqlx::query(AssertSqlSafe(format!("drop table {SHARED_TABLE}"))).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

async fn is_first_run(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is null").bind(TABLE).fetch_one(connection).await
}

/// Whether the schema in which our tables would be made has something called `orders`.
async fn has_foreign_orders(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let found = "select exists (select from pg_class where relname = 'orders' and relnamespace = (
                     select oid from pg_namespace where nspname = current_schema()))";
    sqlx::query_scalar(found).fetch_one(connection).await
}

/// Why the table of migrations is not to be found: an earlier version has kept it elsewhere, it is in a schema to which the
/// search path does not lead, or there is none.
async fn missing(connection: &mut PgConnection) -> Result<SchemaError, sqlx::Error> {
    let elsewhere: Option<(String, String)> = sqlx::query_as(
        "select nspname::text, current_setting('search_path') from pg_class c join pg_namespace n on n.oid = relnamespace
         where relname = $1 limit 1",
    )
    .bind(TABLE)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some((schema, search_path)) = elsewhere {
        return Ok(SchemaError::OutOfSight { schema, search_path });
    }
    let shared: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(SHARED_TABLE).fetch_one(&mut *connection).await?;
    let mut found = 0;
    if shared {
        let newest = format!("select coalesce(max(version) filter (where version < 1000), 0) from {SHARED_TABLE}");
        found = sqlx::query_scalar(AssertSqlSafe(newest)).fetch_one(&mut *connection).await?;
    }
    Ok(SchemaError::Behind { found, needed: needed() })
}

fn needed() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_there_under_its_number() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
        let files =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.collect();
        files.sort_unstable();
        let known: Vec<String> = FILES.iter().map(|(name, _)| format!("{name}.sql")).collect();
        assert_eq!(files, known);
        for (number, name) in (1..).zip(&known) {
            assert!(name.starts_with(&format!("{number:04}_")), "{name} has the number {number}");
        }
    }
}
