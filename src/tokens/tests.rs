//! Promises of tokens: what does not count, what a cache must not hide, and one successor per rotation.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::*;
use crate::accounts::memory::Memory;
use crate::config::SigningAlgorithm;
use crate::keys::Sealer;
use crate::model::{Acr, AttributeValue, Clock as _, ManualClock};
use crate::store::{Revoked, Table};

struct World {
    records: Arc<Memory>,
    clock: Arc<ManualClock>,
    keys: Arc<KeyRing>,
    revocations: Arc<Revocations>,
    tokens: Arc<Tokens>,
    _dir: tempfile::TempDir,
}

fn config() -> config::Tokens {
    config::Tokens {
        issuer: "https://gate.example".to_owned(),
        audience: vec!["https://api.example".to_owned()],
        algorithm: SigningAlgorithm::Es256,
        access_ttl: Duration::from_secs(300),
        refresh_ttl: Duration::from_secs(30 * 86_400),
        refresh_grace: Duration::from_secs(10),
        cache: 1_000,
    }
}

async fn world_with(config: config::Tokens) -> World {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_800_000_000_250_000)));
    let records = Memory::new(clock.clone());
    let dir = tempfile::tempdir().unwrap();
    let sealer = Sealer::open(dir.path()).unwrap();
    let keys = KeyRing::open(records.clone(), sealer, config.algorithm, config.access_ttl, clock.clone())
        .await
        .unwrap();
    let revocations = Revocations::new(records.clone(), true, clock.clone());
    let tokens = Tokens::new(&config, keys.clone(), revocations.clone(), records.clone(), clock.clone());
    World { records, clock, keys, revocations, tokens, _dir: dir }
}

async fn world() -> World {
    world_with(config()).await
}

fn alice() -> Principal {
    let mut alice = Principal::new("alice", PrincipalKind::User, AuthMethod::Password);
    alice.roles = vec![Arc::from("admin"), Arc::from("reader")];
    alice.attributes.0.insert("department".to_owned(), AttributeValue::Text("engineering".to_owned()));
    alice.tenant = Some(Arc::from("acme"));
    alice.acr = Acr::One;
    alice.amr = vec![Arc::from("pwd")];
    alice.auth_time = Some(Timestamp::from_seconds(1_800_000_000));
    alice.email = Some(Arc::from("alice@example.com"));
    alice
}

/// Who exists now.
struct Source(Mutex<HashMap<String, Principal>>);

impl Source {
    fn of(principal: Principal) -> Arc<Self> {
        Arc::new(Self(Mutex::new(HashMap::from([(principal.name.to_string(), principal)]))))
    }
}

#[async_trait::async_trait]
impl PrincipalSource for Source {
    async fn current(&self, name: &str) -> Result<Option<Principal>, StoreError> {
        tokio::task::yield_now().await;
        Ok(self.0.lock().unwrap().get(name).cloned())
    }
}

impl World {
    async fn issue(&self) -> Issued {
        self.tokens.issue(&alice(), "portcullis", &[Arc::from("openid")], true).await.unwrap()
    }

    fn claims(&self) -> Value {
        let now = self.clock.now().seconds();
        json!({"iss": "https://gate.example", "sub": "alice", "aud": "https://api.example", "exp": now + 300,
            "iat": now, "nbf": now, "jti": "one", "client_id": "portcullis", "scope": "", "acr": Acr::One,
            "amr": ["pwd"], "sid": "s", "roles": ["admin"], "attrs": {}})
    }

    /// Why a token of ours with this member changed (`null` removes it) does not count.
    fn problem(&self, name: &str, value: Value) -> Option<String> {
        let mut claims = self.claims();
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.to_owned(), value),
        };
        self.refused(&self.keys.sign("at+jwt", &claims).unwrap())
    }

    fn refused(&self, token: &str) -> Option<String> {
        match self.tokens.verify(token) {
            Ok(_) => None,
            Err(TokenError::Invalid(why)) => Some(why),
            Err(other) => panic!("{other}"),
        }
    }
}

/// The token with another header and, with `signature`, another third part.
fn reheaded(token: &str, change: impl Fn(&mut Value), signature: Option<&str>) -> String {
    let parts: Vec<_> = token.split('.').collect();
    let mut header = serde_json::from_slice(&BASE64URL.decode(parts[0]).unwrap()).unwrap();
    change(&mut header);
    let header = BASE64URL.encode(header.to_string());
    format!("{header}.{}.{}", parts[1], signature.unwrap_or(parts[2]))
}

