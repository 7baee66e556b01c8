use book::{RefundRecord, Refunds};
use clap::{Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use database::Purpose;
use time::format_description::well_known::Rfc3339;

use crate::failure::Failure;
use crate::output::{plain, print, print_list};
use crate::servers;
use crate::settings::DatabaseSettings;

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Print the refunds, the newest first
    List {
        #[command(flatten)]
        database: DatabaseSettings,
        /// Only those in this state
        #[arg(long)]
        state: Option<StateName>,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
        limit: u32,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Have a refund that needed a person asked for again, under the same number
    Retry {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The number of the refund
        refund_no: String,
    },
    /// Say that a refund that needed a person is done with
    Resolve {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The number of the refund
        refund_no: String,
        /// What was done about it; kept with the refund
        #[arg(long, value_name = "TEXT")]
        note: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum StateName {
    /// On record; the gateway is still to accept it
    Requested,
    /// The gateway has accepted it
    Processing,
    /// The money is back
    Succeeded,
    /// It cannot go on by itself; the column `problem` says why
    NeedsPerson,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::List { database, state, limit, json } => {
            let refunds = refunds(&database, Purpose::Report).await?;
            let refunds = refunds.list(state.map(StateName::as_str), limit.into()).await?;
            print_list(&refunds, json, "no refunds", table)?;
        }
        Args::Retry { database, refund_no } => {
            if !refunds(&database, Purpose::Shop).await?.retry(&refund_no).await? {
                return Err(Failure::negative(format!(
                    "there is no refund {refund_no} that needs a person and can be asked for again"
                )));
            }
            print(format_args!("refund {refund_no} is asked for again"));
        }
        Args::Resolve { database, refund_no, note } => {
            if !refunds(&database, Purpose::Shop).await?.resolve(&refund_no, &note).await? {
                return Err(Failure::negative(format!("there is no refund {refund_no} that needs a person")));
            }
            print(format_args!("refund {refund_no} is done with"));
        }
    }
    Ok(())
}

async fn refunds(settings: &DatabaseSettings, purpose: Purpose) -> Result<Refunds, Failure> {
    servers::migrated_database(settings).await?;
    Ok(Refunds::new(servers::client(settings, 1, purpose)?))
}

impl StateName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::NeedsPerson => "needs_person",
        }
    }
}

/// A gateway's own number may be of any length.
fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 64;
    text.chars().take(CHARACTERS_MAX).collect()
}

fn table(refunds: &[RefundRecord]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["order", "refund", "amount", "state", "since", "payment", "why", "problem"]);
    for refund in refunds {
        table.add_row([
            refund.order_id.clone(),
            refund.refund_no.clone(),
            match (refund.amount_minor, &refund.currency) {
                (Some(minor), Some(currency)) => format!("{minor} {currency}"),
                _ => "not told".to_owned(),
            },
            refund.state.clone(),
            refund.created_at.format(&Rfc3339).unwrap_or_default(),
            format!("{} {}", refund.gateway, plain(&shortened(refund.transaction_id.as_deref().unwrap_or("not told")))),
            refund.reason.clone(),
            plain(refund.problem.as_deref().unwrap_or_default()),
        ]);
    }
    table
}
