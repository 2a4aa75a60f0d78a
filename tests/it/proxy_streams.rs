//! Answers that last: WebSockets and event streams, their end in the audit, revocation while they are open, and drain.

use std::io::{BufReader, Read as _, Write as _};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Node, Raw, Upstream, client, eventually, read_head};

/// A server of event streams (`/events`: one event, then whatever `x-then` says) and of WebSockets that echo.
fn streams() -> Upstream {
    Upstream::raw(|mut stream, _| {
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        let Some(request) = read_head(&mut reader) else { return };
        if request.header("upgrade") == "websocket" {
            let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            drop(stream.write_all(head.as_bytes()));
            let mut buffer = [0; 1024];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
            return;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        drop(stream.write_all(format!("{head}8\r\ndata: 1\n\r\n").as_bytes()));
        match request.header("x-then") {
            "end" => drop(stream.write_all(b"0\r\n\r\n")),
            "cut" => {}
            _ => {
                // Goes on until nobody listens.
                while stream.write_all(b"8\r\ndata: 2\n\r\n").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    })
}

fn get(node: &Node, token: &str, more: &str) -> String {
    let host = node.host();
    format!("GET /s HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n{more}\r\n")
}

const WEBSOCKET: &str = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn the_end_of_an_event_stream_is_an_event_of_its_own() {
    let upstream = streams();
    let node = Node::with().upstream(&upstream.url()).start();
    let bob = node.token("bob");
    for (then, complete, reason) in [
        ("end", true, Value::Null),
        ("cut", false, "upstream-failed".into()),
        ("hang up", false, "interrupted".into()),
    ] {
        let mut connection = Raw::connect(node.address());
        connection.send(get(&node, &bob, &format!("x-then: {then}\r\n")));
        let id = if then == "hang up" {
            assert!(connection.saw(b"data: 2"));
            drop(connection);
            eventually("the stream's event", || {
                let events = node.audit(&["--sub", "bob"]);
                let event =
                    events.into_iter().find(|e| e["kind"] == "stream" && e["reason"] == "interrupted")?;
                Some(event["request_id"].as_str().expect("an id").to_owned())
            })
        } else {
            let answer = connection.answer();
            assert_eq!((answer.status, answer.complete), (200, complete), "{then}");
            answer.header("x-request-id").expect("an id").to_owned()
        };
        let streams = node.events(&id, "stream", 1);
        assert_eq!(streams.len(), 1);
        let (stream, access) = (&streams[0], node.event(&id));
        assert_eq!((&stream["reason"], &stream["status"]), (&reason, &Value::from(200)), "{then}");
        assert_eq!((&access["reason"], &access["status"]), (&Value::Null, &Value::from(200)), "{then}");
        assert!(stream["duration_us"].as_u64() >= access["duration_us"].as_u64());
        assert_eq!((&stream["principal"], &stream["path"]), (&access["principal"], &access["path"]));
    }
    let (code, out, err) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn a_websocket_passes_both_ways_and_its_end_is_recorded() {
    let upstream = streams();
    let node = Node::with().upstream(&upstream.url()).start();
    let bob = node.token("bob");
    let mut socket = Raw::connect(node.address());
    socket.send(get(&node, &bob, WEBSOCKET));
    let answer = socket.answer();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let id = answer.header("x-request-id").expect("an id").to_owned();
    for _ in 0..3 {
        socket.send("ping");
        assert!(socket.saw(b"ping"));
    }
    assert!(node.events(&id, "stream", 0).is_empty(), "the stream has not ended");
    socket.finish();
    assert!(socket.rest().is_empty());
    let stream = node.events(&id, "stream", 1).remove(0);
    assert_eq!((&stream["status"], &stream["reason"]), (&Value::from(101), &Value::Null));
}

#[test]
fn only_websockets_are_upgrades_and_only_where_they_were_asked_for() {
    let (send, asked) = mpsc::channel();
    let send = Mutex::new(send);
    let switches = Upstream::raw(move |mut stream, _| {
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        while let Some(request) = read_head(&mut reader) {
            let asked = request.all("upgrade").len() + request.all("connection").len();
            send.lock().expect("a sender").send(asked).expect("the test waits");
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    let node = Node::with().upstream(&switches.url()).start();
    let bob = node.token("bob");
    for (more, headers) in [
        ("", 0),
        ("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n", 0),
        ("connection: upgrade\r\nupgrade: websocket, h2c\r\n", 0),
        ("connection: upgrade\r\nupgrade: websocket\r\nupgrade: h2c\r\n", 0),
        (WEBSOCKET, 2),
    ] {
        let answer = Raw::ask(node.address(), get(&node, &bob, more));
        assert_eq!(answer.status, 502, "{more}");
        assert_eq!(asked.recv_timeout(Duration::from_secs(10)), Ok(headers), "{more}");
    }
}

#[test]
fn a_websocket_with_a_session_from_another_site_is_refused() {
    let upstream = streams();
    let node = Node::with().upstream(&upstream.url()).start();
    let cookie = node.session("bob");
    let with = |origin: &str| {
        let host = node.host();
        let head = format!("GET /s HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n{origin}{WEBSOCKET}\r\n");
        Raw::ask(node.address(), head).status
    };
    assert_eq!(with("origin: https://evil.example\r\n"), 403);
    assert_eq!(with(""), 403);
    assert_eq!(with(&format!("origin: {}\r\n", node.url(""))), 101);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_revoked_token_ends_its_open_streams_within_a_second() {
    let upstream = streams();
    let node = Node::with().upstream(&upstream.url()).start();
    let (bob, alice) = (node.token("bob"), node.token("alice"));
    let open = |token: &str, more: &str| {
        let mut connection = Raw::connect(node.address());
        connection.send(get(&node, token, more));
        connection
    };
    let mut events = open(&bob, "");
    assert!(events.saw(b"data: 2"));
    let mut socket = open(&bob, WEBSOCKET);
    let id = socket.answer().header("x-request-id").expect("an id").to_owned();
    let mut other = open(&alice, WEBSOCKET);
    assert_eq!(other.answer().status, 101);
    let form = [("token", bob.as_str())];
    let revoked =
        client().post(node.url("/auth/revoke")).bearer_auth(&bob).form(&form).send().expect("an answer");
    assert_eq!(revoked.status(), 200);
    let since = Instant::now();
    assert!(socket.rest().is_empty());
    let rest = events.rest();
    assert!(since.elapsed() < Duration::from_millis(1500), "{:?}", since.elapsed());
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the cut is not a clean end");
    assert_eq!(node.events(&id, "stream", 1)[0]["reason"], "invalid-token");
    other.send("still here");
    assert!(other.saw(b"still here"), "nobody else's stream ends");
}

#[test]
fn sigterm_lets_calls_finish_and_tells_http2_to_go_away() {
    let upstream = Upstream::raw(|mut stream, _| {
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        if read_head(&mut reader).is_some() {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf"));
            // The other half comes when the node is on its way down.
            let mut until = [0; 1];
            let socket = socket2::SockRef::from(&stream);
            socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
            let _waited = reader.read(&mut until);
            drop(stream.write_all(b"rest"));
        }
    });
    let mut node = Node::with().upstream(&upstream.url()).start();
    let bob = node.token("bob");
    let mut call = Raw::connect(node.address());
    call.send(get(&node, &bob, ""));
    assert!(call.saw(b"\r\n\r\nhalf"));
    let mut h2 = Raw::connect(node.address());
    h2.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert!(h2.saw(b"\0\0\0\x04\x01\0\0\0\0"), "the settings are acknowledged");
    node.signal(Signal::TERM);
    // GOAWAY: type 7 on stream 0.
    assert!(h2.saw(b"\x07\0\0\0\0\0"), "HTTP/2 is told");
    drop(h2);
    assert_eq!(String::from_utf8_lossy(&call.rest()), "rest");
    assert_eq!(node.wait(), 0);
    assert!(std::net::TcpStream::connect(node.address()).is_err());
}
