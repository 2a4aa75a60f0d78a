//! The OAuth endpoints over HTTP: client credentials, refresh, revocation, sign-out, keys, discovery, and the errors of
//! the RFCs.

use std::collections::BTreeSet;
use std::sync::Barrier;

use reqwest::blocking::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::{Builder, Node, Reply, Upstream, client};

const SECRET: &str = "s3cret:with /odd+%characters";

fn gateway(upstream: &Upstream) -> Builder {
    Node::with().upstream(&upstream.url()).secret_file("pep.secret", SECRET).config(
        "[[client]]\nid = \"pep\"\nsecret_file = \"pep.secret\"\ngrant_types = [\"client_credentials\"]\n\
         scopes = [\"orders\", \"reports\"]\nroles = [\"reader\"]\n\
         [[client]]\nid = \"other\"\nsecret = \"another\"\ngrant_types = [\"client_credentials\"]\n",
    )
}

fn hello() -> Upstream {
    Upstream::start(|_| Reply::ok("hello"))
}

fn post(node: &Node, path: &str, form: &[(&str, &str)]) -> RequestBuilder {
    client().post(node.url(path)).form(form)
}

fn send(request: RequestBuilder) -> (u16, Value, Response) {
    let answer = request.send().expect("an answer");
    let (status, headers) = (answer.status(), answer.headers().clone());
    assert_eq!(headers["cache-control"], "no-store");
    let bytes = answer.bytes().expect("a body");
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("JSON") };
    let mut bare = http::Response::new("");
    (*bare.status_mut(), *bare.headers_mut()) = (status, headers);
    (status.as_u16(), body, bare.into())
}

/// Encoded as RFC 6749 §2.3.1 wants it.
fn basic(request: RequestBuilder, id: &str, secret: &str) -> RequestBuilder {
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    request.basic_auth(encode(id), Some(encode(secret)))
}

fn text<'a>(body: &'a Value, member: &str) -> &'a str {
    body[member].as_str().unwrap_or_else(|| panic!("no {member} in {body}"))
}

const GRANT: (&str, &str) = ("grant_type", "client_credentials");

#[test]
fn a_machine_gets_a_token_with_its_secret_in_either_place() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let in_form = [GRANT, ("client_id", "pep"), ("client_secret", SECRET)];
    for request in
        [post(&node, "/auth/token", &in_form), basic(post(&node, "/auth/token", &[GRANT]), "pep", SECRET)]
    {
        let (status, body, answer) = send(request);
        assert_eq!(status, 200, "{body}");
        assert_eq!((text(&body, "token_type"), text(&body, "scope")), ("Bearer", "orders reports"));
        assert_eq!(body["expires_in"], 300);
        assert!(body.get("refresh_token").is_none(), "RFC 6749 §4.4.3");
        let used = node.ask("GET", "/orders/7", text(&body, "access_token"));
        assert_eq!(used.status(), 200);
        assert_eq!(upstream.last().header("portcullis-user"), "client:pep");
        assert_eq!(upstream.last().header("portcullis-roles"), "reader");
        let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
        let event = node.events(&id, "token", 1).remove(0);
        assert_eq!(
            (&event["decision"], &event["principal"]["name"]),
            (&json!("allow"), &json!("client:pep"))
        );
        assert!(!event.to_string().contains("s3cret"));
    }
    let (status, body, _) =
        send(basic(post(&node, "/auth/token", &[GRANT, ("scope", "reports")]), "pep", SECRET));
    assert_eq!((status, text(&body, "scope")), (200, "reports"));
}

