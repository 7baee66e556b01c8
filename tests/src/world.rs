use std::process::Output;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use book::{Audit, OrderBook, PostgresBook, Refunds, Timers, Trades};
use broker::{Broker, BrokerSettings, Topology};
use database::{Client, DatabaseUrl, PoolSettings, Purpose, SqlxPool};
use order::{Deadline, Lane, Lanes, OrderId, Shards};
use relay::{Relay, RelayMetrics, RelaySettings};
use reqwest::Method;
use serde_json::json;
use shop::{Item, NewOrder, Order, OrderError};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, Postgres};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;
use worker::{
    Gateways, Notifications, OutcomeKind, PipelineSettings, Refunder, SharedBook, SharedTimers, Worker, WorkerMetrics,
};

use crate::process::binary;
use crate::servers::install;
use crate::{Counted, Foreign, Process, env, eventually, management};

/// A virtual host with the topology in it and a database with the schema in it, for one test alone.
pub struct World {
    /// Also the name of the database.
    pub vhost: String,
    /// For looking at the database, and for changing it as a shop does.
    pub pool: PgPool,
    /// `postgres://…` of this world's database.
    pub database_url: String,
    /// `amqp://…` of this world's virtual host.
    pub amqp_url: String,
    /// The lanes that are declared.
    pub lanes: Lanes,
    /// Those of them that are not standard, as the program is told of them.
    timeouts: String,
    /// How long roles inside the test let the database be silent.
    pub answer_timeout: Duration,
    /// How long a statement of a worker inside the test may take.
    pub statement_timeout: Duration,
    orders: AtomicU32,
}

/// Roles that run inside the test.
pub struct Roles {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    worker: Option<WorkerMetrics>,
    relay: Option<RelayMetrics>,
}

/// Holds a statement up inside the database, as long as it lives.
pub struct Gate {
    holder: PgConnection,
}

/// The database that the others are copied from: the first of this process.
fn template() -> String {
    format!("t{}_0", std::process::id())
}

impl World {
    /// A world with the standard lanes.
    pub async fn new() -> Self {
        Self::with_timeouts(&[]).await
    }

    /// A world with lanes for these payment timeouts besides the standard ones.
    pub async fn with_timeouts(timeouts: &[&str]) -> Self {
        let world = Self::bare(timeouts).await;
        broker::declare(&Topology::new(&world.lanes), &world.broker()).await.expect("the topology can be declared");
        world
    }

    /// A world with the standard lanes, spread over so many queues each.
    pub async fn sharded(shards: u16) -> Self {
        let mut world = Self::new().await;
        world.spread(shards).await;
        world
    }

    /// Spreads the lanes over so many queues each from now on.
    pub async fn spread(&mut self, shards: u16) {
        self.lanes = self.lanes.clone().sharded(Shards::new(shards).expect("some shards"));
        broker::declare(&Topology::new(&self.lanes), &self.broker()).await.expect("the topology can be declared");
    }

    /// A world without a topology.
    pub async fn bare(timeouts: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        install();
        prepare_servers().await;
        let name = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        management(Method::PUT, &["vhosts", &name], Some(json!({}))).await;
        let amqp_url = with_path(&env("OVERDUE_AMQP_URL"), &name);
        let user = Url::from_str(&amqp_url).expect("a URL").username().to_owned();
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        management(Method::PUT, &["permissions", &name, &user], Some(all)).await;

        let mut admin = admin_connection().await;
        execute(&mut admin, &format!("create database {name} template {}", template())).await;
        let database_url = with_path(&env("OVERDUE_DATABASE_URL"), &name);
        let options = PgConnectOptions::from_str(&database_url).expect("a URL");
        let pool = PgPoolOptions::new().max_connections(8).connect_lazy_with(options);
        let lanes: Vec<Lane> = timeouts.iter().map(|text| text.parse().expect("a lane")).collect();
        let lanes = Lanes::standard(&lanes);
        let timeouts = if timeouts.is_empty() { "30m".to_owned() } else { timeouts.join(",") };
        Self {
            vhost: name,
            pool,
            database_url,
            amqp_url,
            lanes,
            timeouts,
            answer_timeout: Duration::from_secs(35),
            statement_timeout: Duration::from_secs(30),
            orders: AtomicU32::new(0),
        }
    }

