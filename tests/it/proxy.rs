//! What of a request reaches the upstream: exactly the path that was decided on, our identity headers and nobody else's.

use std::io::{BufReader, Write as _};

use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use crate::support::{Node, Raw, Reply, Upstream, client, read_head};

fn behind(upstream: &Upstream) -> Node {
    Node::with().upstream(&upstream.url()).start()
}

#[test]
fn a_node_serves_records_and_ends_on_sigterm() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let mut node = behind(&upstream);
    let bob = node.token("bob");
    let answer = node.ask("GET", "/a/b?c=d", &bob);
    assert_eq!(answer.status(), 200);
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(answer.text().expect("text"), "hello");
    assert_eq!(upstream.last().target, "/a/b?c=d");
    let event = node.event(&id);
    assert_eq!((&event["decision"], &event["status"]), (&Value::from("allow"), &Value::from(200)));
    assert_eq!(node.ask("DELETE", "/a", &bob).status(), 403);
    assert_eq!(upstream.recorded().len(), 1, "a refused request does not reach the upstream");
    assert_eq!(node.stop(), 0);
    node.start_again();
    assert_eq!(node.ask("GET", "/again", &bob).status(), 200);
}

#[test]
fn exactly_the_authorized_path_is_sent() {
    let upstream = Upstream::start(|_| Reply::ok(""));
    let node = behind(&upstream);
    let bob = node.token("bob");
    let host = node.host();
    let absolute = format!("http://{host}/abs?x");
    for (sent, arrives) in [
        ("/a%2Db", "/a-b"),
        ("/%7euser", "/~user"),
        ("/%61dmin%20x", "/admin%20x"),
        ("/a%c3%a9", "/a%C3%A9"),
        ("/a/?", "/a/?"),
        ("/a?q=%2e%2e/%2F&r=//", "/a?q=%2e%2e/%2F&r=//"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/a/", "/a/"),
        ("/", "/"),
        (absolute.as_str(), "/abs?x"),
    ] {
        let request = format!(
            "GET {sent} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {bob}\r\nconnection: close\r\n\r\n"
        );
        let answer = Raw::ask(node.address(), request);
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(upstream.last().target, arrives, "{sent}");
        let id = answer.header("x-request-id").expect("an id");
        let path = arrives.split('?').next().expect("a path");
        assert_eq!(node.event(id)["path"], path, "{sent}: the audit has the same text");
    }
}

#[test]
fn a_request_with_two_readings_reaches_nobody() {
    let upstream = Upstream::start(|_| Reply::ok(""));
    let node = behind(&upstream);
    let alice = node.token("alice");
    let host = node.host();
    for target in [
        "/a/../b",
        "/a/%2e%2e/b",
        "/a/.%2E/b",
        "/a/./b",
        "/a//b",
        "//a",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a%00b",
        "/a%0ab",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%FF",
        "/a%252e%252e/b",
        "/a%252Fb",
        "/a/..;/b",
        "/a/.;x/b",
        "http://other.example/a",
        "*",
    ] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {alice}\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(Raw::ask(node.address(), request).status, 400, "{target}");
    }
    for host in ["", "host: a@localhost\r\n", "host: a\r\nhost: b\r\n", "host: a b\r\n", "host: a/b\r\n"] {
        let request =
            format!("GET / HTTP/1.1\r\n{host}authorization: Bearer {alice}\r\nconnection: close\r\n\r\n");
        assert_eq!(Raw::ask(node.address(), request).status, 400, "{host:?}");
    }
    assert!(upstream.recorded().is_empty());
}