#[test]
fn errors_are_those_of_the_rfcs() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let secret = ("client_secret", SECRET);
    let pep = ("client_id", "pep");
    let cases: Vec<(u16, &str, RequestBuilder)> = vec![
        (400, "invalid_request", post(&node, "/auth/token", &[])),
        (400, "unsupported_grant_type", post(&node, "/auth/token", &[("grant_type", "password")])),
        (400, "invalid_request", post(&node, "/auth/token", &[GRANT, GRANT])),
        (400, "invalid_request", client().post(node.url("/auth/token")).json(&json!({"grant_type": "x"}))),
        (401, "invalid_client", post(&node, "/auth/token", &[GRANT, pep, ("client_secret", "wrong")])),
        (401, "invalid_client", post(&node, "/auth/token", &[GRANT, pep])),
        (401, "invalid_client", post(&node, "/auth/token", &[GRANT, ("client_id", "nobody"), secret])),
        (401, "invalid_client", post(&node, "/auth/token", &[GRANT, ("client_id", "portcullis"), secret])),
        (401, "invalid_client", basic(post(&node, "/auth/token", &[GRANT]), "pep", "wrong")),
        (401, "invalid_client", post(&node, "/auth/token", &[GRANT]).header("authorization", "Basic ???")),
        (400, "invalid_request", basic(post(&node, "/auth/token", &[GRANT, secret]), "pep", SECRET)),
        (
            400,
            "invalid_request",
            basic(post(&node, "/auth/token", &[GRANT, ("client_id", "other")]), "pep", SECRET),
        ),
        (400, "invalid_scope", post(&node, "/auth/token", &[GRANT, pep, secret, ("scope", "orders admin")])),
        (400, "unauthorized_client", post(&node, "/auth/token", &[GRANT])),
        (401, "invalid_client", post(&node, "/auth/token", &[GRANT, ("client_id", "app")])),
        (
            400,
            "unauthorized_client",
            post(
                &node,
                "/auth/token",
                &[("grant_type", "refresh_token"), pep, secret, ("refresh_token", "x")],
            ),
        ),
        (400, "invalid_request", post(&node, "/auth/token", &[("grant_type", "refresh_token")])),
        (
            400,
            "invalid_grant",
            post(&node, "/auth/token", &[("grant_type", "refresh_token"), ("refresh_token", "x")]),
        ),
        (400, "invalid_request", post(&node, "/auth/revoke", &[])),
        (
            401,
            "invalid_client",
            post(&node, "/auth/revoke", &[("token", "x"), pep, ("client_secret", "wrong")]),
        ),
        (401, "invalid_token", post(&node, "/auth/revoke", &[("token", "x")]).bearer_auth("x")),
    ];
    for (number, (status, error, request)) in cases.into_iter().enumerate() {
        let shown = format!("{number}: {request:?}");
        let (got, body, answer) = send(request);
        assert_eq!((got, text(&body, "error")), (status, error), "{shown}");
        assert!(!text(&body, "error_description").is_empty());
        assert_eq!(answer.headers()["content-type"], "application/json");
        let challenge = answer.headers().get("www-authenticate");
        assert_eq!(challenge.is_some(), status == 401, "{shown}");
        if shown.contains("Basic") || error == "invalid_client" && shown.contains("authorization") {
            assert!(
                challenge.is_none_or(|value| value.to_str().is_ok_and(|text| text.starts_with("Basic "))),
                "{shown}"
            );
        }
    }
    let (status, body, _) = send(
        client()
            .post(node.url("/auth/token"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body("a".repeat(70_000)),
    );
    assert_eq!((status, &body["error"]), (413, &json!("invalid_request")), "{body}");
    for path in ["/auth/token", "/auth/revoke"] {
        let answer = client().get(node.url(path)).send().expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["allow"]),
            (405, &"POST".parse().expect("a value"))
        );
    }
}

fn signed_in(node: &Node) -> (String, String) {
    let body: Value = node.sign_in("bob", crate::support::PASSWORD).json().expect("JSON");
    (text(&body, "access_token").to_owned(), text(&body, "refresh_token").to_owned())
}

fn refresh(node: &Node, token: &str) -> (u16, Value, Response) {
    send(post(node, "/auth/token", &[("grant_type", "refresh_token"), ("refresh_token", token)]))
}

