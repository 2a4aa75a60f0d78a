//! Servers that misbehave, on raw sockets, and what the pool makes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Pool, Upstreams};
use crate::config::{Balance, Timeouts, Upstream, UpstreamTls};
use crate::model::{Body, BoxError, Refusal, RefusalKind, Target, body};

/// One worker with a pool, and servers behind it.
struct Bench {
    pool: std::rc::Rc<Pool>,
    upstreams: Arc<Upstreams>,
    timeouts: Timeouts,
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

impl Bench {
    fn new(servers: &[String]) -> Self {
        let upstream = Upstream {
            name: "u".to_owned(),
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            balance: Balance::RoundRobin,
            tls: UpstreamTls::default(),
        };
        let upstreams = Upstreams::of(&[upstream]).unwrap();
        let timeouts = Timeouts {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_millis(150),
            idle: Duration::from_millis(150),
            stream_idle: Duration::from_secs(5),
        };
        Self { pool: Pool::new(), upstreams, timeouts }
    }

    async fn ask(&self, method: &str, body: Body) -> Result<Response<Body>, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert("host", "api.example".parse().unwrap());
        let method = method.parse().unwrap();
        let target =
            Target::from_request(&method, &"/a%2Db?c=%2D".parse().unwrap(), &headers, false).unwrap();
        let mut request = Request::new(body);
        *request.headers_mut() = headers;
        self.pool.exchange(&self.upstreams, "u", &self.timeouts, &target, request).await
    }

    async fn get(&self) -> Result<(u16, Result<String, BoxError>), Refusal> {
        let response = self.ask("GET", body::empty()).await?;
        let status = response.status().as_u16();
        let text = response.into_body().collect().await;
        tokio::task::yield_now().await;
        Ok((status, text.map(|whole| String::from_utf8(whole.to_bytes().to_vec()).unwrap())))
    }
}

/// Reads one head.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(text).unwrap())
}

/// A server that writes the next answer for each head it reads, and counts its connections. An empty answer closes.
async fn server(answers: &'static [&'static str]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        let next = Arc::new(AtomicUsize::new(0));
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let next = Arc::clone(&next);
            tokio::spawn(async move {
                while head(&mut stream).await.is_some() {
                    match answers.get(next.fetch_add(1, Ordering::SeqCst)) {
                        Some(&"") | None => return,
                        Some(&"stall") => std::future::pending::<()>().await,
                        Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                    }
                    if answers.len() == 1 {
                        return;
                    }
                }
            });
        }
    });
    (url, connections)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn connections_are_reused_after_complete_exchanges() {
    run(async {
        let (url, connections) = server(&[OK, OK, OK]).await;
        let bench = Bench::new(&[url]);
        for _ in 0..3 {
            assert_eq!(bench.get().await.unwrap().1.unwrap(), "ok");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        assert_eq!(bench.pool.idle.len(), 1);
    });
}

#[test]
fn connections_are_kept_up_to_a_limit() {
    run(async {
        let (url, connections) = server(Box::leak(vec![OK; 70].into_boxed_slice())).await;
        let bench = Bench::new(&[url]);
        let mut answers = Vec::new();
        for _ in 0..70 {
            // Not read yet, so that each has a connection of its own.
            answers.push(bench.ask("GET", body::empty()).await.unwrap());
        }
        assert_eq!(connections.load(Ordering::SeqCst), 70);
        for answer in answers {
            answer.into_body().collect().await.unwrap();
        }
        let all_are_back = async {
            while bench.pool.idle.len() < 64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all_are_back).await.unwrap();
        for _ in 0..70 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.pool.idle.len(), 64);
    });
}

