use sqlx::PgPool;

/// Stock of a set of SKUs, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// May be ordered.
    pub available: i64,
    /// Held by pending orders.
    pub reserved: i64,
}

/// Adds to the available stock of a SKU, which need not exist yet.
///
/// # Errors
/// Whatever the database says, above all where the stock would become negative.
pub async fn add_stock(pool: &PgPool, sku: &str, quantity: i64) -> Result<Stock, sqlx::Error> {
    let (available, reserved) = sqlx::query_as(
        "insert into inventory (sku_id, available) values ($1, $2)
         on conflict (sku_id) do update set available = inventory.available + excluded.available
         returning available, reserved",
    )
    .bind(sku)
    .bind(quantity)
    .fetch_one(pool)
    .await?;
    Ok(Stock { available, reserved })
}

/// The stock of all SKUs whose names begin with `prefix`.
///
/// # Errors
/// Whatever the database says.
pub async fn stock(pool: &PgPool, prefix: &str) -> Result<Stock, sqlx::Error> {
    let (available, reserved) = sqlx::query_as(
        "select coalesce(sum(available), 0)::bigint, coalesce(sum(reserved), 0)::bigint
         from inventory where starts_with(sku_id, $1)",
    )
    .bind(prefix)
    .fetch_one(pool)
    .await?;
    Ok(Stock { available, reserved })
}
