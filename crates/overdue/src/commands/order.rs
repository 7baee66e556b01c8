use std::time::Duration;

use publisher::{NewOrder, OrderView};

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
            if json {
                print(serde_json::to_string_pretty(&view).map_err(anyhow::Error::from)?);
            } else {
                print_view(&view);
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

fn print_view(view: &OrderView) {
    print(format_args!("order     {}", view.id));
    print(format_args!("status    {}", view.status));
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
    for entry in &view.log {
        let from = entry.from.as_deref().unwrap_or("-");
        print(format_args!("log       {}  {from} -> {} ({}, by {})", entry.at, entry.to, entry.reason, entry.actor));
    }
}
