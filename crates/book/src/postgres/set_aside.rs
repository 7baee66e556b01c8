use database::Client;
use order::is_currency;

use super::error::is_bad;
use crate::{BookError, MoneyAside};

/// Writes down money that cannot be credited.
pub(super) async fn set_aside(client: &Client, money: &[MoneyAside]) -> Result<(), BookError> {
    let texts = |of: fn(&MoneyAside) -> &str| money.iter().map(of).collect::<Vec<_>>();
    let ids = texts(|money| money.id.as_ref().map_or(&money.trade_no, |id| id.as_str()));
    let (gateways, trade_nos) = (texts(|money| &money.gateway), texts(|money| &money.trade_no));
    // A text of PostgreSQL holds no zero byte.
    let clean = |text: &String| text.replace('\0', "\u{fffd}");
    let transactions: Vec<_> = money.iter().map(|money| money.money.transaction_id.as_ref().map(clean)).collect();
    let amounts = || {
        let sensible = |money: &&order::Money| money.minor >= 0 && is_currency(&money.currency);
        money.iter().map(move |money| money.money.amount.as_ref().filter(sensible))
    };
    let minors: Vec<_> = amounts().map(|amount| amount.map(|amount| amount.minor)).collect();
    let currencies: Vec<_> = amounts().map(|amount| amount.map(|amount| amount.currency.as_str())).collect();
    let problems: Vec<String> = money.iter().map(|money| clean(&money.problem)).collect();
    let said: Vec<&[u8]> = money.iter().map(|money| money.money.said.as_slice()).collect();
    let recorded = client.within(is_bad, async |client| {
        let record = client.prepare_cached(include_str!("set_aside.sql")).await?;
        client
            .execute(&record, &[&ids, &gateways, &trade_nos, &transactions, &minors, &currencies, &problems, &said])
            .await
    });
    Ok(recorded.await.map(drop)?)
}
