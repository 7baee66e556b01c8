//! The other ways, as they are usually written: each a process that closes an order in a transaction of its own.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use futures_util::future::try_join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::time::DelayQueue;

use crate::alternatives::plain;
use crate::amqp::channel;
use crate::limits::{CONNECTIONS, close_one};

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A query for what is overdue, every second
    Scan,
    /// A queue with message TTL, a dead-letter exchange and a consumer
    TtlQueue,
    /// A sorted set, popped by a script every 100 ms
    Redis,
    /// A delay queue in the memory of the process
    Memory,
    /// The same, filled from the table when it starts
    MemoryRefilled,
}

/// Is one of the other ways, until it is killed.
#[derive(Debug, Args)]
pub(crate) struct Scheduler {
    kind: Kind,
    #[arg(long)]
    database_url: String,
    #[arg(long)]
    amqp_url: String,
    #[arg(long)]
    redis_url: String,
}

/// When it is looked again where there was nothing.
const SCAN_EVERY: Duration = Duration::from_secs(1);
const POP_EVERY: Duration = Duration::from_millis(100);

/// How many are taken at a time.
const SCAN_MAX: i64 = 1_000;
pub(crate) const POP_MAX: usize = 100;

/// The name of the sorted set: order IDs by their deadline in milliseconds.
pub(crate) const SORTED_SET: &str = "due";

/// What is due leaves the set, by the clock of the server that keeps it.
const POP: &str = "
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
    if #due > 0 then redis.call('ZREM', KEYS[1], unpack(due)) end
    return due";

impl Scheduler {
    pub(crate) async fn run(&self) -> Result<()> {
        match self.kind {
            Kind::Scan => self.scan().await,
            Kind::TtlQueue => self.consume().await,
            Kind::Redis => self.pop().await,
            Kind::Memory => self.remember(false).await,
            Kind::MemoryRefilled => self.remember(true).await,
        }
    }

    async fn connections(&self) -> Result<Vec<PgConnection>> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(PgConnection::connect(&self.database_url).await?);
        }
        Ok(connections)
    }

    async fn scan(&self) -> Result<()> {
        let mut connections = self.connections().await?;
        ready("scanning");
        loop {
            let overdue = "select id from orders where status = 'pending' and payment_deadline <= now()
                           order by payment_deadline limit $1";
            let ids: Vec<String> = sqlx::query_scalar(overdue).bind(SCAN_MAX).fetch_all(&mut connections[0]).await?;
            close_all(&mut connections, &ids).await?;
            if ids.len() < SCAN_MAX as usize {
                tokio::time::sleep(SCAN_EVERY).await;
            }
        }
    }

    async fn consume(&self) -> Result<()> {
        plain::declare(&self.amqp_url).await?;
        let mut connections = self.connections().await?;
        let consumers = connections.iter_mut().map(|connection| async {
            let (_connection, channel) = channel(&self.amqp_url).await?;
            channel.basic_qos(100, BasicQosOptions::default()).await?;
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            let mut consumer = channel.basic_consume(plain::DUE.into(), "".into(), options, arguments).await?;
            ready("consuming");
            while let Some(delivery) = consumer.next().await {
                let delivery = delivery?;
                close_one(connection, std::str::from_utf8(&delivery.data)?).await?;
                delivery.ack(BasicAckOptions::default()).await?;
            }
            anyhow::Ok(())
        });
        try_join_all(consumers).await.map(drop)
    }

    async fn pop(&self) -> Result<()> {
        let mut connections = self.connections().await?;
        let mut redis = redis::Client::open(self.redis_url.as_str())?.get_multiplexed_async_connection().await?;
        let script = redis::Script::new(POP);
        ready("popping");
        loop {
            let ids: Vec<String> = script.key(SORTED_SET).arg(POP_MAX).invoke_async(&mut redis).await?;
            close_all(&mut connections, &ids).await?;
            if ids.len() < POP_MAX {
                tokio::time::sleep(POP_EVERY).await;
            }
        }
    }

    /// Who arms an order sends a line with its deadline in Unix milliseconds and its ID, and gets one back.
    async fn remember(&self, refilled: bool) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (arm, mut armed) = mpsc::unbounded_channel::<(i64, String)>();
        let (due, due_orders) = mpsc::unbounded_channel::<String>();
        if refilled {
            let pending =
                "select (extract(epoch from payment_deadline) * 1000)::bigint, id from orders where status = 'pending'";
            let mut connection = PgConnection::connect(&self.database_url).await?;
            for order in sqlx::query_as::<_, (i64, String)>(pending).fetch_all(&mut connection).await? {
                arm.send(order)?;
            }
        }
        tokio::spawn(async move {
            let mut wheel = DelayQueue::new();
            loop {
                tokio::select! {
                    Some((at_ms, id)) = armed.recv() => {
                        let remaining = at_ms - now_ms();
                        wheel.insert(id, Duration::from_millis(u64::try_from(remaining).unwrap_or(0)));
                    }
                    Some(expired) = wheel.next() => drop(due.send(expired.into_inner())),
                }
            }
        });
        let mut due_orders = due_orders;
        let mut connections = self.connections().await?;
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while due_orders.recv_many(&mut batch, POP_MAX).await > 0 {
                if let Err(error) = close_all(&mut connections, &batch).await {
                    complain(&error);
                }
                batch.clear();
            }
        });
        ready(&format!("remembering at {}", listener.local_addr()?.port()));
        loop {
            let (socket, _) = listener.accept().await?;
            let arm = arm.clone();
            tokio::spawn(async move {
                if let Err(error) = take_lines(socket, &arm).await {
                    complain(&error);
                }
            });
        }
    }
}

async fn take_lines(socket: TcpStream, arm: &mpsc::UnboundedSender<(i64, String)>) -> Result<()> {
    socket.set_nodelay(true)?;
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let (at_ms, id) = line.split_once(' ').context("a deadline and an ID")?;
        arm.send((at_ms.parse()?, id.to_owned()))?;
        write.write_all(b"armed\n").await?;
    }
    Ok(())
}

/// Closes orders one by one, on several connections.
async fn close_all(connections: &mut [PgConnection], ids: &[String]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let next = &next;
    let closing = connections.iter_mut().map(|connection| {
        async move {
            while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                close_one(connection, id).await?;
            }
            anyhow::Ok(())
        }
        .boxed()
    });
    try_join_all(closing).await.map(drop)
}

pub(crate) fn now_ms() -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// Tells whoever started it.
fn ready(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
