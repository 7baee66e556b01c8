//! What a look at an order costs, and what a cache would save and get wrong.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::{join, try_join_all};
use moka::sync::Cache;
use reqwest::StatusCode;
use reqwest::header::{ETAG, IF_NONE_MATCH};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use crate::alternatives::redis_server::RedisServer;
use crate::calibration::Calibration;
use crate::flows::paced;
use crate::results::{Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// So many looks a second each, of so many clients.
const CLIENTS: u32 = 4;
const PER_SECOND: u32 = 500;

/// Four looks of five are at so many orders, the fifth at any.
const HOT: u32 = 1_000;

/// Of the hot orders, so many are paid a second meanwhile.
const PAID_PER_SECOND: u32 = 20;

/// How long a cache keeps an order.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// In [`Run::more`]: of whoever answers, and of the database.
pub(crate) const CPU: &str = "CPU µs a look";
const STALE: &str = "stale of 1,000 looks";
const HITS: &str = "hits %";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Sql,
    Get,
    GetTagged,
    Redis,
    InProcess,
    /// No order at all: what HTTP alone costs.
    Http,
}

const WAYS: [(Way, &str, &str); 6] = [
    (Way::Sql, "sql", "SQL by key"),
    (Way::Get, "get", "GET /orders/{id}, end to end"),
    (Way::GetTagged, "get_tagged", "the same with If-None-Match: 304 where nothing has changed"),
    (Way::Redis, "redis", "a Redis read through, each order kept for 10 s"),
    (Way::InProcess, "in_process", "a cache in the process read through, each order kept for 10 s"),
    (Way::Http, "http", "GET /healthz: what HTTP costs without any order"),
];

/// What the looks are made at.
struct Library<'a> {
    stage: &'a Stage,
    redis: &'a RedisServer,
    base: &'a str,
    cache: Cache<String, String>,
    orders: u32,
    /// When which order's payment was committed.
    paid: Mutex<HashMap<String, Instant>>,
}

/// One client's own.
struct Client {
    connection: PgConnection,
    redis: redis::aio::MultiplexedConnection,
    http: reqwest::Client,
    tags: HashMap<String, (String, String)>,
    chance: fastrand::Rng,
    hits: u32,
    stale: u32,
}

pub(crate) async fn measure(
    servers: &Servers,
    calibration: &Calibration,
    runs: usize,
    orders: u32,
    seconds: u32,
) -> Result<Vec<Measurement>> {
    let redis = RedisServer::start().await?;
    let stage = Stage::set(servers).await;
    let deadline = OffsetDateTime::now_utc() + Duration::from_secs(24 * 3600);
    stage.seed(Orders { armed: false, ..Orders::due_at(deadline, orders) }).await?;
    stage.settle_down().await?;
    let api = stage.start_quietly(&["--only", "api", "--listen", "127.0.0.1:0"], "listening").await?;
    let base = api.processes[0].http_base().await;
    let mut measurements = Vec::new();
    for (way, name, what) in WAYS {
        let run = async || {
            redis.empty().await?;
            // Payments of the run before are taken back.
            stage.world.execute("update orders set status = 'pending', paid_at = null where status = 'paid'").await;
            let cache = Cache::builder().time_to_live(KEPT_FOR).max_capacity(100_000).build();
            let (stage, redis, base) = (&stage, &redis, base.as_str());
            let library = Library { stage, redis, base, cache, orders, paid: Mutex::default() };
            let ids = match way {
                Way::Get | Way::GetTagged | Way::Http => vec![api.processes[0].id()],
                Way::Sql | Way::InProcess => vec![std::process::id()],
                Way::Redis => vec![std::process::id(), redis.id()],
            };
            library.run(way, seconds, &ids).await
        };
        let runs = calibration.repeat(runs, run).await?;
        measurements.push(Measurement { name: format!("reads_{name}"), what: what.to_owned(), beside: "", runs });
    }
    stage.stop(api).await?;
    stage.world.close().await;
    Ok(measurements)
}

