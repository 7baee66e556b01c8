use crate::commands::print;
use crate::failure::Failure;
use crate::servers;
use crate::settings::{StockArgs, StockCommand};

pub(crate) async fn run(args: StockArgs) -> Result<(), Failure> {
    let StockCommand::Add { database, sku, quantity } = args.command;
    let pool = servers::migrated_database(&database, 1).await?;
    let stock = publisher::add_stock(&pool, &sku, quantity).await?;
    print(format_args!("{sku}: {} available, {} reserved", stock.available, stock.reserved));
    Ok(())
}
