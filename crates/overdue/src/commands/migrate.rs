use crate::failure::Failure;
use crate::output::print;
use crate::servers;
use crate::settings::DatabaseSettings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: DatabaseSettings,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    database::migrate(&mut *servers::database(&args.database).await?).await?;
    print("the schema is up to date");
    Ok(())
}
