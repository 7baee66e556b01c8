//! A connection to the broker, through the guard.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;

use crate::guard::Guard;

/// The runtime of a connection whose stream is guarded.
pub(crate) type GuardedRuntime = Runtime<RuntimeParts<Tokio, GuardedReactor>>;

/// Tokio, but for what a connection is.
#[derive(Debug, Clone)]
pub(crate) struct GuardedReactor(Tokio);

type Inner = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// What is written goes through; what is read goes through the guard.
pub(crate) struct GuardedStream {
    inner: Inner,
    guard: Guard,
    read: Vec<u8>,
    /// What the guard has let through, and how much of it was handed on.
    passed: Vec<u8>,
    handed_on: usize,
}

/// How much is read at a time.
const READ_BYTES: usize = 64 * 1024;

/// The runtime that the caller is in.
pub(crate) fn guarded_runtime() -> GuardedRuntime {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), GuardedReactor(tokio)))
}

/// Connects, with TLS if the URI says so. What cannot be read is handed on in frames of so many bytes at most; 0: as the broker has it.
pub(crate) async fn connect(
    uri: &AMQPUri,
    tls: &OwnedTLSConfig,
    frame_bytes_max: u32,
) -> io::Result<AsyncTcpStream<GuardedStream>> {
    let runtime = Runtime::tokio_current();
    let inner = uri.connect_with_config_async(tls.as_ref(), &runtime).await?;
    Ok(AsyncTcpStream::Plain(GuardedStream::new(inner, frame_bytes_max)))
}

impl GuardedStream {
    fn new(inner: Inner, frame_bytes_max: u32) -> Self {
        let guard = Guard::new(frame_bytes_max);
        Self { inner, guard, read: vec![0; READ_BYTES], passed: Vec::new(), handed_on: 0 }
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.handed_on == this.passed.len() {
            this.passed.clear();
            this.handed_on = 0;
            let count = ready!(Pin::new(&mut this.inner).poll_read(context, &mut this.read))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            this.guard.pass(&this.read[..count], &mut this.passed);
        }
        let waiting = &this.passed[this.handed_on..];
        let count = waiting.len().min(buffer.len());
        buffer[..count].copy_from_slice(&waiting[..count]);
        this.handed_on += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, parts)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(context)
    }
}

impl Reactor for GuardedReactor {
    type TcpStream = GuardedStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<GuardedStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(GuardedStream::new(AsyncTcpStream::Plain(connecting.await?), 0)) }
    }
}
