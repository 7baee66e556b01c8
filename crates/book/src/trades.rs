//! Trades at gateways: whose they are.

use database::Client;
use order::OrderId;

use crate::BookError;
use crate::postgres::is_bad;

/// The table of payments, for notifications.
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
}