#[test]
fn interim_answers_are_consumed() {
    run(async {
        let early =
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let (url, connections) = server(Box::leak(Box::new([early, OK]))).await;
        let bench = Bench::new(&[url]);
        assert_eq!(bench.get().await.unwrap().0, 200);
        assert_eq!(bench.get().await.unwrap().1.unwrap(), "ok");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn bytes_after_an_answer_reach_nobody() {
    run(async {
        let extra =
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
        let bare = "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
        let (url, connections) = server(Box::leak(Box::new([extra, bare, OK]))).await;
        let bench = Bench::new(&[url]);
        assert_eq!(bench.get().await.unwrap().1.unwrap(), "ok");
        assert_eq!(bench.get().await.unwrap().0, 204);
        assert_eq!(bench.get().await.unwrap().1.unwrap(), "ok");
        assert_eq!(connections.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn late_bytes_on_an_idle_connection_make_it_unusable() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = Bench::new(&[format!("http://{}", listener.local_addr().unwrap())]);
        let serve = async {
            let (mut first, _) = listener.accept().await.unwrap();
            head(&mut first).await.unwrap();
            first.write_all(OK.as_bytes()).await.unwrap();
            (first, ())
        };
        let (answer, (mut first, ())) = tokio::join!(bench.get(), serve);
        assert_eq!(answer.unwrap().1.unwrap(), "ok");
        assert_eq!(bench.pool.idle.len(), 1);
        first.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await.unwrap();
        let serve = async {
            let (mut second, _) = listener.accept().await.unwrap();
            head(&mut second).await.unwrap();
            second.write_all(OK.as_bytes()).await.unwrap();
            second
        };
        let (answer, _second) = tokio::join!(bench.get(), serve);
        assert_eq!(answer.unwrap().1.unwrap(), "ok");
    });
}

#[test]
fn a_short_body_is_an_error() {
    run(async {
        for short in [
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        ] {
            let (url, _) = server(Box::leak(Box::new([short]))).await;
            let bench = Bench::new(&[url]);
            let (status, text) = bench.get().await.unwrap();
            assert_eq!(status, 200);
            assert!(text.is_err());
            assert_eq!(bench.pool.idle.len(), 0);
        }
    });
}

#[test]
fn stalls_are_timeouts() {
    run(async {
        let (url, _) = server(&["stall", OK]).await;
        let bench = Bench::new(&[url]);
        assert_eq!(bench.get().await.unwrap_err().kind, RefusalKind::UpstreamTimeout);
        assert_eq!(bench.pool.idle.len(), 0);
        let (url, _) = server(&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "stall"]).await;
        let bench = Bench::new(&[url]);
        let error = bench.get().await.unwrap().1.unwrap_err();
        assert!(error.to_string().contains("sent nothing"), "{error}");
    });
}

#[test]
fn refused_connections_are_502_and_the_next_server_is_tried() {
    run(async {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let bench = Bench::new(std::slice::from_ref(&refused));
        assert_eq!(bench.get().await.unwrap_err().kind, RefusalKind::UpstreamFailed);
        let (url, _) = server(&[OK, OK, OK, OK]).await;
        let bench = Bench::new(&[refused, url]);
        for _ in 0..4 {
            assert_eq!(bench.get().await.unwrap().0, 200);
        }
    });
}

#[test]
fn a_closed_idle_connection_is_replaced() {
    run(async {
        let (url, connections) = server(&[OK, "", OK]).await;
        let bench = Bench::new(&[url]);
        assert_eq!(bench.get().await.unwrap().0, 200);
        // The second request is read and the connection closed without an answer: once more, on a new one.
        assert_eq!(bench.get().await.unwrap().1.unwrap(), "ok");
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn what_is_not_idempotent_is_sent_once() {
    run(async {
        let (url, connections) = server(&[OK, "", OK]).await;
        let bench = Bench::new(&[url]);
        assert_eq!(bench.get().await.unwrap().0, 200);
        let error = bench.ask("POST", body::empty()).await.unwrap_err();
        assert_eq!(error.kind, RefusalKind::UpstreamFailed);
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn an_early_answer_is_passed_on_and_its_connection_closed() {
    run(async {
        let early = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let (url, _) = server(Box::leak(Box::new([early, OK]))).await;
        let bench = Bench::new(&[url]);
        let endless = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
        let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"x")))]);
        let body = StreamBody::new(first.chain(endless)).boxed_unsync();
        let response = bench.ask("POST", body).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        tokio::task::yield_now().await;
        assert_eq!(bench.pool.idle.len(), 0);
    });
}

#[test]
fn a_connection_is_not_kept_when_the_answer_came_before_the_end_of_the_request() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = Bench::new(&[format!("http://{}", listener.local_addr().unwrap())]);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
            stream
        };
        let (send, rest) = tokio::sync::oneshot::channel();
        let first =
            futures_util::stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"first")))]);
        let last = futures_util::stream::once(async {
            let bytes: Bytes = rest.await?;
            Ok(Frame::data(bytes))
        });
        let body = StreamBody::new(first.chain(last)).boxed_unsync();
        let (answer, mut stream) = tokio::join!(bench.ask("POST", body), serve);
        assert_eq!(answer.unwrap().into_body().collect().await.unwrap().to_bytes(), "ok");
        // The client goes on, but its upload no longer has a connection.
        drop(send.send(Bytes::from_static(b"rest")));
        let mut came = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut came)).await;
        assert!(ended.is_ok(), "the connection is still there after {:?}", String::from_utf8_lossy(&came));
        assert!(!came.ends_with(b"0\r\n\r\n"), "the request was completed after its answer");
        assert_eq!(bench.pool.idle.len(), 0);
    });
}

#[test]
fn a_body_that_breaks_off_says_why() {
    run(async {
        let (url, _) = server(&["stall", OK]).await;
        let bench = Bench::new(&[url]);
        let broken: [Result<Frame<Bytes>, BoxError>; 2] = [
            Ok(Frame::data(Bytes::from_static(b"x"))),
            Err(Box::new(Refusal::new(RefusalKind::TooLarge, "test"))),
        ];
        let body = StreamBody::new(futures_util::stream::iter(broken)).boxed_unsync();
        assert_eq!(bench.ask("POST", body).await.unwrap_err().kind, RefusalKind::TooLarge);
    });
}

#[test]
fn the_request_line_is_the_canonical_target() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = Bench::new(&[format!("http://{}", listener.local_addr().unwrap())]);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let text = head(&mut stream).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
            text
        };
        let body = Full::new(Bytes::from_static(b"abc")).map_err(|never| match never {}).boxed_unsync();
        let (answer, text) = tokio::join!(bench.ask("PUT", body), serve);
        assert!(text.starts_with("PUT /a-b?c=%2D HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("content-length: 3\r\n") && !text.contains("transfer-encoding"));
        let answer = answer.unwrap();
        assert!(!answer.headers().contains_key("x-hop") && !answer.headers().contains_key("connection"));
    });
}

#[test]
fn an_early_answer_before_a_close_is_passed_on() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = Bench::new(&[format!("http://{}", listener.local_addr().unwrap())]);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\r\nbig")
                .await
                .unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let chunk = Bytes::from(vec![0; 65536]);
        let endless = futures_util::stream::repeat(chunk).map(|chunk| Ok::<_, BoxError>(Frame::data(chunk)));
        let (answer, _stream) =
            tokio::join!(bench.ask("POST", StreamBody::new(endless).boxed_unsync()), serve);
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "big");
        assert_eq!(bench.pool.idle.len(), 0);
    });
}
