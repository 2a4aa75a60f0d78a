//! Promises of identification: exactly one principal, a wrong credential is never a lesser one, sign-in tells nothing.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::*;
use crate::accounts::memory::Memory;
use crate::accounts::tests::account;
use crate::config::{CertificatePrincipal, Client, Config, Hashing, SigningAlgorithm};
use crate::keys::{KeyRing, Sealer};
use crate::model::{ClientCertificate, Clock as _, ManualClock, RoleName, Secret};
use crate::store::Revoked;

const HOST: &str = "gate.example";
const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

struct World {
    records: Arc<Memory>,
    clock: Arc<ManualClock>,
    keys: Arc<KeyRing>,
    revocations: Arc<Revocations>,
    tokens: Arc<Tokens>,
    sessions: Arc<Sessions>,
    directory: Arc<Directory>,
    identifier: Arc<Identifier>,
    _dir: tempfile::TempDir,
}

fn config() -> Config {
    let mut config = Config::default();
    config.listen.public_url = "https://gate.example".parse().unwrap();
    config.passwords.hashing = Hashing { memory_kib: 16, passes: 1, lanes: 1, threads: 1, queue: 64 };
    config.tokens = config::Tokens {
        issuer: "https://gate.example".to_owned(),
        audience: vec!["api".to_owned()],
        algorithm: SigningAlgorithm::Es256,
        access_ttl: Duration::from_secs(300),
        refresh_ttl: Duration::from_secs(86_400),
        refresh_grace: Duration::from_secs(10),
        cache: 100,
    };
    let rule = |matches: &str, name: &str| CertificatePrincipal {
        matches: matches.to_owned(),
        name: name.to_owned(),
        roles: vec![RoleName::parse("machine").unwrap()],
        attributes: Default::default(),
    };
    config.certificate_principals = vec![
        rule("dns:billing.example", "billing"),
        rule("CN=sensor-7,O=Example", "sensor-{cn}"),
        rule("cn:client:pep", "{cn}"),
        rule("cn:alice", "{cn}"),
    ];
    config.clients = vec![client("pep", Some("s3cret")), client("dashboard", None)];
    config
}

fn client(id: &str, secret: Option<&str>) -> Client {
    Client {
        id: id.to_owned(),
        secret: secret.map(|secret| Secret::new(secret.to_owned())),
        grant_types: Vec::new(),
        scopes: vec!["authzen".to_owned()],
        roles: vec![RoleName::parse("machine").unwrap()],
        attributes: Default::default(),
    }
}

async fn world() -> World {
    let config = config();
    let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_800_000_000)));
    let records = Memory::new(clock.clone());
    let dir = tempfile::tempdir().unwrap();
    let sealer = Sealer::open(dir.path()).unwrap();
    let (algorithm, ttl) = (config.tokens.algorithm, config.tokens.access_ttl);
    let keys = KeyRing::open(records.clone(), sealer, algorithm, ttl, clock.clone()).await.unwrap();
    let revocations = Revocations::new(records.clone(), true, clock.clone());
    let tokens =
        Tokens::new(&config.tokens, keys.clone(), revocations.clone(), records.clone(), clock.clone());
    let sessions = Sessions::new(&config.session, records.clone(), revocations.clone(), clock.clone());
    let directory = Arc::new(Directory::new(records.clone(), clock.clone()));
    let identifier = Identifier::new(
        &config,
        tokens.clone(),
        sessions.clone(),
        directory.clone(),
        revocations.clone(),
        clock.clone(),
    )
    .unwrap();
    let world =
        World { records, clock, keys, revocations, tokens, sessions, directory, identifier, _dir: dir };
    let mut alice = account("alice", &["reader", "admin"]);
    alice.password_hash = Some(world.identifier.hash("right").await.unwrap());
    world.directory.add(alice).await.unwrap();
    world
}

fn certificate(serial: &str, subject: &str, common_name: &str, names: &[&str]) -> ClientCertificate {
    ClientCertificate {
        serial: serial.to_owned(),
        subject: subject.to_owned(),
        issuer: "CN=Example CA".to_owned(),
        common_name: Some(common_name.to_owned()),
        alternative_names: names.iter().map(|&name| name.to_owned()).collect(),
        not_before: Timestamp::from_seconds(1_700_000_000),
        not_after: Timestamp::from_seconds(1_800_000_100),
        thumbprint: format!("thumb-{serial}"),
    }
}

