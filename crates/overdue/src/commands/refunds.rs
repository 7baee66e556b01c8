use comfy_table::{Table, presets};
use time::format_description::well_known::Rfc3339;
use worker::{Purpose, RefundRecord};

use crate::commands::print;
use crate::failure::Failure;
use crate::servers;
use crate::settings::{DatabaseSettings, RefundStateName, RefundsArgs, RefundsCommand};

pub(crate) async fn run(args: RefundsArgs) -> Result<(), Failure> {
    match args.command {
        RefundsCommand::List { database, state, limit, json } => {
            let pool = database_pool(&database).await?;
            let refunds = worker::refunds(&pool, state.map(name), limit.into()).await?;
            if json {
                print(serde_json::to_string_pretty(&refunds).map_err(anyhow::Error::from)?);
            } else if refunds.is_empty() {
                print("no refunds");
            } else {
                print(table(&refunds));
            }
        }
        RefundsCommand::Resolve { database, refund_no, note } => {
            let pool = database_pool(&database).await?;
            if !worker::resolve_refund(&pool, &refund_no, &note).await? {
                return Err(Failure::negative(format!("there is no refund {refund_no} that needs a person")));
            }
            print(format_args!("refund {refund_no} is done with"));
        }
    }
    Ok(())
}

async fn database_pool(settings: &DatabaseSettings) -> Result<worker::Pool, Failure> {
    servers::migrated_database(settings, 1).await?;
    servers::worker_database(settings, 1, Purpose::Report)
}

fn name(state: RefundStateName) -> &'static str {
    match state {
        RefundStateName::Requested => "requested",
        RefundStateName::Processing => "processing",
        RefundStateName::Succeeded => "succeeded",
        RefundStateName::NeedsPerson => "needs_person",
    }
}

fn table(refunds: &[RefundRecord]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["order", "refund", "amount", "state", "since", "payment", "why", "problem"]);
    for refund in refunds {
        table.add_row([
            refund.order_id.clone(),
            refund.refund_no.clone(),
            format!("{} {}", refund.amount_minor, refund.currency),
            refund.state.clone(),
            refund.created_at.format(&Rfc3339).unwrap_or_default(),
            format!("{} {}", refund.gateway, refund.transaction_id),
            refund.reason.clone(),
            refund.problem.clone().unwrap_or_default(),
        ]);
    }
    table
}
