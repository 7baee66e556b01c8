//! Doctor and audit, for the console.

use async_trait::async_trait;
use console::CheckRunner;
use database::Purpose;

use crate::commands::audit::GRACE;
use crate::doctor::{self, Scope};
use crate::servers;

/// Runs them with the settings of the process.
pub(super) struct Checks(pub(super) Scope);

#[async_trait]
impl CheckRunner for Checks {
    async fn doctor(&self) -> Result<String, String> {
        let report = doctor::examine(&self.0, false).await.map_err(|failure| failure.to_string())?;
        serde_json::to_string(&report).map_err(|error| error.to_string())
    }

    async fn audit(&self) -> Result<String, String> {
        let client = servers::client(&self.0.database, 1, Purpose::Report).map_err(|failure| failure.to_string())?;
        let audit = book::audit(&client, GRACE).await.map_err(|error| error.to_string())?;
        serde_json::to_string(&audit).map_err(|error| error.to_string())
    }
}
