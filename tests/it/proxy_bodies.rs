//! Bodies and framing in both directions: nothing that broke off ends cleanly, and no answer reaches another caller.

use std::io::{BufReader, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Node, Raw, Reply, Upstream, eventually, read_head, read_request};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that answers the first request with `first`, verbatim, and every further one with `ok`; on one connection
/// as long as the gateway keeps it.
fn scripted(first: &'static str, then_close: bool) -> Upstream {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    Upstream::raw(move |mut stream, _| {
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        while read_request(&mut reader).is_some() {
            let number = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let answer = if number == 0 { first } else { OK };
            if stream.write_all(answer.as_bytes()).is_err() || (number == 0 && then_close) {
                return;
            }
        }
    })
}

fn request(node: &Node, token: &str, method: &str, more: &str) -> String {
    let host = node.host();
    format!("{method} /x HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n{more}\r\n")
}

#[test]
fn interim_answers_are_consumed_and_nobody_gets_anothers_answer() {
    for first in [
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst",
        // An answer to a question that nobody asked, behind the real one.
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen",
    ] {
        let upstream = scripted(first, false);
        let node = Node::with().upstream(&upstream.url()).start();
        let bob = node.token("bob");
        let mut connection = Raw::connect(node.address());
        for expected in ["first", "ok", "ok"] {
            connection.send(request(&node, &bob, "GET", ""));
            let answer = connection.answer();
            assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{first}");
        }
    }
}

#[test]
fn head_and_bodyless_statuses_keep_the_connection_in_step() {
    let upstream =
        Upstream::start(|request| match request.headers.iter().find(|(name, _)| name == "x-want") {
            Some((_, want)) if want == "304" => Reply::new(304, "").header("etag", "\"a\""),
            Some((_, want)) if want == "204" => Reply::new(204, ""),
            _ => Reply::ok("twelve bytes"),
        });
    // Each worker has connections of its own.
    let node = Node::with().upstream(&upstream.url()).config("[node]\nworkers = 1").start();
    let bob = node.token("bob");
    let mut connection = Raw::connect(node.address());
    connection.send(request(&node, &bob, "HEAD", ""));
    assert!(connection.saw(b"content-length: 12\r\n"), "HEAD says how long GET would be");
    let connection = &mut Raw::connect(node.address());
    for (want, status, body) in
        [("204", 204, ""), ("200", 200, "twelve bytes"), ("304", 304, ""), ("200", 200, "twelve bytes")]
    {
        connection.send(request(&node, &bob, "GET", &format!("x-want: {want}\r\n")));
        let answer = connection.answer();
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
    }
    assert_eq!(upstream.connections(), 1, "complete exchanges share a connection");
}

#[test]
fn an_answer_that_breaks_off_never_ends_cleanly_and_its_connection_is_not_used_again() {
    for first in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshortXX",
    ] {
        let upstream = scripted(first, true);
        let node = Node::with().upstream(&upstream.url()).start();
        let bob = node.token("bob");
        let answer = Raw::ask(node.address(), request(&node, &bob, "GET", ""));
        assert_eq!((answer.status, answer.complete), (200, false), "{first}");
        let again = Raw::ask(node.address(), request(&node, &bob, "GET", ""));
        assert_eq!(again.text(), "ok");
        assert_eq!(upstream.connections(), 2);
    }
}

#[test]
fn an_upload_that_breaks_off_is_broken_off_to_the_upstream_and_recorded() {
    let (send, seen) = mpsc::channel();
    let send = std::sync::Mutex::new(send);
    let upstream = Upstream::raw(move |stream, _| {
        let mut reader = BufReader::new(stream);
        let whole = read_request(&mut reader).is_some();
        send.lock().expect("a sender").send(whole).expect("the test waits");
    });
    let node = Node::with().upstream(&upstream.url()).start();
    let alice = node.token("alice");
    for framing in ["content-length: 100\r\n", "transfer-encoding: chunked\r\n"] {
        let mut connection = Raw::connect(node.address());
        let body = if framing.starts_with('c') { "part" } else { "4\r\npart\r\n" };
        connection.send(
            request(&node, &alice, "POST", &format!("{framing}user-agent: {}\r\n", &framing[..7])) + body,
        );
        eventually("the upstream is asked", || (upstream.connections() > 0).then_some(()));
        drop(connection);
        let whole = seen.recv_timeout(Duration::from_secs(15)).expect("the upstream sees an end");
        assert!(!whole, "{framing}: a cut upload looked complete");
        let event = eventually("the event", || {
            let events = node.audit(&["--sub", "alice"]);
            events.into_iter().find(|event| event["client"]["user_agent"] == framing[..7])
        });
        assert_eq!(
            (&event["decision"], &event["reason"]),
            (&Value::from("allow"), &Value::from("interrupted"))
        );
    }
}

