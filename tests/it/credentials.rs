//! Tokens of other issuers: what routes take of them, and who their holders are here.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{Node, Reply, Upstream, eventually};

/// An issuer that signs what a test wants.
struct Issuer {
    key: EcdsaKeyPair,
    kid: &'static str,
}

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| Issuer::new("k1"));

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).expect("a key");
        Self { key, kid }
    }

    fn jwks(&self) -> String {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": self.kid, "x": text(x), "y": text(y)}]})
            .to_string()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", text(header), text(claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// An access token of `sub` with one claim changed.
    fn token(&self, sub: &str, name: &str, value: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let mut claims = json!({"iss": "https://old.example", "aud": "api", "sub": sub, "iat": now - 1,
            "exp": now + 600, "client_id": "web", "jti": sub, "groups": ["staff", "admin"]});
        claims[name] = value;
        self.sign(&json!({"alg": "ES256", "typ": "at+jwt", "kid": self.kid}), &claims)
    }
}

fn trusting(keys: &str) -> String {
    format!(
        "[[trusted_issuer]]\nname = \"legacy\"\nissuer = \"https://old.example\"\naudience = [\"api\"]\n\
         algorithms = [\"ES256\"]\nroles_claim = \"groups\"\nroles = {{ staff = \"reader\" }}\n{keys}\n"
    )
}

#[test]
fn a_trusted_issuers_token_opens_what_its_mapped_roles_open() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with()
        .upstream(&upstream.url())
        .config(&trusting("jwks_file = \"old.jwks\""))
        .file("old.jwks", ISSUER.jwks())
        .policy("p, admin, /*, .*, allow\np, reader, /*, GET, allow\np, legacy:chief, /chief, PUT, allow")
        .start();
    let token = ISSUER.token("alice", "scope", json!(""));
    let answer = node.ask("GET", "/orders", &token);
    assert_eq!(answer.status(), 200);
    let seen = upstream.last();
    // Not our own alice, and no admin: `admin` is a group there, which no mapping names.
    assert_eq!(seen.header("portcullis-user"), "legacy:alice");
    assert_eq!(seen.header("portcullis-roles"), "reader");
    assert_eq!(node.ask("DELETE", "/orders", &token).status(), 403);
    assert_eq!(node.ask("PUT", "/chief", &ISSUER.token("chief", "scope", json!(""))).status(), 200);
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(node.event(&id)["principal"]["name"], "legacy:alice");
    for (name, value) in [
        ("aud", json!("other")),
        ("iss", json!("https://old.example.evil")),
        ("exp", json!("soon")),
        ("exp", json!(1)),
        ("nonce", json!("n")),
        ("sub", json!("al\u{456}ce")),
    ] {
        let answer = node.ask("GET", "/orders", &ISSUER.token("alice", name, value.clone()));
        assert_eq!(answer.status(), 401, "{name} {value}");
        let challenge = answer.headers()["www-authenticate"].to_str().expect("text");
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
    let forged = Issuer::new("k1").token("alice", "scope", json!(""));
    assert_eq!(node.ask("GET", "/orders", &forged).status(), 401);
    // An ID token of the same issuer by the same key.
    let claims = json!({"iss": "https://old.example", "aud": "api", "sub": "alice", "iat": 1, "exp": 9_999_999_999_u64});
    let id_token = ISSUER.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": "k1"}), &claims);
    assert_eq!(node.ask("GET", "/orders", &id_token).status(), 401);
    // Operators' endpoints and our own take our tokens only.
    let userless = node.ask("POST", "/auth/revoke", &token);
    assert!(userless.status().is_client_error(), "{}", userless.status());
}

#[test]
fn an_issuer_whose_keys_were_never_seen_is_unavailable_and_not_wrong() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let (works, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0_u32)));
    let (up, count) = (Arc::clone(&works), Arc::clone(&asked));
    let keys = Upstream::start(move |_| {
        *count.lock().expect("a count") += 1;
        if up.load(Ordering::SeqCst) { Reply::ok(&ISSUER.jwks()) } else { Reply::new(500, "") }
    });
    let at = format!("jwks_uri = \"{}/jwks\"\nallow_private = true", keys.url());
    let node = Node::with().upstream(&upstream.url()).config(&trusting(&at)).start();
    for number in 0..20 {
        let answer = node.ask("GET", "/", &ISSUER.token(&format!("u{number}"), "scope", json!("")));
        assert_eq!(answer.status(), 503);
        let seconds: u32 = answer.headers()["retry-after"].to_str().expect("text").parse().expect("a number");
        assert!((1..=60).contains(&seconds));
    }
    assert_eq!(*asked.lock().expect("a count"), 1, "one fetch a minute, whatever comes");
    // A wrong token is wrong without any keys, and our own tokens do not depend on them.
    assert_eq!(node.ask("GET", "/", &ISSUER.token("alice", "aud", json!("other"))).status(), 401);
    assert_eq!(node.ask("GET", "/", &node.token("bob")).status(), 200);
    assert_eq!(upstream.recorded().len(), 1);
}

#[test]
fn a_replaced_key_file_counts_without_a_restart_and_a_broken_one_changes_nothing() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with()
        .upstream(&upstream.url())
        .config(&trusting("jwks_file = \"old.jwks\""))
        .file("old.jwks", ISSUER.jwks())
        .start();
    let (token, next) = (ISSUER.token("alice", "scope", json!("")), Issuer::new("k2"));
    assert_eq!(node.ask("GET", "/", &token).status(), 200);
    node.write("old.jwks", "{\"keys\": [");
    eventually("the broken file is refused", || {
        let events = node.audit(&["--since", "1h"]);
        events.iter().any(|event| event["reason"] == "configuration_refused").then_some(())
    });
    assert_eq!(node.ask("GET", "/", &token).status(), 200);
    node.write("old.jwks", next.jwks());
    eventually("the new key counts", || {
        (node.ask("GET", "/", &next.token("alice", "scope", json!(""))).status() == 200).then_some(())
    });
    assert_eq!(node.ask("GET", "/", &token).status(), 401);
}

#[test]
fn a_route_that_lists_api_keys_does_not_start() {
    let (code, _, errors) =
        Node::with().config("[[route]]\nname = \"a\"\npath = \"/a\"\nauthenticate = [\"api_key\"]").refused();
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("`api_key` is not supported by this version"), "{errors}");
}