    /// Deletes the virtual host and the database. Worlds of failed tests are deleted by the next run.
    pub async fn close(self) {
        self.pool.close().await;
        delete_world(&mut admin_connection().await, &self.vhost).await;
    }

    /// The broker, as the program's crates see it.
    #[must_use]
    pub fn broker(&self) -> Broker {
        let settings = BrokerSettings { url: self.amqp_url.as_str().into(), ca_file: None, name: "test".to_owned() };
        Broker::new(&settings).expect("a broker's URL")
    }

    /// A client of the broker that is not this project's.
    pub async fn foreign(&self) -> Foreign {
        Foreign::connect(&self.amqp_url).await
    }

    /// Starts a relay inside the test.
    #[must_use]
    pub fn relay(&self) -> Roles {
        self.relay_with(RelaySettings::default())
    }

    /// Starts a relay inside the test.
    #[must_use]
    pub fn relay_with(&self, settings: RelaySettings) -> Roles {
        let settings = RelaySettings {
            answer_timeout: self.answer_timeout,
            confirm_timeout: settings.confirm_timeout.min(Duration::from_secs(5)),
            ..settings
        };
        let pool = SqlxPool::new(&self.url(), &self.bounds(Relay::CONNECTIONS, Purpose::Relay)).expect("a pool");
        let relay = Relay::new(pool, self.broker(), self.lanes.clone(), settings);
        let (shutdown, metrics) = (CancellationToken::new(), relay.metrics());
        let task = tokio::spawn(relay.run(shutdown.clone()));
        Roles { shutdown, task, worker: None, relay: Some(metrics) }
    }

    /// The URL of this world's database, as the program reads it.
    #[must_use]
    pub fn url(&self) -> DatabaseUrl {
        DatabaseUrl::parse(&self.database_url.as_str().into()).expect("a database's URL")
    }

    fn bounds(&self, connections_max: usize, purpose: Purpose) -> PoolSettings {
        PoolSettings { connections_max, statement_timeout: self.statement_timeout, purpose }
    }

    /// Connections of the worker's driver to this world's database.
    #[must_use]
    pub fn client(&self, connections_max: usize, purpose: Purpose) -> Client {
        let client = Client::new(&self.url(), &self.bounds(connections_max, purpose)).expect("a pool");
        client.answering_within(self.answer_timeout)
    }

    /// A connection for functions of the order service.
    ///
    /// # Panics
    /// If there is none to be had.
    pub async fn connection(&self) -> PoolConnection<Postgres> {
        self.pool.acquire().await.expect("a connection")
    }

    /// Starts a worker with two pipelines inside the test.
    #[must_use]
    pub fn worker(&self) -> Roles {
        self.worker_with(PipelineSettings::default())
    }

    /// Starts a worker inside the test.
    #[must_use]
    pub fn worker_with(&self, settings: PipelineSettings) -> Roles {
        self.worker_asking(Gateways::none(), settings)
    }