#[test]
fn an_upload_whose_bytes_are_wrong_is_told_from_one_that_ended() {
    let upstream = Upstream::raw(|stream, _| {
        let mut reader = BufReader::new(stream);
        drop(std::io::copy(&mut reader, &mut std::io::sink()));
    });
    let node = Node::with().upstream(&upstream.url()).start();
    let alice = node.token("alice");
    let mut connection = Raw::connect(node.address());
    connection.send(request(&node, &alice, "POST", "transfer-encoding: chunked\r\n") + "4\r\npart\r\n");
    eventually("the upstream is asked", || (upstream.connections() > 0).then_some(()));
    connection.send("XX\r\n");
    connection.rest();
    let event = eventually("the event", || {
        node.audit(&["--sub", "alice"]).into_iter().find(|event| event["kind"] == "access")
    });
    assert_eq!((&event["decision"], &event["reason"]), (&"allow".into(), &"bad-request".into()));
}

#[test]
fn a_client_that_hangs_up_while_the_upstream_thinks_is_in_the_audit() {
    let upstream = Upstream::raw(|stream, _| {
        let mut reader = BufReader::new(stream);
        // Reads until the gateway closes, and never answers.
        while read_head(&mut reader).is_some() {}
    });
    let node = Node::with().upstream(&upstream.url()).start();
    let bob = node.token("bob");
    let mut connection = Raw::connect(node.address());
    connection.send(request(&node, &bob, "GET", ""));
    eventually("the upstream is asked", || (upstream.connections() > 0).then_some(()));
    drop(connection);
    let event = eventually("the event", || {
        node.audit(&["--sub", "bob"]).into_iter().find(|event| event["kind"] == "access")
    });
    assert_eq!(event["reason"], "interrupted");
    assert_eq!(event["status"], Value::Null);
    let (code, out, err) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn a_body_that_stalls_is_408_and_a_body_that_is_too_large_413() {
    let upstream = Upstream::start(|_| Reply::ok("done"));
    let node = Node::with()
        .upstream(&upstream.url())
        .config(
            "[[route]]\nname = \"small\"\npath = \"/small\"\nupstream = \"main\"\nbody_limit = \"1KiB\"\n\
             [[route]]\nname = \"streams\"\npath = \"/streams\"\nupstream = \"main\"\n\
             timeout = { first_byte = \"200ms\", stream_idle = \"1s\" }\n",
        )
        .start();
    let alice = node.token("alice");
    let with = |path: &str, more: &str| request(&node, &alice, "POST", more).replacen("/x", path, 1);
    // Both stalls wait at the same time: the rate's grace is ten seconds.
    let mut stalled = Raw::connect(node.address());
    stalled.send(with("/x", "content-length: 100\r\n") + "part");
    let mut stream = Raw::connect(node.address());
    stream.send(with("/streams", "transfer-encoding: chunked\r\n") + "4\r\npart\r\n");

    let answer = Raw::ask(node.address(), with("/small", "content-length: 2000\r\n"));
    assert_eq!(answer.status, 413, "refused by its length, before any of it is read");
    assert!(upstream.recorded().is_empty());
    let chunk = format!("7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000));
    let answer = Raw::ask(node.address(), with("/small", "transfer-encoding: chunked\r\n") + chunk.as_str());
    assert_eq!(answer.status, 413, "refused while it grows");
    let fits = format!("400\r\n{}\r\n0\r\n\r\n", "x".repeat(1024));
    let answer = Raw::ask(node.address(), with("/small", "transfer-encoding: chunked\r\n") + fits.as_str());
    assert_eq!((answer.status, upstream.last().body.len()), (200, 1024));

    for (connection, what) in
        [(&mut stream, "a stream after stream_idle"), (&mut stalled, "a body below its rate")]
    {
        let answer = connection.answer();
        assert_eq!(answer.status, 408, "{what}: {}", answer.text());
        let event = node.event(answer.header("x-request-id").expect("an id"));
        assert_eq!(
            (&event["decision"], &event["reason"]),
            (&Value::from("allow"), &Value::from("request-timeout")),
            "{what}"
        );
    }
    assert_eq!(upstream.recorded().len(), 1, "no stalled body looked complete");
}

#[test]
fn an_early_answer_reaches_the_client_before_the_upload_ends() {
    let upstream = Upstream::raw(|mut stream, _| {
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        if read_head(&mut reader).is_some() {
            drop(stream.write_all(b"HTTP/1.1 403 No\r\ncontent-length: 5\r\n\r\nearly"));
            drop(std::io::copy(&mut reader, &mut std::io::sink()));
        }
    });
    let node = Node::with().upstream(&upstream.url()).start();
    let alice = node.token("alice");
    for _ in 0..2 {
        let mut connection = Raw::connect(node.address());
        connection.send(request(&node, &alice, "POST", "content-length: 100000\r\n") + "part");
        let answer = connection.answer();
        assert_eq!((answer.status, answer.text().as_str()), (403, "early"));
    }
    assert_eq!(upstream.connections(), 2, "a connection with half a request on it is not used again");
}

#[test]
fn expect_is_answered_here_after_the_decision_and_never_passed_on() {
    let upstream = Upstream::start(|request| Reply::ok(&request.body.len().to_string()));
    let node = Node::with().upstream(&upstream.url()).start();
    let (alice, bob) = (node.token("alice"), node.token("bob"));
    let expect = "content-length: 4\r\nexpect: 100-continue\r\n";
    let mut connection = Raw::connect(node.address());
    connection.send(request(&node, &alice, "POST", expect));
    assert_eq!(connection.answer().status, 100);
    connection.send("body");
    let answer = connection.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "4"));
    assert_eq!(upstream.last().header("expect"), "");
    let refused = Raw::ask(node.address(), request(&node, &bob, "POST", expect));
    assert_eq!(refused.status, 403, "no 100 before the refusal");
}

