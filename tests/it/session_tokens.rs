//! From a browser's session to an access token, and what becomes of a session's cookie where routes do not look at it.

use reqwest::blocking::{RequestBuilder, Response};
use serde_json::Value;

use crate::support::{Node, Reply, Upstream, client};

const GRANT: [(&str, &str); 1] = [("grant_type", "urn:portcullis:grant-type:session")];

fn json(answer: Response) -> Value {
    serde_json::from_str(&answer.text().expect("a body")).expect("JSON")
}

fn sent(request: RequestBuilder) -> Response {
    request.send().expect("an answer")
}

#[test]
fn a_page_gets_an_access_token_that_ends_with_its_session() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with().upstream(&upstream.url()).start();
    let cookie = node.session("bob");
    let ask = |cookie: &str| client().post(node.url("/auth/token")).header("cookie", cookie).form(&GRANT);
    let own = |request: RequestBuilder| request.header("sec-fetch-site", "same-origin");

    let answer = sent(own(ask(&cookie)));
    assert_eq!(answer.status(), 200);
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    let body = json(answer);
    assert_eq!((&body["token_type"], &body["refresh_token"]), (&"Bearer".into(), &Value::Null));
    let token = body["access_token"].as_str().expect("a token");
    assert_eq!(node.ask("GET", "/orders/7", token).status(), 200);
    assert_eq!(upstream.last().header("portcullis-user"), "bob");
    let event = node.events(&id, "token", 1).remove(0);
    assert_eq!((&event["principal"]["name"], &event["auth"]), (&"bob".into(), &"session".into()));

    // By `Origin` too; and for nobody else.
    assert_eq!(sent(ask(&cookie).header("origin", node.url(""))).status(), 200);
    for request in [
        ask(&cookie),
        ask(&cookie).header("sec-fetch-site", "same-site"),
        ask(&cookie).header("sec-fetch-site", "cross-site").header("origin", node.url("")),
        ask(&cookie).header("origin", "http://evil.example"),
        ask(&cookie).header("origin", "null"),
    ] {
        let answer = sent(request);
        assert_eq!(answer.status(), 403);
        assert_eq!(json(answer)["error"], "access_denied");
    }
    for cookie in ["", "portcullis=x", &format!("{cookie}; {cookie}")] {
        let answer = sent(own(ask(cookie)));
        assert_eq!((answer.status().as_u16(), &json(answer)["error"]), (400, &"invalid_grant".into()));
    }
    let documents = json(sent(client().get(node.url("/.well-known/oauth-authorization-server"))));
    assert!(documents["grant_types_supported"].as_array().expect("a list").contains(&GRANT[0].1.into()));

    let out = client().post(node.url("/auth/logout")).header("cookie", &cookie);
    assert_eq!(sent(own(out)).status(), 200);
    assert_eq!(node.ask("GET", "/orders/7", token).status(), 401, "signing out ends the token");
    assert_eq!(sent(own(ask(&cookie))).status(), 400);
}

#[test]
fn a_session_of_another_host_gets_no_token_for_all_hosts() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let route = format!(
        "[[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n[[route]]\nname = \"app\"\nhosts = [\"app.localhost\"]\n\
         path = \"/{{rest*}}\"\nupstream = \"main\"\n",
        upstream.url()
    );
    let node = Node::with().config(&route).start();
    let answer = sent(
        client()
            .post(node.url("/auth/token"))
            .header("host", "app.localhost")
            .header("cookie", node.session("bob"))
            .header("sec-fetch-site", "same-origin")
            .form(&GRANT),
    );
    assert_eq!((answer.status().as_u16(), &json(answer)["error"]), (400, &"invalid_request".into()));
}

#[test]
fn a_cookie_is_cleared_only_where_it_was_looked_at() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let url = upstream.url();
    let route = |name: &str, kinds: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}/{{rest*}}\"\nupstream = \"main\"\nauthenticate = [{kinds}]\n"
        )
    };
    let node = Node::with()
        .config(&format!("[[upstream]]\nname = \"main\"\nservers = [\"{url}\"]\n"))
        .config(&route("tokens", "\"bearer\""))
        .config(&route("both", "\"bearer\", \"session\""))
        .config(&route("basic", "\"password\", \"session\""))
        .start();
    let live = node.session("bob");
    let stale = format!("portcullis={}", "x".repeat(43));
    let cleared = |path: &str, cookie: &str, password: Option<&str>| {
        let request = client().get(node.url(path)).header("cookie", cookie);
        let answer = sent(match password {
            Some(password) => request.basic_auth("bob", Some(password)),
            None => request,
        });
        let clears = answer.headers().get_all("set-cookie").iter().any(|value| {
            value.to_str().is_ok_and(|text| text.starts_with("portcullis=;") && text.contains("Max-Age=0"))
        });
        (answer.status().as_u16(), clears)
    };
    assert_eq!(
        cleared("/tokens/x", &live, None),
        (401, false),
        "the session is good, and nobody looked at it"
    );
    assert_eq!(cleared("/tokens/x", &stale, None), (401, false));
    assert_eq!(cleared("/both/x", &live, None), (200, false));
    assert_eq!(cleared("/both/x", &stale, None), (401, true));
    assert_eq!(cleared("/both/x", "portcullis-device=y; other=portcullis", None), (401, false));
    assert_eq!(
        cleared("/basic/x", &live, Some("wrong")),
        (401, false),
        "Authorization comes first, and alone"
    );
}

#[test]
fn what_is_refused_at_our_own_endpoints_is_an_event() {
    let node = Node::with().start();
    let form = |path: &str, form: &[(&str, &str)]| client().post(node.url(path)).form(form);
    for (request, kind, status, reason) in [
        (form("/auth/token", &[]), "token", 400, "bad-request"),
        (form("/auth/token", &[("grant_type", "password")]), "token", 400, "bad-request"),
        (client().post(node.url("/auth/token")).json(&Value::Null), "token", 400, "bad-request"),
        (form("/auth/token", &[("x", &"a".repeat(70_000))]), "token", 413, "too-large"),
        (form("/auth/token", &GRANT), "token", 403, "cross-site"),
        (form("/auth/revoke", &[("token", "x"), ("client_id", "nobody")]), "token", 401, "unauthenticated"),
        (form("/auth/revoke", &[("token", "x")]).bearer_auth("x"), "token", 401, "invalid-token"),
        (form("/auth/login", &[("username", "bob"), ("password", "x")]), "login", 403, "cross-site"),
        (client().post(node.url("/auth/login")).json(&["bob"]), "login", 400, "bad-request"),
        (client().post(node.url("/auth/login")).body("x"), "login", 415, "unsupported-media-type"),
        (form("/auth/login", &[("username", "bob"), ("username", "eve")]), "login", 400, "bad-request"),
        (form("/auth/login", &[]).header("sec-fetch-site", "cross-site"), "login", 403, "cross-site"),
    ] {
        let answer = sent(request);
        assert_eq!(answer.status().as_u16(), status, "{reason}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(answer.headers()[name], value, "{reason}");
        }
        let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
        let event = node.events(&id, kind, 1).remove(0);
        assert_eq!((&event["decision"], &event["reason"]), (&"deny".into(), &reason.into()));
        assert_eq!((&event["status"], &event["principal"]), (&status.into(), &Value::Null));
    }
}