impl Library<'_> {
    async fn run(&self, way: Way, seconds: u32, ids: &[u32]) -> Result<Run> {
        let before = self.stage.servers.cpu(ids)?;
        let looking = try_join_all((0..CLIENTS).map(|seed| self.looks(way, seconds, seed.into())));
        let (clients, paid) = join(looking, self.pays(seconds)).await;
        let (clients, ()) = (clients?, paid?);
        let used = self.stage.servers.cpu(ids)?.since(before);
        let looks = f64::from(CLIENTS * PER_SECOND * seconds);
        let sum = |of: fn(&Client) -> u32| f64::from(clients.iter().map(of).sum::<u32>());
        let mut run = Run::default();
        run.more.insert(CPU, (used.overdue + used.database) / looks * 1e6);
        if way != Way::Http {
            run.more.insert(STALE, sum(|client| client.stale) / looks * 1e3);
        }
        if matches!(way, Way::GetTagged | Way::Redis | Way::InProcess) {
            run.more.insert(HITS, sum(|client| client.hits) / looks * 100.0);
        }
        Ok(run)
    }

    async fn looks(&self, way: Way, seconds: u32, seed: u64) -> Result<Client> {
        let mut client = Client {
            connection: PgConnection::connect(&self.stage.world.database_url).await?,
            redis: self.redis.connection().await?,
            http: reqwest::Client::new(),
            tags: HashMap::new(),
            chance: fastrand::Rng::with_seed(seed),
            hits: 0,
            stale: 0,
        };
        let name = Orders::due_at(OffsetDateTime::UNIX_EPOCH, self.orders);
        paced(PER_SECOND, seconds, async |numbers| {
            for _ in numbers {
                let among = if client.chance.u32(0..5) < 4 { HOT } else { self.orders };
                let id = name.id(client.chance.u32(1..=among));
                let begun = Instant::now();
                let status = self.look(way, &mut client, &id).await?;
                let paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
                client.stale += u32::from(status == "pending" && paid.is_some_and(|at| at < begun));
            }
            Ok(())
        })
        .await?;
        Ok(client)
    }

    /// The status of an order.
    async fn look(&self, way: Way, client: &mut Client, id: &str) -> Result<String> {
        match way {
            Way::Sql => sql(client, id).await,
            Way::Get => Ok(self.get(client, id, None).await?.1),
            Way::GetTagged => {
                let known = client.tags.get(id).cloned();
                let tag = known.as_ref().map(|(tag, _)| tag.as_str());
                match (self.get(client, id, tag).await?, known) {
                    ((None, _), Some((_, status))) => {
                        client.hits += 1;
                        Ok(status)
                    }
                    ((tag, status), _) => {
                        client.tags.insert(id.to_owned(), (tag.context("an ETag")?, status.clone()));
                        Ok(status)
                    }
                }
            }
            Way::Redis => {
                let known: Option<String> = redis::cmd("GET").arg(id).query_async(&mut client.redis).await?;
                if let Some(status) = known {
                    client.hits += 1;
                    return Ok(status);
                }
                let status = sql(client, id).await?;
                let (mut set, kept) = (redis::cmd("SET"), KEPT_FOR.as_secs());
                set.arg(id).arg(&status).arg("EX").arg(kept).query_async::<()>(&mut client.redis).await?;
                Ok(status)
            }
            Way::InProcess => {
                if let Some(status) = self.cache.get(id) {
                    client.hits += 1;
                    return Ok(status);
                }
                let status = sql(client, id).await?;
                self.cache.insert(id.to_owned(), status.clone());
                Ok(status)
            }
            Way::Http => {
                client.http.get(format!("{}/healthz", self.base)).send().await?.bytes().await?;
                Ok(String::new())
            }
        }
    }

    /// Its ETag and status; neither, where the one that is known holds still.
    async fn get(&self, client: &Client, id: &str, known: Option<&str>) -> Result<(Option<String>, String)> {
        let mut request = client.http.get(format!("{}/orders/{id}", self.base));
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let answer = request.send().await?.error_for_status()?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            return Ok((None, String::new()));
        }
        let tag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let order: Value = answer.json().await?;
        Ok((tag, order["status"].as_str().context("a status")?.to_owned()))
    }

    /// Pays hot orders, and notes down when.
    async fn pays(&self, seconds: u32) -> Result<()> {
        let mut connection = PgConnection::connect(&self.stage.world.database_url).await?;
        let name = Orders::due_at(OffsetDateTime::UNIX_EPOCH, self.orders);
        paced(PAID_PER_SECOND, seconds, async |numbers| {
            for number in numbers {
                let pay = "update orders set status = 'paid', paid_at = clock_timestamp() where id = $1";
                sqlx::query(pay).bind(name.id(number)).execute(&mut connection).await?;
                let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
                paid.insert(name.id(number), Instant::now());
            }
            Ok(())
        })
        .await
    }
}

async fn sql(client: &mut Client, id: &str) -> Result<String> {
    let look = "select status, amount_minor, currency, payment_deadline, paid_at, closed_at from orders where id = $1";
    let row = sqlx::query(look).bind(id).fetch_one(&mut client.connection).await?;
    Ok(sqlx::Row::try_get(&row, "status")?)
}
