use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use order::{Deadline, Lane, Lanes, OrderId};
use publisher::Item;
use secrecy::SecretString;

use crate::failure::EXIT_CODES;

/// Closes unpaid orders when their payment deadline passes: on time, once in effect, whatever crashes.
#[derive(Debug, Parser)]
#[command(name = "overdue", version, after_help = EXIT_CODES, styles = Styles::styled().header(AnsiColor::Green.on_default()).usage(AnsiColor::Green.on_default()))]
pub(crate) struct Settings {
    #[command(flatten)]
    pub(crate) log: LogSettings,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct LogSettings {
    /// What is logged: off, error, warn, info, debug, trace, or a filter such as `info,worker=debug`
    #[arg(long = "log", env = "OVERDUE_LOG", default_value = "info", global = true, value_name = "FILTER")]
    pub(crate) filter: String,
    /// How it is logged, to standard error
    #[arg(long = "log-format", env = "OVERDUE_LOG_FORMAT", default_value = "text", global = true)]
    pub(crate) format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For machines, one object a line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring the database's schema up to this version
    Migrate(DatabaseSettings),
    /// Create, check or print what Overdue needs in RabbitMQ
    Topology(TopologyArgs),
    /// Run the relay and the worker until told to stop (SIGTERM or SIGINT; twice: at once)
    Run(RunSettings),
    /// Create an order, pay it, cancel it, or look at it
    Order(OrderArgs),
    /// Add to the stock of a SKU
    Stock(StockArgs),
    /// Send order IDs into a lane, past the database: what a service in another language does
    Publish(PublishSettings),
    /// Check the books; exit 1 when something is off
    Audit(AuditSettings),
    /// Watch some thousand orders be paid, cancelled and closed
    Demo(DemoSettings),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DatabaseSettings {
    /// PostgreSQL: `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=ca.pem`
    #[arg(long, env = "OVERDUE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) database_url: SecretString,
    /// How long connecting to the database may take
    #[arg(long, env = "OVERDUE_DATABASE_CONNECT_TIMEOUT", default_value = "5s", value_parser = positive, value_name = "DURATION")]
    pub(crate) database_connect_timeout: Duration,
    /// How long a statement may take, waiting for locks included
    #[arg(long, env = "OVERDUE_STATEMENT_TIMEOUT", default_value = "30s", value_parser = positive, value_name = "DURATION")]
    pub(crate) statement_timeout: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BrokerSettings {
    /// RabbitMQ: `amqp://user:password@host:port/vhost`, or `amqps://`
    #[arg(long, env = "OVERDUE_AMQP_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) amqp_url: SecretString,
    /// Certificates (PEM) of authorities that may sign the broker's, besides the system's
    #[arg(long, env = "OVERDUE_AMQP_CA_FILE", value_name = "FILE")]
    pub(crate) amqp_ca_file: Option<PathBuf>,
    /// How long connecting to the broker may take
    #[arg(long, env = "OVERDUE_AMQP_CONNECT_TIMEOUT", default_value = "10s", value_parser = positive, value_name = "DURATION")]
    pub(crate) amqp_connect_timeout: Duration,
    /// How long the broker may take to confirm what is published
    #[arg(long, env = "OVERDUE_CONFIRM_TIMEOUT", default_value = "10s", value_parser = positive, value_name = "DURATION")]
    pub(crate) confirm_timeout: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LaneSettings {
    /// The shop's payment timeouts: each gets a lane of its own, besides the standard ones (1s 5s 30s 2m 10m
    /// 15m 30m 2h 12h 1d). The same for `topology` and for every role
    #[arg(
        long,
        env = "OVERDUE_PAYMENT_TIMEOUTS",
        default_value = "30m",
        value_delimiter = ',',
        value_name = "DURATION,..."
    )]
    pub(crate) payment_timeouts: Vec<Lane>,
}

impl LaneSettings {
    pub(crate) fn lanes(&self) -> Lanes {
        Lanes::standard(&self.payment_timeouts)
    }
}

#[derive(Debug, Args)]
pub(crate) struct TopologyArgs {
    #[command(subcommand)]
    pub(crate) command: TopologyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    /// Create the exchanges, queues and bindings that are missing
    Declare {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        lanes: LaneSettings,
    },
    /// Compare the live broker with what it should be; change nothing; exit 1 when something is off
    Verify {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        lanes: LaneSettings,
        /// RabbitMQ's management API (http or https), for what AMQP cannot tell: bindings, policies, version,
        /// feature flags. The user needs the tag `monitoring`
        #[arg(long, env = "OVERDUE_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
        management_url: Option<SecretString>,
    },
    /// Print the same as a definitions file, for `rabbitmqctl import_definitions`
    Export {
        #[command(flatten)]
        lanes: LaneSettings,
        /// The virtual host that the file is for
        #[arg(long, default_value = "/")]
        vhost: String,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RunSettings {
    #[command(flatten)]
    pub(crate) database: DatabaseSettings,
    #[command(flatten)]
    pub(crate) broker: BrokerSettings,
    #[command(flatten)]
    pub(crate) lanes: LaneSettings,
    /// The roles to run, where not all
    #[arg(long, env = "OVERDUE_ONLY", value_delimiter = ',', value_name = "ROLE,...")]
    pub(crate) only: Vec<Role>,
    #[command(flatten)]
    pub(crate) tuning: Tuning,
    /// After SIGTERM or SIGINT: how long the roles may take to finish what they have in hand
    #[arg(long, env = "OVERDUE_SHUTDOWN_TIMEOUT", default_value = "20s", value_parser = positive, value_name = "DURATION")]
    pub(crate) shutdown_timeout: Duration,
    /// How often to log what was done, if anything was
    #[arg(long, env = "OVERDUE_REPORT_EVERY", default_value = "10s", value_parser = positive, value_name = "DURATION")]
    pub(crate) report_every: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Sends the outbox to RabbitMQ
    Relay,
    /// Closes what is due
    Worker,
}

/// Bounds and sizes; the defaults suit one machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct Tuning {
    /// Worker: how many pipelines run side by side, each with a connection to broker and database
    #[arg(long, env = "OVERDUE_PIPELINES", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "COUNT")]
    pub(crate) pipelines: u16,
    /// Worker: a batch is settled when it has this many orders, or nothing more has arrived
    #[arg(long, env = "OVERDUE_BATCH_ORDERS_MAX", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_536), value_name = "ORDERS")]
    pub(crate) batch_orders_max: u32,
    /// Worker: how many messages the broker may send ahead to a pipeline
    #[arg(long, env = "OVERDUE_PREFETCH_MESSAGES", default_value_t = 2048, value_parser = clap::value_parser!(u16).range(1..), value_name = "MESSAGES")]
    pub(crate) prefetch_messages: u16,
    /// Orders due within this time of each other may share a message; so much later they may come out
    #[arg(long, env = "OVERDUE_COALESCE_WINDOW", default_value = "50ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) coalesce_window: Duration,
    /// Relay: how many orders are claimed from the outbox at a time
    #[arg(long, env = "OVERDUE_CLAIM_ORDERS_MAX", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=262_144), value_name = "ORDERS")]
    pub(crate) claim_orders_max: u32,
    /// Relay: when a claim is void and another relay may send its orders; longer than the confirm timeout
    #[arg(long, env = "OVERDUE_CLAIM_LEASE", default_value = "20s", value_parser = positive, value_name = "DURATION")]
    pub(crate) claim_lease: Duration,
    /// Relay: how often the outbox is looked at although nothing was notified
    #[arg(long, env = "OVERDUE_OUTBOX_POLL", default_value = "2s", value_parser = positive, value_name = "DURATION")]
    pub(crate) outbox_poll: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct OrderArgs {
    #[command(subcommand)]
    pub(crate) command: OrderCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OrderCommand {
    /// Create an order, reserve its stock and arm its timeout
    Create {
        #[command(flatten)]
        database: DatabaseSettings,
        /// 1 to 64 characters of A-Z a-z 0-9 . _ : -
        id: OrderId,
        /// What is ordered; may be given again
        #[arg(long = "item", value_parser = item, value_name = "SKU=QUANTITY", required = true)]
        items: Vec<Item>,
        /// What is to be paid, in the currency's smallest unit
        #[arg(long, default_value_t = 0)]
        amount_minor: i64,
        /// Three capital letters (ISO 4217)
        #[arg(long, default_value = "CNY")]
        currency: String,
        /// How long the customer has to pay
        #[arg(long, default_value = "30m", value_parser = positive, value_name = "DURATION")]
        payment_timeout: Duration,
    },
    /// Mark a pending order as paid
    Pay {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The order
        id: OrderId,
        /// The payment's ID at the gateway
        #[arg(long)]
        transaction_id: Option<String>,
    },
    /// Cancel a pending order and give its stock back
    Cancel {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The order
        id: OrderId,
    },
    /// Print an order, its items and its history
    Show {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The order
        id: OrderId,
        /// For machines
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StockArgs {
    #[command(subcommand)]
    pub(crate) command: StockCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StockCommand {
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

#[derive(Debug, Args)]
pub(crate) struct PublishSettings {
    #[command(flatten)]
    pub(crate) broker: BrokerSettings,
    #[command(flatten)]
    pub(crate) lanes: LaneSettings,
    /// The orders; without any, one a line from standard input
    pub(crate) ids: Vec<OrderId>,
    /// When they fall due, from now
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION", conflicts_with = "due", required_unless_present = "due")]
    pub(crate) after: Option<Duration>,
    /// When they fall due, in RFC 3339 form
    #[arg(long, value_name = "INSTANT")]
    pub(crate) due: Option<Deadline>,
    /// One bare ID a message, as most foreign publishers do, instead of up to 256 orders a message
    #[arg(long)]
    pub(crate) bare: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditSettings {
    #[command(flatten)]
    pub(crate) database: DatabaseSettings,
    /// How late a close, or the sending of a timeout, may be
    #[arg(long, env = "OVERDUE_AUDIT_GRACE", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) grace: Duration,
    /// For machines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoSettings {
    #[command(flatten)]
    pub(crate) database: DatabaseSettings,
    #[command(flatten)]
    pub(crate) broker: BrokerSettings,
    /// How many orders
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) orders: u32,
    /// Over how many SKUs
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) skus: u32,
    /// Also where a server is not on this machine
    #[arg(long)]
    pub(crate) anywhere: bool,
}

fn positive(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("it must be longer than zero".to_owned()) } else { Ok(duration) }
}

fn item(text: &str) -> Result<Item, String> {
    let form = || format!("{text:?} is not of the form SKU=QUANTITY, such as tea-250g=2");
    let (sku, quantity) = text.rsplit_once('=').ok_or_else(form)?;
    let quantity = quantity.parse().map_err(|_| form())?;
    if sku.is_empty() { Err(form()) } else { Ok(Item { sku: sku.to_owned(), quantity }) }
}
