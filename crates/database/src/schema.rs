use std::sync::LazyLock;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{PgConnection, SqlSafeStr as _};

/// The files of `migrations/`. sqlx has a macro for this, which costs half a minute of compiling.
const FILES: [(&str, &str); 8] = [
    ("0001_orders", include_str!("../../../migrations/0001_orders.sql")),
    ("0002_payments", include_str!("../../../migrations/0002_payments.sql")),
    ("0003_events", include_str!("../../../migrations/0003_events.sql")),
    ("0004_sweep", include_str!("../../../migrations/0004_sweep.sql")),
    ("0005_operators", include_str!("../../../migrations/0005_operators.sql")),
    ("0006_traces", include_str!("../../../migrations/0006_traces.sql")),
    ("0007_fillfactor", include_str!("../../../migrations/0007_fillfactor.sql")),
    ("0008_kinds_and_events", include_str!("../../../migrations/0008_kinds_and_events.sql")),
];

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |(version, (name, sql)): (i64, (&'static str, &'static str))| {
        let description = name.split_once('_').map_or(name, |(_, words)| words).replace('_', " ");
        Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations((1..).zip(FILES).map(migration).collect())
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
    /// A migration was applied only in part, or is not the one that this program brings.
    #[error("the database's schema is not this program's: {0}; restore the migrations that it was made with")]
    Foreign(String),
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
        sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(&mut *connection).await?;
    if !exists {
        return Err(SchemaError::Behind { found: 0, needed: needed() });
    }
    let applied: Vec<(i64, bool, Vec<u8>)> =
        sqlx::query_as("select version, success, checksum from _sqlx_migrations order by version")
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
