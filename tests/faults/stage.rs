//! Where the faults happen: roles as processes of their own, a network between them and the servers, and the servers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tests::{Process, Proxy, World};
use tokio::process::Command;
use url::Url;

use crate::shop::{Books, Shop};
use crate::webhooks::Listener;

pub(crate) struct Stage {
    pub(crate) world: Arc<World>,
    pub(crate) shop: Shop,
    /// Relays, workers, sweeps and webhooks, in this order: two of each.
    cast: Vec<(&'static str, Option<Process>)>,
    /// Between the roles and the broker.
    pub(crate) to_broker: Proxy,
    /// Between the roles and the database.
    pub(crate) to_database: Proxy,
    environment: Vec<(String, String)>,
    listener: Listener,
}

pub(crate) const ROLES: [&str; 8] = ["relay", "relay", "worker", "worker", "sweep", "sweep", "webhooks", "webhooks"];

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::set_with(&[]).await
    }

    /// With these settings for the roles besides.
    pub(crate) async fn set_with(environment: &[(&str, &str)]) -> Self {
        Self::set_at("", environment).await
    }

    /// With the roles at this broker, if it is said (the virtual host is that of the world).
    pub(crate) async fn set_at(amqp_url: &str, environment: &[(&str, &str)]) -> Self {
        let world = Arc::new(World::with_timeouts(&["2s", "3s"]).await);
        let mut target: Url = world.amqp_url.parse().expect("a URL");
        if let Ok(url) = amqp_url.parse::<Url>() {
            target.set_port(url.port()).expect("a port");
        }
        let (to_broker, amqp_url) = between(target.as_str()).await;
        let (to_database, database_url) = between(&world.database_url).await;
        let listener = Listener::open(&world).await;
        let mut all = vec![
            ("OVERDUE_AMQP_URL".to_owned(), amqp_url),
            ("OVERDUE_DATABASE_URL".to_owned(), database_url),
            ("OVERDUE_WEBHOOKS".to_owned(), listener.file().to_owned()),
        ];
        all.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let shop = Shop::open(&world).await;
        let cast = ROLES.map(|role| (role, None)).into();
        let mut stage = Self { world, shop, cast, to_broker, to_database, environment: all, listener };
        for index in 0..ROLES.len() {
            stage.start(index).await;
        }
        stage.shop.goes_on(20).await;
        stage
    }

    /// Starts one of the cast.
    pub(crate) async fn start(&mut self, index: usize) {
        let (role, process) = &mut self.cast[index];
        let arguments = [
            "run",
            "--only",
            role,
            "--sweep-every",
            "1s",
            "--sweep-grace",
            "4s",
            "--claim-lease",
            "4s",
            "--confirm-timeout",
            "3s",
        ];
        let mut command = self.world.command(&arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let started = self.world.start_command(command);
        started.says("running").await;
        *process = Some(started);
    }

    /// Ends one of the cast by SIGKILL, if it runs.
    pub(crate) async fn kill(&mut self, index: usize) {
        if let Some(process) = self.cast[index].1.take() {
            process.kill().await;
        }
    }

    /// Which of the sweeps sweeps.
    pub(crate) fn leader(&self) -> Option<usize> {
        (0..self.cast.len()).find(|index| {
            let (role, process) = &self.cast[*index];
            *role == "sweep"
                && process.as_ref().is_some_and(|process| process.log_text().contains("sweeping: no other"))
        })
    }

    /// Ends what is left by SIGKILL, closes the shop and looks at the books. Roles that have died by themselves count as
    /// wrong.
    pub(crate) async fn end(mut self) -> Books {
        for index in 0..self.cast.len() {
            if self.cast[index].1.is_none() {
                self.start(index).await;
            }
        }
        let mut books = self.shop.close(&self.world).await;
        books.deliver(self.listener.taken(books.facts()).await);
        for (role, process) in self.cast {
            let Some(mut process) = process else { continue };
            if process.has_ended() {
                books.wrong.push(format!("a {role} ended by itself: {}", process.log_text()));
            }
            if process.log_text().contains("panicked") {
                books.wrong.push(format!("a {role} panicked: {}", process.log_text()));
            }
            process.kill().await;
        }
        if let Ok(world) = Arc::try_unwrap(self.world) {
            world.close().await;
        }
        books
    }
}

async fn between(url: &str) -> (Proxy, String) {
    let mut url: Url = url.parse().expect("a URL");
    let target = format!("127.0.0.1:{}", url.port().expect("a port"));
    let proxy = Proxy::to(&target).await;
    url.set_port(Some(proxy.port())).expect("a port");
    (proxy, url.to_string())
}

/// Runs a script of this repository; what it printed.
pub(crate) async fn script(name: &str, arguments: &[&str]) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
    let output = Command::new(&path).args(arguments).output().await.expect("the script runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits, since a fault is to last for a while.
pub(crate) async fn lasts(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}
