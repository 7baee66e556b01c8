use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A network between a program and a server that can be held up, frozen or cut.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The server.
    target: Mutex<String>,
    /// How long everything takes to get through, either way.
    delay_ms: AtomicU64,
    /// New connections are refused.
    refusing: Mutex<bool>,
    connections: Mutex<Vec<watch::Sender<Mode>>>,
}

/// What happens to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// What the program sends goes no further; what the server sends arrives.
    HoldRequests,
    /// Nothing arrives any more on either side.
    Frozen,
    /// It breaks.
    Cut,
}

impl Proxy {
    /// A proxy to the server at `target`.
    pub async fn to(target: &str) -> Self {
        Self::between("127.0.0.1", target).await
    }

    /// A proxy at this address of the machine, on a free port, to the server at `target`.
    ///
    /// # Panics
    /// If the machine does not have the address.
    pub async fn between(address: &str, target: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { target: Mutex::new(target.to_owned()), ..Shared::default() });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared }
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// New connections lead to another server.
    pub fn lead_to(&self, target: &str) {
        target.clone_into(&mut self.shared.target.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// New connections flow again.
    pub fn pass(&self) {
        self.shared.refuse(false);
    }

    /// Everything takes so long to get through, either way.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What the program sends from now on, over the connections that it has, does not arrive.
    pub fn hold_requests(&self) {
        self.shared.set_all(Mode::HoldRequests);
    }

    /// The connections that there are carry nothing any more, and do not break either. New ones flow.
    pub fn freeze(&self) {
        self.shared.set_all(Mode::Frozen);
    }

    /// Breaks all connections and refuses new ones.
    pub fn cut(&self) {
        self.shared.refuse(true);
        self.shared.set_all(Mode::Cut);
    }
}

impl Shared {
    fn refuse(&self, refuse: bool) {
        *self.refusing.lock().unwrap_or_else(PoisonError::into_inner) = refuse;
    }

    fn set_all(&self, mode: Mode) {
        for connection in self.connections.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            connection.send_replace(mode);
        }
    }

    /// The sign that a new connection looks at; `None` if it is refused.
    fn admit(&self) -> Option<watch::Receiver<Mode>> {
        // Held while the connection is entered, so that a cut comes either before or after it.
        let refusing = self.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        if *refusing {
            return None;
        }
        let (mode, watcher) = watch::channel(Mode::Pass);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(mode);
        Some(watcher)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let Some(mode) = shared.admit() else { continue };
        let target = shared.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Ok(server) = TcpStream::connect(target).await else { continue };
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::spawn(pump(client_read, server_write, mode.clone(), true, Arc::clone(&shared)));
        tokio::spawn(pump(server_read, client_write, mode, false, Arc::clone(&shared)));
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    requests: bool,
    shared: Arc<Shared>,
) {
    let mut cut = mode.clone();
    let copy = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let delay_ms = shared.delay_ms.load(Ordering::Relaxed);
            if delay_ms > 0 {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            let held = |mode: &Mode| *mode == Mode::Frozen || (requests && *mode == Mode::HoldRequests);
            let released = mode.wait_for(|mode| !held(mode)).await.map(|mode| *mode);
            // What was held up when the line was cut is lost.
            if matches!(released, Err(_) | Ok(Mode::Cut)) || to.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        // A frozen line does not tell that the other side has hung up.
        let _ = mode.wait_for(|mode| *mode != Mode::Frozen).await;
    };
    tokio::select! {
        () = copy => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}
