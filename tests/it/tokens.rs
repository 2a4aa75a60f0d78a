//! Tokens that are not what they seem, over the wire: refused as `invalid-token`, and the upstream sees nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use crate::support::signer::{Signer, part};
use crate::support::{Answer, Node, Raw, Reply, Upstream, client, eventually};

struct Gate {
    upstream: Upstream,
    node: Node,
}

impl Gate {
    fn start() -> Self {
        let upstream = Upstream::start(|_| Reply::ok("reached"));
        let node = Node::with().upstream(&upstream.url()).start();
        Self { upstream, node }
    }

    fn ask(&self, head: &str) -> Answer {
        let host = self.node.host();
        let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}\r\n");
        Raw::ask(self.node.address(), request)
    }

    /// Asserts that the token is refused as such, on the wire and in the audit.
    fn refuses(&self, name: &str, token: &str) {
        let answer = self.ask(&format!("Authorization: Bearer {token}\r\n"));
        self.is_refused(name, &answer, "invalid-token");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("error=\"invalid_token\""), "{name}: {challenge}");
    }

    fn is_refused(&self, name: &str, answer: &Answer, reason: &str) {
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{name}");
        let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(problem["type"], format!("urn:portcullis:problem:{reason}"), "{name}");
        assert_eq!(problem.as_object().map(serde_json::Map::len), Some(4), "{name}: {problem}");
        assert!(self.upstream.recorded().is_empty(), "{name} reached the upstream");
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs()
}

/// The token with another header, and the signature as it was or another.
fn reheaded(token: &str, change: impl Fn(&mut Value), signature: Option<&str>) -> String {
    let mut header = part(token, 0);
    change(&mut header);
    let parts: Vec<_> = token.split('.').collect();
    format!("{}.{}.{}", BASE64URL.encode(header.to_string()), parts[1], signature.unwrap_or(parts[2]))
}

#[test]
fn the_header_of_a_token_chooses_neither_algorithm_nor_key() {
    let gate = Gate::start();
    let token = gate.node.token("alice");
    let jwks = client().get(gate.node.url("/.well-known/jwks.json")).send().expect("an answer");
    let jwks = jwks.text().expect("text");
    let key: Value = serde_json::from_str::<Value>(&jwks).expect("JSON")["keys"][0].clone();
    for alg in ["none", "None", "nOnE", "HS256", "HS512", "ES384", "RS256", "PS256", "EdDSA", "es256", ""] {
        let set = |header: &mut Value| header["alg"] = json!(alg);
        gate.refuses(alg, &reheaded(&token, set, None));
        gate.refuses(alg, &reheaded(&token, set, Some("")));
    }
    // HMAC keyed with everything that is published of the key.
    let x = BASE64URL.decode(key["x"].as_str().expect("x")).expect("base64url");
    let y = BASE64URL.decode(key["y"].as_str().expect("y")).expect("base64url");
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    for secret in [jwks.as_bytes(), key.to_string().as_bytes(), &point, &x, b""] {
        let unsigned = reheaded(&token, |header| header["alg"] = json!("HS256"), Some(""));
        let message = unsigned.trim_end_matches('.');
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        let tag = aws_lc_rs::hmac::sign(&secret, message.as_bytes());
        gate.refuses("HS256 with the public key", &format!("{message}.{}", BASE64URL.encode(tag.as_ref())));
    }
    let kid = part(&token, 0)["kid"].clone();
    let traversals =
        ["../../../../dev/null", "' OR 1=1 --", "", "/dev/null\0", "http://127.0.0.1/", &"k".repeat(4096)];
    for name in traversals {
        gate.refuses(
            "a kid of the attacker's",
            &reheaded(&token, |header| header["kid"] = json!(name), None),
        );
    }
    for wrong in [json!(1), json!(null), json!([kid]), json!({"kid": kid})] {
        gate.refuses(
            "a kid that is no text",
            &reheaded(&token, |header| header["kid"] = wrong.clone(), None),
        );
    }
    gate.refuses("unknown crit", &reheaded(&token, |header| header["crit"] = json!(["b64"]), None));
    gate.refuses("an unencoded payload", &reheaded(&token, |header| header["b64"] = json!(false), None));
    let refused = gate.ask(&format!("Authorization: Bearer {token}x\r\n"));
    let event = gate.node.event(refused.header("x-request-id").expect("an id"));
    assert_eq!((&event["decision"], &event["reason"]), (&"deny".into(), &"invalid-token".into()));
    assert_eq!((&event["principal"], &event["route"]), (&Value::Null, &"all".into()));
    assert!(!event.to_string().contains(&token[..60]), "no token in the audit");
    let answer = gate.ask(&format!("Authorization: Bearer {token}\r\n"));
    assert_eq!(answer.status, 200, "and the token itself counts");
}

