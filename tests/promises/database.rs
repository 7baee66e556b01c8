//! One URL has one meaning, whichever driver reads it; and servers that take no writes are left for one that does.

use std::path::PathBuf;
use std::time::Duration;

use database::{Client, DatabaseError, DatabaseUrl, PoolSettings, Purpose, SqlxPool};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tests::{Process, Proxy, World, env, eventually, management};
use tokio::net::{TcpStream, UnixListener};
use tokio::process::Command;
use url::Url;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// `host:port` of the database or the broker that everything runs on.
fn server(url: &str) -> String {
    let url: Url = url.parse().unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

/// `user:password`, as they stand in the URL.
fn login(world: &World) -> String {
    let url: Url = world.database_url.parse().unwrap();
    format!("{}:{}", url.username(), url.password().unwrap())
}

/// A directory with the socket of a server at this port, as PostgreSQL names it. It leads to the server at `target`.
fn socket_directory(port: u16, target: String) -> PathBuf {
    // Short: the path of a socket has at most 107 bytes.
    let directory = std::env::temp_dir().join(format!("t{}-{port}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let listener = UnixListener::bind(directory.join(format!(".s.PGSQL.{port}"))).unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    directory
}

/// What both drivers find under this URL; they must agree.
async fn seen(url: &str) -> Vec<(&'static str, String)> {
    let parsed = DatabaseUrl::parse(&url.into()).unwrap();
    let (by_sqlx, by_tokio) =
        database::seen_by_both(&parsed, ANSWER_TIMEOUT).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    assert_eq!(database::differences(&by_sqlx, &by_tokio), [], "{url}");
    by_sqlx.facts
}

fn fact<'a>(facts: &'a [(&'static str, String)], name: &str) -> &'a str {
    facts.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_an_address_reaches_the_server_through_both_drivers() {
    let world = World::bare(&[]).await;
    let (login, database, target) = (login(&world), &world.vhost, server(&world.database_url));
    let six = Proxy::between("::1", &target).await.port();
    let dead = Proxy::to(&target).await;
    dead.cut();
    let dead = dead.port();
    let directory = socket_directory(six, target.clone());
    let directory = directory.to_str().unwrap();
    let encoded = directory.replace('/', "%2F");
    for url in [
        format!("postgres://{login}@[::1]:{six}/{database}"),
        format!("postgresql://{login}@/{database}?host=::1&port={six}&sslmode=disable"),
        format!("postgres://{login}@127.0.0.1:{dead},[::1]:{six}/{database}"),
        format!("postgres://{login}@/{database}?host=127.0.0.1,::1&port={dead},{six}"),
        format!("postgres://{login}@{encoded}:{six}/{database}"),
        format!("postgres://{login}@/{database}?host={directory}&port={six}"),
        format!("postgres://{login}@{target}/{database}?target_session_attrs=read-write&connect_timeout=3"),
    ] {
        let facts = seen(&url).await;
        assert_eq!(fact(&facts, "database"), database, "{url}");
    }
    std::fs::remove_dir_all(directory).unwrap();
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_close_over_ipv6_to_both_servers() {
    let world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 1).await;
    let (mut database, mut amqp): (Url, Url) = (world.database_url.parse().unwrap(), world.amqp_url.parse().unwrap());
    let (to_database, to_broker) = (
        Proxy::between("::1", &server(&world.database_url)).await,
        Proxy::between("::1", &server(&world.amqp_url)).await,
    );
    for (url, proxy) in [(&mut database, &to_database), (&mut amqp, &to_broker)] {
        url.set_host(Some("[::1]")).unwrap();
        url.set_port(Some(proxy.port())).unwrap();
    }
    let mut command = world.command(&["run"]);
    command.env("OVERDUE_DATABASE_URL", database.as_str()).env("OVERDUE_AMQP_URL", amqp.as_str());
    let program = world.start_command(command);
    let order = world.order("tea", Duration::from_secs(2)).await;
    world.becomes(&order.id, "closed").await;
    // There is no other way: without these two it stands still.
    let mut command = world.command(&["topology", "verify"]);
    to_broker.cut();
    let output = command.env("OVERDUE_AMQP_URL", amqp.as_str()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    program.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_to_both_servers() {
    let world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 1).await;
    let [certificate, key, authority] =
        ["CLIENT_CERT", "CLIENT_KEY", "CA"].map(|name| env(&format!("OVERDUE_TEST_TLS_{name}_FILE")));
    let mut database: Url = env("OVERDUE_TEST_TLS_DATABASE_URL").parse().unwrap();
    database.set_path(&world.vhost);
    database.query_pairs_mut().append_pair("sslcert", &certificate).append_pair("sslkey", &key);
    let mut amqp: Url = env("OVERDUE_TEST_TLS_AMQP_URL").parse().unwrap();
    amqp.set_path(&world.vhost);
    amqp.query_pairs_mut()
        .append_pair("cacertfile", &authority)
        .append_pair("certfile", &certificate)
        .append_pair("keyfile", &key);
    let mut command = world.command(&["run"]);
    command.env("OVERDUE_DATABASE_URL", database.as_str()).env("OVERDUE_AMQP_URL", amqp.as_str());
    let program = world.start_command(command);
    program.says("consuming").await;
    let order = world.order("tea", Duration::from_secs(2)).await;
    world.becomes(&order.id, "closed").await;
    let sessions = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid)
                    where datname = current_database() and application_name = 'overdue'";
    let named = format!("{sessions} and client_dn = '/CN=overdue-client'");
    assert!(world.number(&named).await >= 3, "relay, listener and worker");
    assert_eq!(world.number(&format!("{sessions} and client_dn is distinct from '/CN=overdue-client'")).await, 0);
    // The broker tells of its connections some seconds after they were made.
    eventually("the broker has seen the certificate", async || {
        let connections = management(Method::GET, &["connections"], None).await;
        let ours: Vec<&Value> =
            connections.as_array().into_iter().flatten().filter(|it| it["vhost"] == world.vhost.as_str()).collect();
        !ours.is_empty() && ours.iter().all(|it| it["peer_cert_subject"] == "CN=overdue-client")
    })
    .await;
    program.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_found_where_the_search_path_says() {
    let world = World::with_timeouts(&["2s"]).await;
    world.execute("alter schema public rename to shop; create schema public").await;
    for parameters in ["search_path=shop", "options=-c%20search_path%3Dshop,public"] {
        let mut url: Url = world.database_url.parse().unwrap();
        url.set_query(Some(parameters));
        let program = world.start_command({
            let mut command = world.command(&["run", "--sweep-grace", "60s"]);
            command.env("OVERDUE_DATABASE_URL", url.as_str());
            command
        });
        program.says("consuming").await;
        let settings = PoolSettings { connections_max: 2, statement_timeout: ANSWER_TIMEOUT, purpose: Purpose::Shop };
        let pool = SqlxPool::new(&DatabaseUrl::parse(&url.as_str().into()).unwrap(), &settings).unwrap();
        let mut connection = pool.get().await.unwrap();
        shop::add_stock(&mut connection, "tea", 1).await.unwrap();
        let order =
            shop::create(&mut connection, &world.new_order(&[("tea", 1)], Duration::from_secs(2))).await.unwrap();
        eventually("the order is closed", async || {
            let closed = format!("select count(*) from shop.orders where id = '{}' and status = 'closed'", order.id);
            world.number(&closed).await == 1
        })
        .await;
        program.kill().await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_honoured_is_refused_by_its_name() {
    let world = World::bare(&[]).await;
    let refusal = async |prepare: &dyn Fn(&mut Command)| {
        let mut command = world.command(&["audit"]);
        prepare(&mut command);
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        text
    };
    for (parameter, name) in [
        ("hostaddr=127.0.0.1", "hostaddr"),
        ("channel_binding=require", "channel_binding"),
        ("gssencmode=require", "gssencmode"),
        ("load_balance_hosts=random", "load_balance_hosts"),
        ("statement-cache-capacity=5", "statement-cache-capacity"),
        ("sslmode=on", "sslmode"),
        ("keepalives_idle=9", "keepalives_idle"),
    ] {
        let mut url: Url = world.database_url.parse().unwrap();
        url.set_query(Some(parameter));
        let text = refusal(&|command| {
            command.env("OVERDUE_DATABASE_URL", url.as_str());
        })
        .await;
        assert!(text.contains(name) && !text.contains(url.password().unwrap()), "{parameter}: {text}");
    }
    for name in ["PGHOSTADDR", "PGSERVICE", "PGSSLCRL", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGTZ"] {
        let text = refusal(&|command| {
            command.env(name, "x");
        })
        .await;
        assert!(text.contains(name), "{name}: {text}");
    }
    world.close().await;
}

/// libpq's variables stand in for what the URL leaves open, for every part of the program.
#[tokio::test(flavor = "multi_thread")]
async fn variables_of_libpq_are_honoured() {
    let world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 1).await;
    let url: Url = world.database_url.parse().unwrap();
    let mut command = world.command(&["run"]);
    command
        .env("OVERDUE_DATABASE_URL", "postgres://")
        .env("PGHOST", url.host_str().unwrap())
        .env("PGPORT", url.port().unwrap().to_string())
        .env("PGUSER", url.username())
        .env("PGPASSWORD", url.password().unwrap())
        .env("PGDATABASE", &world.vhost)
        .env("PGAPPNAME", "till");
    let program = world.start_command(command);
    let order = world.order("tea", Duration::from_secs(2)).await;
    world.becomes(&order.id, "closed").await;
    let named = "select count(*) from pg_stat_activity where datname = current_database() and application_name = ";
    assert!(world.number(&format!("{named} 'till'")).await >= 3, "relay, listener and worker");
    assert_eq!(world.number(&format!("{named} 'overdue'")).await, 0);
    program.kill().await;
    world.close().await;
}

/// A server that takes writes no more, though it keeps its connections: such as one whose disk is full at a provider.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_server_takes_no_writes_any_more_is_dialled_anew() {
    let world = World::bare(&[]).await;
    let settings = PoolSettings { connections_max: 1, statement_timeout: ANSWER_TIMEOUT, purpose: Purpose::Settle };
    let pool = SqlxPool::new(&world.url(), &settings).unwrap();
    let client = Client::new(&world.url(), &settings).unwrap();
    let process = "select pg_backend_pid()";
    let sqlx_process = async || -> Result<i32, DatabaseError> {
        let mut connection = pool.get().await?;
        let process = sqlx::query_scalar(process).fetch_one(&mut *connection).await;
        process.map_err(|error| DatabaseError::BadUrl(error.to_string()))
    };
    let tokio_process = async || client.within(|_| true, async |client| client.query_one(process, &[]).await).await;
    let first: (i32, i32) = (sqlx_process().await.unwrap(), tokio_process().await.unwrap().get(0));
    assert_eq!(first.0, sqlx_process().await.unwrap(), "a connection is kept while it is good");
    // Both sessions live on, and take no writes from now on.
    {
        let mut connection = pool.get().await.unwrap();
        sqlx::query("set default_transaction_read_only = on").execute(&mut *connection).await.unwrap();
        client
            .within(|_| true, async |client| client.batch_execute("set default_transaction_read_only = on").await)
            .await
            .unwrap();
    }
    // Nobody looks each time, but not much later.
    eventually("sqlx dials anew", async || sqlx_process().await.unwrap() != first.0).await;
    eventually("tokio-postgres dials anew", async || tokio_process().await.unwrap().get::<_, i32>(0) != first.1).await;
    world.execute(&format!("alter database {} set default_transaction_read_only = on", world.vhost)).await;
    world.disconnect_everybody().await;
    let tells = |error: String| error.contains("takes no writes");
    eventually("sqlx tells why", async || sqlx_process().await.is_err_and(|error| tells(error.to_string()))).await;
    let told = async || tokio_process().await.is_err_and(|error| tells(error.to_string()));
    eventually("tokio-postgres tells why", told).await;
    world.execute(&format!("alter database {} reset default_transaction_read_only", world.vhost)).await;
    sqlx_process().await.unwrap();
    tokio_process().await.unwrap();
    world.close().await;
}

/// A transaction that is dropped must not keep its rows locked until its connection is used again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_and_given_up_is_rolled_back_at_once() {
    let world = World::bare(&[]).await;
    world.stock("tea", 1).await;
    // Long enough for the server not to end it by itself.
    let statement_timeout = Duration::from_mins(30);
    let settings = PoolSettings { connections_max: 1, statement_timeout, purpose: Purpose::Shop };
    let pool = SqlxPool::new(&world.url(), &settings).unwrap();
    let mut connection = pool.get().await.unwrap();
    let new = world.new_order(&[("tea", 2)], Duration::from_secs(60));
    shop::create(&mut connection, &new).await.expect_err("there is too little stock");
    drop(connection);
    let lock = "select count(*) from (select from inventory for update nowait) row";
    eventually("the row is free", async || sqlx::query(lock).execute(&world.pool).await.is_ok()).await;
    world.close().await;
}

/// A primary and its standby. The standby is promoted, then it takes no writes and the old primary is there again.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_hosts_the_one_that_takes_writes_is_used_wherever_it_moves() {
    let world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 100).await;
    let port = script("standby-up").await;
    let primary = Proxy::to(&server(&world.database_url)).await;
    let (login, database) = (login(&world), &world.vhost);
    let standby = format!("postgres://{login}@127.0.0.1:{port}/{database}?sslmode=disable");
    let output = world.overdue(&["run", "--database-url", &standby]).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("takes no writes"), "{text}");

    for (wanted, recovers) in [("standby", true), ("primary", false), ("read-only", true), ("read-write", false)] {
        let url = format!(
            "postgres://{login}@127.0.0.1:{},127.0.0.1:{port},127.0.0.1:{}/{database}?sslmode=disable&target_session_attrs={wanted}",
            primary.port(),
            primary.port()
        );
        let settings =
            PoolSettings { connections_max: 1, statement_timeout: ANSWER_TIMEOUT, purpose: Purpose::Replica };
        let pool = SqlxPool::new(&DatabaseUrl::parse(&url.as_str().into()).unwrap(), &settings).unwrap();
        let mut connection = pool.get().await.unwrap();
        let in_recovery: bool =
            sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(in_recovery, recovers, "a replica that is {wanted}");
    }
    let both = format!("postgres://{login}@127.0.0.1:{port},127.0.0.1:{}/{database}?sslmode=disable", primary.port());
    let mut command = world.command(&["run", "--sweep-grace", "60s", "--listen", "127.0.0.1:0"]);
    command.env("OVERDUE_DATABASE_URL", &both);
    let program = world.start_command(command);
    program.says("consuming").await;
    let base = program.http_base().await;
    // As many requests as the pool has connections, so that all of them are made to the primary.
    let warm = (0..16).map(|_| ask(&base, "warm")).collect::<Vec<_>>();
    assert!(join_all(warm).await.iter().all(|status| *status == 404));
    let first = world.order("tea", Duration::from_secs(2)).await;
    world.becomes(&first.id, "closed").await;

    let mut promoted = PgConnection::connect(&standby).await.unwrap();
    let behind = world.number("select (pg_current_wal_lsn() - '0/0')::bigint").await;
    eventually("the standby has caught up", async || {
        number(&standby, "select (pg_last_wal_replay_lsn() - '0/0')::bigint").await >= behind
    })
    .await;
    primary.cut();
    execute(&mut promoted, "select pg_promote()").await;
    closes_at(&standby, "promoted", &program).await;
    // Requests find it, too, at once and each: no connection to where there is nothing is kept.
    for number in 0..16 {
        eventually("the new primary takes orders", async || create(&base, &format!("p-{number}")).await == 201).await;
    }
    assert!(join_all((0..16).map(|_| ask(&base, "p-0"))).await.iter().all(|status| *status == 200));

    execute(&mut promoted, "alter system set default_transaction_read_only = on").await;
    primary.pass();
    execute(&mut promoted, "select pg_reload_conf()").await;
    let back = world.order("tea", Duration::from_secs(2)).await;
    world.becomes(&back.id, "closed").await;
    for number in 0..16 {
        eventually("the old primary takes orders", async || create(&base, &format!("b-{number}")).await == 201).await;
    }
    assert_eq!(world.number("select count(*) from orders where id like 'b-%'").await, 16);
    program.kill().await;
    drop(promoted);
    script("standby-down").await;
    world.close().await;
}

/// Looks at an order.
async fn ask(base: &str, id: &str) -> u16 {
    reqwest::get(format!("{base}/orders/{id}")).await.unwrap().status().as_u16()
}

/// Creates an order by HTTP.
async fn create(base: &str, id: &str) -> u16 {
    let order = serde_json::json!({ "id": id, "items": [{ "sku": "tea", "quantity": 1 }], "amount_minor": 1, "currency": "CNY" });
    reqwest::Client::new().post(format!("{base}/orders")).json(&order).send().await.unwrap().status().as_u16()
}

/// An order that is created at this server is closed there.
async fn closes_at(url: &str, id: &str, program: &Process) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let new = shop::NewOrder {
        id: order::OrderId::new(id).unwrap(),
        amount_minor: 1,
        currency: "CNY".to_owned(),
        items: vec![shop::Item { sku: "tea".to_owned(), quantity: 1 }],
        gateway: None,
        payment_timeout: Duration::from_secs(2),
    };
    shop::create(&mut connection, &new).await.unwrap();
    let closed = format!("select count(*) from orders where id = '{id}' and status = 'closed'");
    eventually(&format!("{id} is closed: {}", program.log_text()), async || number(url, &closed).await == 1).await;
}

async fn number(url: &str, query: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut connection).await.unwrap()
}

async fn execute(connection: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.unwrap();
}

/// What `scripts/local` prints for this command.
async fn script(command: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/local");
    let output = Command::new(path).arg(command).output().await.unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