#[tokio::test]
async fn what_is_issued_is_verified_and_says_the_same() {
    let world = world().await;
    let issued = world.issue().await;
    let verified = world.tokens.verify(&issued.access_token).unwrap();
    let (principal, expected) = (&verified.principal, alice());
    assert_eq!(principal.name, expected.name);
    assert_eq!(principal.roles, expected.roles);
    assert_eq!(principal.attributes, expected.attributes);
    assert_eq!(principal.tenant, expected.tenant);
    assert_eq!(principal.email, expected.email);
    assert_eq!((principal.acr, &principal.amr), (Acr::One, &expected.amr));
    assert_eq!(principal.auth_time, expected.auth_time);
    assert_eq!(principal.client_id.as_deref(), Some("portcullis"));
    assert_eq!(principal.sid.as_deref(), Some(issued.sid.as_str()));
    assert_eq!(principal.method, AuthMethod::Bearer);
    assert_eq!(verified.issued, world.clock.now());
    let again = world.tokens.verify(&issued.access_token).unwrap();
    assert!(Arc::ptr_eq(&again.principal, principal));
    assert!(world.tokens.issue(&Principal::anonymous(), "portcullis", &[], false).await.is_err());
}

#[tokio::test]
async fn a_client_is_told_by_its_name() {
    let world = world().await;
    let client = Principal::new("client:pep", PrincipalKind::Client, AuthMethod::Password);
    let issued = world.tokens.issue(&client, "pep", &[], false).await.unwrap();
    assert!(issued.refresh_token.is_none());
    assert_eq!(world.tokens.verify(&issued.access_token).unwrap().principal.kind, PrincipalKind::Client);
}

#[tokio::test]
async fn every_claim_has_its_type_and_its_value() {
    let world = world().await;
    assert_eq!(world.refused(&world.keys.sign("at+jwt", &world.claims()).unwrap()), None);
    let now = world.clock.now().seconds();
    for (name, values) in [
        (
            "exp",
            vec![
                json!("text"),
                json!("9999999999"),
                json!(-1),
                json!(1.5),
                json!(1e18),
                json!(u64::MAX),
                json!(now),
                json!(now - 1),
                json!([now + 9]),
                json!(true),
                Value::Null,
            ],
        ),
        ("iat", vec![json!("text"), json!(-1), json!(now + 300), json!(1.5), Value::Null]),
        ("nbf", vec![json!("text"), json!(-1), json!(now + 1)]),
        ("auth_time", vec![json!("text"), json!(-1)]),
        (
            "iss",
            vec![
                json!("https://gate.example/"),
                json!("https://evil.example"),
                json!(["https://gate.example"]),
                json!(1),
                Value::Null,
            ],
        ),
        (
            "aud",
            vec![
                json!("https://other.example"),
                json!([]),
                json!(["https://api.example", 1]),
                json!({}),
                json!(""),
                Value::Null,
            ],
        ),
        ("sub", vec![json!(1), json!(""), json!(["alice"]), Value::Null]),
        ("jti", vec![json!(1), json!(""), Value::Null]),
        ("client_id", vec![json!(1), Value::Null]),
        ("scope", vec![json!(["openid"])]),
        ("roles", vec![json!("admin"), json!([1]), json!(["x,admin"]), json!([["admin"]])]),
        ("attrs", vec![json!([]), json!("x"), json!({"a": {"b": 1}}), json!({"a": []  , "b": {}})]),
        ("acr", vec![json!("high"), json!(2)]),
        ("amr", vec![json!("pwd"), json!([1])]),
        ("sid", vec![json!(1), json!("")]),
        ("email", vec![json!(true)]),
        (
            "cnf",
            vec![
                json!("x"),
                json!({}),
                json!({"jkt": "x"}),
                json!({"x5t#S256": 1}),
                json!({"x5t#S256": "x", "jkt": "y"}),
            ],
        ),
        ("nonce", vec![json!("n")]),
        ("at_hash", vec![json!("n")]),
        ("c_hash", vec![json!("n")]),
    ] {
        for value in values {
            assert!(world.problem(name, value.clone()).is_some(), "{name}: {value}");
        }
    }
    assert_eq!(world.problem("aud", json!(["other", "https://api.example"])), None);
    assert_eq!(world.problem("cnf", json!({"x5t#S256": "thumb"})), None);
    // `null` is a value of the wrong type, not an absent member.
    let mut claims = world.claims();
    claims["nbf"] = Value::Null;
    assert!(world.refused(&world.keys.sign("at+jwt", &claims).unwrap()).is_some());
}

