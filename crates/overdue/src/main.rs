//! `overdue`: closes unpaid orders when their payment deadline passes.

mod cli;
mod commands;
mod demo;
mod doctor;
mod failure;
mod gateways;
mod output;
mod run;
mod servers;
mod settings;
mod telemetry;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::settings::Parsed;

#[tokio::main]
async fn main() -> ExitCode {
    let Parsed { settings: cli, exposed } = settings::parsed::<Cli>();
    // Before any TLS: rustls takes the provider that the process names.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let telemetry = match telemetry::init(&cli.log, matches!(cli.command, Command::Demo(_))) {
        Ok(telemetry) => telemetry,
        Err(failure) => return failure.report(),
    };
    for flag in exposed {
        tracing::warn!(
            flag,
            "a secret stands on the command line, where every user of this machine can read it: give it by its variable, or in a file"
        );
    }
    let outcome = cli.command.run().await;
    telemetry.finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
