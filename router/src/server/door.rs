//! Listeners: connections come in, one place each, TLS where it is wanted, and HTTP goes on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::admin::Admin;
use super::body::UNREAD_TIME_MAX;
use super::tls::TlsFront;
use super::{Crew, Probes, Tasks, Traffic, admin, probes};
use crate::identity::PeerNames;

/// How long a client may take until the first head of a connection is there.
const FIRST_HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long it may take for each later one, idling included: hyper has one timer for both. Longer
/// than the 60 s that common balancers keep idle connections, so that they hang up first.
const HEAD_TIME_MAX: Duration = Duration::from_secs(75);
/// Longest request head, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Streams of one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 128;

/// A listener and what may connect to it.
pub(super) struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    tls: Option<Arc<TlsFront>>,
}

/// What all connections of a traffic listener share.
#[derive(Clone)]
struct Hall {
    routes: Arc<Traffic>,
    builder: auto::Builder<TokioExecutor>,
}

impl Door {
    pub(super) fn new(listener: TcpListener, places: usize, tls: Option<Arc<TlsFront>>) -> Door {
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Door { listener, places, tls }
    }

    pub(super) async fn serve_traffic(
        self,
        routes: Arc<Traffic>,
        stopping: CancellationToken,
        tasks: Tasks,
        crew: &Crew,
    ) {
        let hall = Hall { routes, builder: builder() };
        let graceful = GracefulShutdown::new();
        while let Some((stream, place)) = self.next(&stopping).await {
            let counted = hall.routes.metrics().connection();
            let (hall, watcher, tls) = (hall.clone(), graceful.watcher(), self.tls.clone());
            crew.serve(&tasks, stream, async move |stream| {
                match tls {
                    None => hall.serve(stream, None, watcher).await,
                    // A handshake that fails is the client's business.
                    Some(tls) => {
                        if let Ok((stream, peer)) = tls.accept(stream).await {
                            hall.serve(stream, peer, watcher).await;
                        }
                    }
                }
                drop((place, counted));
            });
        }
        drop(self.listener);
        graceful.shutdown().await;
    }

    pub(super) async fn serve_probes(self, probes: Arc<Probes>) {
        let builder = builder();
        while let Some((stream, place)) = self.next(&probes.stopping).await {
            let answering = probes.clone();
            let service = service_fn(move |request| {
                let response = probes::answer(&answering.stage(), &answering.metrics, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let stream = TokioIo::new(patient(stream));
            let connection = builder.serve_connection(stream, service).into_owned();
            let stopping = probes.stopping.clone();
            probes.tasks.run(async move {
                stopping.run_until_cancelled(connection).await;
                drop(place);
            });
        }
    }

    pub(super) async fn serve_admin(self, admin: Arc<Admin>, probes: Arc<Probes>) {
        let builder = builder();
        while let Some((stream, place)) = self.next(&probes.stopping).await {
            let (admin, builder, tls) = (admin.clone(), builder.clone(), self.tls.clone());
            let (stopping, answering) = (probes.stopping.clone(), probes.clone());
            probes.tasks.run(async move {
                let serving = async {
                    let from = stream.peer_addr().ok();
                    match tls {
                        None => serve_one(stream, from, None, admin, answering, builder).await,
                        Some(tls) => {
                            if let Ok((stream, peer)) = tls.accept(stream).await {
                                serve_one(stream, from, peer, admin, answering, builder).await;
                            }
                        }
                    }
                };
                stopping.run_until_cancelled(serving).await;
                drop(place);
            });
        }
    }

    /// The next connection, once there is a place for it; `None` when the server stops.
    async fn next(
        &self,
        stopping: &CancellationToken,
    ) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let place = stopping.run_until_cancelled(self.places.clone().acquire_owned()).await?;
        let place = place.expect("the semaphore is never closed");
        loop {
            match stopping.run_until_cancelled(self.listener.accept()).await? {
                Ok((stream, _)) => {
                    // Small chunks of a stream must not wait for each other.
                    let _ = stream.set_nodelay(true);
                    return Some((stream, place));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: others must close before it gets better.
                    tracing::warn!(%error, "connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Hall {
    async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Option<PeerNames>,
        watcher: Watcher,
    ) {
        let Hall { routes, builder } = self;
        let spoke = Arc::new(AtomicBool::new(false));
        let speaks = spoke.clone();
        let service = service_fn(move |request| {
            speaks.store(true, Ordering::Relaxed);
            let (routes, peer) = (routes.clone(), peer.clone());
            async move { Ok::<_, Infallible>(routes.answer(request, peer.as_ref()).await) }
        });
        let stream = TokioIo::new(patient(stream));
        let connection = builder.serve_connection(stream, service).into_owned();
        let mut connection = std::pin::pin!(watcher.watch(connection));
        let first = tokio::time::timeout(FIRST_HEAD_TIME_MAX, connection.as_mut()).await;
        if first.is_err() && spoke.load(Ordering::Relaxed) {
            // A broken connection is the client's business; its request fell with it.
            let _ = connection.await;
        }
    }
}

/// A connection whose client must take what is written to it.
fn patient<S: AsyncRead + AsyncWrite>(stream: S) -> Pin<Box<TimeoutStream<S>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(UNREAD_TIME_MAX));
    Box::pin(stream)
}

async fn serve_one(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: Option<SocketAddr>,
    peer: Option<PeerNames>,
    admin: Arc<Admin>,
    probes: Arc<Probes>,
    builder: auto::Builder<TokioExecutor>,
) {
    let service = service_fn(move |request| {
        let (admin, probes, peer) = (admin.clone(), probes.clone(), peer.clone());
        async move {
            let who = admin::Who { from, peer };
            Ok::<_, Infallible>(admin.answer(request, &who, &probes.stage()).await)
        }
    });
    // A broken connection is the operator's business.
    let _ = builder.serve_connection(TokioIo::new(patient(stream)), service).await;
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Binds a listener; port 0 takes a free one.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::AsyncWriteExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up() {
        let (ours, theirs) = tokio::io::duplex(64);
        let began = Instant::now();
        let error = patient(ours).write_all(&[0; 256]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), UNREAD_TIME_MAX.as_secs());
        drop(theirs);
    }
}