#[test]
fn a_key_that_the_token_brings_is_not_asked_for_and_not_fetched() {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    let gate = Gate::start();
    let token = gate.node.token("alice");
    let bait = Upstream::start(|_| Reply::ok("{}"));
    let random = aws_lc_rs::rand::SystemRandom::new();
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "mine", "alg": "ES256", "use": "sig",
        "x": BASE64URL.encode(x), "y": BASE64URL.encode(y)});
    let kid = part(&token, 0)["kid"].clone();
    for kid in [kid, json!("mine"), Value::Null] {
        for (name, value) in [
            ("jwk", jwk.clone()),
            ("jku", json!(format!("{}/jwks", bait.url()))),
            ("x5u", json!(format!("{}/cert", bait.url()))),
            ("x5c", json!(["MIIB"])),
            ("x5t", json!("AAAA")),
        ] {
            let unsigned = reheaded(
                &token,
                |header| {
                    header[name] = value.clone();
                    match &kid {
                        Value::Null => drop(header.as_object_mut().expect("an object").remove("kid")),
                        kid => header["kid"] = kid.clone(),
                    }
                },
                Some(""),
            );
            let message = unsigned.trim_end_matches('.');
            let signature = pair.sign(&random, message.as_bytes()).expect("signed");
            gate.refuses(name, &format!("{message}.{}", BASE64URL.encode(signature.as_ref())));
        }
    }
    assert_eq!(bait.connections(), 0, "nobody fetches what a token names");
}

