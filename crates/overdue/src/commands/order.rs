use std::time::Duration;

use publisher::{NewOrder, OrderView, TimelineEntry};

use crate::commands::print;
use crate::failure::Failure;
use crate::servers;
use crate::settings::{DatabaseSettings, OrderArgs, OrderCommand};

pub(crate) async fn run(args: OrderArgs) -> Result<(), Failure> {
    match args.command {
        OrderCommand::Create { database, id, items, amount_minor, currency, gateway, payment_timeout } => {
            let gateway = gateway.map(|gateway| gateway.as_str().to_owned());
            create(&database, NewOrder { id, amount_minor, currency, items, gateway, payment_timeout }).await
        }
        OrderCommand::Pay { database, id, transaction_id } => {
            let pool = servers::migrated_database(&database, 1).await?;
            publisher::pay(&pool, &id, transaction_id.as_deref()).await?;
            print(format_args!("order {id} is paid"));
            Ok(())
        }
        OrderCommand::Cancel { database, id } => {
            let pool = servers::migrated_database(&database, 1).await?;
            publisher::cancel(&pool, &id).await?;
            print(format_args!("order {id} is cancelled"));
            Ok(())
        }
        OrderCommand::Show { database, id, json } => {
            let pool = servers::migrated_database(&database, 1).await?;
            let view = publisher::show(&pool, &id).await?;
            let timeline = publisher::timeline(&pool, &id).await?;
            if json {
                let mut object = serde_json::to_value(&view).map_err(anyhow::Error::from)?;
                object["timeline"] = serde_json::to_value(&timeline).map_err(anyhow::Error::from)?;
                print(format_args!("{object:#}"));
            } else {
                print_view(&view, &timeline);
            }
            Ok(())
        }
    }
}

async fn create(database: &DatabaseSettings, new: NewOrder) -> Result<(), Failure> {
    let pool = servers::migrated_database(database, 1).await?;
    let order = publisher::create(&pool, &new).await?;
    let timeout = humantime::format_duration(Duration::from_millis(servers::ms(new.payment_timeout) as u64));
    print(format_args!("order {} is to be paid by {} (in {timeout})", order.id, order.deadline));
    Ok(())
}

fn print_view(view: &OrderView, timeline: &[TimelineEntry]) {
    print(format_args!("order     {}", view.id));
    let overdue = if view.overdue {
        " (past its deadline: about to be closed, or found paid; if it stays so: overdue parked list --order)"
    } else {
        ""
    };
    print(format_args!("status    {}{overdue}", view.status));
    print(format_args!("amount    {} {} (smallest unit)", view.amount_minor, view.currency));
    print(format_args!("deadline  {}", view.payment_deadline));
    if let Some(transaction) = &view.transaction_id {
        print(format_args!("payment   {transaction}"));
    }
    if let Some(payment) = &view.payment {
        let refund = payment.refund.as_ref().map_or(String::new(), |refund| format!(", refund {refund}"));
        print(format_args!(
            "trade     {} at {}, prepay {}, {}{refund}",
            payment.trade_no, payment.gateway, payment.prepay, payment.state
        ));
    }
    for item in &view.items {
        print(format_args!("item      {} x {}", item.quantity, item.sku));
    }
    for entry in timeline {
        let operator = entry.operator.as_ref().map_or(String::new(), |operator| format!(" for {operator}"));
        print(format_args!("log       {}  {} ({}, by {}{operator})", entry.at, entry.what, entry.detail, entry.actor));
    }
}