    /// Starts a worker inside the test that asks these gateways.
    #[must_use]
    pub fn worker_asking(&self, gateways: Gateways, settings: PipelineSettings) -> Roles {
        let client = self.client(8, Purpose::Settle);
        let book = SharedBook::new(Arc::new(PostgresBook::new(client.clone())));
        let refunder = Refunder::new(Refunds::new(client.clone()), gateways.clone());
        let shutdown = CancellationToken::new();
        let timers = SharedTimers::new(Timers::new(client), None, gateways.metrics(), shutdown.clone());
        let worker = Worker::new(self.broker(), book, timers, self.lanes.clone(), gateways, settings);
        let metrics = worker.metrics();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let (worked, ()) = tokio::join!(worker.run(stop.clone()), refunder.run(stop));
            worked.expect("no pipeline panics");
        });
        Roles { shutdown, task, worker: Some(metrics), relay: None }
    }

    /// The order book, as the worker sees it.
    #[must_use]
    pub fn book(&self) -> Arc<dyn OrderBook> {
        Arc::new(PostgresBook::new(self.client(8, Purpose::Settle)))
    }

    /// Takes notifications of these gateways.
    #[must_use]
    pub fn notifications(&self, gateways: &Gateways) -> Notifications {
        let client = self.client(8, Purpose::Settle);
        let book = SharedBook::new(Arc::new(PostgresBook::new(client.clone())));
        Notifications::new(gateways.clone(), book, Trades::new(client.clone()), Refunds::new(client))
    }

    /// The program, set up for this world.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OVERDUE_")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("OVERDUE_DATABASE_URL", &self.database_url)
            .env("OVERDUE_AMQP_URL", &self.amqp_url)
            .env("OVERDUE_PAYMENT_TIMEOUTS", &self.timeouts)
            .env("OVERDUE_SHARDS", self.lanes.shards().count().to_string())
            .kill_on_drop(true);
        command
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    /// If it comes to none within two minutes.
    pub async fn overdue(&self, arguments: &[&str]) -> Output {
        let ended = tokio::time::timeout(Duration::from_mins(2), self.command(arguments).output()).await;
        ended.unwrap_or_else(|_| panic!("`overdue {}` does not end", arguments.join(" "))).expect("the program runs")
    }

    /// Starts the program and leaves it running.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Process {
        Process::spawn(self.command(arguments), "overdue")
    }

    /// Starts a prepared command and leaves it running.
    #[must_use]
    pub fn start_command(&self, command: Command) -> Process {
        Process::spawn(command, "overdue")
    }

    /// Puts stock on the shelf.
    pub async fn stock(&self, sku: &str, quantity: i64) {
        shop::add_stock(&mut *self.connection().await, sku, quantity).await.expect("stock can be added");
    }

    /// Creates an order for one piece of `sku`.
    pub async fn order(&self, sku: &str, payment_timeout: Duration) -> Order {
        self.order_of(&[(sku, 1)], payment_timeout).await
    }

    /// Creates an order.
    pub async fn order_of(&self, items: &[(&str, i64)], payment_timeout: Duration) -> Order {
        self.create(&self.new_order(items, payment_timeout)).await.expect("the order can be created")
    }

    /// Creates this order.
    ///
    /// # Errors
    /// Why the order service refuses it.
    pub async fn create(&self, new: &NewOrder) -> Result<Order, OrderError> {
        shop::create(&mut *self.pool.acquire().await?, new).await
    }

    /// Marks an order as paid.
    ///
    /// # Errors
    /// Why the order service refuses it.
    pub async fn pay(&self, id: &OrderId, transaction_id: Option<&str>) -> Result<(), OrderError> {
        shop::pay(&mut *self.pool.acquire().await?, id, transaction_id).await
    }

    /// Cancels an order.
    ///
    /// # Errors
    /// Why the order service refuses it.
    pub async fn cancel(&self, id: &OrderId) -> Result<(), OrderError> {
        shop::cancel(&mut *self.pool.acquire().await?, id).await
    }

    /// An order with a fresh ID.
    pub fn new_order(&self, items: &[(&str, i64)], payment_timeout: Duration) -> NewOrder {
        let number = self.orders.fetch_add(1, Ordering::Relaxed);
        NewOrder {
            id: OrderId::new(&format!("o-{number}")).expect("an order ID"),
            amount_minor: 1999,
            currency: "CNY".to_owned(),
            items: items.iter().map(|(sku, quantity)| Item { sku: (*sku).to_owned(), quantity: *quantity }).collect(),
            gateway: None,
            payment_timeout,
        }
    }

    /// Creates an order that is due already, without a message on its way.
    pub async fn overdue_order(&self, sku: &str) -> Order {
        self.create_overdue(&self.new_order(&[(sku, 1)], Duration::from_secs(3600))).await
    }

    /// Creates this order, due already and without a message on its way. All of that is one transaction: whoever sees the
    /// order sees it overdue.
    ///
    /// # Panics
    /// If it cannot be created.
    pub async fn create_overdue(&self, new: &NewOrder) -> Order {
        let mut transaction = self.pool.begin().await.expect("a transaction");
        let order = shop::create_in(&mut transaction, new).await.expect("the order can be created");
        let moved = "update orders set payment_deadline = clock_timestamp() - interval '1 second' where id = $1
                     returning payment_deadline";
        let moved = sqlx::query_scalar(moved).bind(order.id.as_str()).fetch_one(&mut *transaction);
        let deadline = Deadline::at(moved.await.expect("the order"));
        sqlx::query("delete from outbox where event is null and order_id = $1")
            .bind(order.id.as_str())
            .execute(&mut *transaction)
            .await
            .expect("its messages are taken back");
        transaction.commit().await.expect("it is committed");
        Order { deadline, ..order }
    }

    /// Moves an order's deadline to so many seconds from now, as a shop does that extends it.
    pub async fn set_deadline(&self, id: &OrderId, seconds: f64) -> Deadline {
        let moved = sqlx::query_scalar(
            "update orders set payment_deadline = clock_timestamp() + $2 * interval '1 second' where id = $1 returning payment_deadline",
        );
        Deadline::at(moved.bind(id.as_str()).bind(seconds).fetch_one(&self.pool).await.expect("the order"))
    }

    /// Where an order stands.
    pub async fn status(&self, id: &OrderId) -> String {
        let status = sqlx::query_scalar("select status from orders where id = $1");
        status.bind(id.as_str()).fetch_one(&self.pool).await.expect("the order")
    }

    /// Waits until an order stands at `status`.
    pub async fn becomes(&self, id: &OrderId, status: &str) {
        eventually(&format!("order {id} is {status}"), async || self.status(id).await == status).await;
    }

    /// A number from the database.
    pub async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&self.pool).await.expect(query)
    }

    /// Runs statements.
    pub async fn execute(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&self.pool).await.expect(statements);
    }

    /// Available and reserved stock of a SKU.
    pub async fn shelf(&self, sku: &str) -> (i64, i64) {
        let stock = sqlx::query_as("select available, reserved from inventory where sku_id = $1");
        stock.bind(sku).fetch_one(&self.pool).await.expect("the SKU")
    }

    /// Ends the connections that processes have left behind when they were killed, and those of all who live.
    pub async fn disconnect_everybody(&self) {
        let end = "select pg_terminate_backend(pid) from pg_stat_activity
                   where application_name = 'overdue' and datname = current_database()";
        self.execute(end).await;
    }

    /// How many statements of the worker wait for a lock in this world's database.
    pub async fn waiting_for_locks(&self) -> i64 {
        self.number(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and application_name = 'overdue'",
        )
        .await
    }

    /// Makes every `event` (such as `insert on order_log`) wait until the gate is opened.
    pub async fn gate(&self, event: &str) -> Gate {
        let mut holder = PgConnection::connect(&self.database_url).await.expect("a connection");
        execute(&mut holder, "select pg_advisory_lock(4711)").await;
        self.execute(&format!(
            "create function pass_gate() returns trigger language plpgsql as $$
             begin
                 perform pg_advisory_xact_lock_shared(4711);
                 return case when tg_op = 'DELETE' then old else new end;
             end $$;
             create trigger gate before {event} for each row execute function pass_gate()"
        ))
        .await;
        Gate { holder }
    }

    /// Fails unless the books are clean.
    pub async fn audit(&self) {
        let audit = self.look_at_the_books().await;
        assert!(audit.clean, "{audit:#?}");
    }

    /// What the audit says.
    pub async fn look_at_the_books(&self) -> Audit {
        let client = self.client(1, Purpose::Report);
        book::audit(&client, Duration::from_secs(3600)).await.expect("the audit runs")
    }

    /// Fails unless the database has never seen a deadlock.
    pub async fn no_deadlocks(&self) {
        assert_eq!(self.number("select deadlocks from pg_stat_database where datname = current_database()").await, 0);
    }
}

