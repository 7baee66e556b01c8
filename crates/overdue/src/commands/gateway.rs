use book::RegisteredGateway;
use clap::Subcommand;
use comfy_table::{Table, presets};
use database::{Client, Purpose};
use time::format_description::well_known::Rfc3339;

use crate::failure::Failure;
use crate::output::{print, print_list};
use crate::servers;
use crate::settings::{DatabaseSettings, GatewayName};

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// List the payment gateways as all processes know them
    List {
        #[command(flatten)]
        database: DatabaseSettings,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Set where orders are paid that have no row in the table `payments`, for all processes
    Default {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The gateway; none: their own status decides
        #[arg(value_enum)]
        name: GatewayName,
    },
    /// Forget the account of a gateway: the next process that starts with settings of it registers its own
    Forget {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The gateway
        #[arg(value_enum)]
        name: GatewayName,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::List { database, json } => {
            let gateways = book::registered_gateways(&client(&database).await?).await?;
            let nothing = "no gateway is registered: the first process that runs with settings of one does that";
            print_list(&gateways, json, nothing, table)?;
        }
        Args::Default { database, name } => {
            let name = name.as_str();
            if !book::set_default_gateway(&client(&database).await?, name).await? {
                return Err(Failure::negative(format!(
                    "the gateway {name} is not registered: start a process with settings of it first"
                )));
            }
            print(match name {
                "none" => "orders without a row in `payments` are settled by their own status".to_owned(),
                name => format!("orders without a row in `payments` are paid at {name}"),
            });
        }
        Args::Forget { database, name } => {
            let name = name.as_str();
            if !book::forget_gateway(&client(&database).await?, name).await? {
                return Err(Failure::negative(format!("the gateway {name} is not registered")));
            }
            print(format_args!(
                "the account of {name} is forgotten: the next process that runs with settings of it registers its own"
            ));
        }
    }
    Ok(())
}

async fn client(settings: &DatabaseSettings) -> Result<Client, Failure> {
    servers::migrated_database(settings).await?;
    servers::client(settings, 1, Purpose::Shop)
}

fn table(gateways: &[RegisteredGateway]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["gateway", "account", "default", "since"]);
    for gateway in gateways {
        let is_default = if gateway.is_default { "yes" } else { "" };
        let since = gateway.registered_at.format(&Rfc3339).unwrap_or_default();
        let account = gateway.account.as_deref().unwrap_or("as the next process says");
        table.add_row([&gateway.name, account, is_default, &since]);
    }
    table
}
