//! Whether the columns of orders, items and stock are of types that can be worked with. The tables may be the shop's own.

use database::Client;

use crate::BookError;
use crate::postgres::is_bad;

/// What a column may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Text,
    /// A text, or an enum that has these labels.
    Status,
    Integer,
    /// An integer, or a numeric.
    Quantity,
    Instant,
}

const COLUMNS: [(&str, &str, Fit); 15] = [
    ("orders", "id", Fit::Text),
    ("orders", "status", Fit::Status),
    ("orders", "amount_minor", Fit::Integer),
    ("orders", "currency", Fit::Text),
    ("orders", "payment_deadline", Fit::Instant),
    ("orders", "created_at", Fit::Instant),
    ("orders", "paid_at", Fit::Instant),
    ("orders", "closed_at", Fit::Instant),
    ("orders", "transaction_id", Fit::Text),
    ("order_items", "order_id", Fit::Text),
    ("order_items", "sku_id", Fit::Text),
    ("order_items", "quantity", Fit::Quantity),
    ("inventory", "sku_id", Fit::Text),
    ("inventory", "available", Fit::Quantity),
    ("inventory", "reserved", Fit::Quantity),
];

const STATUSES: [&str; 4] = ["pending", "paid", "cancelled", "closed"];

/// A column as it is: its type's name, the name of the type below it (a domain stands for its base), and the labels of an enum.
struct Column {
    name: String,
    base: String,
    labels: Vec<String>,
}

/// Names each column of `orders`, `order_items` and `inventory` that is missing or of a type that cannot be worked with, and
/// says what it must be. None: all will do.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn unfit_columns(client: &Client) -> Result<Vec<String>, BookError> {
    let rows = client.within(is_bad, async |client| client.query(include_str!("columns.sql"), &[]).await).await?;
    let mut found = std::collections::HashMap::new();
    for row in rows {
        let column = Column { name: row.try_get("type")?, base: row.try_get("base")?, labels: row.try_get("labels")? };
        found.insert((row.try_get::<_, String>("relation")?, row.try_get::<_, String>("name")?), column);
    }
    let column = |table: &str, name: &str| found.get(&(table.to_owned(), name.to_owned()));
    let mut unfit: Vec<String> = Vec::new();
    for (table, name, fit) in COLUMNS {
        match column(table, name) {
            None => unfit.push(format!("{table}.{name} is missing")),
            Some(column) => {
                unfit.extend(
                    misfit(column, fit)
                        .map(|wanted| format!("{table}.{name} is of the type {}; it must be {wanted}", column.name)),
                );
            }
        }
    }
    let fractional = |table, name| column(table, name).is_some_and(|column| column.base == "numeric");
    if fractional("order_items", "quantity") {
        let whole = ["available", "reserved"].into_iter().filter(|name| !fractional("inventory", name));
        unfit.extend(whole.map(|name| {
            format!("order_items.quantity is numeric and inventory.{name} is not: fractions would be lost; make both the same")
        }));
    }
    Ok(unfit)
}

/// What the column must be, if it is not.
fn misfit(column: &Column, fit: Fit) -> Option<&'static str> {
    let text = matches!(column.base.as_str(), "text" | "varchar" | "bpchar");
    let integer = matches!(column.base.as_str(), "int2" | "int4" | "int8");
    let (fits, wanted) = match fit {
        Fit::Text => (text, "text or varchar; a view can cast it (id::text)"),
        Fit::Status => (
            text || STATUSES.iter().all(|status| column.labels.iter().any(|label| label == status)),
            "text, varchar, or an enum with the labels pending, paid, cancelled and closed",
        ),
        Fit::Integer => (integer, "bigint, integer or smallint, in the smallest unit of the currency"),
        Fit::Quantity => (integer || column.base == "numeric", "bigint, integer, smallint or numeric"),
        Fit::Instant => {
            (column.base == "timestamptz", "timestamptz; without a time zone it is not known which instant is meant")
        }
    };
    (!fits).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(base: &str, labels: &[&str]) -> Column {
        Column {
            name: base.to_owned(),
            base: base.to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        }
    }

    #[test]
    fn a_column_fits_or_it_is_said_what_it_must_be() {
        assert_eq!(misfit(&column("varchar", &[]), Fit::Text), None);
        assert_eq!(misfit(&column("int4", &[]), Fit::Integer), None);
        assert_eq!(misfit(&column("numeric", &[]), Fit::Quantity), None);
        assert_eq!(
            misfit(&column("order_state", &["closed", "paid", "cancelled", "pending", "lost"]), Fit::Status),
            None
        );
        assert!(misfit(&column("order_state", &["closed", "paid"]), Fit::Status).unwrap().contains("cancelled"));
        assert!(misfit(&column("uuid", &[]), Fit::Text).unwrap().contains("::text"));
        assert!(misfit(&column("numeric", &[]), Fit::Integer).unwrap().contains("smallest unit"));
        assert!(misfit(&column("timestamp", &[]), Fit::Instant).unwrap().contains("timestamptz"));
    }
}