#[tokio::test]
async fn the_type_says_that_it_is_an_access_token() {
    let world = world().await;
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
        assert_eq!(world.refused(&world.keys.sign(typ, &world.claims()).unwrap()), None, "{typ}");
    }
    for typ in ["JWT", "", "at+jwt ", "x/at+jwt", "application/application/at+jwt", "logout+jwt", ASSERTION] {
        assert!(world.refused(&world.keys.sign(typ, &world.claims()).unwrap()).is_some(), "{typ}");
    }
    let (assertion, expires) = world.tokens.sign_assertion(&alice(), &alice().roles, "orders").unwrap();
    assert!(world.refused(&assertion).is_some());
    assert_eq!(expires.seconds(), world.clock.now().seconds() + 60);
}

#[tokio::test]
async fn the_header_chooses_neither_algorithm_nor_key() {
    let world = world().await;
    let token = world.issue().await.access_token;
    let set = |name: &'static str, value: Value| move |header: &mut Value| header[name] = value.clone();
    for alg in ["none", "None", "HS256", "ES384", "RS256", "EdDSA", "es256", ""] {
        let why = world.refused(&reheaded(&token, set("alg", json!(alg)), None)).unwrap();
        assert!(why.contains("is not the algorithm of the key"), "{alg}: {why}");
        assert!(world.refused(&reheaded(&token, set("alg", json!(alg)), Some(""))).is_some(), "{alg}");
    }
    for (name, value) in [
        ("kid", json!("other")),
        ("kid", json!(1)),
        ("kid", Value::Null),
        ("crit", json!([])),
        ("crit", json!(["b64"])),
    ] {
        assert!(world.refused(&reheaded(&token, set(name, value), None)).is_some(), "{name}");
    }
    // HMAC keyed with the published key: the classic confusion.
    let jwks = world.keys.jwks();
    let head = reheaded(&token, set("alg", json!("HS256")), Some(""));
    let message = head.trim_end_matches('.');
    let mac = aws_lc_rs::hmac::sign(
        &aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &jwks),
        message.as_bytes(),
    );
    assert!(world.refused(&format!("{message}.{}", BASE64URL.encode(mac))).is_some());
    // A stranger's key, offered in the header in every way there is.
    let stranger = self::world().await;
    let own: Value = serde_json::from_slice(&stranger.keys.jwks()).unwrap();
    let foreign = stranger.keys.sign("at+jwt", &world.claims()).unwrap();
    assert!(world.refused(&foreign).is_some());
    let kid = world.keys.list()[0].kid.clone();
    let offered = reheaded(
        &foreign,
        |header| {
            header["kid"] = json!(kid);
            header["jwk"] = own["keys"][0].clone();
            header["jku"] = json!("https://evil.example/jwks");
            header["x5u"] = json!("https://evil.example/cert");
        },
        None,
    );
    assert!(world.refused(&offered).is_some());
}

#[tokio::test]
async fn what_is_not_a_token_is_refused() {
    let world = world().await;
    let token = world.issue().await.access_token;
    let parts: Vec<_> = token.split('.').collect();
    let mut cases =
        vec![String::new(), ".".to_owned(), "..".to_owned(), "...".to_owned(), "a.b.c".to_owned()];
    cases.push(format!("{}.{}", parts[0], parts[1]));
    cases.push(format!("{}.{}.", parts[0], parts[1]));
    cases.push(format!("{token}."));
    cases.push(format!("{token}="));
    cases.push(format!(" {token}"));
    cases.push(format!("{token}.x"));
    for position in (0..token.len()).step_by(7) {
        let mut changed = token.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        cases.push(String::from_utf8(changed).unwrap());
    }
    for case in cases {
        assert!(world.refused(&case).is_some(), "{case}");
    }
    assert_eq!(world.problem("more", json!("of something else")), None);
    let longer = world.problem("more", json!("x".repeat(LONGEST))).unwrap();
    assert!(longer.contains("is longer than"), "{longer}");
}

