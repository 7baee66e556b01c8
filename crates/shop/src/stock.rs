use std::collections::BTreeMap;

use order::{OrderId, OrderStatus};
use sqlx::PgConnection;

use crate::OrderError;

/// A quantity of one SKU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The stock-keeping unit.
    pub sku: String,
    /// How many; at least 1.
    pub quantity: i64,
}

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
/// Errors of the database, above all where the stock would become negative.
pub async fn add_stock(connection: &mut PgConnection, sku: &str, quantity: i64) -> Result<Stock, sqlx::Error> {
    let (available, reserved) = sqlx::query_as(
        "insert into inventory (sku_id, available) values ($1, $2)
         on conflict (sku_id) do update set available = inventory.available + excluded.available
         returning available, reserved",
    )
    .bind(sku)
    .bind(quantity)
    .fetch_one(connection)
    .await?;
    Ok(Stock { available, reserved })
}

/// The stock of all SKUs whose names begin with `prefix`.
///
/// # Errors
/// Errors of the database.
pub async fn stock(connection: &mut PgConnection, prefix: &str) -> Result<Stock, sqlx::Error> {
    let (available, reserved) = sqlx::query_as(
        "select coalesce(sum(available), 0)::bigint, coalesce(sum(reserved), 0)::bigint
         from inventory where starts_with(sku_id, $1)",
    )
    .bind(prefix)
    .fetch_one(connection)
    .await?;
    Ok(Stock { available, reserved })
}

/// SKUs with their quantities, in the order in which everybody locks stock.
pub(crate) fn quantities(items: &[Item]) -> Result<BTreeMap<&str, i64>, OrderError> {
    if items.is_empty() {
        return Err(OrderError::NoItems);
    }
    let mut quantities = BTreeMap::new();
    for item in items {
        let bad = || OrderError::BadQuantity(item.sku.clone());
        if item.quantity < 1 {
            return Err(bad());
        }
        let sum: &mut i64 = quantities.entry(item.sku.as_str()).or_default();
        *sum = sum.checked_add(item.quantity).ok_or_else(bad)?;
    }
    Ok(quantities)
}

/// Moves stock from available to reserved. The rows are locked in the order of their SKUs first, as the worker
/// does too, so that two who want the same SKUs cannot wait for each other.
pub(crate) async fn reserve(
    transaction: &mut PgConnection,
    quantities: &BTreeMap<&str, i64>,
) -> Result<(), OrderError> {
    let (skus, counts): (Vec<&str>, Vec<i64>) = quantities.iter().map(|(sku, count)| (*sku, *count)).unzip();
    let stock: Vec<(String, i64)> = sqlx::query_as(
        "select sku_id, available from inventory where sku_id = any($1) order by sku_id for no key update",
    )
    .bind(&skus)
    .fetch_all(&mut *transaction)
    .await?;
    let stock: BTreeMap<String, i64> = stock.into_iter().collect();
    for (&sku, &wanted) in quantities {
        match stock.get(sku) {
            None => return Err(OrderError::UnknownSku(sku.to_owned())),
            Some(&available) if available < wanted => {
                return Err(OrderError::NotEnoughStock { sku: sku.to_owned(), wanted, available });
            }
            Some(_) => {}
        }
    }
    sqlx::query(
        "update inventory i set available = i.available - q.quantity, reserved = i.reserved + q.quantity
         from unnest($1::text[], $2::bigint[]) as q (sku_id, quantity) where i.sku_id = q.sku_id",
    )
    .bind(&skus)
    .bind(&counts)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Takes an order's items out of the reserved stock: sold if it was paid, available again otherwise.
pub(crate) async fn release(transaction: &mut PgConnection, id: &OrderId, to: OrderStatus) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with stock as materialized (
             select i.sku_id, oi.quantity from order_items oi join inventory i on i.sku_id = oi.sku_id
             where oi.order_id = $1 order by i.sku_id for no key update of i
         )
         update inventory i set reserved = i.reserved - s.quantity,
             available = i.available + case when $2 then 0 else s.quantity end
         from stock s where i.sku_id = s.sku_id",
    )
    .bind(id.as_str())
    .bind(to == OrderStatus::Paid)
    .execute(transaction)
    .await?;
    Ok(())
}
