use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A network between a program and a server that can be held up or cut. Binds to 127.0.0.1.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// What the program sends goes no further; what the server sends arrives.
    HoldRequests,
    /// Connections break, and new ones break at once.
    Cut,
}

impl Proxy {
    /// A proxy to the server at `target`.
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (mode, watcher) = watch::channel(Mode::Pass);
        tokio::spawn(accept(listener, target.to_owned(), watcher));
        Self { address, mode }
    }

    /// The port to connect to on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Everything flows.
    pub fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    /// What the program sends from now on does not arrive.
    pub fn hold_requests(&self) {
        self.mode.send_replace(Mode::HoldRequests);
    }

    /// Breaks all connections and refuses new ones.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }
}

async fn accept(listener: TcpListener, target: String, mode: watch::Receiver<Mode>) {
    while let Ok((client, _)) = listener.accept().await {
        if *mode.borrow() == Mode::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(&target).await else { continue };
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::spawn(pump(client_read, server_write, mode.clone(), true));
        tokio::spawn(pump(server_read, client_write, mode.clone(), false));
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>, requests: bool) {
    let mut cut = mode.clone();
    let copy = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let released = mode.wait_for(|mode| !(requests && *mode == Mode::HoldRequests)).await.map(|mode| *mode);
            // What was held up when the line was cut is lost.
            if !matches!(released, Ok(Mode::Pass | Mode::HoldRequests)) {
                break;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = copy => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}
