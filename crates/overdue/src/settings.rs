use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use order::{Deadline, Lane, Lanes, OrderId, Shards};
use publisher::Item;
use secrecy::SecretString;
use url::Url;

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
    /// Where traces go, by OTLP over HTTP (JSON): `http://collector:4318/v1/traces`. Only in builds with the feature `otel`
    #[arg(long = "otlp-endpoint", env = "OVERDUE_OTLP_ENDPOINT", global = true, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<Url>,
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
    /// Run relay, worker, sweep and HTTP until told to stop (SIGTERM or SIGINT; twice: at once)
    Run(Box<RunSettings>),
    /// Print the description of the HTTP API, in OpenAPI form
    Openapi,
    /// Create an order, pay it, cancel it, or look at it
    Order(OrderArgs),
    /// Add to the stock of a SKU
    Stock(StockArgs),
    /// Send order IDs into a lane, past the database: what a service in another language does
    Publish(PublishSettings),
    /// Look at what was set aside for a person, send it in again, or drop it
    Parked(ParkedArgs),
    /// Look at the refunds of payments that came too late
    Refunds(RefundsArgs),
    /// Say what is wrong with this deployment, and what to do; exit 1 when anything is
    Doctor(Box<DoctorSettings>),
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
    #[arg(long, env = "OVERDUE_DATABASE_CONNECT_TIMEOUT", default_value = "5s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) database_connect_timeout: Duration,
    /// How long a statement may take, waiting for locks included
    #[arg(long, env = "OVERDUE_STATEMENT_TIMEOUT", default_value = "30s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) statement_timeout: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BrokerSettings {
    /// RabbitMQ: `amqp://user:password@host:port/vhost`, or `amqps://`. Sweep and API work without it
    #[arg(long, env = "OVERDUE_AMQP_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) amqp_url: Option<SecretString>,
    /// Certificates (PEM) of authorities that may sign the broker's, besides the system's
    #[arg(long, env = "OVERDUE_AMQP_CA_FILE", value_name = "FILE")]
    pub(crate) amqp_ca_file: Option<PathBuf>,
    /// How long the broker may take to confirm what is published
    #[arg(long, env = "OVERDUE_CONFIRM_TIMEOUT", default_value = "10s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
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
    /// Over how many queues each lane and each due queue is spread, for clusters whose nodes share the work. The same
    /// for `topology` and for every role; more may be added later, never fewer while anything waits
    #[arg(long, env = "OVERDUE_SHARDS", default_value = "1", value_parser = shards, value_name = "COUNT")]
    pub(crate) shards: Shards,
}

