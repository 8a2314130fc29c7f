//! How long a server is waited for, and for what of its answer, on a clock that stands still until everybody
//! waits.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::config::{BaseUrl, Timeouts};
use crate::upstream::{AnswerBody, Piece};

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
/// One event, as a chunk.
const EVENT: &[u8] = b"2f\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\r\n";
/// A byte that makes no event, as a chunk.
const BYTE: &[u8] = b"1\r\n:\r\n";

const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(3),
    first_byte: Duration::from_secs(20),
    idle: Duration::from_secs(7),
    total: Duration::from_secs(60),
};

/// What a server does, after it has read a request if it gets so far.
#[derive(Clone, Copy, Debug)]
enum Server {
    /// Takes no further connection: none ever stands.
    Full,
    /// Nothing.
    Silent,
    /// A head and an event, and then nothing.
    Stalls,
    /// A head, and then a byte every five seconds.
    Trickles,
    /// A head, and then five events at once, twice, with a second between.
    Bursts,
}

/// How an answer ended.
struct Ended {
    code: &'static str,
    after: Duration,
    /// The bytes of its pieces.
    pieces: Vec<usize>,
}

async fn serve(mut stream: TcpStream, server: Server) -> std::io::Result<()> {
    let _whatever_was_asked = stream.read(&mut [0; 4096]).await?;
    match server {
        Server::Full | Server::Silent => {}
        Server::Stalls => stream.write_all(&[HEAD, EVENT].concat()).await?,
        Server::Trickles => {
            stream.write_all(HEAD).await?;
            loop {
                stream.write_all(BYTE).await?;
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
        Server::Bursts => {
            stream.write_all(HEAD).await?;
            for _ in 0..2 {
                stream.write_all(&EVENT.repeat(5)).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    // Until the other side hangs up.
    stream.read(&mut [0]).await.map(drop)
}

/// Fills the queue of a listener that accepts nobody; gives back what stands in it.
fn fill(address: SocketAddr) -> Vec<std::net::TcpStream> {
    let mut waiting = Vec::new();
    // Time of the kernel, which no clock of ours can pause.
    let patience = Duration::from_millis(100);
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, patience) {
        waiting.push(stream);
        assert!(waiting.len() < 16, "the kernel keeps more than it was told to");
    }
    waiting
}

/// Asks a server.
async fn ask(server: Server) -> Ended {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let _waiting = matches!(server, Server::Full).then(|| fill(listener.local_addr().unwrap()));
    let base_url =
        BaseUrl::parse(&format!("http://{}/v1", listener.local_addr().unwrap())).unwrap();
    let config =
        ServerConfig { timeouts: TIMEOUTS, ..ServerConfig::at(Protocol::OpenAi, base_url) };
    let upstream = ServerUpstream::new(UpstreamId::new("cloud"), config).unwrap();
    let messages = serde_json::json!([{"role": "user", "content": "hi"}]);
    let body = serde_json::json!({"model": "m", "messages": messages, "stream": true});
    let permit = super::tests::permit(&upstream, &body);
    let shape = Shape { stream: true, include_usage: false };
    let started = Instant::now();
    let mut pieces = Vec::new();
    let asked = async {
        let mut events = match upstream.send(permit, shape).await {
            Err(error) => return error.code(),
            Ok(Answer { body: AnswerBody::Events(events), .. }) => events,
            Ok(_) => panic!("a stream was asked for"),
        };
        while let Some(piece) = events.next().await {
            match piece {
                Piece::Data { bytes, .. } => pieces.push(bytes.len()),
                Piece::End { cut, .. } => return cut.unwrap_or("complete"),
            }
        }
        panic!("a stream ends with an end");
    };
    let serving = async {
        if matches!(server, Server::Full) {
            return std::future::pending().await;
        }
        let (stream, _) = listener.accept().await.unwrap();
        // Hung up on in the middle of its answer, mostly.
        let _ = serve(stream, server).await;
        std::future::pending::<()>().await;
    };
    let code = tokio::select! {
        code = asked => code,
        () = serving => unreachable!("it waits for ever"),
    };
    Ended { code, after: started.elapsed(), pieces }
}

#[tokio::test(start_paused = true)]
async fn each_wait_ends_when_its_timeout_says_so() {
    let Timeouts { connect, first_byte, idle, total } = TIMEOUTS;
    for (server, ended, after) in [
        (Server::Full, "timeout", connect),
        (Server::Silent, "timeout", connect + first_byte),
        (Server::Stalls, "timeout", idle),
        (Server::Trickles, "timeout", total),
    ] {
        let Ended { code, after: at, .. } = ask(server).await;
        assert_eq!(code, ended, "{server:?}");
        // The clock goes in steps of a millisecond.
        assert!(at >= after && at <= after + Duration::from_millis(2), "{server:?}: {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_burst_the_first_event_leaves_alone_and_the_rest_together() {
    let one = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n".len();
    assert_eq!(ask(Server::Bursts).await.pieces, [one, 4 * one, one, 4 * one]);
}
