//! Trades at gateways: whose they are, and money that belongs to no order.

use database::Client;
use order::{Money, OrderId, Trade, is_currency};

use crate::BookError;
use crate::postgres::is_bad;

/// The tables of payments and refunds, for notifications.
#[derive(Clone)]
pub struct Trades {
    client: Client,
}

impl Trades {
    /// The trades in this database.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The orders that a gateway knows by this number: none, one, or, where one payment is for several orders, two of them.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn orders_of(&self, gateway: &str, trade_no: &str) -> Result<Vec<OrderId>, BookError> {
        let rows = self.client.within(is_bad, async |client| {
            let find = client
                .prepare_cached(
                    "with named as (select order_id as id from payments where trade_no = $1 and gateway = $2 limit 2)
                     select id from named
                     union all
                     select id from orders where id = $1 and not exists (select from named)",
                )
                .await?;
            client.query(&find, &[&trade_no, &gateway]).await
        });
        let mut orders = Vec::new();
        for row in rows.await? {
            orders.extend(OrderId::new(row.try_get("id")?).ok());
        }
        Ok(orders)
    }

    /// Records money that a gateway has taken and that belongs to no order here, or not to the one that it names, so that a
    /// person finds it among the refunds. The same money again is the same row.
    ///
    /// # Errors
    /// [`BookError`]: nothing was recorded, or it is not known.
    pub async fn record_unplaced(
        &self,
        gateway: &str,
        trade_no: &str,
        trade: &Trade,
        problem: &str,
    ) -> Result<(), BookError> {
        let (minor, currency) = match &trade.amount {
            Some(Money { minor, currency }) if *minor >= 0 && is_currency(currency) => (*minor, currency.as_str()),
            // ISO 4217's code for no currency.
            _ => (0, "XXX"),
        };
        let transaction_id = trade.transaction_id.as_deref().unwrap_or("unknown");
        let recorded = self.client.within(is_bad, async |client| {
            let record = client.prepare_cached(include_str!("unplaced.sql")).await?;
            client.execute(&record, &[&gateway, &trade_no, &transaction_id, &minor, &currency, &problem]).await
        });
        Ok(recorded.await.map(drop)?)
    }
}