#[test]
fn forged_identity_headers_are_gone_in_every_spelling_and_ours_are_there_once() {
    let upstream = Upstream::start(|_| Reply::ok(""));
    let node = behind(&upstream);
    let (bob, host) = (node.token("bob"), node.host());
    let forged = [
        "Portcullis-User",
        "portcullis_user",
        "Portcullis.User",
        "PORTCULLIS-ROLES",
        "Portcullis-Assertion",
        "Portcullis-Anything",
        "Remote-User",
        "Remote_User",
        "REMOTE.USER",
        "X-Remote-User",
        "X-Auth-Request-User",
        "X_Auth_Request_Email",
        "X-Forwarded-User",
        "X_Forwarded_User",
        "x.forwarded.groups",
        "X-Authentik-Username",
        "X-Pomerium-Jwt-Assertion",
        "X-WebAuth-User",
        "Client-Cert",
        "SSL_CLIENT_S_DN",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "Forwarded",
        "X_Forwarded_For",
        "X.Forwarded.Host",
        "X-Forwarded-Client-Cert",
        "Transfer_Encoding",
        "Content_Length",
    ];
    let mut request = format!(
        "GET /a HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {bob}\r\n\
         connection: close, portcullis-user, x-forwarded-for, x-forwarded-host, host, portcullis-roles, x-inner\r\n\
         x-inner: 1\r\nx-forwarded-for: 203.0.113.9\r\nx-forwarded-host: evil.example\r\nx-forwarded-proto: https\r\n\
         x-forwarded-port: 1\r\nx-real-ip: 203.0.113.9\r\nkeep-alive: 300\r\nte: trailers\r\nproxy-connection: close\r\n\
         proxy-authorization: Basic eA==\r\nx-stays: yes\r\nx-request-id: mine\r\n\
         cookie: a=1; portcullis=stolen; b=2\r\n"
    );
    for name in forged {
        // Twice, as a second value may get past a check of the first.
        request.push_str(&format!("{name}: alice\r\n{name}: admin\r\n"));
    }
    let answer = Raw::ask(node.address(), request + "\r\n");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let got = upstream.last();
    for name in forged.iter().filter(|name| !name.to_lowercase().starts_with("portcullis-")) {
        assert!(got.all(name).is_empty(), "{name} reached the upstream");
    }
    for (name, value) in &got.headers {
        assert!(value != "alice" && value != "admin" && !value.contains("203.0.113.9"), "{name}: {value}");
        assert!(!value.contains("stolen"), "{name}: {value}");
    }
    assert_eq!((got.header("portcullis-user"), got.header("portcullis-roles")), ("bob", "reader"));
    assert_eq!(got.all("portcullis-email"), [""], "always there, empty when unknown");
    assert_eq!((got.header("x-forwarded-for"), got.header("x-forwarded-proto")), ("127.0.0.1", "http"));
    assert_eq!((got.header("x-forwarded-host"), got.header("host")), (host.as_str(), host.as_str()));
    assert_eq!(got.header("x-forwarded-port"), node.port().to_string());
    assert_eq!(
        (got.header("x-stays"), got.header("x-request-id"), got.header("cookie")),
        ("yes", "mine", "a=1; b=2")
    );
    for name in [
        "x-inner",
        "te",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "authorization",
        "x-real-ip",
    ] {
        assert!(got.all(name).is_empty(), "{name} reached the upstream");
    }
    let event = node.event(answer.header("x-request-id").expect("an id"));
    assert_eq!(event["client_request_id"], "mine");
}

#[test]
fn the_assertion_verifies_with_the_published_keys_and_is_no_bearer_token() {
    let upstream = Upstream::start(|_| Reply::ok(""));
    let node = behind(&upstream);
    let bob = node.token("bob");
    assert_eq!(node.ask("GET", "/a", &bob).status(), 200);
    let assertion = upstream.last().header("portcullis-assertion").to_owned();
    let keys: jsonwebtoken::jwk::JwkSet =
        client().get(node.url("/.well-known/jwks.json")).send().expect("an answer").json().expect("keys");
    let header = jsonwebtoken::decode_header(&assertion).expect("a header");
    assert_eq!(header.typ.as_deref(), Some("portcullis-assertion+jwt"));
    let key = keys.find(header.kid.as_deref().expect("a kid")).expect("the key is published");
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&["main"]);
    validation.set_issuer(&[node.url("")]);
    validation.set_required_spec_claims(&["exp", "iat", "iss", "sub", "aud"]);
    let key = DecodingKey::from_jwk(key).expect("a key");
    let claims = jsonwebtoken::decode::<Value>(&assertion, &key, &validation).expect("it verifies").claims;
    assert_eq!((&claims["sub"], &claims["roles"]), (&Value::from("bob"), &serde_json::json!(["reader"])));
    assert_eq!(claims["attrs"]["department"], "sales");
    let life = claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat");
    assert_eq!(life, 60);
    validation.set_audience(&["another"]);
    assert!(jsonwebtoken::decode::<Value>(&assertion, &key, &validation).is_err());
    assert_eq!(node.ask("GET", "/a", &assertion).status(), 401);
    assert_eq!(node.ask("GET", "/a", &bob).status(), 200);
    assert_eq!(upstream.last().header("portcullis-assertion"), assertion, "signed once, used again");
}