#[test]
fn two_hundred_refreshes_at_once_have_one_successor() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let (_, first) = signed_in(&node);
    let start = Barrier::new(200);
    let successors: Vec<String> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..200)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let (status, body, _) = refresh(&node, &first);
                    assert_eq!(status, 200, "{body}");
                    text(&body, "refresh_token").to_owned()
                })
            })
            .collect();
        tries.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    let all: BTreeSet<&String> = successors.iter().collect();
    assert_eq!((successors.len(), all.len()), (200, 1));
    let successor = successors.first().expect("one");
    assert_ne!(*successor, first);

    // Once the successor was used, the old one is a theft: its family ends.
    let (status, body, _) = refresh(&node, successor);
    assert_eq!(status, 200);
    let (access, newest) = (text(&body, "access_token").to_owned(), text(&body, "refresh_token").to_owned());
    assert_eq!(node.ask("GET", "/orders/7", &access).status(), 200);
    let (status, body, answer) = refresh(&node, &first);
    assert_eq!((status, text(&body, "error")), (400, "invalid_grant"));
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(node.events(&id, "token", 1)[0]["decision"], "deny");
    assert_eq!(text(&refresh(&node, &newest).1, "error"), "invalid_grant");
    assert_eq!(node.ask("GET", "/orders/7", &access).status(), 401, "the family's access tokens too");
}

#[test]
fn a_refresh_token_belongs_to_the_client_that_it_was_issued_to() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let (_, token) = signed_in(&node);
    let form = [("grant_type", "refresh_token"), ("refresh_token", &token)];
    let other = basic(post(&node, "/auth/token", &form), "pep", SECRET);
    assert_eq!(text(&send(other).1, "error"), "unauthorized_client");
    assert_eq!(refresh(&node, &token).0, 200, "another client's try did not use it up");
}

#[test]
fn without_a_grace_the_second_use_ends_the_family() {
    let upstream = hello();
    let node = gateway(&upstream).config("[tokens]\nrefresh_grace = \"0s\"").start();
    let (_, first) = signed_in(&node);
    let (status, body, _) = refresh(&node, &first);
    assert_eq!(status, 200);
    assert_eq!(text(&refresh(&node, &first).1, "error"), "invalid_grant");
    assert_eq!(text(&refresh(&node, text(&body, "refresh_token")).1, "error"), "invalid_grant");
}

#[test]
fn a_holder_and_a_client_revoke_their_own_tokens_and_nobody_elses() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let pep = |path: &str, form: &[(&str, &str)]| send(basic(post(&node, path, form), "pep", SECRET));
    let machine = pep("/auth/token", &[GRANT]).1;
    let machine = text(&machine, "access_token");
    let (bobs, bobs_refresh) = signed_in(&node);
    let alices = node.token("alice");
    let works = |token: &str| node.ask("GET", "/orders/7", token).status() == 200;
    assert!(works(machine) && works(&bobs) && works(&alices));

    // 200 whatever it was (RFC 7009 §2.2), and nothing happens to what belongs to others.
    for (form, bearer) in [(&alices, Some(&bobs)), (&bobs, None)] {
        let (status, ..) = match bearer {
            Some(bearer) => send(post(&node, "/auth/revoke", &[("token", form)]).bearer_auth(bearer)),
            None => pep("/auth/revoke", &[("token", form)]),
        };
        assert_eq!(status, 200);
    }
    let foreign = send(basic(post(&node, "/auth/revoke", &[("token", machine)]), "other", "another"));
    assert_eq!(foreign.0, 200);
    assert_eq!(pep("/auth/revoke", &[("token", "never-issued")]).0, 200);
    assert!(works(machine) && works(&bobs) && works(&alices));

    let (status, _, answer) = pep("/auth/revoke", &[("token", machine), ("token_type_hint", "access_token")]);
    assert_eq!(status, 200);
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(node.events(&id, "token", 1)[0]["principal"]["name"], "client:pep");
    assert!(!works(machine) && works(&bobs));
    let bearer = node.token("bob");
    let (status, ..) = send(post(&node, "/auth/revoke", &[("token", &bobs_refresh)]).bearer_auth(&bearer));
    assert_eq!(status, 200);
    assert_eq!(text(&refresh(&node, &bobs_refresh).1, "error"), "invalid_grant");
    assert!(!works(&bobs), "its access tokens end with the family");
    assert!(works(&bearer) && works(&alices));
}