#[test]
fn a_token_of_ours_whose_claims_are_missing_or_of_another_type_is_refused() {
    let mut gate = Gate::start();
    let good = part(&gate.node.token("alice"), 1);
    let signer = Signer::of(&mut gate.node);
    let upstream_saw = || gate.upstream.recorded().len();
    let accepted = gate.ask(&format!("Authorization: Bearer {}\r\n", signer.sign("at+jwt", &good)));
    assert_eq!((accepted.status, upstream_saw()), (200, 1), "the signer's token counts: {accepted:?}");

    // A gate of its own, so that `refuses` can say that its upstream saw nothing.
    let fresh = Upstream::start(|_| Reply::ok("reached"));
    let config = std::fs::read_to_string(gate.node.directory().join("portcullis.toml")).expect("a file");
    gate.node.write("portcullis.toml", config.replace(&gate.upstream.url(), &fresh.url()));
    assert_eq!(gate.node.stop(), 0);
    gate.node.start_again();
    let gate = Gate { upstream: fresh, node: gate.node };

    let now = now();
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signer.sign("at+jwt", &claims)
    };
    for name in ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"] {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        gate.refuses(&format!("no {name}"), &signer.sign("at+jwt", &claims));
        for wrong in [Value::Null, json!(true), json!({"a": 1}), json!([[1]]), json!("")] {
            gate.refuses(&format!("{name} is {wrong}"), &with(name, wrong));
        }
    }
    for time in ["exp", "iat", "nbf", "auth_time"] {
        for wrong in
            [json!("text"), json!(format!("{}", now + 60)), json!(-1), json!(1.5), json!(1e300), json!([now])]
        {
            gate.refuses(&format!("{time} is {wrong}"), &with(time, wrong));
        }
    }
    let cases = [
        ("expired", "exp", json!(now - 1)),
        ("not yet valid", "nbf", json!(now + 3600)),
        ("an end beyond all time", "exp", json!(u64::MAX)),
        ("another issuer", "iss", json!("https://evil.example")),
        (
            "an issuer that begins like ours",
            "iss",
            json!(format!("{}.evil", good["iss"].as_str().expect("text"))),
        ),
        ("an issuer with a slash more", "iss", json!(format!("{}/", good["iss"].as_str().expect("text")))),
        ("another audience", "aud", json!("https://other.example")),
        ("no audience in a list", "aud", json!([])),
        ("audiences that are no texts", "aud", json!([1, good["aud"]])),
        ("a role that is no name", "roles", json!(["x,admin"])),
        ("roles in one text", "roles", json!("admin")),
        ("roles as an object", "roles", json!({"admin": true})),
        ("an attribute that is an object", "attrs", json!({"a": {"b": 1}})),
        ("a level that is none", "acr", json!("urn:portcullis:acr:9")),
        ("a confirmation nobody knows", "cnf", json!({"jkt": "AAAA"})),
        ("a confirmation by certificate without one", "cnf", json!({"x5t#S256": "AAAA"})),
        ("an ID token's nonce", "nonce", json!("n")),
        ("an ID token's at_hash", "at_hash", json!("n")),
        ("an ID token's c_hash", "c_hash", json!("n")),
    ];
    for (name, claim, value) in cases {
        gate.refuses(name, &with(claim, value));
    }
    for typ in
        ["JWT", "", "id+jwt", "portcullis-assertion+jwt", "at+jwt;x", "at+jwt ", "dpop+jwt", "logout+jwt"]
    {
        gate.refuses(&format!("typ {typ:?}"), &signer.sign(typ, &good));
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let gate = Gate::start();
    let token = gate.node.token("alice");
    let parts: Vec<_> = token.split('.').collect();
    let cases = [
        ("nothing", String::new()),
        ("dots", "..".to_owned()),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("four parts", format!("{token}.{}", parts[2])),
        ("five parts", format!("{token}.a.b")),
        ("padding", format!("{token}=")),
        ("a line in quotes", format!("\"{token}\"")),
        ("twice", format!("{token},{token}")),
        ("two words", format!("{token} {token}")),
        ("a tab behind", format!("{token}\tx")),
        ("a claim part of another token", format!("{}.{}.{}", parts[0], BASE64URL.encode("{}"), parts[2])),
        ("no JSON", format!("{}.{}.{}", parts[0], BASE64URL.encode("["), parts[2])),
        ("an array", format!("{}.{}.{}", BASE64URL.encode("[]"), parts[1], parts[2])),
        ("deep JSON", format!("{}.{}.{}", BASE64URL.encode("[".repeat(4000)), parts[1], parts[2])),
        ("another alphabet", token.replace(['-', '_'], "+") + "+/"),
        ("20,000 bytes", "a".repeat(20_000)),
        ("20,000 dots", ".".repeat(20_000)),
        ("letters of another script", "ｅｙＪ.а.б".to_owned()),
    ];
    for (name, case) in &cases {
        gate.refuses(name, case);
    }
    for position in (0..token.len()).step_by(23) {
        let mut changed = token.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        gate.refuses(&format!("byte {position} changed"), &String::from_utf8(changed).expect("ASCII"));
    }
}

#[test]
fn a_token_of_one_kind_is_not_taken_for_another() {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with().upstream(&upstream.url()).start();
    let login: Value = node.sign_in("alice", crate::support::PASSWORD).json().expect("JSON");
    let (access, refresh) =
        (login["access_token"].as_str().expect("a token"), login["refresh_token"].as_str());
    let refresh = refresh.expect("a refresh token");
    assert_eq!(node.ask("GET", "/a", access).status(), 200);
    let assertion = upstream.last().header("portcullis-assertion").to_owned();
    assert_eq!(part(&assertion, 0)["typ"], "portcullis-assertion+jwt");
    // The assertion and the refresh token as bearers.
    for token in [assertion.as_str(), refresh] {
        assert_eq!(node.ask("GET", "/a", token).status(), 401, "{token}");
    }
    assert_eq!(upstream.recorded().len(), 1);
    // The access token and the assertion as refresh tokens.
    for token in [access, assertion.as_str(), "", "a.1.b"] {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let answer = client().post(node.url("/auth/token")).form(&form).send().expect("an answer");
        assert_eq!(answer.status(), 400, "{token}");
        let error: Value = answer.json().expect("JSON");
        let wanted = if token.is_empty() { "invalid_request" } else { "invalid_grant" };
        assert_eq!(error["error"], wanted, "{token}: {error}");
    }
}

