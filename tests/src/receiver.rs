use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A service that webhooks are delivered to. It knows nothing of this project.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// What it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// By their names in small letters.
    pub headers: Vec<(String, String)>,
    /// The bytes.
    pub body: Vec<u8>,
}

/// How it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// With a status, some headers, and after a while.
    Status(u16, Vec<(&'static str, String)>, Duration),
    /// It hangs up without a word.
    HangsUp,
    /// With 200 and a body that has no end.
    Floods,
}

type Script = Box<dyn Fn(&Received) -> Reply + Send>;

struct State {
    received: Vec<Received>,
    connections: usize,
    under_way: usize,
    under_way_max: usize,
    script: Script,
}

impl Receiver {
    /// Listens, and answers everything with 204.
    ///
    /// # Panics
    /// If there is no port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let script: Script = Box::new(|_| Reply::status(204));
        let state = State { received: Vec::new(), connections: 0, under_way: 0, under_way_max: 0, script };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                lock(&shared).connections += 1;
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hooks?key=of-the-shop", self.address)
    }

    /// From now on it answers like this.
    pub fn answers(&self, script: impl Fn(&Received) -> Reply + Send + 'static) {
        lock(&self.state).script = Box::new(script);
    }

    /// All that it was sent so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.state).received.clone()
    }

    /// How many connections were made, and the most requests that were under way at a time.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.connections, state.under_way_max)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reply {
    /// With this status, at once.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new(), Duration::ZERO)
    }
}

impl Received {
    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The event.
    ///
    /// # Panics
    /// If it is no JSON.
    #[must_use]
    pub fn event(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("an event")
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut bytes = Vec::new();
    while let Some(received) = request(&mut stream, &mut bytes).await {
        let reply = {
            let mut state = lock(&state);
            state.under_way += 1;
            state.under_way_max = state.under_way_max.max(state.under_way);
            let reply = (state.script)(&received);
            state.received.push(received);
            reply
        };
        let goes_on = answer(&mut stream, reply).await;
        lock(&state).under_way -= 1;
        if !goes_on {
            return;
        }
    }
}

/// Whether the connection may serve again.
async fn answer(stream: &mut TcpStream, reply: Reply) -> bool {
    match reply {
        Reply::HangsUp => false,
        Reply::Status(status, headers, delay) => {
            tokio::time::sleep(delay).await;
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{headers}\r\n");
            stream.write_all(text.as_bytes()).await.is_ok()
        }
        Reply::Floods => {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
            if stream.write_all(head.as_bytes()).await.is_err() {
                return false;
            }
            while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
            false
        }
    }
}

/// The next request of a connection; `bytes` is what was read beyond the one before.
async fn request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Received> {
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let headers: Vec<(String, String)> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = bytes[end..end + length].to_vec();
    bytes.drain(..end + length);
    Some(Received { headers, body })
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
