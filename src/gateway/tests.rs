//! Doubles for the tests of this module.

mod whole;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::headers::{Cleaning, prepare};
use super::routes::Routes;
use super::{answers, browser};
use crate::config::{IdentityHeaders, Route, Timeouts, WhenStoreIsDown};
use crate::http::Caller;
use crate::model::{AuthMethod, Connection, RequestId, Target};

/// A caller at 192.0.2.1 behind `peer`, on plain HTTP.
fn caller(method: &str, host: &str, path: &str, peer: &str) -> Caller {
    let mut headers = HeaderMap::new();
    headers.insert("host", host.parse().unwrap());
    let method: Method = method.parse().unwrap();
    let target = Target::from_request(&method, &path.parse().unwrap(), &headers, false).unwrap();
    let connection = Connection {
        peer: format!("{peer}:4000").parse().unwrap(),
        local: "127.0.0.1:80".parse().unwrap(),
        secure: false,
        server_name: None,
        client_rule: None,
        certificate: None,
    };
    Caller {
        connection: Arc::new(connection),
        request_id: RequestId::from_bytes([1; 16]),
        client_ip: "192.0.2.1".parse().unwrap(),
        target,
        secure: false,
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter();
    pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn cleaning(pass_authorization: bool) -> Cleaning<'static> {
    Cleaning { strip: &[], pass_authorization, method: AuthMethod::Bearer }
}

/// A route with defaults.
pub(super) fn route(name: &str, path: &str) -> Route {
    Route {
        name: name.to_owned(),
        hosts: Vec::new(),
        path: path.to_owned(),
        methods: Vec::new(),
        upstream: None,
        authenticate: vec![AuthMethod::Bearer, AuthMethod::Session],
        require_acr: None,
        max_auth_age: None,
        pass_authorization: false,
        identity_headers: IdentityHeaders::Portcullis,
        assertion: true,
        body_limit: None,
        timeout: Timeouts::default(),
        cors_origins: Vec::new(),
        mask: Vec::new(),
        when_store_is_down: WhenStoreIsDown::Deny,
        allow_known_for: std::time::Duration::from_secs(300),
        allow_encoded_slash: false,
        allow_encoded_percent: false,
        resource: None,
    }
}

#[test]
fn a_host_loses_its_port_and_nothing_else() {
    use super::host_name;
    assert_eq!(host_name("a.example:8080"), "a.example");
    assert_eq!(host_name("[::1]:80"), "[::1]");
    assert_eq!(host_name("[::1]"), "[::1]");
    assert_eq!(host_name("a"), "a");
}

#[test]
fn connection_cannot_take_our_headers_away() {
    let mut map = headers(&[
        ("connection", "x-forwarded-for, host, portcullis-user, x-inner"),
        ("host", "API.example:80"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "evil"),
        ("forwarded", "for=evil"),
        ("x-inner", "1"),
        ("authorization", "Bearer x"),
        ("cookie", "portcullis=x"),
        ("expect", "100-continue"),
        ("upgrade", "websocket"),
    ]);
    prepare(&mut map, &caller("GET", "API.example:80", "/", "192.0.2.1"), cleaning(false));
    let expected = headers(&[
        ("host", "api.example"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-host", "api.example"),
        ("x-forwarded-port", "80"),
        ("x-forwarded-proto", "http"),
    ]);
    assert_eq!(map, expected);
}

#[test]
fn a_trusted_proxys_chain_is_extended() {
    let mut map = headers(&[("x-forwarded-for", "192.0.2.1"), ("authorization", "Bearer x")]);
    prepare(&mut map, &caller("GET", "a.example:8080", "/", "10.0.0.1"), cleaning(true));
    assert_eq!(map["x-forwarded-for"], "192.0.2.1, 10.0.0.1");
    assert_eq!(map["x-forwarded-port"], "8080");
    assert_eq!(map["x-forwarded-host"], "a.example:8080");
    assert!(map.contains_key("authorization"));
}

#[test]
fn sessions_act_from_here_or_from_listed_origins() {
    let mut config = route("r", "/{rest*}");
    config.cors_origins = vec!["https://app.example".to_owned()];
    let routes = Routes::build(&[config]).unwrap();
    let super::routes::Found::Route(entry) = routes.find("a", "/", &Method::POST) else { panic!() };
    let act = |method, pairs| {
        browser::may_act(&caller(method, "a.example:8080", "/", "192.0.2.1"), &headers(pairs), entry)
    };
    assert!(act("GET", &[]));
    assert!(!act("GET", &[("upgrade", "websocket")]));
    assert!(!act("POST", &[]));
    assert!(act("POST", &[("sec-fetch-site", "same-origin")]));
    assert!(act("DELETE", &[("sec-fetch-site", "none")]));
    assert!(!act("POST", &[("sec-fetch-site", "same-site")]));
    assert!(!act("POST", &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")]));
    assert!(act("POST", &[("sec-fetch-site", "cross-site"), ("origin", "https://app.example")]));
    assert!(act("POST", &[("origin", "http://a.example:8080")]));
    assert!(!act("POST", &[("origin", "http://a.example")]));
    assert!(!act("POST", &[("origin", "null")]));
}

#[test]
fn the_login_page_leads_back() {
    let ours = answers::Ours::new(&"https://gate.example/".parse().unwrap(), "/auth");
    let location = ours.login(&caller("GET", "a.example:8080", "/x?y=1&z=2", "192.0.2.1"));
    let back = "http%3A%2F%2Fa.example%3A8080%2Fx%3Fy%3D1%26z%3D2";
    assert_eq!(location, format!("https://gate.example/auth/login?return_to={back}"));
}