#[test]
fn signing_out_with_a_token_ends_everything_of_that_sign_in() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let (access, token) = signed_in(&node);
    let other = node.token("bob");
    let answer = client().post(node.url("/auth/logout")).bearer_auth(&access).send().expect("an answer");
    assert_eq!(answer.status(), 204);
    assert_eq!(node.ask("GET", "/orders/7", &access).status(), 401);
    assert_eq!(text(&refresh(&node, &token).1, "error"), "invalid_grant");
    assert_eq!(node.ask("GET", "/orders/7", &other).status(), 200, "another sign-in goes on");
    let again = client().post(node.url("/auth/logout")).bearer_auth(&access).send().expect("an answer");
    assert_eq!(again.status(), 401);
    let challenge = again.headers()["www-authenticate"].to_str().expect("text");
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
}

#[test]
fn discovery_names_what_is_there_and_its_keys_verify_tokens() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let get = |path: &str| client().get(node.url(path)).send().expect("an answer");
    let document: Value = get("/.well-known/openid-configuration").json().expect("JSON");
    let oauth: Value = get("/.well-known/oauth-authorization-server").json().expect("JSON");
    assert_eq!(document, oauth);
    assert_eq!(text(&document, "issuer"), node.url(""));
    for (name, value) in document.as_object().expect("an object") {
        let Some(url) = value.as_str().filter(|_| name.ends_with("_endpoint") || name.ends_with("_uri"))
        else {
            continue;
        };
        let answer = client().get(url).send().expect("an answer");
        assert!(matches!(answer.status().as_u16(), 200 | 405), "{name}: {url}: {}", answer.status());
    }
    assert_eq!(
        document["grant_types_supported"],
        json!(["refresh_token", "urn:portcullis:grant-type:session", "client_credentials"])
    );
    for absent in [
        "authorization_endpoint",
        "registration_endpoint",
        "introspection_endpoint",
        "device_authorization_endpoint",
    ] {
        assert!(document.get(absent).is_none(), "{absent}");
    }
    for path in [
        "/auth",
        "/auth/register",
        "/auth/device",
        "/auth/introspect",
        "/auth/authorize",
        "/.well-known/authzen-configuration",
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/orders",
    ] {
        let answer = get(path);
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
    }
    let answer = client().get(text(&document, "jwks_uri")).send().expect("an answer");
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let keys: jsonwebtoken::jwk::JwkSet = answer.json().expect("a key set");
    let token = node.token("bob");
    let header = jsonwebtoken::decode_header(&token).expect("a header");
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let jwk = keys.find(header.kid.as_deref().expect("a kid")).expect("its key is published");
    let key = jsonwebtoken::DecodingKey::from_jwk(jwk).expect("a key");
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.set_audience(&[node.url("")]);
    validation.set_issuer(&[node.url("")]);
    let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation).expect("verified").claims;
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("bob"), &json!("portcullis")));
    let published = serde_json::to_string(&keys).expect("JSON");
    assert!(!published.contains("\"d\""), "only public halves");
}

