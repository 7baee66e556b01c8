use database::Client;

use super::error::is_bad;
use crate::{BookError, TradeFinding, TradeNote};

/// Records what gateways have said of trades that are not paid.
pub(super) async fn note(client: &Client, notes: &[TradeNote]) -> Result<(), BookError> {
    if notes.is_empty() {
        return Ok(());
    }
    // In the order of the IDs, as everybody locks rows.
    let mut notes = notes.to_vec();
    notes.sort_unstable_by(|a, b| (&a.id, &a.gateway, &a.trade_no).cmp(&(&b.id, &b.gateway, &b.trade_no)));
    let texts = |of: fn(&TradeNote) -> &str| notes.iter().map(of).collect::<Vec<_>>();
    let ids = texts(|note| note.id.as_str());
    let (gateways, trade_nos) = (texts(|note| &note.gateway), texts(|note| &note.trade_no));
    let findings = texts(|note| name(note.finding));
    let noted = client.within(is_bad, async |client| {
        let note = client.prepare_cached(include_str!("note.sql")).await?;
        client.execute(&note, &[&ids, &gateways, &trade_nos, &findings]).await
    });
    Ok(noted.await.map(drop)?)
}

/// Whether notes can be recorded at all.
pub(super) async fn try_out(client: &Client) -> Result<(), BookError> {
    let nothing: Vec<&str> = Vec::new();
    let noted = client.within(is_bad, async |client| {
        let note = client.prepare_cached(include_str!("note.sql")).await?;
        client.execute(&note, &[&nothing, &nothing, &nothing, &nothing]).await
    });
    Ok(noted.await.map(drop)?)
}

/// As `note.sql` calls it.
fn name(finding: TradeFinding) -> &'static str {
    match finding {
        TradeFinding::Gone => "gone",
        TradeFinding::Absent => "absent",
        TradeFinding::NotFound => "not_found",
        TradeFinding::Missed => "missed",
        TradeFinding::Exists => "exists",
    }
}