fn billing() -> ClientCertificate {
    certificate("0A", "CN=x", "x", &["dns:billing.example"])
}

fn connection(certificate: Option<ClientCertificate>) -> Connection {
    Connection {
        peer: (IP, 1).into(),
        local: (IP, 2).into(),
        secure: true,
        server_name: None,
        client_rule: None,
        certificate: certificate.map(Arc::new),
    }
}

impl World {
    async fn ask(
        &self,
        headers: &[(&'static str, &str)],
        certificate: Option<ClientCertificate>,
        listed: &[AuthMethod],
    ) -> Result<Identified, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let connection = connection(certificate);
        let asking = Asking {
            headers: &map,
            connection: &connection,
            host: HOST,
            listed,
            client_ip: IP,
            allow_known: None,
        };
        self.identifier.identify(&asking).await
    }

    async fn token(&self) -> String {
        let account = self.directory.find("alice").await.unwrap().unwrap();
        self.tokens.issue(&principal_of(&account), "portcullis", &[], false).await.unwrap().access_token
    }

    async fn cookie(&self) -> String {
        let account = self.directory.find("alice").await.unwrap().unwrap();
        self.sessions.create(principal_of(&account), HOST).await.unwrap().0
    }

    async fn sign_in(&self, name: &str, password: &str) -> Result<Principal, SignInError> {
        self.identifier.password(name, password, IP).await
    }
}

const ALL: &[AuthMethod] = &[
    AuthMethod::None,
    AuthMethod::Certificate,
    AuthMethod::Session,
    AuthMethod::Bearer,
    AuthMethod::Password,
];

fn name(identified: Result<Identified, Refusal>) -> String {
    identified.unwrap().principal.name.to_string()
}

fn kind(identified: Result<Identified, Refusal>) -> RefusalKind {
    identified.unwrap_err().kind
}

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

#[tokio::test]
async fn authorization_then_session_then_certificate_then_nobody() {
    let world = world().await;
    let (bearer, cookie) = (format!("bEaReR {}", world.token().await), world.cookie().await);
    let cookie = format!("a=b; __Host-portcullis={cookie}");
    let by = |identified: Result<Identified, Refusal>| identified.unwrap().principal.method;
    let all = [("authorization", bearer.as_str()), ("cookie", cookie.as_str())];
    assert_eq!(by(world.ask(&all, Some(billing()), ALL).await), AuthMethod::Bearer);
    assert_eq!(by(world.ask(&all[1..], Some(billing()), ALL).await), AuthMethod::Session);
    assert_eq!(name(world.ask(&[], Some(billing()), ALL).await), "billing");
    assert_eq!(name(world.ask(&[], None, ALL).await), "anonymous");
    assert!(world.ask(&all[..1], None, ALL).await.unwrap().token_issued.is_some());
    assert_eq!(kind(world.ask(&[], None, &ALL[1..]).await), RefusalKind::Unauthenticated);
}

#[tokio::test]
async fn only_what_is_listed_is_looked_at() {
    let world = world().await;
    let (bearer, cookie) = (format!("Bearer {}", world.token().await), world.cookie().await);
    let cookie = format!("__Host-portcullis={cookie}");
    let none = &[AuthMethod::None];
    let all = [("authorization", bearer.as_str()), ("cookie", cookie.as_str())];
    assert_eq!(name(world.ask(&all, Some(billing()), none).await), "anonymous");
    for foreign in ["Bearer wrong", "Basic wrong", "Digest x", "Bearer", ""] {
        let headers = [("authorization", foreign), all[1]];
        let identified = world.ask(&headers, None, &[AuthMethod::Session]).await.unwrap();
        assert_eq!(identified.principal.method, AuthMethod::Session, "{foreign}");
    }
    assert_eq!(kind(world.ask(&all, None, &[AuthMethod::Certificate]).await), RefusalKind::Unauthenticated);
}

#[tokio::test]
async fn a_wrong_authorization_is_never_a_lesser_principal() {
    let world = world().await;
    let cookie = format!("__Host-portcullis={}", world.cookie().await);
    for wrong in ["Bearer wrong", "Bearer", "Bearer ", "bearer a.b.c", "Bearer \u{e9}"] {
        let headers = [("authorization", wrong), ("cookie", cookie.as_str())];
        let refusal = world.ask(&headers, Some(billing()), ALL).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::InvalidToken, "{wrong}");
        assert_eq!(refusal.challenge.as_deref(), Some(r#"error="invalid_token""#));
    }
    for wrong in [basic("alice:wrong"), basic("alice"), "Basic !".to_owned(), basic("nobody:right")] {
        let headers = [("authorization", wrong.as_str()), ("cookie", cookie.as_str())];
        assert_eq!(kind(world.ask(&headers, None, ALL).await), RefusalKind::Unauthenticated);
    }
    let bearer = format!("Bearer {}", world.token().await);
    let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    for listed in [ALL, &[AuthMethod::None]] {
        let refusal = world.ask(&twice, None, listed).await.unwrap_err();
        assert_eq!(refusal.kind.status(), http::StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_cookie_that_does_not_count_is_absent_and_cleared() {
    let world = world().await;
    let good = world.cookie().await;
    let listed = &[AuthMethod::Session, AuthMethod::None];
    for cookie in [
        format!("__Host-portcullis={}", crate::model::random_token::<32>()),
        "__Host-portcullis=".to_owned(),
        format!("__Host-portcullis={good}; __Host-portcullis={good}"),
    ] {
        let identified = world.ask(&[("cookie", &cookie)], None, listed).await.unwrap();
        assert!(identified.principal.is_anonymous() && identified.clear_cookie, "{cookie}");
    }
    for other in [
        format!("portcullis={good}"),
        format!("__host-portcullis={good}"),
        format!("x__Host-portcullis={good}"),
    ] {
        let identified = world.ask(&[("cookie", &other)], None, listed).await.unwrap();
        assert!(identified.principal.is_anonymous() && !identified.clear_cookie, "{other}");
    }
    let cookie = format!("__Host-portcullis={good}");
    world.records.go_away(true);
    assert_eq!(kind(world.ask(&[("cookie", &cookie)], None, listed).await), RefusalKind::StoreUnavailable);
}

#[tokio::test]
async fn on_plain_http_the_cookie_has_its_plain_name() {
    let world = world().await;
    let mut config = config();
    config.listen.public_url = "http://localhost:8080".parse().unwrap();
    world.identifier.commit(&config, world.identifier.prepare(&config).unwrap());
    let cookie = world.cookie().await;
    let listed = &[AuthMethod::Session];
    assert_eq!(name(world.ask(&[("cookie", &format!("portcullis={cookie}"))], None, listed).await), "alice");
    let other = format!("__Host-portcullis={cookie}");
    assert_eq!(kind(world.ask(&[("cookie", &other)], None, listed).await), RefusalKind::Unauthenticated);
}

#[tokio::test]
async fn certificates_become_principals_by_rules_alone() {
    let world = world().await;
    let listed = &[AuthMethod::Certificate];
    let found = world.ask(&[], Some(billing()), listed).await.unwrap().principal;
    assert_eq!((&*found.name, found.kind), ("billing", PrincipalKind::Certificate));
    assert_eq!(found.roles, [Arc::from("machine")]);
    let again = world.ask(&[], Some(billing()), listed).await.unwrap().principal;
    assert!(Arc::ptr_eq(&found, &again));
    let sensor = certificate("0B", "CN=sensor-7,O=Example", "sensor-7", &[]);
    assert_eq!(name(world.ask(&[], Some(sensor), listed).await), "sensor-sensor-7");
    for stranger in [
        certificate("0C", "CN=billing.example", "billing.example", &[]),
        certificate("0D", "CN=x", "x", &["email:billing.example", "dns:billing.example.evil"]),
        // Neither a client nor an account.
        certificate("0E", "CN=client:pep", "client:pep", &[]),
        certificate("0F", "CN=alice", "alice", &[]),
    ] {
        assert_eq!(kind(world.ask(&[], Some(stranger), listed).await), RefusalKind::Unauthenticated);
    }
}

#[tokio::test]
async fn a_certificate_is_checked_for_each_request() {
    let world = world().await;
    let listed = &[AuthMethod::Certificate, AuthMethod::None];
    assert_eq!(name(world.ask(&[], Some(billing()), listed).await), "billing");
    let until = world.clock.now().plus(Duration::from_secs(3_600));
    let revoked = Revoked::Certificate("CN=Example CA#0A".to_owned());
    world.revocations.revoke(revoked, until).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(kind(world.ask(&[], Some(billing()), listed).await), RefusalKind::Unauthenticated);
    assert!(world.identifier.certificate(&connection(Some(billing()))).is_none());
    let other = certificate("1A", "CN=x", "x", &["dns:billing.example"]);
    assert_eq!(name(world.ask(&[], Some(other.clone()), listed).await), "billing");
    assert!(world.identifier.certificate(&connection(Some(other.clone()))).is_some());
    world.clock.advance(Duration::from_secs(100));
    assert_eq!(kind(world.ask(&[], Some(other), listed).await), RefusalKind::Unauthenticated);
}

#[tokio::test]
async fn a_bound_token_needs_its_certificate() {
    let world = world().await;
    let now = world.clock.now().seconds();
    let claims = serde_json::json!({"iss": "https://gate.example", "sub": "alice", "aud": "api", "exp": now + 9,
        "iat": now, "jti": "j", "client_id": "portcullis", "cnf": {"x5t#S256": "thumb-0A"}});
    let bearer = format!("Bearer {}", world.keys.sign("at+jwt", &claims).unwrap());
    let headers = [("authorization", bearer.as_str())];
    let other = certificate("0B", "CN=x", "x", &[]);
    assert_eq!(kind(world.ask(&headers, None, ALL).await), RefusalKind::InvalidToken);
    assert_eq!(kind(world.ask(&headers, Some(other), ALL).await), RefusalKind::InvalidToken);
    assert_eq!(name(world.ask(&headers, Some(billing()), ALL).await), "alice");
}

#[tokio::test]
async fn the_right_password_and_nothing_else_signs_in() {
    let world = world().await;
    let alice = world.sign_in("alice", "right").await.unwrap();
    assert_eq!((alice.acr, alice.method), (Acr::One, AuthMethod::Password));
    assert_eq!(alice.roles, [Arc::from("admin"), Arc::from("reader")]);
    assert_eq!(alice.auth_time, Some(world.clock.now()));
    world.directory.add(account("nopass", &[])).await.unwrap();
    let long = "a".repeat(200);
    for (name, password) in [
        ("alice", "wrong"),
        ("alice", ""),
        ("Alice", "right"),
        ("nobody", "right"),
        ("nopass", ""),
        ("nopass", "x"),
        ("", "right"),
        (long.as_str(), "right"),
        ("client:pep", "s3cret"),
    ] {
        assert!(matches!(world.sign_in(name, password).await, Err(SignInError::Wrong)), "{name}");
    }
    world.directory.update("alice", &|alice| alice.disabled = true).await.unwrap();
    assert!(matches!(world.sign_in("alice", "right").await, Err(SignInError::Wrong)));
}

#[tokio::test]
async fn an_unknown_user_costs_what_a_known_one_costs() {
    let hashing = config().passwords.hashing;
    let (nobody, real) = (pool::nobody(&hashing), world().await.identifier.hash("x").await.unwrap());
    assert!(!pool::is_weaker(&nobody, &hashing));
    assert_eq!(nobody.split('$').take(4).collect::<Vec<_>>(), real.split('$').take(4).collect::<Vec<_>>());
    assert_eq!(nobody.len(), real.len());
}

#[tokio::test]
async fn ten_failures_lock_an_account_for_a_while_known_or_not() {
    let world = world().await;
    for name in ["alice", "nobody"] {
        for _ in 0..10 {
            assert!(matches!(world.sign_in(name, "wrong").await, Err(SignInError::Wrong)));
        }
        let tried = world.sign_in(name, "right").await;
        assert!(matches!(tried, Err(SignInError::TooOften { retry_after: 300 })), "{tried:?}");
    }
    world.clock.advance(Duration::from_millis(199_500));
    for name in ["alice", "nobody"] {
        let tried = world.sign_in(name, "right").await;
        let left = matches!(tried, Err(SignInError::TooOften { retry_after: 101 }));
        assert!(left, "what is left of the window: {tried:?}");
    }
    world.identifier.unlock("alice").await.unwrap();
    world.sign_in("alice", "right").await.unwrap();
    world.clock.advance(Duration::from_secs(101));
    assert!(matches!(world.sign_in("nobody", "right").await, Err(SignInError::Wrong)));
}

#[tokio::test]
async fn a_hundred_failures_stop_an_address_and_no_other() {
    let world = world().await;
    for number in 0..100 {
        let tried = world.sign_in(&format!("user{number}"), "wrong").await;
        assert!(matches!(tried, Err(SignInError::Wrong)));
    }
    assert!(matches!(world.sign_in("alice", "right").await, Err(SignInError::TooOften { .. })));
    let other: IpAddr = "2001:db8::1".parse().unwrap();
    world.identifier.password("alice", "right", other).await.unwrap();
    for _ in 0..300 {
        world.identifier.password("alice", "right", other).await.unwrap();
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let pool = Pool::new(&Hashing { memory_kib: 19_456, passes: 2, lanes: 1, threads: 1, queue: 1 });
    let phc = pool::nobody(&Hashing { memory_kib: 19_456, passes: 2, lanes: 1, threads: 1, queue: 1 });
    let tries = (0..50).map(|_| pool.verify("x", &phc));
    let answers = futures_util::future::join_all(tries).await;
    assert!(answers.iter().any(|answer| matches!(answer, Err(SignInError::Overloaded))));
    assert!(answers.iter().any(|answer| matches!(answer, Ok(false))));
}

#[tokio::test]
async fn a_sign_in_hashes_again_when_the_cost_rose() {
    let world = world().await;
    let hash = async || world.directory.find("alice").await.unwrap().unwrap().password_hash.unwrap();
    let before = hash().await;
    world.sign_in("alice", "right").await.unwrap();
    assert_eq!(hash().await, before);
    let mut config = config();
    config.passwords.hashing.passes = 2;
    world.identifier.commit(&config, world.identifier.prepare(&config).unwrap());
    world.sign_in("alice", "right").await.unwrap();
    let after = hash().await;
    assert!(after.contains("t=2"), "{after}");
    world.sign_in("alice", "right").await.unwrap();
    assert_eq!(hash().await, after);
}

#[tokio::test]
async fn basic_is_remembered_until_the_account_changes() {
    let world = world().await;
    let pair = basic("alice:right");
    let headers = [("authorization", pair.as_str())];
    let listed = &[AuthMethod::Password];
    let first = world.ask(&headers, None, listed).await.unwrap().principal;
    let again = world.ask(&headers, None, listed).await.unwrap().principal;
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(
        kind(world.ask(&[("authorization", &basic("alice:Right"))], None, listed).await),
        RefusalKind::Unauthenticated
    );
    world.directory.update("alice", &|alice| alice.roles.clear()).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert!(world.ask(&headers, None, listed).await.unwrap().principal.roles.is_empty());
    world.directory.update("alice", &|alice| alice.disabled = true).await.unwrap();
    let until = world.clock.now().plus(Duration::from_secs(60));
    world.revocations.revoke(Revoked::Subject("alice".to_owned()), until).await.unwrap();
    assert_eq!(kind(world.ask(&headers, None, listed).await), RefusalKind::Unauthenticated);
}

#[tokio::test]
async fn a_changed_password_ends_basic_within_a_second() {
    let world = world().await;
    let pair = basic("alice:right");
    let headers = [("authorization", pair.as_str())];
    let listed = &[AuthMethod::Password];
    assert!(world.ask(&headers, None, listed).await.is_ok());
    let new = world.identifier.hash("other").await.unwrap();
    world.directory.update("alice", &|alice| alice.password_hash = Some(new.clone())).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(kind(world.ask(&headers, None, listed).await), RefusalKind::Unauthenticated);
}

#[tokio::test]
async fn a_client_proves_itself_with_its_secret() {
    let world = world().await;
    let pep = world.identifier.client("pep", "s3cret", IP).await.unwrap();
    assert_eq!((&*pep.name, pep.kind), ("client:pep", PrincipalKind::Client));
    assert_eq!(pep.scope, [Arc::from("authzen")]);
    for (id, secret) in [("pep", "wrong"), ("pep", ""), ("dashboard", ""), ("nobody", "s3cret")] {
        let tried = world.identifier.client(id, secret, IP).await;
        assert!(matches!(tried, Err(SignInError::Wrong)), "{id}");
    }
}

#[tokio::test]
async fn a_clients_secret_is_guessed_ten_times_from_one_address() {
    let world = world().await;
    let other: IpAddr = "192.0.2.2".parse().unwrap();
    for _ in 0..10 {
        let tried = world.identifier.client("pep", "guess", IP).await;
        assert!(matches!(tried, Err(SignInError::Wrong)));
    }
    let tried = world.identifier.client("pep", "s3cret", IP).await;
    assert!(matches!(tried, Err(SignInError::TooOften { retry_after: 300 })));
    world.identifier.client("pep", "s3cret", other).await.unwrap();
    world.clock.advance(Duration::from_secs(300));
    world.identifier.client("pep", "s3cret", IP).await.unwrap();
}

#[tokio::test]
async fn asking_for_the_limits_writes_nothing() {
    let world = world().await;
    world.sign_in("alice", "right").await.unwrap();
    // The address is known now, and nothing failed.
    assert_eq!(world.records.count(crate::store::Table::Counters), 1);
    world.sign_in("alice", "right").await.unwrap();
    assert_eq!(world.records.count(crate::store::Table::Counters), 1);
}

#[tokio::test]
async fn guesses_from_elsewhere_do_not_lock_out_a_known_device() {
    let world = world().await;
    world.sign_in("alice", "right").await.unwrap();
    let (elsewhere, office) = ("198.51.100.7".parse().unwrap(), "192.0.2.99".parse().unwrap());
    let on = async |password: &str, ip: IpAddr, device: Option<&str>| {
        world.identifier.password_on("alice", password, ip, device).await
    };
    for _ in 0..10 {
        assert!(matches!(on("wrong", elsewhere, None).await, Err(SignInError::Wrong)));
    }
    assert!(matches!(on("right", elsewhere, None).await, Err(SignInError::TooOften { .. })));
    assert!(matches!(on("right", office, None).await, Err(SignInError::TooOften { .. })));
    // The address of an earlier sign-in, and the browser of one.
    world.sign_in("alice", "right").await.unwrap();
    let cookie = world.identifier.device_cookie("alice");
    on("right", elsewhere, Some(&cookie)).await.unwrap();
    // Neither another account's cookie nor one that was made up.
    for foreign in [world.identifier.device_cookie("bob"), "x".repeat(cookie.len()), String::new()] {
        let tried = on("right", elsewhere, Some(&foreign)).await;
        assert!(matches!(tried, Err(SignInError::TooOften { .. })), "{foreign}");
    }
    // A device is limited too, and only itself.
    for _ in 0..10 {
        assert!(matches!(on("wrong", elsewhere, Some(&cookie)).await, Err(SignInError::Wrong)));
    }
    assert!(matches!(on("right", elsewhere, Some(&cookie)).await, Err(SignInError::TooOften { .. })));
    on("right", elsewhere, Some(&world.identifier.device_cookie("alice"))).await.unwrap();
    world.identifier.unlock("alice").await.unwrap();
    on("right", elsewhere, Some(&cookie)).await.unwrap();
    on("right", elsewhere, None).await.unwrap();
}

#[tokio::test]
async fn of_many_guesses_at_once_the_right_one_is_not_told_from_those_beyond_the_limit() {
    let world = world().await;
    let tries = (0..40).map(|number| {
        let password = if number == 39 { "right" } else { "wrong" };
        world.sign_in("alice", password)
    });
    let answers = futures_util::future::join_all(tries).await;
    let wrong = answers.iter().filter(|answer| matches!(answer, Err(SignInError::Wrong))).count();
    let limited = answers.iter().filter(|answer| matches!(answer, Err(SignInError::TooOften { .. }))).count();
    assert_eq!((wrong, limited), (10, 30));
}

#[tokio::test]
async fn what_is_gone_is_refreshed_no_more() {
    let world = world().await;
    let current = async |name: &str| world.identifier.current(name).await.unwrap();
    assert_eq!(current("alice").await.unwrap().roles.len(), 2);
    assert!(current("client:pep").await.is_some() && current("billing").await.is_some());
    assert!(current("sensor-7").await.is_some());
    for gone in ["client:gone", "corp:1234", "sensor-client:pep", "anonymous"] {
        let found = current(gone).await;
        assert!(found.is_none(), "{gone}: {found:?}");
    }
    world.directory.update("alice", &|alice| alice.disabled = true).await.unwrap();
    assert!(current("alice").await.is_none());
}