impl LaneSettings {
    pub(crate) fn lanes(&self) -> Lanes {
        Lanes::standard(&self.payment_timeouts).sharded(self.shards)
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
    /// Print users with no more rights than each role needs, as a definitions file
    Users {
        /// The virtual host that the file is for
        #[arg(long, default_value = "/")]
        vhost: String,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RunSettings {
    #[command(flatten)]
    pub(crate) roles: RoleSettings,
    #[command(flatten)]
    pub(crate) lanes: LaneSettings,
    #[command(flatten)]
    pub(crate) http: HttpSettings,
    /// The roles to run, where not all; `api` needs `--listen`
    #[arg(long, env = "OVERDUE_ONLY", value_delimiter = ',', value_name = "ROLE,...")]
    pub(crate) only: Vec<Role>,
    /// After SIGTERM or SIGINT: how long the roles may take to finish what they have in hand
    #[arg(long, env = "OVERDUE_SHUTDOWN_TIMEOUT", default_value = "20s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) shutdown_timeout: Duration,
    /// How often to log what was done, if anything was
    #[arg(long, env = "OVERDUE_REPORT_EVERY", default_value = "10s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) report_every: Duration,
}

/// Health, metrics and the order service over HTTP.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpSettings {
    /// Where to serve /healthz, /readyz and /metrics, and with the role `api` the orders; without it there is no HTTP
    #[arg(long, env = "OVERDUE_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The bearer token for everything under /orders, 16 bytes or more; needed unless only this machine can connect
    #[arg(long, env = "OVERDUE_API_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) api_token: Option<SecretString>,
    /// A read replica of the database, for who only looks at orders (GET). What it does not know, or calls overdue, is
    /// looked up in the database itself
    #[arg(long, env = "OVERDUE_READ_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) read_database_url: Option<SecretString>,
    /// RabbitMQ's management API, for metrics of the queues. The user needs the tag `monitoring`
    #[arg(long, env = "OVERDUE_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) management_url: Option<SecretString>,
}

/// What the roles work with and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleSettings {
    #[command(flatten)]
    pub(crate) database: DatabaseSettings,
    #[command(flatten)]
    pub(crate) broker: BrokerSettings,
    #[command(flatten)]
    pub(crate) tuning: Tuning,
    #[command(flatten)]
    pub(crate) gateways: GatewaySettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Sends the outbox to RabbitMQ
    Relay,
    /// Closes what is due
    Worker,
    /// Closes what no message has brought; one process at a time, the others stand by
    Sweep,
    /// Serves orders over HTTP
    Api,
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
    #[arg(long, env = "OVERDUE_COALESCE_WINDOW", default_value = "10ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) coalesce_window: Duration,
    /// Relay: how many orders are claimed from the outbox at a time
    #[arg(long, env = "OVERDUE_CLAIM_ORDERS_MAX", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=262_144), value_name = "ORDERS")]
    pub(crate) claim_orders_max: u32,
    /// Relay: when a claim is void and another relay may send its orders; longer than the confirm timeout
    #[arg(long, env = "OVERDUE_CLAIM_LEASE", default_value = "20s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) claim_lease: Duration,
    /// Relay: what events call their source, a URI reference; something else for each deployment
    #[arg(long, env = "OVERDUE_EVENT_SOURCE", default_value = "/overdue", value_parser = event_source, value_name = "URI")]
    pub(crate) event_source: String,
    /// Worker: after so many attempts an order that the database does not know is parked; the first retry comes after a
    /// second, then after twice as long each time
    #[arg(long, env = "OVERDUE_UNKNOWN_ATTEMPTS_MAX", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    pub(crate) unknown_attempts_max: u32,
    /// Worker: how long a batch is held while a server is away; then it goes back to the queue until the server is back
    #[arg(long, env = "OVERDUE_HOLD_MAX", default_value = "15m", value_parser = hold_max, value_name = "DURATION")]
    pub(crate) hold_max: Duration,
    /// Sweep: how long it rests between two rounds, varied at random by half of itself
    #[arg(long, env = "OVERDUE_SWEEP_EVERY", default_value = "30s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) sweep_every: Duration,
    /// Sweep: how long after its deadline an order is left to its message
    #[arg(long, env = "OVERDUE_SWEEP_GRACE", default_value = "60s", value_parser = up_to_a_day, value_name = "DURATION")]
    pub(crate) sweep_grace: Duration,
    /// Relay: how often the outbox is looked at although nothing was notified
    #[arg(long, env = "OVERDUE_OUTBOX_POLL", default_value = "2s", value_parser = positive, value_name = "DURATION")]
    pub(crate) outbox_poll: Duration,
}

/// Payment gateways: those whose settings are given are asked.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Payment gateways")]
pub(crate) struct GatewaySettings {
    /// The gateway of orders that the table `payments` says nothing of: none, wechat or http
    #[arg(long = "gateway", env = "OVERDUE_GATEWAY", default_value = "none", value_name = "NAME")]
    pub(crate) default: GatewayName,
    #[command(flatten)]
    pub(crate) wechat: WeChatSettings,
    #[command(flatten)]
    pub(crate) http: HttpGatewaySettings,
    #[command(flatten)]
    pub(crate) asking: AskingSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GatewayName {
    /// The order's own status is the truth
    None,
    /// WeChat Pay, API v3
    Wechat,
    /// A payment service that implements `docs/payment-service.openapi.json`
    Http,
}

impl GatewayName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Wechat => "wechat",
            Self::Http => "http",
        }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WeChatSettings {
    /// WeChat Pay: the merchant's number; with it the gateway `wechat` is configured
    #[arg(long, env = "OVERDUE_WECHAT_MCHID", value_name = "NUMBER")]
    pub(crate) wechat_mchid: Option<String>,
    /// WeChat Pay: the application that the trades belong to
    #[arg(long, env = "OVERDUE_WECHAT_APPID", value_name = "ID")]
    pub(crate) wechat_appid: Option<String>,
    /// WeChat Pay: the serial number of the merchant's certificate
    #[arg(long, env = "OVERDUE_WECHAT_SERIAL_NO", value_name = "HEX")]
    pub(crate) wechat_serial_no: Option<String>,
    /// WeChat Pay: the merchant's private key, PKCS#8 in PEM form
    #[arg(long, env = "OVERDUE_WECHAT_PRIVATE_KEY_FILE", value_name = "FILE")]
    pub(crate) wechat_private_key_file: Option<PathBuf>,
    /// WeChat Pay: the APIv3 key, 32 bytes
    #[arg(long, env = "OVERDUE_WECHAT_API_V3_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) wechat_api_v3_key: Option<SecretString>,
    /// WeChat Pay: platform certificates in PEM form; those that follow them are fetched
    #[arg(long, env = "OVERDUE_WECHAT_CERTIFICATE_FILES", value_delimiter = ',', value_name = "FILE,...")]
    pub(crate) wechat_certificate_files: Vec<PathBuf>,
    /// WeChat Pay: its public key in PEM form, in the place of certificates
    #[arg(long, env = "OVERDUE_WECHAT_PUBLIC_KEY_FILE", requires = "wechat_public_key_id", value_name = "FILE")]
    pub(crate) wechat_public_key_file: Option<PathBuf>,
    /// WeChat Pay: the ID of that key, `PUB_KEY_ID_...`
    #[arg(long, env = "OVERDUE_WECHAT_PUBLIC_KEY_ID", requires = "wechat_public_key_file", value_name = "ID")]
    pub(crate) wechat_public_key_id: Option<String>,
    /// WeChat Pay: a trade younger than this is not closed there; five minutes are recommended
    #[arg(long, env = "OVERDUE_WECHAT_MIN_CLOSE_AGE", default_value = "5m", value_parser = up_to_a_day, value_name = "DURATION")]
    pub(crate) wechat_min_close_age: Duration,
    /// WeChat Pay: where its API is
    #[arg(long, env = "OVERDUE_WECHAT_BASE_URL", default_value = "https://api.mch.weixin.qq.com", value_name = "URL")]
    pub(crate) wechat_base_url: Url,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct HttpGatewaySettings {
    /// Payment service: where it is; with it the gateway `http` is configured
    #[arg(long, env = "OVERDUE_HTTP_GATEWAY_URL", requires = "http_gateway_secret", value_name = "URL")]
    pub(crate) http_gateway_url: Option<Url>,
    /// Payment service: the name of the secret
    #[arg(long, env = "OVERDUE_HTTP_GATEWAY_KEY_ID", default_value = "overdue", value_name = "NAME")]
    pub(crate) http_gateway_key_id: String,
    /// Payment service: the secret that signs both ways, 32 bytes or more
    #[arg(
        long,
        env = "OVERDUE_HTTP_GATEWAY_SECRET",
        hide_env_values = true,
        requires = "http_gateway_url",
        value_name = "SECRET"
    )]
    pub(crate) http_gateway_secret: Option<SecretString>,
    /// Payment service: a trade younger than this is not closed there
    #[arg(long, env = "OVERDUE_HTTP_GATEWAY_MIN_CLOSE_AGE", default_value = "0s", value_parser = up_to_a_day, value_name = "DURATION")]
    pub(crate) http_gateway_min_close_age: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AskingSettings {
    /// How many calls to one gateway may be under way at a time
    #[arg(long, env = "OVERDUE_GATEWAY_CALLS_IN_FLIGHT_MAX", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..), value_name = "CALLS")]
    pub(crate) gateway_calls_in_flight_max: u16,
    /// How many calls a second one gateway gets from this process at most; 0: as many as it takes
    #[arg(long, env = "OVERDUE_GATEWAY_CALLS_PER_SECOND_MAX", default_value_t = 500, value_name = "CALLS")]
    pub(crate) gateway_calls_per_second_max: u32,
    /// How long a call may take
    #[arg(long, env = "OVERDUE_GATEWAY_CALL_TIMEOUT", default_value = "5s", value_parser = call_timeout, value_name = "DURATION")]
    pub(crate) gateway_call_timeout: Duration,
    /// After so many attempts at its payment that came to nothing an order is parked; with the usual delays, 60
    /// take nine hours
    #[arg(long, env = "OVERDUE_GATEWAY_ATTEMPTS_MAX", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..), value_name = "ATTEMPTS")]
    pub(crate) gateway_attempts_max: u32,
    /// How long an order waits after the first attempt that came to nothing; the wait doubles with each
    #[arg(long, env = "OVERDUE_GATEWAY_BACK_OFF_INITIAL", default_value = "2s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) gateway_back_off_initial: Duration,
    /// The longest such wait
    #[arg(long, env = "OVERDUE_GATEWAY_BACK_OFF_MAX", default_value = "10m", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) gateway_back_off_max: Duration,
    /// How long an order waits while its gateway cannot be asked at all
    #[arg(long, env = "OVERDUE_GATEWAY_HOLD", default_value = "30s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) gateway_hold: Duration,
    /// How long a customer who is just paying is left alone; gateways ask for 5s or more
    #[arg(long, env = "OVERDUE_GATEWAY_USER_PAYING_WAIT", default_value = "5s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) gateway_user_paying_wait: Duration,
    /// How far apart two answers `no such trade` must be before they are believed
    #[arg(long, env = "OVERDUE_GATEWAY_NOT_FOUND_GAP", default_value = "30s", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) gateway_not_found_gap: Duration,
    /// After how long a trade that was not found is looked for once more, although its order is closed
    #[arg(long, env = "OVERDUE_GATEWAY_LOOK_AGAIN_AFTER", default_value = "15m", value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) gateway_look_again_after: Duration,
    /// How many pipelines of a worker ask gateways, besides those that do not
    #[arg(long, env = "OVERDUE_GATEWAY_PIPELINES", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "COUNT")]
    pub(crate) gateway_pipelines: u16,
}

#[derive(Debug, Args)]
pub(crate) struct ParkedArgs {
    #[command(subcommand)]
    pub(crate) command: ParkedCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ParkedCommand {
    /// Print what is parked; changes nothing
    List {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        selection: ParkedSelection,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Print all of one message: reason, attempts, headers, body
    Show {
        #[command(flatten)]
        broker: BrokerSettings,
        /// The message, as `list` calls it
        id: String,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Send messages in again, with no attempts made; each leaves the queue when the broker has confirmed the new one
    Requeue {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        selection: ParkedSelection,
    },
    /// Delete messages for good; asks first
    Drop {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        selection: ParkedSelection,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Which parked messages: those for which all that is given holds.
#[derive(Debug, Args)]
pub(crate) struct ParkedSelection {
    /// Messages, as `list` calls them
    #[arg(value_name = "MESSAGE")]
    pub(crate) ids: Vec<String>,
    /// Only those parked for this reason, such as unknown_order
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Only those that name this order
    #[arg(long, value_name = "ID")]
    pub(crate) order: Option<OrderId>,
    /// Only those parked so long ago or longer
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) older_than: Option<Duration>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
    /// How many messages are looked at, at most
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    pub(crate) scan_max: u32,
}

#[derive(Debug, Args)]
pub(crate) struct RefundsArgs {
    #[command(subcommand)]
    pub(crate) command: RefundsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RefundsCommand {
    /// Print the refunds, the newest first
    List {
        #[command(flatten)]
        database: DatabaseSettings,
        /// Only those in this state
        #[arg(long)]
        state: Option<RefundStateName>,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
        limit: u32,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Say that a refund that needed a person is done with
    Resolve {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The number of the refund
        refund_no: String,
        /// What was done about it; kept with the refund
        #[arg(long, value_name = "TEXT")]
        note: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum RefundStateName {
    /// On record; the gateway is still to accept it
    Requested,
    /// The gateway has accepted it
    Processing,
    /// The money is back
    Succeeded,
    /// It cannot go on by itself; the column `problem` says why
    NeedsPerson,
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
        /// Where it is to be paid: the name of a payment gateway, such as `wechat`
        #[arg(long, value_name = "NAME")]
        gateway: Option<GatewayName>,
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
pub(crate) struct DoctorSettings {
    #[command(flatten)]
    pub(crate) database: DatabaseSettings,
    #[command(flatten)]
    pub(crate) broker: BrokerSettings,
    #[command(flatten)]
    pub(crate) lanes: LaneSettings,
    /// RabbitMQ's management API (http or https), for what AMQP cannot tell: alarms, consumers, policies, version. The
    /// user needs the tag `monitoring`
    #[arg(long, env = "OVERDUE_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) management_url: Option<SecretString>,
    /// For machines
    #[arg(long)]
    pub(crate) json: bool,
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
    /// The simulator of a payment gateway; usually the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) gateway_sim: Option<PathBuf>,
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

fn shards(text: &str) -> Result<Shards, String> {
    let count = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
    Shards::new(count).map_err(|error| error.to_string())
}

fn up_to_a_day(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration > Duration::from_hours(24) { Err("it must not be longer than a day".to_owned()) } else { Ok(duration) }
}

fn positive_up_to_a_day(text: &str) -> Result<Duration, String> {
    positive(text).and_then(|_| up_to_a_day(text))
}

/// Longer, and RabbitMQ would take the messages for lost.
fn hold_max(text: &str) -> Result<Duration, String> {
    let duration = positive(text)?;
    if duration > Duration::from_mins(20) {
        Err("it must not be longer than 20 minutes".to_owned())
    } else {
        Ok(duration)
    }
}

fn event_source(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 200 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("it must have 1 to 200 visible ASCII characters".to_owned()) }
}

/// Longer, and one that hangs would hold others up for as long.
fn call_timeout(text: &str) -> Result<Duration, String> {
    let duration = positive(text)?;
    if duration > Duration::from_mins(1) { Err("it must not be longer than a minute".to_owned()) } else { Ok(duration) }
}

fn item(text: &str) -> Result<Item, String> {
    let form = || format!("{text:?} is not of the form SKU=QUANTITY, such as tea-250g=2");
    let (sku, quantity) = text.rsplit_once('=').ok_or_else(form)?;
    let quantity = quantity.parse().map_err(|_| form())?;
    if sku.is_empty() { Err(form()) } else { Ok(Item { sku: sku.to_owned(), quantity }) }
}