#[test]
fn upstreams_that_fail_are_502_or_504_with_the_reason_in_the_audit() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let refusing = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);
    let resets = |stream: TcpStream| {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    };
    let reset = Upstream::raw(move |stream, _| {
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        let _request = read_head(&mut reader);
        resets(stream);
    });
    let answers = |text: &'static str| {
        Upstream::raw(move |mut stream, _| {
            let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
            while read_head(&mut reader).is_some() {
                drop(stream.write_all(text.as_bytes()));
                drop(stream.shutdown(Shutdown::Write));
            }
        })
    };
    let (garbage, closes) = (answers("220 smtp.example ESMTP\r\n"), answers(""));
    let both = answers("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk");
    let silent = Upstream::raw(|stream, _| {
        let mut reader = BufReader::new(stream);
        while read_head(&mut reader).is_some() {}
    });
    let mut config = String::new();
    let urls = [
        ("refusing", refusing),
        ("reset", reset.url()),
        ("garbage", garbage.url()),
        ("closes", closes.url()),
        ("both", both.url()),
        ("silent", silent.url()),
    ];
    for (name, url) in &urls {
        config.push_str(&format!(
            "[[upstream]]\nname = \"{name}\"\nservers = [\"{url}\"]\n\
             [[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\ntimeout = {{ first_byte = \"300ms\" }}\n"
        ));
    }
    let node = Node::with().config(&config).start();
    let bob = node.token("bob");
    for (name, _) in &urls {
        let (status, reason) =
            if *name == "silent" { (504, "upstream-timeout") } else { (502, "upstream-failed") };
        let answer = node.ask("GET", &format!("/{name}"), &bob);
        assert_eq!(answer.status().as_u16(), status, "{name}");
        let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
        let problem: Value = answer.json().expect("a problem");
        assert_eq!(problem["type"], format!("urn:portcullis:problem:{reason}"));
        let event = node.event(&id);
        assert_eq!(
            (&event["decision"], &event["status"], &event["reason"]),
            (&Value::from("allow"), &Value::from(status), &Value::from(reason)),
            "{name}"
        );
    }
}

#[test]
fn a_client_that_goes_on_uploading_is_not_reset_and_gets_the_refusal() {
    let upstream = Upstream::start(|_| Reply::ok("done"));
    let node = Node::with().upstream(&upstream.url()).start();
    let bob = node.token("bob");
    for framing in ["content-length: 1000000\r\n", "transfer-encoding: chunked\r\n"] {
        let mut connection = Raw::connect(node.address());
        connection.send(request(&node, &bob, "POST", framing));
        let answer = connection.answer();
        assert_eq!((answer.status, answer.complete), (403, true), "{framing}");
        assert_eq!(answer.header("connection"), Some("close"), "{framing}: nothing more is taken on it");
        let chunked = framing.starts_with('t');
        for _ in 0..100 {
            let piece = "x".repeat(10_000);
            let piece = if chunked { format!("2710\r\n{piece}\r\n") } else { piece };
            assert!(connection.try_send(piece), "{framing}: the connection was reset");
        }
        assert!(!chunked || connection.try_send("0\r\n\r\n"));
        assert!(connection.rest().is_empty());
    }
    assert!(upstream.recorded().is_empty());
}
