use clap::Subcommand;

use crate::failure::Failure;
use crate::output::print;
use crate::servers;
use crate::settings::DatabaseSettings;

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Add to what is available of a SKU; creates it where need be
    Add {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The stock-keeping unit
        sku: String,
        /// How many
        #[arg(value_parser = clap::value_parser!(i64).range(0..))]
        quantity: i64,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args::Add { database, sku, quantity } = args;
    let mut connection = servers::migrated_database(&database).await?;
    let stock = shop::add_stock(&mut connection, &sku, quantity).await?;
    print(format_args!("{sku}: {} available, {} reserved", stock.available, stock.reserved));
    Ok(())
}
