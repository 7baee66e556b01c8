use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

/// A Redis of its own, with the settings that it has by default. It ends with this value.
pub(crate) struct RedisServer {
    child: Child,
    directory: PathBuf,
    pub(crate) url: String,
}

impl RedisServer {
    pub(crate) async fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let directory = std::env::temp_dir().join(format!("overdue-bench-redis-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(&directory)
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server is missing: install Debian's package of this name")?;
        let server = Self { child, directory, url: format!("redis://127.0.0.1:{port}/") };
        for _ in 0..100 {
            if server.connection().await.is_ok() {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("redis-server does not answer at {}", server.url)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) async fn connection(&self) -> Result<redis::aio::MultiplexedConnection> {
        Ok(redis::Client::open(self.url.as_str())?.get_multiplexed_async_connection().await?)
    }

    pub(crate) async fn empty(&self) -> Result<()> {
        Ok(redis::cmd("FLUSHALL").query_async(&mut self.connection().await?).await?)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