#[tokio::test]
async fn the_cache_hides_neither_expiry_nor_withdrawal_nor_revocation() {
    let world = world().await;
    let expiring = world.issue().await.access_token;
    assert_eq!(world.refused(&expiring), None);
    world.clock.advance(Duration::from_secs(300));
    assert!(world.refused(&expiring).is_some());
    for what in ["token", "session", "subject", "client", "key"] {
        let issued = world.issue().await;
        let token = issued.access_token;
        let kid = world.tokens.verify(&token).unwrap().kid.to_string();
        let revoked = match what {
            "token" => Revoked::Token(issued.jti),
            "session" => Revoked::Session(issued.sid),
            "subject" => Revoked::Subject("alice".to_owned()),
            "client" => Revoked::Client("portcullis".to_owned()),
            _ => Revoked::Key(kid),
        };
        let until = world.clock.now().plus(Duration::from_secs(3_600));
        world.revocations.revoke(revoked, until).await.unwrap();
        assert!(world.refused(&token).is_some(), "{what}");
        world.clock.advance(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_withdrawn_key_ends_its_tokens_and_a_new_one_takes_over() {
    let world = world().await;
    let token = world.issue().await.access_token;
    assert_eq!(world.refused(&token), None);
    world.keys.rotate().await.unwrap();
    assert_eq!(world.refused(&token), None);
    let kid = world.tokens.verify(&token).unwrap().kid.to_string();
    world.keys.retire(&kid).await.unwrap();
    assert!(world.refused(&token).is_some());
    assert_eq!(world.refused(&world.issue().await.access_token), None);
}

#[tokio::test]
async fn a_sign_in_right_after_a_revocation_counts() {
    let world = world().await;
    let until = world.clock.now().plus(Duration::from_secs(3_600));
    world.revocations.revoke(Revoked::Subject("alice".to_owned()), until).await.unwrap();
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.refused(&world.issue().await.access_token), None);
}

#[tokio::test]
async fn a_node_that_cannot_know_says_so() {
    let world = world().await;
    let token = world.issue().await;
    let blind = Revocations::new(world.records.clone(), false, world.clock.clone());
    let tokens =
        Tokens::new(&config(), world.keys.clone(), blind, world.records.clone(), world.clock.clone());
    assert!(matches!(tokens.verify(&token.access_token), Err(TokenError::Unknown)));
    let refresh = token.refresh_token.unwrap();
    let refreshed = tokens.refresh(&refresh, "portcullis", &*Source::of(alice())).await;
    assert!(matches!(refreshed, Err(TokenError::Unknown)));
}

#[tokio::test]
async fn two_hundred_refreshes_at_once_make_one_successor_in_one_family() {
    let world = world().await;
    let first = world.issue().await.refresh_token.unwrap();
    let source = Source::of(alice());
    let tries: Vec<_> = (0..200)
        .map(|_| {
            let (tokens, first, source) = (world.tokens.clone(), first.clone(), source.clone());
            tokio::spawn(async move { tokens.refresh(&first, "portcullis", &*source).await.unwrap() })
        })
        .collect();
    let mut successors = std::collections::HashSet::new();
    for each in tries {
        successors.insert(each.await.unwrap().refresh_token.unwrap());
    }
    assert_eq!(successors.len(), 1);
    assert_eq!(world.records.count(Table::Families), 1);
    assert!(!successors.contains(&first));
}

#[tokio::test]
async fn within_the_grace_and_until_the_successor_is_used_the_old_token_yields_it() {
    let world = world().await;
    let source = Source::of(alice());
    let first = world.issue().await;
    let (old, sid) = (first.refresh_token.unwrap(), first.sid);
    let refresh = async |token: &str| world.tokens.refresh(token, "portcullis", &*source).await;
    let next = refresh(&old).await.unwrap();
    assert_eq!(next.sid, sid);
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(refresh(&old).await.unwrap().refresh_token, next.refresh_token);
    let successor = next.refresh_token.unwrap();
    let third = refresh(&successor).await.unwrap();
    assert!(matches!(refresh(&old).await, Err(TokenError::Invalid(_))));
    assert!(refresh(&third.refresh_token.unwrap()).await.is_err());
    assert!(world.refused(&third.access_token).is_some());
    assert_eq!(world.records.count(Table::Families), 0);
}

#[tokio::test]
async fn after_the_grace_a_use_ends_the_family_and_the_session() {
    let world = world().await;
    let source = Source::of(alice());
    let old = world.issue().await.refresh_token.unwrap();
    let next = world.tokens.refresh(&old, "portcullis", &*source).await.unwrap();
    world.clock.advance(Duration::from_micros(10_000_001));
    assert!(world.tokens.refresh(&old, "portcullis", &*source).await.is_err());
    assert!(world.refused(&next.access_token).is_some());
    assert!(world.tokens.refresh(&next.refresh_token.unwrap(), "portcullis", &*source).await.is_err());
}

#[tokio::test]
async fn without_grace_the_second_use_ends_the_family() {
    let world = world_with(config::Tokens { refresh_grace: Duration::ZERO, ..config() }).await;
    let source = Source::of(alice());
    let old = world.issue().await.refresh_token.unwrap();
    let next = world.tokens.refresh(&old, "portcullis", &*source).await.unwrap();
    assert!(world.tokens.refresh(&old, "portcullis", &*source).await.is_err());
    assert!(world.tokens.refresh(&next.refresh_token.unwrap(), "portcullis", &*source).await.is_err());
}

#[tokio::test]
async fn without_grace_one_of_two_hundred_simultaneous_refreshes_gets_the_successor() {
    let world = world_with(config::Tokens { refresh_grace: Duration::ZERO, ..config() }).await;
    let old = world.issue().await.refresh_token.unwrap();
    let source = Source::of(alice());
    let tries: Vec<_> = (0..200)
        .map(|_| {
            let (tokens, old, source) = (world.tokens.clone(), old.clone(), source.clone());
            tokio::spawn(async move { tokens.refresh(&old, "portcullis", &*source).await.is_ok() })
        })
        .collect();
    let mut successors = 0;
    for each in tries {
        successors += usize::from(each.await.unwrap());
    }
    assert_eq!(successors, 1);
}

#[tokio::test]
async fn a_refresh_takes_the_roles_of_today_and_the_proof_of_the_sign_in() {
    let world = world().await;
    let refresh = world.issue().await.refresh_token.unwrap();
    let source = Source::of(Principal::new("alice", PrincipalKind::User, AuthMethod::Password));
    let next = world.tokens.refresh(&refresh, "portcullis", &*source).await.unwrap();
    let verified = world.tokens.verify(&next.access_token).unwrap();
    assert!(verified.principal.roles.is_empty());
    assert_eq!(verified.principal.auth_time, alice().auth_time);
    assert_eq!(verified.principal.acr, Acr::One);
    let namesake = Principal::new("alice", PrincipalKind::Certificate, AuthMethod::Certificate);
    source.0.lock().unwrap().insert("alice".to_owned(), namesake);
    assert!(world.tokens.refresh(&next.refresh_token.unwrap(), "portcullis", &*source).await.is_err());
    assert!(world.refused(&next.access_token).is_some());
    let refresh = world.issue().await.refresh_token.unwrap();
    source.0.lock().unwrap().clear();
    assert!(world.tokens.refresh(&refresh, "portcullis", &*source).await.is_err());
}

#[tokio::test]
async fn refresh_tokens_are_ours_the_clients_and_bounded_in_time() {
    let world = world().await;
    let source = Source::of(alice());
    let token = world.issue().await.refresh_token.unwrap();
    assert!(world.tokens.refresh(&token, "other", &*source).await.is_err());
    let (family, rest) = token.split_once('.').unwrap();
    let (_, tag) = rest.split_once('.').unwrap();
    for forged in [
        format!("{family}.2.{tag}"),
        format!("{family}.01.{tag}"),
        format!("x.1.{tag}"),
        format!("{token}A"),
        String::new(),
    ] {
        assert!(world.tokens.refresh(&forged, "portcullis", &*source).await.is_err(), "{forged}");
    }
    assert!(world.refused(&token).is_some());
    world.clock.advance(config().refresh_ttl);
    assert!(world.tokens.refresh(&token, "portcullis", &*source).await.is_err());
}

#[tokio::test]
async fn a_revoked_subject_refreshes_no_more() {
    let world = world().await;
    let token = world.issue().await.refresh_token.unwrap();
    let until = world.clock.now().plus(Duration::from_secs(86_400));
    world.revocations.revoke(Revoked::Subject("alice".to_owned()), until).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert!(world.tokens.refresh(&token, "portcullis", &*Source::of(alice())).await.is_err());
}

#[tokio::test]
async fn one_revokes_ones_own_tokens() {
    let world = world().await;
    let issued = world.issue().await;
    let refresh = issued.refresh_token.clone().unwrap();
    for token in [&issued.access_token, &refresh] {
        for stranger in [Holder::Client("other"), Holder::Subject("bob")] {
            assert_eq!(world.tokens.revoke(token, stranger).await.unwrap(), None);
        }
    }
    assert_eq!(world.tokens.revoke("unknown", Holder::Operator).await.unwrap(), None);
    let whose = world.tokens.revoke(&issued.access_token, Holder::Client("portcullis")).await.unwrap();
    assert_eq!(whose.as_deref(), Some("alice"));
    assert!(world.refused(&issued.access_token).is_some());
    let next = world.tokens.refresh(&refresh, "portcullis", &*Source::of(alice())).await.unwrap();
    let whose = world.tokens.revoke(&next.refresh_token.unwrap(), Holder::Subject("alice")).await.unwrap();
    assert_eq!(whose.as_deref(), Some("alice"));
    assert!(world.refused(&next.access_token).is_some());
    assert_eq!(world.records.count(Table::Families), 0);
}

#[tokio::test]
async fn inspection_names_every_problem() {
    let world = world().await;
    let seen = world.tokens.inspect(&world.issue().await.access_token);
    assert_eq!((seen.signature, seen.problems.len()), (Signature::Valid, 0));
    let mut claims = world.claims();
    claims["exp"] = json!("text");
    claims["aud"] = json!("other");
    let seen = world.tokens.inspect(&world.keys.sign("JWT", &claims).unwrap());
    assert_eq!((seen.signature, seen.problems.len()), (Signature::Valid, 3));
    let strange = self::world().await.issue().await.access_token;
    assert_eq!(world.tokens.inspect(&strange).signature, Signature::NoKey);
}

#[tokio::test]
async fn a_known_token_passes_for_a_while_without_the_store_and_an_unknown_one_never() {
    let world = world().await;
    let log: Arc<dyn crate::store::RevocationLog> = world.records.clone();
    let view = Revocations::new(log.clone(), false, world.clock.clone());
    let tokens =
        Tokens::new(&config(), world.keys.clone(), view.clone(), world.records.clone(), world.clock.clone());
    let (known, unknown) = (world.issue().await, world.issue().await);
    let within = Duration::from_secs(60);
    let verify = |token: &Issued, within| tokens.verify_known(&token.access_token, within).map(drop);
    assert!(matches!(tokens.verify(&known.access_token), Err(TokenError::Unknown)));
    assert!(matches!(verify(&known, within), Err(TokenError::Unknown)), "the log was never read");

    let heard = |ago: u64| {
        let sent = std::time::Instant::now().checked_sub(Duration::from_secs(ago)).unwrap();
        view.renew(crate::store::LogPosition::default(), sent);
    };
    heard(0);
    tokens.verify(&known.access_token).unwrap();
    while view.is_fresh() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(tokens.verify(&known.access_token), Err(TokenError::Unknown)));
    verify(&known, within).unwrap();
    for _ in 0..2 {
        assert!(matches!(tokens.verify(&unknown.access_token), Err(TokenError::Unknown)));
        assert!(matches!(verify(&unknown, within), Err(TokenError::Unknown)), "never verified here");
    }
    assert!(matches!(verify(&known, Duration::from_millis(1)), Err(TokenError::Unknown)), "too long ago");
    view.apply(&[]);
    let entry = crate::store::RevocationEntry {
        what: Revoked::Token(known.jti.clone()),
        not_before: world.clock.now(),
        until: world.clock.now().plus(within),
    };
    let at = crate::store::LogPosition { epoch: 0, index: 1 };
    view.distrust();
    assert!(matches!(verify(&known, within), Err(TokenError::Unknown)), "the log moved back");
    view.apply(&[(at, entry)]);
    assert!(matches!(verify(&known, within), Err(TokenError::Invalid(_))), "revoked as far as is known");
}
