use api::{OrderView, TimelineEntry};
use clap::Subcommand;
use order::{Operator, OrderId};
use serde::Serialize;
use shop::{Item, NewOrder};

use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::servers;
use crate::settings::{DatabaseSettings, GatewayName, Human, positive};

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Create an order, reserve its stock and arm its timeout
    Create {
        #[command(flatten)]
        database: DatabaseSettings,
        /// 1 to 64 characters of A-Z a-z 0-9 . _ : -
        id: OrderId,
        /// What is ordered; may be given again
        #[arg(long = "item", value_parser = item, value_name = "SKU=QUANTITY", required = true)]
        items: Vec<Item>,
        /// What is to be paid, in the currency's smallest unit
        #[arg(long, default_value_t = 0)]
        amount_minor: i64,
        /// Three capital letters (ISO 4217)
        #[arg(long, default_value = "CNY")]
        currency: String,
        /// Where it is to be paid: the name of a payment gateway, such as `wechat`
        #[arg(long, value_name = "NAME")]
        gateway: Option<GatewayName>,
        /// How long the customer has to pay
        #[arg(long, default_value = "30m", value_parser = positive, value_name = "DURATION")]
        payment_timeout: Human,
    },
    /// Mark a pending order as paid
    Pay {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The order
        id: OrderId,
        /// The payment's ID at the gateway
        #[arg(long)]
        transaction_id: Option<String>,
    },
    /// Cancel a pending order and give its stock back
    Cancel {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The order
        id: OrderId,
    },
    /// Open a closed order again: its stock is reserved anew, and it is to be paid within the payment timeout
    Reopen {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The order
        id: OrderId,
        /// Why; kept in the order's log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// How long the customer has to pay, from now
        #[arg(long, default_value = "30m", value_parser = positive, value_name = "DURATION")]
        payment_timeout: Human,
        /// Who has it done: role and name, such as `support:alice`
        #[arg(long, value_parser = operator, value_name = "ROLE:NAME")]
        operator: Option<Operator>,
    },
    /// Print an order, its items and its history
    Show {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The order
        id: OrderId,
        /// For machines
        #[arg(long)]
        json: bool,
    },
}

/// The order and what happened to it, as `GET /orders/{id}` and `GET /orders/{id}/timeline` have them.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    order: OrderView,
    timeline: Vec<TimelineEntry>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::Create { database, id, items, amount_minor, currency, gateway, payment_timeout } => {
            if let Some(gateway) = gateway {
                let taken = gateway.check_trade_no(id.as_str());
                taken.map_err(|why| {
                    Failure::negative(format!("order {id} cannot be paid at {}: {why}", gateway.as_str()))
                })?;
            }
            let gateway = gateway.map(|gateway| gateway.as_str().to_owned());
            let new = NewOrder { id, amount_minor, currency, items, gateway, payment_timeout: payment_timeout.0 };
            let order = shop::create(&mut *servers::migrated_database(&database).await?, &new).await?;
            print(format_args!("order {} is to be paid by {} (in {payment_timeout})", order.id, order.deadline));
        }
        Args::Pay { database, id, transaction_id } => {
            let mut connection = servers::migrated_database(&database).await?;
            shop::pay(&mut connection, &id, transaction_id.as_deref()).await?;
            print(format_args!("order {id} is paid"));
        }
        Args::Cancel { database, id } => {
            shop::cancel(&mut *servers::migrated_database(&database).await?, &id).await?;
            print(format_args!("order {id} is cancelled"));
        }
        Args::Reopen { database, id, reason, payment_timeout, operator } => {
            let mut connection = servers::migrated_database(&database).await?;
            let order = shop::reopen(&mut connection, &id, payment_timeout.0, &reason, operator.as_ref()).await?;
            print(format_args!("order {id} is open again, to be paid by {} (in {payment_timeout})", order.deadline));
        }
        Args::Show { database, id, json } => {
            let mut connection = servers::migrated_database(&database).await?;
            let order = shop::show(&mut connection, &id).await?.into();
            let timeline = shop::timeline(&mut connection, &id).await?;
            let shown = Shown { order, timeline: timeline.into_iter().map(TimelineEntry::from).collect() };
            if json {
                print_json(&shown)?;
            } else {
                print_shown(&shown);
            }
        }
    }
    Ok(())
}

fn print_shown(Shown { order, timeline }: &Shown) {
    print(format_args!("order     {}", order.id));
    let overdue = if order.overdue {
        " (past its deadline: about to be closed, or found paid; if it stays so: overdue parked list --order)"
    } else {
        ""
    };
    print(format_args!("status    {}{overdue}", order.status));
    print(format_args!("amount    {} {} (smallest unit)", order.amount_minor, order.currency));
    print(format_args!("deadline  {}", order.payment_deadline));
    if let Some(transaction) = &order.transaction_id {
        print(format_args!("payment   {transaction}"));
    }
    for payment in &order.payments {
        let refund = payment.refund.as_ref().map_or(String::new(), |refund| format!(", refund {refund}"));
        print(format_args!(
            "trade     {} at {}, prepay {}, {}{refund}",
            payment.trade_no, payment.gateway, payment.prepay, payment.state
        ));
    }
    for item in &order.items {
        print(format_args!("item      {} x {}", item.quantity, item.sku));
    }
    for entry in timeline {
        let operator = entry.operator.as_ref().map_or(String::new(), |operator| format!(" for {operator}"));
        print(format_args!("log       {}  {} ({}, by {}{operator})", entry.at, entry.what, entry.detail, entry.actor));
    }
}

fn operator(text: &str) -> Result<Operator, String> {
    match text.split_once(':') {
        Some((kind, name)) if !kind.trim().is_empty() && !name.trim().is_empty() => {
            Ok(Operator { kind: kind.to_owned(), name: name.to_owned() })
        }
        _ => Err(format!("{text:?} is not of the form ROLE:NAME, such as support:alice")),
    }
}

fn item(text: &str) -> Result<Item, String> {
    let form = || format!("{text:?} is not of the form SKU=QUANTITY, such as tea-250g=2");
    let (sku, quantity) = text.rsplit_once('=').ok_or_else(form)?;
    let quantity = quantity.parse().map_err(|_| form())?;
    if sku.is_empty() { Err(form()) } else { Ok(Item { sku: sku.to_owned(), quantity }) }
}
