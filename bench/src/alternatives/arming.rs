//! How a shop tells a scheduler of an order that it has created.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use redis::aio::MultiplexedConnection;
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::alternatives::plain;
use crate::alternatives::redis_server::RedisServer;
use crate::alternatives::scheduler::{Kind, SORTED_SET, now_ms};
use crate::amqp::channel;
use crate::stage::Stage;

/// An order and its deadline in Unix milliseconds.
pub(crate) type Armed = (String, i64);

/// A client of the shop's.
pub(crate) enum Client {
    /// Overdue: rows of the outbox, committed.
    Outbox(PgConnection),
    /// The order itself is all that there is.
    Nothing,
    /// Messages, confirmed.
    Queue {
        channel: Channel,
        _connection: Box<Connection>,
    },
    SortedSet(MultiplexedConnection),
    Socket(BufReader<TcpStream>),
}

impl Client {
    /// Of a scheduler that runs; `None` is Overdue. `port` is where it listens, if it does.
    pub(crate) async fn connect(
        kind: Option<Kind>,
        stage: &Stage,
        redis: &RedisServer,
        port: Option<u16>,
    ) -> Result<Self> {
        let world = &stage.world;
        Ok(match kind {
            None => Self::Outbox(PgConnection::connect(&world.database_url).await?),
            Some(Kind::Scan) => Self::Nothing,
            Some(Kind::TtlQueue) => {
                plain::declare(&world.amqp_url).await?;
                let (connection, channel) = channel(&world.amqp_url).await?;
                Self::Queue { channel, _connection: Box::new(connection) }
            }
            Some(Kind::Redis) => Self::SortedSet(redis.connection().await?),
            Some(Kind::Memory | Kind::MemoryRefilled) => {
                let port = port.context("it does not run")?;
                let socket = TcpStream::connect(("127.0.0.1", port)).await?;
                socket.set_nodelay(true)?;
                Self::Socket(BufReader::new(socket))
            }
        })
    }

    /// Returns when the scheduler has all of them.
    pub(crate) async fn arm(&mut self, orders: &[Armed]) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Outbox(connection) => {
                let (ids, due): (Vec<&str>, Vec<f64>) =
                    orders.iter().map(|(id, at_ms)| (id.as_str(), *at_ms as f64 / 1e3)).unzip();
                let insert = "insert into outbox (order_id, due_at)
                              select id, to_timestamp(due) from unnest($1::text[], $2::float8[]) as armed (id, due)";
                sqlx::query(insert).bind(ids).bind(due).execute(connection).await?;
            }
            Self::Queue { channel, .. } => {
                let mut confirms = Vec::with_capacity(orders.len());
                for (id, at_ms) in orders {
                    let wait = Duration::from_millis(u64::try_from(at_ms - now_ms()).unwrap_or(0));
                    let properties = BasicProperties::default()
                        .with_delivery_mode(2)
                        .with_expiration(wait.as_millis().to_string().into());
                    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                    let queue = plain::WAIT.into();
                    confirms.push(channel.basic_publish("".into(), queue, options, id.as_bytes(), properties).await?);
                }
                for confirm in confirms {
                    ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "a message was not taken");
                }
            }
            Self::SortedSet(redis) => {
                let mut add = redis::cmd("ZADD");
                add.arg(SORTED_SET);
                for (id, at_ms) in orders {
                    add.arg(at_ms).arg(id);
                }
                add.query_async::<i64>(redis).await?;
            }
            Self::Socket(socket) => {
                let lines: String = orders.iter().map(|(id, at_ms)| format!("{at_ms} {id}\n")).collect();
                socket.write_all(lines.as_bytes()).await?;
                let mut answer = String::new();
                for _ in orders {
                    answer.clear();
                    ensure!(socket.read_line(&mut answer).await? > 0, "it has hung up");
                }
            }
        }
        Ok(())
    }
}
