use crate::commands::print;
use crate::failure::Failure;
use crate::servers;
use crate::settings::DatabaseSettings;

pub(crate) async fn run(settings: &DatabaseSettings) -> Result<(), Failure> {
    let pool = servers::database(settings, 1).await?;
    publisher::migrate(&pool).await?;
    print("the schema is up to date");
    Ok(())
}
