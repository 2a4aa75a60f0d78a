//! Requests as attackers send them: forged identities, hidden trailers, other origins, misconfigurations that would open
//! the gate.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::{Answer, Node, PASSWORD, Raw, Reply, Upstream, client};

/// An upstream and a node with an open route and a closed one.
fn gate() -> (Upstream, Node) {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with()
        .upstream(&upstream.url())
        .config(
            "[listen]\nstrip_headers = [\"X-Tenant\"]\n\
             [[route]]\nname = \"open\"\npath = \"/open/{rest*}\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n",
        )
        .policy("p, admin, /*, .*, allow\np, reader, /*, GET|HEAD, allow\np, anonymous, /open/*, .*, allow")
        .start();
    (upstream, node)
}

fn get(node: &Node, path: &str, head: &str) -> Answer {
    let host = node.host();
    Raw::ask(
        node.address(),
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{head}Connection: close\r\n\r\n"),
    )
}

/// Every spelling of a name that some server reads as the same.
fn spellings(name: &str) -> Vec<String> {
    vec![
        name.to_owned(),
        name.to_ascii_lowercase(),
        name.to_ascii_uppercase(),
        name.replace('-', "_"),
        name.replace('-', "."),
        name.replacen('-', "_", 1),
        name.to_ascii_uppercase().replace('-', "_"),
    ]
}

const IDENTITY: &[&str] = &[
    "Portcullis-User",
    "Portcullis-Roles",
    "Portcullis-Email",
    "Portcullis-Assertion",
    "Portcullis-Anything",
    "Remote-User",
    "Remote-Groups",
    "Remote-Email",
    "Remote-Name",
    "X-Remote-User",
    "X-Remote-Group",
    "X-Remote-Extra-Scopes",
    "X-Auth-Request-User",
    "X-Auth-Request-Access-Token",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Tls-Client-Cert",
    "X-Forwarded-Tls-Client-Cert-Info",
    "X-Authentik-Username",
    "X-Authentik-Groups",
    "X-Pomerium-Jwt-Assertion",
    "X-Pomerium-Claim-Email",
    "X-WebAuth-User",
    "Client-Cert",
    "Client-Cert-Chain",
    "SSL-Client-Verify",
    "SSL-Client-S-Dn",
    "X-Original-URL",
    "X-Original-Method",
    "X-Original-Host",
    "X-Rewrite-URL",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "Forwarded",
    "X-Tenant",
];

#[test]
fn no_spelling_of_an_identity_header_reaches_an_upstream_on_any_route() {
    let (upstream, node) = gate();
    let bob = node.token("bob");
    let mut names: Vec<String> = IDENTITY.iter().flat_map(|name| spellings(name)).collect();
    // Names of forwarding and framing, in the spellings that no proxy of ours would send.
    names.extend(
        [
            "X_Forwarded_For",
            "x.forwarded.host",
            "X_Forwarded_Proto",
            "Content_Length",
            "Transfer_Encoding",
            "x_real_ip",
        ]
        .map(str::to_owned),
    );
    for (path, authorization) in
        [("/open/a", String::new()), ("/a", format!("Authorization: Bearer {bob}\r\n"))]
    {
        for some in names.chunks(40) {
            let forged: String = some.iter().map(|name| format!("{name}: forged-value\r\n")).collect();
            let answer = get(&node, path, &format!("{authorization}{forged}"));
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            let seen = upstream.last();
            for (name, value) in &seen.headers {
                assert!(!value.contains("forged-value"), "{path}: {name} reached the upstream");
            }
            let user = if path == "/a" { "bob" } else { "" };
            assert_eq!(seen.header("portcullis-user"), user);
            assert_eq!(seen.all("portcullis-user").len(), 1, "always present");
            assert_eq!(seen.all("portcullis-roles").len(), 1, "always present");
            assert_eq!(seen.all("portcullis-email").len(), 1, "always present");
        }
    }
}

