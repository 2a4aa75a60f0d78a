//! Bytes that two readers divide differently into requests: refused, the connection closed, nothing behind them served.

use crate::support::h2::{self, End, H2};
use crate::support::{Node, Raw, Reply, Upstream};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn gate() -> (Upstream, Node) {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with()
        .config(&format!(
            "[[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n\
             [[route]]\nname = \"all\"\npath = \"/{{rest*}}\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n",
            upstream.url()
        ))
        .policy("p, anonymous, /*, .*, allow")
        .start();
    (upstream, node)
}

/// The statuses of all answers in what a connection gave.
fn statuses(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)).map(str::to_owned).collect()
}

#[test]
fn a_request_whose_end_is_ambiguous_is_refused_and_nothing_behind_it_is_served() {
    let post =
        |fields: &str, body: &str| format!("POST /first HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
    let cases: Vec<(&str, String)> = vec![
        ("length, then chunked", post("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        ("chunked, then length", post("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n")),
        ("chunked and a length of 0", post("Transfer-Encoding: chunked\r\nContent-Length: 0", "0\r\n\r\n")),
        ("chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        (
            "identity and chunked",
            post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ),
        ("chunked twice in a list", post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n")),
        ("another coding before chunked", post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n")),
        ("another coding", post("Transfer-Encoding: identity", "0\r\n\r\n")),
        ("an unknown coding", post("Transfer-Encoding: xchunked", "0\r\n\r\n")),
        ("a coding in quotes", post("Transfer-Encoding: \"chunked\"", "0\r\n\r\n")),
        ("a coding with a vertical tab", post("Transfer-Encoding: \x0bchunked", "0\r\n\r\n")),
        ("an empty coding", post("Transfer-Encoding:", "0\r\n\r\n")),
        (
            "a coding far behind its colon",
            post(&format!("Transfer-Encoding:{}chunked", " ".repeat(300)), "0\r\n\r\n"),
        ),
        ("a space before the colon", post("Transfer-Encoding : chunked", "0\r\n\r\n")),
        ("a space before the name", post("X: y\r\n Transfer-Encoding: chunked", "0\r\n\r\n")),
        ("a space before the first name", "POST /first HTTP/1.1\r\n Host: a\r\n\r\n".to_owned()),
        ("equal lengths", post("Content-Length: 5\r\nContent-Length: 5", "hello")),
        ("different lengths", post("Content-Length: 5\r\nContent-Length: 0", "hello")),
        ("lengths in a list", post("Content-Length: 5, 5", "hello")),
        ("a length with a plus", post("Content-Length: +5", "hello")),
        ("a length with a minus", post("Content-Length: -5", "hello")),
        ("a length in hex", post("Content-Length: 0x5", "hello")),
        ("a length with a space in it", post("Content-Length: 5 5", "hello")),
        ("a length with a fraction", post("Content-Length: 5.0", "hello")),
        ("an empty length", post("Content-Length:", "hello")),
        ("a length beyond 64 bits", post("Content-Length: 18446744073709551616", "hello")),
        (
            "chunked in HTTP/1.0",
            "POST /first HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("bare line feeds", "POST /first HTTP/1.1\nHost: a\nContent-Length: 0\n\n".to_owned()),
        ("one bare line feed", "POST /first HTTP/1.1\r\nHost: a\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a bare line feed at the head's end", "POST /first HTTP/1.1\r\nHost: a\r\n\n".to_owned()),
        ("a bare carriage return in a value", post("X: y\rContent-Length: 0", "")),
        ("NUL in a value", post("X: y\0", "")),
        ("NUL in a name", post("X\0: y", "")),
        ("a name with a space", post("X y: z", "")),
        ("a line without a name", post(": y", "")),
        ("a line without a colon", post("Content-Length", "")),
        ("two spaces in the request line", "GET  /first HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("a tab in the request line", "GET\t/first HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("an unknown version", "GET /first HTTP/1.2\r\nHost: a\r\n\r\n".to_owned()),
        ("a version of two digits", "GET /first HTTP/1.10\r\nHost: a\r\n\r\n".to_owned()),
        ("no version", "GET /first\r\n\r\n".to_owned()),
        ("a method that is none", "GE(T /first HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("a chunk size with a bare line feed", chunked("5\nhello\r\n0\r\n\r\n")),
        ("an extension with a bare line feed", chunked("5;x\nhello\r\n0\r\n\r\n")),
        ("a chunk size in another notation", chunked("0x5\r\nhello\r\n0\r\n\r\n")),
        ("a chunk size with a sign", chunked("+5\r\nhello\r\n0\r\n\r\n")),
        ("an empty chunk size", chunked("\r\nhello\r\n0\r\n\r\n")),
        ("a chunk size beyond 64 bits", chunked("10000000000000005\r\nhello\r\n0\r\n\r\n")),
        ("the largest chunk size", chunked("ffffffffffffffff\r\nhello\r\n0\r\n\r\n")),
        ("a chunk that is longer than its size", chunked("5\r\nhello!\r\n0\r\n\r\n")),
        ("a chunk that ends with a bare line feed", chunked("5\r\nhello\n0\r\n\r\n")),
        ("a last chunk that ends with a bare line feed", chunked("0\r\n\n")),
        ("a trailer with a bare line feed", chunked("0\r\nX: y\n\r\n")),
        ("a trailer without a name", chunked("0\r\n: y\r\n\r\n")),
    ];
    let (upstream, node) = gate();
    let mut wrong = Vec::new();
    for (name, bytes) in &cases {
        let answered = Raw::exchange(node.address(), format!("{bytes}{SMUGGLED}"));
        let all = statuses(&answered);
        if all.iter().any(|status| status != "400") || all.len() > 1 {
            wrong.push(format!("{name}: {all:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let seen: Vec<_> = upstream.recorded().into_iter().map(|request| request.target).collect();
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn requests_one_after_the_other_are_divided_as_they_were_meant() {
    let (upstream, node) = gate();
    let body =
        "GET /in-the-body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut connection = Raw::connect(node.address());
    connection.send(format!(
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}\
         POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
         {:x};name=value\r\n{body}\r\n0\r\nX-Trailer: y\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: a\r\n\r\n\
         POST /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        body.len(),
        body.len()
    ));
    for _ in 0..4 {
        assert_eq!(connection.answer().status, 200);
    }
    let seen = upstream.recorded();
    let targets: Vec<_> = seen.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(targets, ["/1", "/2", "/3", "/4"]);
    assert_eq!((seen[0].body.as_slice(), seen[1].body.as_slice()), (body.as_bytes(), body.as_bytes()));
}

#[test]
fn a_body_that_is_cut_off_never_completes_upstream() {
    let (upstream, node) = gate();
    for bytes in [
        "POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
        "POST /cut HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "POST /cut HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let mut connection = Raw::connect(node.address());
        connection.send(bytes);
        connection.finish();
        connection.rest();
    }
    assert_eq!(Raw::ask(node.address(), "GET /after HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    let seen: Vec<_> = upstream.recorded().into_iter().map(|request| request.target).collect();
    assert_eq!(seen, ["/after"]);
}

#[test]
fn an_early_answer_is_not_followed_by_what_was_the_body() {
    let (upstream, node) = gate();
    // 405 and 404 of ours come before the body: what follows is body, or the connection ends.
    let host = node.host();
    let answered = Raw::exchange(
        node.address(),
        format!(
            "POST /auth/nowhere HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{SMUGGLED}\
             GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            SMUGGLED.len()
        ),
    );
    assert!(statuses(&answered).first().is_some_and(|status| status == "404"), "{answered:?}");
    assert!(upstream.recorded().iter().all(|request| request.target != "/smuggled"));
}

#[test]
fn an_http_2_request_that_http_1_would_read_differently_never_reaches_the_upstream() {
    let (upstream, node) = gate();
    let plain = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/h2")];
    let with = |name: &'static str, value: &'static str| {
        let mut fields = plain.to_vec();
        match fields.iter_mut().find(|field| name.starts_with(':') && field.0 == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
        fields
    };
    let mut twice = plain.to_vec();
    twice.push((":path", "/other"));
    let mut late = vec![("x", "y")];
    late.extend(plain);
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("a transfer coding", with("transfer-encoding", "chunked")),
        ("a connection header", with("connection", "close")),
        ("an upgrade", with("upgrade", "h2c")),
        ("keep-alive", with("keep-alive", "timeout=5")),
        ("proxy-connection", with("proxy-connection", "close")),
        ("TE that is not trailers", with("te", "gzip")),
        ("a line break in a value", with("x", "y\r\ntransfer-encoding: chunked")),
        ("a line feed in a value", with("x", "y\ncontent-length: 5")),
        ("NUL in a value", with("x", "y\0z")),
        ("a line break in a name", with("x\r\nhost", "b")),
        ("a colon in a name", with("x: y", "z")),
        ("an upper-case name", with("X-Upper", "y")),
        ("an empty name", with("", "y")),
        ("a request line in the path", with(":path", "/h2 HTTP/1.1\r\nHost: b\r\n\r\nGET /smuggled")),
        ("a space in the path", with(":path", "/h2 /other")),
        ("an empty path", with(":path", "")),
        ("a path without a slash", with(":path", "h2")),
        ("an absolute path", with(":path", "http://b/h2")),
        ("a star", with(":path", "*")),
        ("dots in the path", with(":path", "/a/../h2")),
        ("a line break in the method", with(":method", "GET / HTTP/1.1\r\nHost: b\r\n\r\nPOST")),
        ("a space in the method", with(":method", "GET /x")),
        ("connect", with(":method", "CONNECT")),
        ("an unknown scheme", with(":scheme", "ftp")),
        ("userinfo", with(":authority", "u@a")),
        ("a line break in the authority", with(":authority", "a\r\nx: y")),
        ("another host", with("host", "b")),
        ("an unknown pseudo header", with(":x", "y")),
        ("two paths", twice),
        ("pseudo headers behind others", late),
        ("a status", with(":status", "200")),
        ("no path", plain[..3].to_vec()),
        ("no method", plain[1..].to_vec()),
        ("a length that the body has not", with("content-length", "10")),
        ("two lengths", {
            let mut fields = with("content-length", "5");
            fields.push(("content-length", "6"));
            fields
        }),
        ("a length with a plus", with("content-length", "+5")),
    ];
    let send = |fields: &[(&str, &str)]| {
        let mut connection = H2::connect(node.address());
        connection.send(&h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &h2::block(fields)));
        connection.send(&h2::frame(h2::DATA, h2::END_STREAM, 1, b"hello"));
        connection.end_of(1)
    };
    assert_eq!(send(&plain), End::Status(200));
    assert_eq!(upstream.recorded().len(), 1);
    assert_eq!(upstream.last().body, b"hello");
    let mut wrong = Vec::new();
    for (name, fields) in &cases {
        let end = send(fields);
        // 502 after a body that broke off: the request never became whole.
        if !matches!(end, End::Reset(_) | End::Gone | End::Status(400)) {
            wrong.push(format!("{name}: {end:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let seen: Vec<_> = upstream.recorded().into_iter().skip(1).map(|request| request.target).collect();
    assert!(seen.is_empty(), "{seen:?}");
}