impl Gate {
    /// Lets everybody through who waits now, and nobody who comes later: returns when they have committed.
    pub async fn let_through(&mut self) {
        execute(&mut self.holder, "select pg_advisory_unlock(4711)").await;
        execute(&mut self.holder, "select pg_advisory_lock(4711)").await;
    }

    /// Lets everybody through who waits, and whoever comes later.
    pub async fn open(self) {
        self.holder.close().await.expect("the gate opens");
    }
}

impl Roles {
    /// What the worker has counted.
    ///
    /// # Panics
    /// If there is no worker among the roles.
    #[must_use]
    pub fn counted(&self) -> Counted {
        Counted::by(self.worker.as_ref().expect("a worker"))
    }

    /// How many timers ended like this.
    ///
    /// # Panics
    /// If there is no worker among the roles.
    #[must_use]
    pub fn timers(&self, kind: OutcomeKind) -> u64 {
        self.worker.as_ref().expect("a worker").timers(kind)
    }

    /// Orders that the relay has sent, and failures that it had.
    ///
    /// # Panics
    /// If there is no relay among the roles.
    #[must_use]
    pub fn relayed(&self) -> (u64, u64) {
        let relay = self.relay.as_ref().expect("a relay");
        (relay.orders.get(), relay.failures.get())
    }