#[test]
fn a_connection_header_takes_none_of_ours_away() {
    let (upstream, node) = gate();
    let bob = node.token("bob");
    let request = format!(
        "GET /a HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {bob}\r\nX-Inner: y\r\n\
         Connection: close, Portcullis-User, portcullis-roles, Portcullis-Assertion, X-Forwarded-For, \
         X-Forwarded-Host, X-Forwarded-Proto, Host, X-Request-Id, X-Inner\r\n\
         Connection: Portcullis-Email\r\nKeep-Alive: x\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
        node.host()
    );
    assert_eq!(Raw::ask(node.address(), request).status, 200);
    let seen = upstream.last();
    assert_eq!(seen.header("portcullis-user"), "bob");
    assert_eq!(seen.header("portcullis-roles"), "reader");
    assert_eq!(seen.all("portcullis-email").len(), 1);
    assert!(!seen.header("portcullis-assertion").is_empty());
    assert_eq!(seen.header("host"), node.host());
    assert_eq!(seen.header("x-forwarded-host"), node.host());
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    for name in
        ["x-inner", "keep-alive", "te", "upgrade", "proxy-connection", "proxy-authorization", "authorization"]
    {
        assert!(seen.all(name).is_empty(), "{name}: {seen:?}");
    }
}

#[test]
fn what_a_client_says_of_those_before_it_is_not_believed() {
    let (upstream, node) = gate();
    let forged = "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 192.0.2.7, 127.0.0.1\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /x\r\n\
                  X-Forwarded-Server: s\r\nX-Real-IP: 192.0.2.7\r\nTrue-Client-IP: 192.0.2.7\r\n\
                  CF-Connecting-IP: 192.0.2.7\r\nForwarded: for=192.0.2.7;host=evil.example\r\n";
    let answer = get(&node, "/open/a", forged);
    assert_eq!(answer.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-forwarded-host"), node.host());
    assert_eq!(seen.header("x-forwarded-port"), node.port().to_string());
    for (name, value) in &seen.headers {
        assert!(!value.contains("192.0.2.7") && !value.contains("evil"), "{name}: {value}");
    }
    let event = node.event(answer.header("x-request-id").expect("an id"));
    assert_eq!(event["client"]["ip"], "127.0.0.1");
}

#[test]
fn trailers_carry_no_identity() {
    let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
    let all = Arc::clone(&bytes);
    let upstream = Upstream::raw(move |mut stream, _| {
        let mut buffer = [0; 4096];
        while let Ok(count) = stream.read(&mut buffer) {
            let mut all = all.lock().expect("a lock");
            all.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&all).into_owned();
            let done = text.contains("\r\n0\r\n") && text.ends_with("\r\n\r\n");
            drop(all);
            if count == 0
                || done && stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err()
            {
                return;
            }
        }
    });
    let node = Node::with()
        .upstream(&upstream.url())
        .config(
            "[[route]]\nname = \"open\"\npath = \"/open\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n",
        )
        .policy("p, anonymous, /open, .*, allow")
        .start();
    let names =
        ["Portcullis-User", "X_Forwarded_User", "Remote-User", "X-Forwarded-For", "X-Api-Key", "X-Checksum"];
    let trailers: String = names.iter().map(|name| format!("{name}: in-a-trailer\r\n")).collect();
    let answer = Raw::ask(
        node.address(),
        format!(
            "POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: {}\r\nConnection: close\r\n\r\n\
             5\r\nhello\r\n0\r\n{trailers}\r\n",
            names.join(", ")
        ),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = String::from_utf8_lossy(&bytes.lock().expect("a lock")).to_ascii_lowercase();
    let behind = text.split("\r\n0\r\n").nth(1).expect("the last chunk").to_owned();
    assert_eq!(behind.trim(), "x-checksum: in-a-trailer", "{text}");
}

#[test]
fn no_request_is_magic() {
    let (upstream, node) = gate();
    for head in [
        "User-Agent: kube-probe/1.29\r\n",
        "User-Agent: GoogleHC/1.0\r\n",
        "User-Agent: ELB-HealthChecker/2.0\r\n",
        "X-Health-Check: 1\r\n",
        "X-Middleware-Subrequest: middleware:middleware:middleware\r\n",
        "X-Original-URL: /open/a\r\n",
        "X-Rewrite-URL: /open/a\r\n",
        "X-HTTP-Method-Override: OPTIONS\r\n",
        "X-Forwarded-Uri: /open/a\r\nX-Forwarded-Method: GET\r\n",
        "Sec-Fetch-Site: same-origin\r\nOrigin: null\r\n",
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "X: \u{e9}\r\n",
        "Cookie: portcullis=\u{e9}\r\n",
        "Cookie: portcullis=a; portcullis=b\r\n",
        "Authorization: Basic YWxpY2U6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==\r\n",
        "Authorization: \u{e9}\r\n",
        "Authorization: Negotiate AAAA\r\n",
    ] {
        for path in
            ["/a", "/healthz", "/readyz", "/metrics", "/api/v1/users", "/ping", "/robots.txt", "/favicon.ico"]
        {
            let answer = get(&node, path, head);
            assert_eq!(answer.status, 401, "{path} {head}: {answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path} {head}");
        }
    }
    for method in ["OPTIONS", "HEAD", "TRACE", "PROPFIND", "get", "X"] {
        let host = node.host();
        let answer = Raw::exchange(
            node.address(),
            format!("{method} /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        );
        assert!(answer.starts_with(b"HTTP/1.1 401 "), "{method}: {:?}", String::from_utf8_lossy(&answer));
    }
    assert!(upstream.recorded().is_empty(), "{:?}", upstream.recorded());
}

#[test]
fn a_return_to_that_leads_elsewhere_is_ignored() {
    let (_upstream, node) = gate();
    for evil in [
        "https://evil.example/",
        "//evil.example/",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "https:evil.example",
        "https:/evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "HOST@evil.example/",
        "http://HOST@evil.example/",
        "http://HOST:x@evil.example/",
        "http://evil.example#@HOST/",
        "http://HOST.evil.example/",
        "http://evilHOST/",
        "http://evil.example\\@HOST/",
        "http://HOST\\.evil.example/",
        "http://localhost:1/",
        "ftp://HOST/",
        " https://evil.example",
        "http://[::1]:1/",
    ] {
        let evil = evil.replace("HOST", &node.host());
        let query: String =
            url::form_urlencoded::Serializer::new(String::new()).append_pair("return_to", &evil).finish();
        let page = client().get(node.url(&format!("/auth/login?{query}"))).send().expect("an answer");
        assert_eq!(page.status(), 200, "{evil}");
        let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
        let text = page.text().expect("text");
        assert!(!policy.contains("evil"), "{evil}: {policy}");
        let form: Vec<_> = text.split("name=\"return_to\"").collect();
        assert_eq!(form.len(), 1, "{evil} is kept: {text}");
    }
}

#[test]
fn a_node_that_would_stand_open_does_not_start() {
    let route = "[[upstream]]\nname = \"main\"\nservers = [\"http://127.0.0.1:1\"]\n\
                 [[route]]\nname = \"a\"\npath = \"/{rest*}\"\nupstream = \"main\"\n";
    let (certificate, key) = {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let client_rule =
        "[[listen.tls.client]]\nhosts = [\"*\"]\nauth = \"required\"\nca = \"tls/clients.pem\"\n";
    let cases: Vec<(&str, crate::support::Builder, &str)> = vec![
        (
            "every proxy is trusted",
            Node::with().config("[listen]\ntrusted_proxies = [\"0.0.0.0/0\"]\n"),
            "trusted_proxies",
        ),
        (
            "every proxy is trusted (IPv6)",
            Node::with().config("[listen]\ntrusted_proxies = [\"::/0\"]\n"),
            "trusted_proxies",
        ),
        (
            "a route twice",
            Node::with()
                .config(route)
                .config(&route.replace("\"a\"", "\"b\"").replace("main\"\nservers", "other\"\nservers")),
            "route",
        ),
        (
            "a route below a reserved path",
            Node::with().config(&route.replace("/{rest*}", "/auth/x")),
            "is below `/auth`",
        ),
        (
            "a public http address",
            Node::with().config("[listen]\npublic_url = \"http://gate.example.com\"\n"),
            "public_url",
        ),
        (
            "no authorities for client certificates",
            Node::with().tls(&certificate, &key).config(client_rule),
            "clients.pem",
        ),
        (
            "empty authorities for client certificates",
            Node::with().tls(&certificate, &key).config(client_rule).file("tls/clients.pem", ""),
            "clients.pem",
        ),
        (
            "rubbish for authorities",
            Node::with()
                .tls(&certificate, &key)
                .config(client_rule)
                .file("tls/clients.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "clients.pem",
        ),
        (
            "a rubbish revocation list",
            Node::with()
                .tls(&certificate, &key)
                .config(&format!("{client_rule}crl = \"tls/clients.crl\"\n"))
                .file("tls/clients.pem", &certificate)
                .file("tls/clients.crl", "rubbish"),
            "clients.crl",
        ),
        (
            "an account with the name of a role",
            Node::with().account("admin", &["reader"]).account("alice", &["admin"]),
            "admin",
        ),
        ("an account called anonymous", Node::with().account("anonymous", &["reader"]), "anonymous"),
        ("an account with a colon", Node::with().account("client:x", &["reader"]), "client:x"),
        ("a role with a comma", Node::with().account("carol", &["x,admin"]), "x,admin"),
    ];
    for (name, builder, named) in cases {
        eprintln!("case: {name}");
        let (code, out, err) = builder.refused();
        assert_eq!(code, 2, "{name}: {out}{err}");
        assert!(format!("{out}{err}").contains(named), "{name} does not name {named}: {out}{err}");
    }
}

#[test]
fn a_policy_file_makes_nobody_an_operator() {
    let rows = "p, admin, /*, .*, allow\np, portcullis:administrator, /*, .*, allow\n\
                g, bob, portcullis:administrator\ng, bob, admin";
    let node = Node::with().policy(rows).start();
    let bob = node.token("bob");
    for path in ["/api/v1/users", "/api/v1/audit/events"] {
        let ask = |token: &str| client().get(node.admin(path)).bearer_auth(token).send().expect("an answer");
        assert!(matches!(ask(&bob).status().as_u16(), 401 | 403), "{path}");
        assert!(matches!(ask("").status().as_u16(), 401 | 403), "{path}");
        assert!(matches!(ask(node.admin_token()).status().as_u16(), 200 | 404), "{path}");
    }
}

#[test]
fn a_refusal_says_nothing_of_rules_accounts_or_upstreams() {
    let (upstream, node) = gate();
    let bob = node.token("bob");
    for (method, path, status) in
        [("DELETE", "/a", 403), ("DELETE", "/nowhere/secret-name", 403), ("GET", "/auth/nowhere", 404)]
    {
        let answer = node.ask(method, path, &bob);
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{path}");
        assert!(!answer.headers().contains_key("server"), "{path}");
        let text = answer.text().expect("text");
        let problem: Value = serde_json::from_str(&text).expect("JSON");
        let mut members: Vec<_> =
            problem.as_object().expect("an object").keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["request_id", "status", "title", "type"], "{text}");
        for secret in ["policy", "admin", "reader", "bob", "main", "127.0.0.1", "secret-name", ".csv"] {
            assert!(!text.contains(secret), "{path}: {text}");
        }
    }
    assert!(upstream.recorded().is_empty());
}

#[test]
fn a_session_cookie_of_another_spelling_or_host_is_nobody() {
    let (upstream, node) = gate();
    let login = node.sign_in("bob", PASSWORD);
    assert!(login.headers().get("set-cookie").is_none(), "programs get no session");
    for cookie in [
        "portcullis=0",
        "portcullis=",
        "portcullis=../../x",
        "__Host-portcullis=x",
        "Portcullis=x",
        "portcullis=%00",
        "portcullis=\"x\"",
        &format!("portcullis={}", "a".repeat(8000)),
        "portcullis=a; portcullis=b",
        " portcullis = x ",
    ] {
        let answer = get(&node, "/a", &format!("Cookie: {cookie}\r\n"));
        assert_eq!(answer.status, 401, "{cookie}: {answer:?}");
    }
    assert!(upstream.recorded().is_empty());
    // To an open route the cookie goes neither, ours or one that looks like it.
    assert_eq!(get(&node, "/open/a", "Cookie: a=b; portcullis=x; __Host-portcullis=y; c=d\r\n").status, 200);
    assert_eq!(upstream.last().header("cookie"), "a=b; c=d");
}