#[test]
fn step_up_says_what_is_missing_and_sends_nothing_on() {
    let upstream = Upstream::start(|_| Reply::ok(""));
    let node = Node::with()
        .upstream(&upstream.url())
        .config(
            "[[route]]\nname = \"strong\"\npath = \"/strong/{rest*}\"\nupstream = \"main\"\n\
             require_acr = \"urn:portcullis:acr:2\"\nmax_auth_age = \"10m\"\n\
             [[route]]\nname = \"recent\"\npath = \"/recent/{rest*}\"\nupstream = \"main\"\n\
             require_acr = \"urn:portcullis:acr:1\"\nmax_auth_age = \"10m\"\n",
        )
        .start();
    let alice = node.token("alice");
    let refused = node.ask("GET", "/strong/x", &alice);
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["www-authenticate"].to_str().expect("text").to_owned();
    assert!(challenge.contains("error=\"insufficient_user_authentication\""), "{challenge}");
    assert!(challenge.contains("acr_values=\"urn:portcullis:acr:2\""), "{challenge}");
    let id = refused.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(node.event(&id)["reason"], "step-up-required");
    assert!(upstream.recorded().is_empty());
    assert_eq!(node.ask("GET", "/recent/x", &alice).status(), 200);
    let browser = client()
        .get(node.url("/strong/x"))
        .bearer_auth(&alice)
        .header("accept", "text/html")
        .send()
        .expect("an answer");
    assert_eq!(browser.status(), 302);
    assert!(
        browser.headers()["location"]
            .to_str()
            .expect("text")
            .starts_with(&node.url("/auth/login?return_to="))
    );
}

#[test]
fn headers_of_the_configuration_are_stripped_also_when_it_comes_from_the_environment() {
    let upstream = Upstream::start(|_| Reply::ok(""));
    let model = "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act\n\
                 [policy_effect]\ne = some(where (p.eft == allow))\n\
                 [matchers]\nm = r.sub == p.sub && r.obj == p.obj && r.act == p.act\n";
    let node = Node::with()
        .upstream(&upstream.url())
        .model(model)
        .policy("p, carol, /x, GET")
        .account("carol", &[])
        .env("PORTCULLIS__LISTEN__STRIP_HEADERS", "[\"x-tenant\"]")
        .start();
    let carol = node.token("carol");
    let ask = |path: &str| {
        let request =
            client().get(node.url(path)).bearer_auth(&carol).header("X_Tenant", "a").header("x-tenant", "b");
        request.send().expect("an answer").status().as_u16()
    };
    assert_eq!((ask("/x"), ask("/y")), (200, 403));
    let got = upstream.last();
    assert!(got.all("x-tenant").is_empty() && got.all("x_tenant").is_empty(), "{got:?}");
}

#[test]
fn what_is_ours_is_no_route_on_hosts_that_are_not() {
    let upstream = Upstream::start(|_| Reply::ok("the upstream"));
    let node = Node::with().upstream(&upstream.url()).start();
    let alice = node.token("alice");
    let ask = |path: &str| {
        let request = client().get(node.url(path)).header("host", "other.example").bearer_auth(&alice);
        request.send().expect("an answer")
    };
    for path in ["/auth", "/auth/login", "/auth/verify/envoy/orders/7", "/.well-known/jwks.json"] {
        let answer = ask(path);
        assert_eq!(answer.status(), 404, "{path}");
        let event = node.event(answer.headers()["x-request-id"].to_str().expect("text"));
        assert_eq!((&event["reason"], &event["path"]), (&"no-route".into(), &path.into()));
    }
    assert!(upstream.recorded().is_empty());
    assert_eq!(ask("/authors").status(), 200);
}

#[test]
fn an_upstream_of_http_1_0_is_answered_on_in_the_gateways_own_version() {
    let upstream = Upstream::raw(|mut stream, _| {
        let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
        if read_head(&mut reader).is_some() {
            // No length: the answer ends with its connection.
            drop(stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold"));
        }
    });
    let node = behind(&upstream);
    let answer = node.ask("GET", "/old", &node.token("bob"));
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_11));
    assert_eq!(answer.text().expect("a whole body"), "old");
}
