//! Promises of trusted issuers: their keys, their algorithms and their types alone; a bounded number of fetches; and
//! never an identity that is one of ours.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::model::{ManualClock, RoleName};

const START: i64 = 1_800_000_000;

struct Key(EcdsaKeyPair, &'static str);

impl Key {
    fn new(kid: &'static str) -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap(), kid)
    }

    fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": self.1, "use": "sig", "alg": "ES256",
            "x": BASE64URL.encode(&point[1..33]), "y": BASE64URL.encode(&point[33..])})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message =
            format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64URL.encode(signature))
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "at+jwt", "kid": self.1})
    }

    fn token(&self) -> String {
        self.sign(&self.header(), &claims())
    }
}

fn claims() -> Value {
    json!({"iss": "https://old.example", "aud": ["x", "api"], "sub": "42", "iat": START - 5, "exp": START + 300,
        "client_id": "web", "jti": "j", "sid": "s", "scope": "a b", "groups": ["staff", "ops", "admin"]})
}

fn set(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

/// A server of key sets: what it answers now, and how often it was asked.
struct Server {
    body: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
    url: String,
}

impl Server {
    async fn start(body: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let (body, asked) = (Arc::new(Mutex::new(body)), Arc::new(AtomicUsize::new(0)));
        let (answers, counts) = (Arc::clone(&body), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counts.fetch_add(1, Ordering::SeqCst);
                let answer = match answers.lock().unwrap().clone() {
                    Some(body) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
                    None => "HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                let mut head = [0; 4096];
                let _read = stream.read(&mut head).await;
                let _written = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { body, asked, url }
    }

    fn answer(&self, body: Option<String>) {
        *self.body.lock().unwrap() = body;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn config(url: Option<&str>, file: Option<&std::path::Path>) -> Config {
    let roles = [("staff", "reader"), ("ops", "portcullis:administrator")];
    let issuer = TrustedIssuer {
        name: "legacy".to_owned(),
        issuer: "https://old.example".to_owned(),
        jwks_uri: url.map(|url| url.parse().unwrap()),
        jwks_file: file.map(std::path::Path::to_owned),
        audience: vec!["api".to_owned()],
        algorithms: vec!["ES256".to_owned()],
        types: vec!["at+jwt".to_owned()],
        roles_claim: Some("groups".to_owned()),
        roles: roles.map(|(group, role)| (group.to_owned(), RoleName::parse(role).unwrap())).into(),
        ca: None,
        allow_private: true,
    };
    Config { trusted_issuers: vec![issuer], ..Config::default() }
}

struct World {
    clock: Arc<ManualClock>,
    key: Key,
    server: Server,
    issuers: TrustedIssuers,
}

async fn world() -> World {
    let (clock, key) = (Arc::new(ManualClock::at(Timestamp::from_seconds(START))), Key::new("k1"));
    let server = Server::start(Some(set(&[&key]))).await;
    let issuers = TrustedIssuers::open(&config(Some(&server.url), None), None, clock.clone()).unwrap();
    World { clock, key, server, issuers }
}

impl World {
    async fn prove(&self, token: &str) -> Result<Arc<Verified>, TrustedError> {
        let claimed = self.issuers.claimed(token).ok_or(TrustedError::Invalid("not theirs".to_owned()))?;
        let proved = self.issuers.prove(claimed).await?;
        let verified = Arc::clone(proved.verified());
        self.issuers.remember(proved);
        Ok(verified)
    }

    async fn invalid(&self, token: &str) -> bool {
        matches!(self.prove(token).await, Err(TrustedError::Invalid(_)))
    }

    async fn without_keys(&self, token: &str) -> bool {
        matches!(self.prove(token).await, Err(TrustedError::NoKeys { .. }))
    }

    async fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// A token that outlives what the test does to the clock.
    fn lasting(&self, key: &Key) -> String {
        let mut claims = claims();
        claims["exp"] = json!(START + 10 * 86_400);
        key.sign(&key.header(), &claims)
    }
}

#[tokio::test]
async fn what_it_says_is_kept_apart_from_what_is_ours() {
    let world = world().await;
    let token = world.key.token();
    assert!(world.issuers.known(&token).is_none());
    let verified = world.prove(&token).await.unwrap();
    let principal = &verified.principal;
    assert_eq!(&*principal.name, "legacy:42");
    assert_eq!((principal.kind, principal.method), (PrincipalKind::User, AuthMethod::Bearer));
    assert_eq!(principal.roles, [Arc::from("reader")]);
    let unmapped = AttributeValue::List(vec![AttributeValue::Text("admin".to_owned())]);
    assert_eq!(principal.attributes.0.get("groups"), Some(&unmapped));
    assert_eq!(principal.client_id.as_deref(), Some("legacy:web"));
    assert_eq!((principal.sid.as_deref(), &*verified.jti), (Some("legacy:s"), "legacy:j"));
    assert_eq!(principal.acr, Acr::One);
    assert!(Arc::ptr_eq(&world.issuers.known(&token).unwrap(), &verified));
    world.later(300).await;
    assert!(world.issuers.known(&token).is_none() && world.invalid(&token).await);
}

#[tokio::test]
async fn each_doubtful_claim_refuses_the_token() {
    let world = world().await;
    world.prove(&world.key.token()).await.unwrap();
    for (name, value) in [
        ("iss", json!("https://old.example/")),
        ("iss", json!(["https://old.example"])),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("aud", json!(null)),
        ("sub", json!("")),
        ("sub", json!(42)),
        ("sub", json!("a b")),
        ("sub", json!("\u{0430}lice")),
        ("sub", json!("x".repeat(256))),
        ("exp", json!("text")),
        ("exp", json!(-1)),
        ("exp", json!(START)),
        ("exp", json!(1e300)),
        ("exp", json!(null)),
        ("iat", json!("1")),
        ("iat", json!(START + 31)),
        ("iat", json!(START + 400)),
        ("nbf", json!(START + 31)),
        ("nbf", json!(true)),
        ("auth_time", json!("x")),
        ("scope", json!(["a"])),
        ("amr", json!("mfa")),
        ("groups", json!({"a": 1})),
        ("groups", json!([1])),
        ("cnf", json!({"jkt": "x"})),
        ("cnf", json!({"x5t#S256": "x", "jkt": "y"})),
        ("nonce", json!("n")),
        ("at_hash", json!("h")),
        ("c_hash", json!("h")),
    ] {
        let mut claims = claims();
        claims[name] = value.clone();
        assert!(world.invalid(&world.key.sign(&world.key.header(), &claims)).await, "{name} {value}");
    }
    for name in ["iss", "aud", "sub", "exp", "iat"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        assert!(world.invalid(&world.key.sign(&world.key.header(), &claims)).await, "{name}");
    }
    let mut claims = claims();
    claims
        .as_object_mut()
        .unwrap()
        .retain(|name, _| ["iss", "aud", "sub", "exp", "iat"].contains(&name.as_str()));
    world.prove(&world.key.sign(&world.key.header(), &claims)).await.unwrap();
}

#[tokio::test]
async fn neither_another_key_nor_another_algorithm_nor_another_type_counts() {
    let world = world().await;
    let other = Key::new("k1");
    assert!(world.invalid(&other.token()).await, "another key under the same id");
    let good = world.key.token();
    world.prove(&good).await.unwrap();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let none = BASE64URL.encode(r#"{"alg":"none","typ":"at+jwt","kid":"k1"}"#);
    let claims_part = good.split('.').nth(1).unwrap();
    for forged in [
        format!("{none}.{claims_part}."),
        format!("{message}."),
        format!("{message}.{}", BASE64URL.encode(vec![0; 64])),
        format!("{message}.{signature}.x"),
        format!("{message}.{signature}="),
    ] {
        assert!(world.invalid(&forged).await, "{forged}");
    }
    for (name, value) in [
        ("alg", json!("HS256")),
        ("alg", json!("ES384")),
        ("alg", json!("es256")),
        ("alg", json!(null)),
        ("typ", json!("JWT")),
        ("typ", json!("id_token")),
        ("typ", json!(null)),
        ("kid", json!(null)),
        ("kid", json!("../k1")),
        ("crit", json!(["exp"])),
    ] {
        let mut header = world.key.header();
        header[name] = value.clone();
        assert!(world.invalid(&world.key.sign(&header, &claims())).await, "{name} {value}");
    }
    // Keys that the token brings itself are not looked at.
    let mut header = other.header();
    header["jwk"] = other.jwk();
    header["jku"] = json!(world.server.url);
    assert!(world.invalid(&other.sign(&header, &claims())).await);
    let mut header = world.key.header();
    header["typ"] = json!("application/AT+JWT");
    world.prove(&world.key.sign(&header, &claims())).await.unwrap();
}

#[tokio::test]
async fn tokens_with_unknown_keys_cost_one_fetch_a_minute() {
    let world = world().await;
    let stranger = Key::new("k2");
    assert!(world.invalid(&stranger.token()).await);
    for _ in 0..50 {
        assert!(world.invalid(&stranger.token()).await);
    }
    assert_eq!(world.server.asked(), 1);
    // What is wrong otherwise costs none at all.
    world.later(61).await;
    let mut claims = claims();
    claims["aud"] = json!("other");
    assert!(world.invalid(&stranger.sign(&stranger.header(), &claims)).await);
    assert_eq!(world.server.asked(), 1);
    // A rotation at the issuer is seen then, by all that come at once.
    world.server.answer(Some(set(&[&world.key, &stranger])));
    let token = stranger.token();
    let all = futures_util::future::join_all((0..20).map(|_| world.prove(&token))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(world.server.asked(), 2);
}

#[tokio::test]
async fn keys_that_were_never_seen_are_no_reason_to_call_a_token_wrong() {
    let world = world().await;
    world.server.answer(None);
    assert!(world.without_keys(&world.key.token()).await);
    assert!(world.without_keys(&world.key.token()).await);
    assert_eq!(world.server.asked(), 1);
    world.server.answer(Some("{\"keys\": []}".to_owned()));
    world.later(61).await;
    assert!(world.without_keys(&world.key.token()).await);
    world.server.answer(Some(set(&[&world.key])));
    world.later(61).await;
    world.prove(&world.key.token()).await.unwrap();
}

#[tokio::test]
async fn an_issuer_that_is_away_is_believed_for_a_day() {
    let world = world().await;
    let token = world.lasting(&world.key);
    world.prove(&token).await.unwrap();
    world.server.answer(None);
    world.later(2 * 3_600).await;
    world.prove(&token).await.unwrap();
    assert_eq!(world.server.asked(), 2);
    world.later(22 * 3_600).await;
    assert!(world.issuers.known(&token).is_none());
    assert!(world.without_keys(&token).await);
}

#[tokio::test]
async fn a_key_that_the_issuer_withdrew_stops_to_count() {
    let world = world().await;
    let (token, next) = (world.lasting(&world.key), Key::new("k2"));
    world.prove(&token).await.unwrap();
    world.server.answer(Some(set(&[&next])));
    world.later(301).await;
    // The set is aging: this use begins a fetch beside.
    assert!(world.issuers.known(&token).is_some());
    for _ in 0..1_000 {
        if world.issuers.known(&token).is_none() {
            break;
        }
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(world.issuers.known(&token).is_none());
    assert!(world.invalid(&token).await);
    world.prove(&world.lasting(&next)).await.unwrap();
}

#[tokio::test]
async fn a_file_is_read_with_the_configuration_and_a_new_one_replaces_its_keys() {
    let (key, next) = (Key::new("k1"), Key::new("k2"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set(&[&key])).unwrap();
    let clock: SharedClock = Arc::new(ManualClock::at(Timestamp::from_seconds(START)));
    let config = config(None, Some(file.path()));
    let first = TrustedIssuers::open(&config, None, clock.clone()).unwrap();
    let (old, new) = (key.token(), next.token());
    assert!(first.prove(first.claimed(&old).unwrap()).await.is_ok());
    std::fs::write(file.path(), set(&[&next])).unwrap();
    let second = TrustedIssuers::open(&config, Some(&first), clock.clone()).unwrap();
    assert!(second.prove(second.claimed(&old).unwrap()).await.is_err());
    assert!(second.prove(second.claimed(&new).unwrap()).await.is_ok());
    std::fs::write(file.path(), "{").unwrap();
    let broken = TrustedIssuers::open(&config, Some(&second), clock).err().unwrap();
    assert!(broken.contains("legacy") && broken.contains("JSON"), "{broken}");
}

#[tokio::test]
async fn fetched_keys_survive_a_reload_of_the_configuration() {
    let world = world().await;
    let token = world.key.token();
    world.prove(&token).await.unwrap();
    world.server.answer(None);
    let config = config(Some(&world.server.url), None);
    let next = TrustedIssuers::open(&config, Some(&world.issuers), world.clock.clone()).unwrap();
    assert!(next.prove(next.claimed(&token).unwrap()).await.is_ok());
    assert_eq!(world.server.asked(), 1);
}