    /// Drops them in the middle of whatever they do. Their subscriptions may linger: to see what a message does after a
    /// crash, kill a process.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Tells the roles to stop, and waits until they have.
    ///
    /// # Panics
    /// If a role panicked.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the role ends without a panic");
    }
}

/// Once for the process: a database to copy from, and the worlds of earlier runs away.
async fn prepare_servers() {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    PREPARED
        .get_or_init(async || {
            let mut admin = admin_connection().await;
            delete_old_worlds(&mut admin).await;
            execute(&mut admin, &format!("create database {}", template())).await;
            let template = with_path(&env("OVERDUE_DATABASE_URL"), &template());
            let mut connection = PgConnection::connect(&template).await.expect("the template");
            database::migrate(&mut connection).await.expect("the migrations apply");
            connection.close().await.expect("the template is free to be copied");
        })
        .await;
}

/// Worlds are called after the process that made them; those of processes that are gone may go too.
async fn delete_old_worlds(admin: &mut PgConnection) {
    let databases: Vec<String> = sqlx::query_scalar(r"select datname from pg_database where datname ~ '^t\d+_\d+$'")
        .fetch_all(&mut *admin)
        .await
        .expect("databases");
    let vhosts = management(Method::GET, &["vhosts"], None).await;
    let vhosts = vhosts.as_array().into_iter().flatten().filter_map(|vhost| vhost["name"].as_str().map(str::to_owned));
    for name in databases.into_iter().chain(vhosts) {
        let process =
            name.strip_prefix('t').and_then(|rest| rest.split_once('_')).map(|(process, _)| process.to_owned());
        let Some(process) = process.filter(|process| process.bytes().all(|byte| byte.is_ascii_digit())) else {
            continue;
        };
        if !std::path::Path::new("/proc").join(process).exists() {
            delete_world(admin, &name).await;
        }
    }
}

async fn delete_world(admin: &mut PgConnection, name: &str) {
    execute(admin, &format!("drop database if exists {name} with (force)")).await;
    let vhosts = management(Method::GET, &["vhosts"], None).await;
    if vhosts.as_array().into_iter().flatten().any(|vhost| vhost["name"] == name) {
        management(Method::DELETE, &["vhosts", name], None).await;
    }
}

async fn admin_connection() -> PgConnection {
    PgConnection::connect(&env("OVERDUE_DATABASE_URL")).await.expect("the database server answers")
}

async fn execute(connection: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await.expect(statements);
}

fn with_path(url: &str, path: &str) -> String {
    let mut url: Url = url.parse().expect("a URL");
    url.set_path(path);
    url.to_string()
}
