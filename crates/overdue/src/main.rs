//! `overdue`: closes unpaid orders when their payment deadline passes.

/// Prints a line to standard error. Whoever reads it may have hung up, which is no reason to break.
macro_rules! complain {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

mod commands;
mod failure;
mod gateways;
mod http;
mod servers;
mod settings;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

use crate::settings::{Command, Settings};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    // Before anything speaks TLS: rustls takes the provider that the process names.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let telemetry = match telemetry::init(&settings.log, matches!(settings.command, Command::Demo(_))) {
        Ok(telemetry) => telemetry,
        Err(failure) => return failure.report(),
    };
    let outcome = match settings.command {
        Command::Migrate(args) => commands::migrate::run(&args).await,
        Command::Topology(args) => commands::topology::run(args).await,
        Command::Run(args) => commands::run::run(&args).await,
        Command::Openapi => {
            commands::print(api::openapi());
            Ok(())
        }
        Command::Order(args) => commands::order::run(args).await,
        Command::Stock(args) => commands::stock::run(args).await,
        Command::Publish(args) => commands::publish::run(args).await,
        Command::Parked(args) => commands::parked::run(args).await,
        Command::Refunds(args) => commands::refunds::run(args).await,
        Command::Doctor(args) => commands::doctor::run(&args).await,
        Command::Audit(args) => commands::audit::run(&args).await,
        Command::Demo(args) => commands::demo::run(&args).await,
    };
    telemetry.finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