#[test]
fn one_authorization_header_counts_and_nothing_else() {
    let gate = Gate::start();
    let token = gate.node.token("alice");
    let bearer = format!("Authorization: Bearer {token}\r\n");
    for (name, head) in [
        ("the same twice", format!("{bearer}{bearer}")),
        ("another one first", format!("Authorization: Basic YTpi\r\n{bearer}")),
        ("another one behind", format!("{bearer}authorization: Bearer x\r\n")),
        ("an empty one behind", format!("{bearer}Authorization:\r\n")),
    ] {
        let answer = gate.ask(&head);
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
        let event = gate.node.event(answer.header("x-request-id").expect("an id"));
        assert_eq!(
            (&event["decision"], &event["reason"]),
            (&"deny".into(), &"not-canonical".into()),
            "{name}"
        );
        assert_eq!(event["principal"], Value::Null, "{name}");
    }
    for (name, head) in [
        ("none", String::new()),
        ("a header of that name with another spelling", format!("Authorization_: Bearer {token}\r\n")),
        ("a proxy's", format!("Proxy-Authorization: Bearer {token}\r\n")),
        ("a forwarded one", format!("X-Forwarded-Access-Token: {token}\r\n")),
        ("a cookie", format!("Cookie: access_token={token}; token={token}\r\n")),
        ("no scheme", format!("Authorization: {token}\r\n")),
        ("another scheme", format!("Authorization: Token {token}\r\n")),
        ("a list of schemes", format!("Authorization: Basic YTpi, Bearer {token}\r\n")),
    ] {
        let answer = gate.ask(&head);
        gate.is_refused(name, &answer, "unauthenticated");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Bearer") && !challenge.contains("error="), "{name}: {challenge}");
    }
    // In the query, as RFC 6750 §2.3 once allowed, and in a form.
    let host = gate.node.host();
    let head = format!("HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for request in [
        format!("GET /a?access_token={token} {head}\r\n"),
        format!("GET /a?token={token}&authorization=Bearer%20{token} {head}\r\n"),
        format!(
            "POST /a {head}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\naccess_token={token}",
            token.len() + 13
        ),
    ] {
        let answer = Raw::ask(gate.node.address(), request);
        gate.is_refused("a token elsewhere", &answer, "unauthenticated");
    }
    assert_eq!(
        gate.ask(&format!("aUTHORIZATION:   bEARER   {token}  \r\n")).status,
        200,
        "scheme and name have no case"
    );
}

#[test]
fn what_was_verified_once_is_refused_after_its_revocation_and_its_expiry() {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with().upstream(&upstream.url()).config("[tokens]\naccess_ttl = \"4s\"\n").start();
    let (revoked, expiring) = (node.token("alice"), node.token("alice"));
    let began = std::time::Instant::now();
    for token in [&revoked, &expiring, &revoked, &expiring] {
        assert_eq!(node.ask("GET", "/a", token).status(), 200);
    }
    let form = [("token", revoked.as_str())];
    let answer =
        client().post(node.url("/auth/revoke")).bearer_auth(&revoked).form(&form).send().expect("an answer");
    assert_eq!(answer.status(), 200);
    let seen = upstream.recorded().len();
    assert_eq!(node.ask("GET", "/a", &revoked).status(), 401, "at once on the node that was told");
    assert_eq!(upstream.recorded().len(), seen);
    if began.elapsed().as_secs() < 3 {
        assert_eq!(node.ask("GET", "/a", &expiring).status(), 200, "the other one still counts");
    }
    eventually("the token expires", || (node.ask("GET", "/a", &expiring).status() == 401).then_some(()));
    assert!(began.elapsed().as_secs() < 10);
    let seen = upstream.recorded().len();
    assert_eq!(node.ask("GET", "/a", &expiring).status(), 401);
    assert_eq!(upstream.recorded().len(), seen);
}
