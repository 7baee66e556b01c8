use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};

use crate::commands::{
    audit, console_password, gateway, migrate, openapi, order, parked, publish, refunds, stock, timer, topology,
    webhook,
};
use crate::failure::{EXIT_CODES, Failure};
use crate::settings::LogSettings;
use crate::{demo, doctor, run};

/// Closes unpaid orders when their payment deadline passes, and fires timers of every kind: on time, once in effect, whatever crashes.
#[derive(Debug, Parser)]
#[command(name = "overdue", version, after_help = EXIT_CODES, styles = Styles::styled().header(AnsiColor::Green.on_default()).usage(AnsiColor::Green.on_default()))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogSettings,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring the database's schema up to this version
    Migrate(migrate::Args),
    /// Create, check or print what Overdue needs in RabbitMQ
    #[command(subcommand)]
    Topology(topology::Args),
    /// Run relay, worker, sweep, webhooks and HTTP until told to stop (SIGTERM or SIGINT; twice: at once)
    Run(Box<run::Args>),
    /// Print the description of the HTTP API, in OpenAPI form
    Openapi,
    /// Create an order, pay it, cancel it, open it again, or look at it
    #[command(subcommand)]
    Order(order::Args),
    /// Arm a timer, cancel it, or look at timers
    #[command(subcommand)]
    Timer(timer::Args),
    /// Look at the endpoints of webhooks, stop one, or let it go on
    #[command(subcommand)]
    Webhook(webhook::Args),
    /// Add to the stock of a SKU
    #[command(subcommand)]
    Stock(stock::Args),
    /// Send order IDs into a lane, past the database, as a service in another language does
    Publish(publish::Args),
    /// Look at messages that were set aside for a person, send them in again, or drop them
    #[command(subcommand)]
    Parked(parked::Args),
    /// Look at payments that go back, and at money that needs a person
    #[command(subcommand)]
    Refunds(refunds::Args),
    /// Look at the payment gateways as all processes know them, and change that
    #[command(subcommand)]
    Gateway(gateway::Args),
    /// Say what is wrong with this deployment, and what to do; exit 1 when anything is
    Doctor(Box<doctor::Args>),
    /// Check the books; exit 1 when something is off
    Audit(audit::Args),
    /// Hash a password for the console's file of users; reads it from standard input
    ConsolePassword,
    /// Watch some thousand orders be paid, cancelled and closed
    Demo(demo::Args),
}

impl Command {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Migrate(args) => migrate::run(&args).await,
            Self::Topology(args) => topology::run(args).await,
            Self::Run(args) => run::run(&args).await,
            Self::Openapi => {
                openapi::run();
                Ok(())
            }
            Self::Order(args) => order::run(args).await,
            Self::Timer(args) => timer::run(args).await,
            Self::Webhook(args) => webhook::run(args).await,
            Self::Stock(args) => stock::run(args).await,
            Self::Publish(args) => publish::run(args).await,
            Self::Parked(args) => parked::run(args).await,
            Self::Refunds(args) => refunds::run(args).await,
            Self::Gateway(args) => gateway::run(args).await,
            Self::Doctor(args) => doctor::run(&args).await,
            Self::Audit(args) => audit::run(&args).await,
            Self::ConsolePassword => console_password::run(),
            Self::Demo(args) => demo::run(&args).await,
        }
    }
}