#[test]
fn another_prefix_is_used_everywhere() {
    let upstream = hello();
    let node = gateway(&upstream)
        .config("[listen]\nprefix = \"/gate/in\"\n[forward_auth]\ncallers = [\"127.0.0.1/32\"]")
        .config(
            "[[provider]]\nname = \"corp\"\nissuer = \"https://id.corp.example\"\nclient_id = \"x\"\n\
             [[route]]\nname = \"app\"\nhosts = [\"app.localhost\"]\npath = \"/{rest*}\"\nupstream = \"main\"",
        )
        .start();
    let get =
        |path: &str| client().get(node.url(path)).header("accept", "text/html").send().expect("an answer");
    let location = |answer: &Response| answer.headers()["location"].to_str().expect("text").to_owned();
    let sent = get("/orders/7");
    assert_eq!(sent.status(), 302);
    assert!(location(&sent).starts_with(&node.url("/gate/in/login?return_to=")), "{}", location(&sent));
    let opened = client().get(location(&sent)).send().expect("an answer");
    let before =
        opened.headers()["set-cookie"].to_str().expect("text").split(';').next().unwrap_or("").to_owned();
    let page = opened.text().expect("a page");
    assert!(
        page.contains("action=\"/gate/in/login\"") && page.contains("href=\"/gate/in/sso/corp?"),
        "{page}"
    );
    let csrf = page
        .split_once("name=\"csrf\" value=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .expect("a token")
        .0;
    let sign_in = |return_to: &str| {
        let form = [
            ("csrf", csrf),
            ("username", "bob"),
            ("password", crate::support::PASSWORD),
            ("return_to", return_to),
        ];
        post(&node, "/gate/in/login", &form).header("cookie", &before).send().expect("an answer")
    };
    assert_eq!(location(&sign_in("/orders/7")), node.url("/orders/7"));
    assert_eq!(location(&sign_in("")), "/gate/in/session");
    let there = format!("http://app.localhost:{}", node.port());
    assert!(location(&sign_in(&there)).starts_with(&format!("{there}/gate/in/session?")));
    for (path, part) in
        [("/gate/in/logout", "action=\"/gate/in/logout\""), ("/gate/in/session", "href=\"/gate/in/login\"")]
    {
        assert!(get(path).text().expect("a page").contains(part), "{path}");
    }
    let document: Value = get("/.well-known/openid-configuration").json().expect("JSON");
    assert_eq!(text(&document, "token_endpoint"), node.url("/gate/in/token"));
    assert_eq!(text(&document, "jwks_uri"), node.url("/.well-known/jwks.json"));
    let body = json!({"username": "bob", "password": crate::support::PASSWORD});
    let tokens: Value = client()
        .post(node.url("/gate/in/login"))
        .json(&body)
        .send()
        .expect("an answer")
        .json()
        .expect("JSON");
    let bearer = text(&tokens, "access_token");
    let asked = |path: &str, headers: &[(&str, &str)]| {
        let mut request = client().get(node.url(path)).bearer_auth(bearer);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().expect("an answer").status().as_u16()
    };
    let original = node.url("/orders/7");
    assert_eq!(
        asked("/gate/in/verify/nginx", &[("x-original-method", "GET"), ("x-original-url", &original)]),
        200
    );
    assert_eq!(asked("/gate/in/verify/envoy/orders/7", &[("x-forwarded-proto", "http")]), 200);
    // What was ours under the usual prefix is the routes' now.
    assert_eq!(asked("/auth/login", &[]), 200);
    assert_eq!(upstream.last().target, "/auth/login");
    assert_eq!(get("/gate/in/nothing").status(), 404);
    assert_eq!(get("/gate/inn").status(), 302, "a neighbour of the prefix is a route's");
}

#[test]
fn a_public_url_with_a_path_and_a_prefix_that_is_none_do_not_start() {
    let refused = |fragment: &str, part: &str| {
        let (code, out, err) = Node::with().config(fragment).refused();
        assert_eq!(code, 2, "{fragment}: {out}{err}");
        assert!(err.contains(part), "{fragment}: {err}");
    };
    refused("[listen]\npublic_url = \"http://localhost:8080/base\"", "must end after the host and port");
    refused("[listen]\npublic_url = \"http://gate.example.com\"", "https://");
    for prefix in ["/", "auth", "/auth/", "/a//b", "/a b", "/../x"] {
        refused(&format!("[listen]\nprefix = \"{prefix}\""), "prefix");
    }
    refused(
        "[listen]\nprefix = \"/gate\"\n[[upstream]]\nname = \"u\"\nservers = [\"http://127.0.0.1:9\"]\n\
         [[route]]\nname = \"r\"\npath = \"/gate/x\"\nupstream = \"u\"",
        "/gate",
    );
}
