//! Refunds that need a person.

use std::sync::Arc;

use axum::response::Response;
use book::Refunds;

use super::deed::{Deed, at_once};
use crate::action::Action;
use crate::ask::Ask;
use crate::console::Console;
use crate::fields::Fields;
use crate::page::failure;

const BACK: &str = "/console/refunds";

pub(super) async fn resolve(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let Some(note) = fields.optional("note") else {
        return failure::failed(&console, ask, "say what was done about it", BACK).await;
    };
    let refunds = Refunds::new(console.client.clone());
    let refund_no = fields.exact("refund_no").unwrap_or_default();
    let deed = Deed { before: before(&refunds, refund_no).await, ..Deed::new(Action::RefundResolve, fields, BACK) };
    let note = format!("{note} ({})", ask.visitor.name);
    let work = async {
        match refunds.resolve(refund_no, &note).await {
            Ok(true) => Ok("done with".to_owned()),
            Ok(false) => Err(format!("there is no refund {refund_no} that needs a person")),
            Err(error) => Err(error.to_string()),
        }
    };
    at_once(&console, ask, deed, work).await
}

pub(super) async fn retry(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let refunds = Refunds::new(console.client.clone());
    let refund_no = fields.exact("refund_no").unwrap_or_default();
    let deed = Deed { before: before(&refunds, refund_no).await, ..Deed::new(Action::RefundRetry, fields, BACK) };
    let work = async {
        match refunds.retry(refund_no).await {
            Ok(true) => Ok("it is asked for again".to_owned()),
            Ok(false) => Err(format!("there is no refund {refund_no} that needs a person and can be asked for again")),
            Err(error) => Err(error.to_string()),
        }
    };
    at_once(&console, ask, deed, work).await
}

async fn before(refunds: &Refunds, refund_no: &str) -> Option<String> {
    let refund = refunds.get(refund_no).await.ok()??;
    let problem = refund.problem.map(|problem| format!(": {problem}")).unwrap_or_default();
    Some(format!("{}{problem}", refund.state))
}
