//! Clients that send too much, too slowly or without end: each limit of `[listen.limits]` with its figure, others served
//! meanwhile, memory bounded.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::h2::{self, End, H2};
use crate::support::{Answer, Node, Raw, Reply, Upstream, client, eventually};

fn gate(limits: &str) -> (Upstream, Node) {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with()
        .config(&format!(
            "[listen.limits]\n{limits}\n[[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n\
             [[route]]\nname = \"all\"\npath = \"/{{rest*}}\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n\
             [[route]]\nname = \"small\"\npath = \"/small\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n\
             body_limit = \"64KiB\"\n",
            upstream.url()
        ))
        .policy("p, anonymous, /*, .*, allow")
        .start();
    (upstream, node)
}

fn is_problem(answer: &Answer, status: u16, name: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(problem["type"], format!("urn:portcullis:problem:{name}"));
}

/// Resident memory, in bytes.
fn memory(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}

/// Runs the flood and asserts what holds in each: others are answered, the process lives, memory grows by less than
/// `most` bytes.
fn withstands(node: &Node, most: u64, flood: impl FnOnce() + Send) {
    let ask = || client().get(node.url("/other")).send().expect("an answer").status();
    assert_eq!(ask(), 200);
    let before = memory(node);
    let worst = std::thread::scope(|scope| {
        let flooding = scope.spawn(flood);
        let mut worst = Duration::ZERO;
        while !flooding.is_finished() {
            let began = Instant::now();
            assert_eq!(ask(), 200);
            worst = worst.max(began.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        flooding.join().expect("the flood ends");
        worst
    });
    assert!(worst < Duration::from_secs(10), "another client waited for {worst:?}");
    let after = memory(node);
    assert!(after < before + most, "memory grew from {before} to {after}");
    assert_eq!(ask(), 200);
}

/// A name and what is done.
type Flood = (&'static str, Box<dyn FnOnce() + Send>);

const MIB: u64 = 1 << 20;

#[test]
fn a_head_has_32_kib_and_96_fields() {
    let (upstream, node) = gate("");
    let ask = |head: &str| {
        Raw::ask(node.address(), format!("GET /a HTTP/1.1\r\nHost: a\r\n{head}Connection: close\r\n\r\n"))
    };
    let fields = |count: usize| -> String { (2..count).map(|number| format!("X-{number}: y\r\n")).collect() };
    assert_eq!(ask(&fields(96)).status, 200);
    assert_eq!(ask(&fields(97)).status, 431);
    let fill = |size: usize| format!("X: {}\r\n", "y".repeat(size));
    assert_eq!(ask(&fill(30 * 1024)).status, 200);
    assert_eq!(ask(&fill(32 * 1024)).status, 431);
    assert_eq!(ask(&fill(200 * 1024)).status, 431);
    // The target counts as part of the head.
    let long = |size: usize| {
        let request = format!("GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "p".repeat(size));
        Raw::ask(node.address(), request).status
    };
    assert_eq!(long(30 * 1024), 200);
    assert!(matches!(long(32 * 1024), 414 | 431));
    assert!(matches!(long(100 * 1024), 414 | 431));
    assert_eq!(upstream.recorded().len(), 3);
}

#[test]
fn http_2_has_the_same_limits_of_a_head() {
    let (upstream, node) = gate("");
    let send = |more: &[(&str, &str)]| {
        let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/a")];
        fields.extend_from_slice(more);
        let block = h2::block(&fields);
        let mut connection = H2::connect(node.address());
        let mut chunks = block.chunks(16_000);
        let (first, last) = (chunks.next().expect("a block"), block.len() <= 16_000);
        let end = if last { h2::END_HEADERS } else { 0 };
        connection.send(&h2::frame(h2::HEADERS, h2::END_STREAM | end, 1, first));
        let rest: Vec<_> = chunks.collect();
        for (number, chunk) in rest.iter().enumerate() {
            let end = if number + 1 == rest.len() { h2::END_HEADERS } else { 0 };
            connection.send(&h2::frame(h2::CONTINUATION, end, 1, chunk));
        }
        connection.end_of(1)
    };
    assert_eq!(send(&[("x", "y")]), End::Status(200));
    let many: Vec<_> = (0..97).map(|_| ("x", "y")).collect();
    assert_eq!(send(&many), End::Status(431));
    let large = "y".repeat(40_000);
    assert!(matches!(send(&[("x", &large)]), End::Status(431) | End::Reset(_) | End::Gone));
    assert_eq!(upstream.recorded().len(), 1);
}

#[test]
fn a_body_beyond_the_routes_limit_is_413_and_never_whole_upstream() {
    let (upstream, node) = gate("");
    let post = |fields: &str| {
        let mut connection = Raw::connect(node.address());
        connection.send(format!("POST /small HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        connection
    };
    let mut announced = post("Content-Length: 65537");
    is_problem(&announced.answer(), 413, "too-large");
    let mut expected = post("Content-Length: 1000000000\r\nExpect: 100-continue");
    is_problem(&expected.answer(), 413, "too-large");
    let mut chunked = post("Transfer-Encoding: chunked");
    for _ in 0..70 {
        chunked.try_send(format!("400\r\n{}\r\n", "x".repeat(1024)));
    }
    is_problem(&chunked.answer(), 413, "too-large");
    assert_eq!(upstream.recorded().len(), 0);
    let mut fits = post("Content-Length: 65536");
    fits.send("x".repeat(65536));
    assert_eq!(fits.answer().status, 200);
    // Our own endpoints take 64 KiB.
    let host = node.host();
    let login = format!(
        "POST /auth/login HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(65_537)
    );
    is_problem(&Raw::ask(node.address(), login), 413, "too-large");
}

#[test]
fn a_head_that_takes_longer_than_its_time_ends_the_connection() {
    let (upstream, node) = gate("head_timeout = \"1s\"\nkeep_alive = \"2s\"");
    let took = |first: &[u8], drip: &[u8]| {
        let mut stream = TcpStream::connect(node.address()).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let began = Instant::now();
        stream.write_all(first).expect("sent");
        let mut buffer = [0; 1024];
        loop {
            assert!(began.elapsed() < Duration::from_secs(20), "it is never closed");
            match stream.read(&mut buffer) {
                Ok(0) => return began.elapsed(),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return began.elapsed(),
            }
            if !drip.is_empty() && stream.write_all(drip).is_err() {
                return began.elapsed();
            }
        }
    };
    let slow = Duration::from_millis(900)..Duration::from_secs(12);
    // Nothing at all, one byte at a time, a field at a time, half a preface.
    for (first, drip) in [
        (&b""[..], &b""[..]),
        (b"G", b""),
        (b"GET /", b"a"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n"),
        (b"PRI * HTTP/2.0\r\n", b""),
        (b"\r\n", b"\r\n"),
    ] {
        let took = took(first, drip);
        assert!(slow.contains(&took), "{:?}: {took:?}", String::from_utf8_lossy(first));
    }
    // A second head on the same connection.
    let second = took(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b", b"b");
    assert!(slow.contains(&second), "{second:?}");
    // Quiet between requests, in HTTP/1 and 2.
    let quiet = Duration::from_millis(1_800)..Duration::from_secs(12);
    let idle = took(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", b"");
    assert!(quiet.contains(&idle), "{idle:?}");
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &h2::frame(h2::SETTINGS, 0, 0, &[])].concat();
    let idle = took(&preface, b"");
    assert!(quiet.contains(&idle), "HTTP/2: {idle:?}");
    // Pings and an unfinished head do not keep an HTTP/2 connection alive.
    let pinged = took(&preface, &h2::frame(h2::PING, 0, 0, &[0; 8]));
    assert!(quiet.contains(&pinged), "HTTP/2 with pings: {pinged:?}");
    let unfinished =
        [preface.as_slice(), &h2::frame(h2::HEADERS, 0, 1, &h2::block(&[(":method", "GET")]))].concat();
    let unfinished = took(&unfinished, b"");
    assert!(quiet.contains(&unfinished), "an unfinished head of HTTP/2: {unfinished:?}");
    assert!(upstream.recorded().iter().all(|request| request.target == "/a"));
}

#[test]
fn a_body_that_comes_slower_than_its_rate_is_408() {
    let (upstream, node) = gate("body_rate = \"1KiB/s\"");
    let host = node.host();
    let heads = [
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhello".to_owned(),
        format!(
            "POST /auth/login HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
        ),
        format!(
            "POST /auth/login HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n"
        ),
    ];
    std::thread::scope(|scope| {
        for head in &heads {
            let address = node.address();
            scope.spawn(move || {
                let began = Instant::now();
                let answer = Raw::ask(address, head);
                assert_eq!(answer.status, 408, "{head}: {answer:?}");
                // Ten seconds of grace.
                assert!(began.elapsed() >= Duration::from_secs(9), "{head}: {:?}", began.elapsed());
            });
        }
    });
    assert_eq!(upstream.recorded().len(), 0);
}

#[test]
fn a_body_of_unknown_length_that_stops_ends_with_the_routes_time() {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with()
        .config(&format!(
            "[[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n\
             [[route]]\nname = \"all\"\npath = \"/{{rest*}}\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n\
             timeout = {{ first_byte = \"1s\", stream_idle = \"2s\" }}\n",
            upstream.url()
        ))
        .policy("p, anonymous, /*, .*, allow")
        .start();
    let request = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    is_problem(&Raw::ask(node.address(), request), 408, "request-timeout");
    assert_eq!(upstream.recorded().len(), 0);
}

#[test]
fn connections_beyond_the_limit_are_closed_and_the_rest_served() {
    let (_upstream, node) = gate("connections = 20\nhead_timeout = \"3s\"");
    let get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut kept: Vec<Raw> = (0..20)
        .map(|_| {
            let mut connection = Raw::connect(node.address());
            connection.send(get);
            assert_eq!(connection.answer().status, 200);
            connection
        })
        .collect();
    for _ in 0..50 {
        let mut more = Raw::connect(node.address());
        more.try_send(get);
        assert!(more.try_answer().is_none(), "a connection too many was served");
    }
    for connection in &mut kept {
        connection.send(get);
        assert_eq!(connection.answer().status, 200);
    }
    drop(kept);
    eventually("there is room again", || {
        let mut again = Raw::connect(node.address());
        again.try_send(get);
        again.try_answer().filter(|answer| answer.status == 200)
    });
}

/// A HEADERS frame that begins and ends a request.
fn request(stream: u32, path: &str) -> Vec<u8> {
    let block = h2::block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)]);
    h2::frame(h2::HEADERS, h2::END_STREAM | h2::END_HEADERS, stream, &block)
}

#[test]
fn http_2_has_100_streams_at_a_time() {
    let upstream = Upstream::raw(|stream, _| {
        // Takes requests and answers none.
        let mut stream = stream;
        let mut buffer = [0; 1024];
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    let node = Node::with()
        .config(&format!(
            "[[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n\
             [[route]]\nname = \"all\"\npath = \"/{{rest*}}\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n",
            upstream.url()
        ))
        .policy("p, anonymous, /*, .*, allow")
        .start();
    let mut connection = H2::connect(node.address());
    let settings = loop {
        let frame = connection.next().expect("a frame");
        if frame.kind == h2::SETTINGS && frame.flags & h2::ACK == 0 {
            break frame.payload;
        }
    };
    let setting = |id: u16| {
        settings
            .chunks(6)
            .find(|entry| entry[..2] == id.to_be_bytes())
            .map(|entry| u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
    };
    assert_eq!(setting(3), Some(100), "SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(setting(6), Some(32 * 1024), "SETTINGS_MAX_HEADER_LIST_SIZE");
    let streams: Vec<u8> = (0..150).flat_map(|number| request(number * 2 + 1, "/a")).collect();
    assert!(connection.send(&streams));
    // The hundred and first is refused (REFUSED_STREAM), or the connection ends.
    assert!(matches!(connection.end_of(201), End::Reset(7) | End::Gone));
    assert!(upstream.connections() <= 100);
}

#[test]
fn floods_of_http_2_frames_cost_neither_memory_nor_others() {
    let (_upstream, node) = gate("");
    let address = node.address();
    let connect = move || {
        let connection = H2::connect(address);
        // A peer that no longer reads has stopped the flood as well as one that closes.
        connection.give_up_after(Duration::from_secs(2));
        connection
    };
    let rapid_reset = move || {
        let mut connection = connect();
        let cancel = |stream| h2::frame(h2::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        let ended = (0..50_000_u32).find(|number| {
            let stream = number * 2 + 1;
            !connection.send(&[request(stream, "/flood"), cancel(stream)].concat())
        });
        assert!(ended.is_some(), "50,000 requests were taken and reset on one connection");
    };
    let continuation = move || {
        let mut connection = connect();
        connection.send(&h2::frame(h2::HEADERS, 0, 1, &h2::block(&[(":method", "GET")])));
        let block = h2::block(&[("x", &"y".repeat(16_000))]);
        let frame = h2::frame(h2::CONTINUATION, 0, 1, &block);
        let ended = (0..20_000).find(|_| !connection.send(&frame));
        assert!(ended.is_some(), "320 MB of one head were taken");
    };
    let empty_continuation = move || {
        let mut connection = connect();
        connection.send(&h2::frame(h2::HEADERS, 0, 1, &h2::block(&[(":method", "GET")])));
        let frame = h2::frame(h2::CONTINUATION, 0, 1, &[]).repeat(100);
        let ended = (0..20_000).find(|_| !connection.send(&frame));
        assert!(ended.is_some(), "2,000,000 empty frames of one head were taken");
    };
    let bomb = move || {
        // One large entry of the dynamic table, referred to thousands of times.
        let mut connection = connect();
        let mut block =
            h2::block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/bomb")]);
        block.push(0x40);
        h2::integer(1, 7, 0, &mut block);
        block.push(b'x');
        h2::integer(4_000, 7, 0, &mut block);
        block.extend(vec![b'y'; 4_000]);
        block.extend(vec![0xbe; 8_000]);
        connection.send(&h2::frame(h2::HEADERS, h2::END_STREAM | h2::END_HEADERS, 1, &block));
        assert!(!matches!(connection.end_of(1), End::Status(200)), "32 MB of fields in 12 KB were taken");
    };
    let unread = |kind: u8, payload: Vec<u8>| {
        move || {
            // Each is to be answered, and the answers are not read.
            let mut connection = connect();
            let frames = h2::frame(kind, 0, 0, &payload).repeat(1_000);
            for _ in 0..2_000 {
                if !connection.send(&frames) {
                    return;
                }
            }
        }
    };
    let data = move || {
        // Empty DATA frames on a stream that never ends.
        let mut connection = connect();
        let block =
            h2::block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/a")]);
        connection.send(&h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &block));
        let frames = h2::frame(h2::DATA, 0, 1, &[]).repeat(1_000);
        for _ in 0..500 {
            if !connection.send(&frames) {
                return;
            }
        }
    };
    let floods: Vec<Flood> = vec![
        ("requests that are reset", Box::new(rapid_reset)),
        ("a head without end", Box::new(continuation)),
        ("a head of empty frames", Box::new(empty_continuation)),
        ("a head that grows when it is unpacked", Box::new(bomb)),
        ("settings", Box::new(unread(h2::SETTINGS, vec![0, 3, 0, 0, 0, 1]))),
        ("pings", Box::new(unread(h2::PING, vec![0; 8]))),
        ("empty data", Box::new(data)),
    ];
    for (name, flood) in floods {
        eprintln!("flood: {name}");
        withstands(&node, 48 * MIB, flood);
    }
}

#[test]
fn floods_of_http_1_cost_neither_memory_nor_others() {
    let (upstream, node) = gate("head_timeout = \"2s\"");
    let address = node.address();
    let pipelined = move || {
        // Requests without reading one answer.
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let requests = "GET /flood HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1_000);
        for _ in 0..200 {
            if stream.write_all(requests.as_bytes()).is_err() {
                return;
            }
        }
    };
    let extensions = move || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        stream
            .write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1")
            .expect("sent");
        let extension = ";x=yyyyyyyyyyyyy".repeat(1_000);
        let ended = (0..4_000).find(|_| stream.write_all(extension.as_bytes()).is_err());
        assert!(ended.is_some(), "64 MB of chunk extensions were taken");
    };
    let trailers = move || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        stream
            .write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
            .expect("sent");
        let fields = "X-Trailer: yyyyyyyyyy\r\n".repeat(1_000);
        let ended = (0..3_000).find(|_| stream.write_all(fields.as_bytes()).is_err());
        assert!(ended.is_some(), "66 MB of trailers were taken");
    };
    let slow = move || {
        let connections: Vec<_> = (0..500)
            .map(|_| {
                let mut stream = TcpStream::connect(address).expect("a connection");
                stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\nX: ").expect("sent");
                stream
            })
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        drop(connections);
    };
    let floods: Vec<Flood> = vec![
        ("pipelined requests", Box::new(pipelined)),
        ("chunk extensions", Box::new(extensions)),
        ("trailers", Box::new(trailers)),
        ("five hundred slow heads", Box::new(slow)),
    ];
    for (name, flood) in floods {
        eprintln!("flood: {name}");
        withstands(&node, 48 * MIB, flood);
    }
    assert!(upstream.recorded().iter().all(|request| request.target != "/x" && request.target != "/slow"));
}

#[test]
fn two_hundred_sign_ins_at_once_wait_in_a_bounded_queue() {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with()
        .upstream(&upstream.url())
        .config("[passwords.hashing]\nmemory = \"19MiB\"\npasses = 2\nthreads = 1\nqueue = 16\n")
        .config(
            "[[route]]\nname = \"open\"\npath = \"/other\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n",
        )
        .policy("p, anonymous, /other, GET, allow")
        .start();
    let statuses = std::sync::Mutex::new(Vec::new());
    withstands(&node, 96 * MIB, || {
        std::thread::scope(|scope| {
            for number in 0..200 {
                let (node, statuses) = (&node, &statuses);
                scope.spawn(move || {
                    let answer = node.sign_in(&format!("nobody-{number}"), "a wrong password");
                    let retry = answer.headers().contains_key("retry-after");
                    statuses.lock().expect("a lock").push((answer.status().as_u16(), retry));
                });
            }
        });
    });
    let statuses = statuses.into_inner().expect("a lock");
    assert_eq!(statuses.len(), 200);
    for (status, retry) in &statuses {
        assert!(matches!((status, retry), (401, false) | (429 | 503, true)), "{status} {retry}");
    }
    assert!(statuses.iter().any(|(status, _)| *status == 503), "the queue is bounded");
    assert!(statuses.iter().any(|(status, _)| *status == 401), "the queue is served");
}

#[test]
fn what_a_client_sends_fills_no_log() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with().upstream(&upstream.url()).start();
    let before = node.log().len();
    let mut connection = H2::connect(node.address());
    // Answers to pings that nobody sent.
    let answers = h2::frame(h2::PING, h2::ACK, 0, &[0; 8]).repeat(100);
    for _ in 0..100 {
        connection.send(&answers);
    }
    connection.send(&h2::frame(h2::PING, 0, 0, &[7; 8]));
    let mut frames = std::iter::from_fn(|| connection.next());
    let read = frames.any(|frame| frame.kind == h2::PING && frame.payload == [7; 8]);
    assert!(read, "all of it was read");
    assert_eq!(node.log().len(), before, "{}", node.log());
}
