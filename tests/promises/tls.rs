//! TLS to both servers, with the throw-away authority that `make up` makes.

use std::time::Duration;

use database::{Client, DatabaseUrl, PoolSettings, Purpose, SqlxPool};
use tests::{World, env};
use url::Url;

/// This world's place at the server that `name` tells the TLS address of.
fn tls_url(name: &str, world: &World) -> String {
    let mut url: Url = env(name).parse().unwrap();
    url.set_path(&world.vhost);
    url.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_servers_are_reached_over_verified_tls() {
    let world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 5).await;
    let (database, amqp) =
        (tls_url("OVERDUE_TEST_TLS_DATABASE_URL", &world), tls_url("OVERDUE_TEST_TLS_AMQP_URL", &world));
    assert!(database.contains("sslmode=verify-full") && amqp.starts_with("amqps://"));
    let mut command = world.command(&["run"]);
    command
        .env("OVERDUE_DATABASE_URL", &database)
        .env("OVERDUE_AMQP_URL", &amqp)
        .env("OVERDUE_AMQP_CA_FILE", env("OVERDUE_TEST_TLS_CA_FILE"));
    let mut program = world.start_command(command);
    program.says("consuming").await;
    let order = world.order("tea", std::time::Duration::from_secs(2)).await;
    world.becomes(&order.id, "closed").await;
    let encrypted = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) where datname = current_database() and application_name = 'overdue' and ssl";
    let plain = encrypted.replace("and ssl", "and not ssl");
    assert!(world.number(encrypted).await >= 3, "relay, listener and worker");
    assert_eq!(world.number(&plain).await, 0);
    program.terminate().await;
    assert_eq!(program.ended().await.code(), Some(0));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_prove_who_it_is_is_refused() {
    let world = World::new().await;
    let (database, amqp) =
        (tls_url("OVERDUE_TEST_TLS_DATABASE_URL", &world), tls_url("OVERDUE_TEST_TLS_AMQP_URL", &world));
    let run = async |database: &str, amqp: &str| {
        let output = world.overdue(&["run", "--database-url", database, "--amqp-url", amqp]).await;
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // An authority that this machine does not know.
    let (code, text) = run(&world.database_url, &amqp).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("certificate"), "{text}");
    let without_root = database.replace(&database[database.find("&sslrootcert").unwrap()..], "");
    let (code, text) = run(&without_root, &world.amqp_url).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("certificate"), "{text}");
    // The right authority, but a certificate for another name.
    let (code, text) = run(&database.replace("@localhost", "@127.0.0.1"), &world.amqp_url).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("certificate"), "{text}");
    world.close().await;
}

/// The worker speaks TLS to the database by itself, so that is tried by itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_worker_verifies_as_much_as_sslmode_says() {
    let world = World::new().await;
    let right = env("OVERDUE_TEST_TLS_CA_FILE");
    let wrong = std::env::temp_dir().join(format!("overdue-test-{}.pem", uuid::Uuid::now_v7().simple()));
    let openssl = tokio::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=somebody else",
            "-keyout",
            "/dev/null",
            "-out",
        ])
        .arg(&wrong)
        .output()
        .await
        .unwrap();
    assert!(openssl.status.success());
    let wrong_file = wrong.to_str().unwrap();
    let base = tls_url("OVERDUE_TEST_TLS_DATABASE_URL", &world);
    let (base, _) = base.split_once('?').unwrap();
    let by_address = base.replace("@localhost", "@127.0.0.1");
    let cases = [
        (base, "verify-full", Some(right.as_str()), true),
        (&by_address, "verify-full", Some(&right), false),
        (&by_address, "verify-ca", Some(&right), true),
        (base, "verify-full", Some(wrong_file), false),
        (base, "verify-ca", Some(wrong_file), false),
        (base, "require", Some(wrong_file), false),
        (base, "verify-full", None, false),
        (base, "require", None, true),
        (base, "prefer", None, true),
        (base, "disable", None, true),
    ];
    for (base, mode, root, expected) in cases {
        let root = root.map(|root| format!("&sslrootcert={root}")).unwrap_or_default();
        let url = format!("{base}?sslmode={mode}{root}");
        let url = DatabaseUrl::parse(&url.as_str().into()).unwrap();
        let statement_timeout = Duration::from_secs(5);
        let settings = PoolSettings { connections_max: 1, statement_timeout, purpose: Purpose::Shop };
        let by_tokio = Client::new(&url, &settings).unwrap().probe().await;
        let by_sqlx = SqlxPool::new(&url, &settings).unwrap().get().await.map(drop);
        for (driver, outcome) in [("tokio-postgres", by_tokio), ("sqlx", by_sqlx)] {
            assert_eq!(outcome.is_ok(), expected, "{driver}, {mode}{root}: {outcome:?}");
            let error = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(expected || error.contains("certificate"), "{driver}, {mode}{root}: {error}");
        }
    }
    std::fs::remove_file(wrong).unwrap();
    world.close().await;
}
