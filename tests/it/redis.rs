//! The program on a real Redis: every way to reach one, and every one that it refuses to start on.

use std::path::Path;
use std::time::Duration;

use crate::support::{Builder, Node, Redis, Reply, Upstream, eventually};

/// A node on this server, with an upstream behind it.
pub fn node(upstream: &Upstream, url: &str, settings: &str) -> Builder {
    Node::with()
        .config("[store]\nkind = \"redis\"\n[tokens]\nissuer = \"https://gate.example\"\naudience = [\"https://api.example\"]")
        .config(&format!("[store.redis]\nurls = [\"{url}\"]\ntimeout = \"1s\"\n{settings}"))
        .upstream(&upstream.url())
}

pub fn upstream() -> Upstream {
    Upstream::start(|_| Reply::ok("hello"))
}

/// Signs in, is allowed, is refused, and finds both in an audit that verifies.
fn works(node: &Node) {
    let bob = node.token("bob");
    let allowed = node.ask("GET", "/orders", &bob);
    assert_eq!((allowed.status().as_u16(), allowed.headers()["x-request-id"].len()), (200, 26));
    let id = allowed.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(node.ask("DELETE", "/orders", &bob).status(), 403);
    assert_eq!(node.event(&id)["decision"], "allow");
    let added = node.cli_with(&["user", "add", "carol", "--password-stdin"], "a long enough password\n");
    assert_eq!(added.0, 0, "{added:?}");
    assert_eq!(node.sign_in("carol", "a long enough password").status(), 200);
    assert_eq!(node.cli(&["healthcheck"]).0, 0);
    let verified = node.cli(&["audit", "verify"]);
    assert_eq!(verified.0, 0, "{verified:?}");
}

fn shipped(redis: &Redis, key: &str) {
    eventually("the audit is in the stream", || {
        redis.cli(&["XLEN", key]).parse::<u64>().is_ok_and(|length| length >= 3).then_some(())
    });
}

#[test]
fn a_plain_server_and_a_database_of_its_own() {
    let (upstream, redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "database = 5").start();
    works(&node);
    assert_eq!(redis.cli(&["DBSIZE"]), "0");
    assert_ne!(redis.cli(&["-n", "5", "DBSIZE"]), "0");
    assert_eq!(redis.cli(&["-n", "5", "EXISTS", "portcullis:audit:{gate-1}"]), "1");
}

#[test]
fn a_server_with_a_password() {
    let (upstream, mut redis) = (upstream(), Redis::with(&["--requirepass", "hunter2"]));
    redis.access = vec!["-a".to_owned(), "hunter2".to_owned()];
    let node = node(&upstream, &redis.url(), "password = \"env:REDIS_PASSWORD\"")
        .env("REDIS_PASSWORD", "hunter2")
        .start();
    works(&node);
    assert!(!node.log().contains("hunter2"));
}

#[test]
fn the_least_rights_of_the_documentation_are_enough() {
    let documentation = include_str!("../../docs/redis.md");
    let rules = documentation.lines().find_map(|line| line.strip_prefix("user portcullis on "));
    let rules = rules.expect("the documentation has the rules").replace("PASSWORD", "s3cret");
    let (upstream, redis) = (upstream(), Redis::start());
    let mut arguments = vec!["ACL", "SETUSER", "portcullis", "on"];
    arguments.extend(rules.split(' '));
    assert_eq!(redis.cli(&arguments), "OK");
    let settings = "username = \"portcullis\"\npassword = \"env:REDIS_PASSWORD\"";
    let mut node = node(&upstream, &redis.url(), settings).env("REDIS_PASSWORD", "s3cret").start();
    works(&node);
    shipped(&redis, "portcullis:audit:{gate-1}");
    // What refresh, sign-out and revocation send is allowed too.
    let (code, out, err) = node.cli(&["user", "disable", "carol"]);
    assert_eq!(code, 0, "{out}{err}");
    let answer = node.sign_in("bob", crate::support::PASSWORD);
    let tokens: serde_json::Value = answer.json().expect("JSON");
    let form =
        [("grant_type", "refresh_token"), ("refresh_token", tokens["refresh_token"].as_str().expect("text"))];
    let client = crate::support::client();
    assert_eq!(client.post(node.url("/auth/token")).form(&form).send().expect("an answer").status(), 200);
    let bearer = tokens["access_token"].as_str().expect("text");
    let out = client.post(node.url("/auth/logout")).bearer_auth(bearer).send().expect("an answer");
    assert!(out.status().is_success(), "{}", out.status());
    assert_eq!(node.ask("GET", "/orders", bearer).status(), 401);
    assert_eq!(node.stop(), 0);
    let denied = redis.cli(&["ACL", "LOG"]);
    assert_eq!(denied, "", "the rules deny something that a node sends");
}

#[test]
fn a_socket_instead_of_a_port() {
    let upstream = upstream();
    let mut path = String::new();
    let _redis = Redis::prepared(|directory| {
        path = directory.join("redis.sock").display().to_string();
        ["--unixsocket", &path, "--unixsocketperm", "700"].map(str::to_owned).to_vec()
    });
    works(&node(&upstream, &format!("unix://{path}"), "").start());
}

struct Pem {
    certificate: String,
    key: String,
}

struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        ca.distinguished_name.push(rcgen::DnType::CommonName, "redis test CA");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&key).expect("a certificate").pem();
        Self { issuer: rcgen::Issuer::new(ca, key), pem }
    }

    fn issue(&self, name: &str) -> Pem {
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = leaf.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pem { certificate, key: key.serialize_pem() }
    }
}

/// A server that asks for client certificates.
fn tls_server(authority: &Authority, port: u16) -> Redis {
    let server = authority.issue("localhost");
    Redis::prepared(|directory: &Path| {
        let write = |name: &str, text: &str| {
            std::fs::write(directory.join(name), text).expect("written");
            directory.join(name).display().to_string()
        };
        let files = [
            ("--tls-ca-cert-file", write("ca.pem", &authority.pem)),
            ("--tls-cert-file", write("server.pem", &server.certificate)),
            ("--tls-key-file", write("server.key", &server.key)),
            ("--tls-auth-clients", "yes".to_owned()),
            ("--tls-port", port.to_string()),
        ];
        files.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    })
}

#[test]
fn tls_with_its_own_authority_and_client_certificates() {
    let (upstream, authority) = (upstream(), Authority::new());
    let port = crate::support::free_port();
    let _redis = tls_server(&authority, port);
    let url = format!("rediss://localhost:{port}");
    let client = authority.issue("gate");
    let files = "ca = \"ca.pem\"\ncertificate = \"client.pem\"\nkey = \"client.key\"";
    let with = |ca: &str, certificate: &Pem| {
        node(&upstream, &url, files)
            .file("ca.pem", ca)
            .file("client.pem", &certificate.certificate)
            .secret_file("client.key", &certificate.key)
    };
    works(&with(&authority.pem, &client).start());

    let other = Authority::new();
    for (ca, certificate, files) in [
        (&other.pem, &client, files),
        (&authority.pem, &other.issue("gate"), files),
        (&authority.pem, &client, "ca = \"ca.pem\""),
    ] {
        let builder = node(&upstream, &url, files)
            .file("ca.pem", ca)
            .file("client.pem", &certificate.certificate)
            .secret_file("client.key", &certificate.key);
        let (code, _, err) = builder.refused();
        assert_eq!(code, 3, "{err}");
        assert!(err.contains(&format!("localhost:{port}")), "{err}");
    }
}

/// The node does not start on it: exit code 3, and what it says.
fn refused(builder: Builder) -> String {
    let (code, _, err) = builder.refused();
    assert_eq!(code, 3, "{err}");
    err
}

#[test]
fn a_server_that_may_drop_what_is_revoked_is_refused_and_the_fix_works() {
    let upstream = upstream();
    let redis = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let said = refused(node(&upstream, &redis.url(), ""));
    let command = said.split('`').nth(1).expect("the command that fixes it");
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(redis.cli(&words), "OK", "{said}");
    works(&node(&upstream, &redis.url(), "").start());
}

#[test]
fn what_cannot_be_used_is_told_with_what_to_do() {
    let upstream = upstream();
    let redis = Redis::with(&["--requirepass", "hunter2", "--databases", "4"]);
    let with = |settings: &str| {
        node(&upstream, &redis.url(), settings).env("RIGHT", "hunter2").env("WRONG", "hunter3-not-shown")
    };
    for settings in ["", "password = \"env:WRONG\"", "username = \"nobody\"\npassword = \"env:RIGHT\""] {
        let said = refused(with(settings));
        assert!(said.contains("[store.redis] username and password"), "{said}");
        assert!(!said.contains("hunter"), "{said}");
    }
    let said = refused(with("password = \"env:RIGHT\"\ndatabase = 7"));
    assert!(said.contains("[store.redis] database names"), "{said}");

    let replica =
        Redis::with(&["--replicaof", "127.0.0.1", &redis.port.to_string(), "--masterauth", "hunter2"]);
    let said = refused(node(&upstream, &replica.url(), ""));
    assert!(said.contains("is a replica") && said.contains("[store.redis] urls"), "{said}");

    let free = crate::support::free_port();
    let said = refused(node(&upstream, &format!("redis://127.0.0.1:{free}"), ""));
    assert!(said.contains(&format!("127.0.0.1:{free}")), "{said}");
}

#[test]
fn a_server_that_hangs_does_not_hang_the_start() {
    let (upstream, redis) = (upstream(), Redis::start());
    redis.pause();
    let began = std::time::Instant::now();
    let said = refused(node(&upstream, &redis.url(), ""));
    redis.resume();
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(said.contains(&format!("127.0.0.1:{}", redis.port)), "{said}");
}

#[test]
fn rights_that_do_not_suffice_are_told() {
    let (upstream, redis) = (upstream(), Redis::start());
    redis.cli(&["ACL", "SETUSER", "weak", "on", ">s3cret", "~portcullis:*", "+@all", "-eval", "-evalsha"]);
    let settings = "username = \"weak\"\npassword = \"env:REDIS_PASSWORD\"";
    let said = refused(node(&upstream, &redis.url(), settings).env("REDIS_PASSWORD", "s3cret"));
    assert!(said.contains("what that user may do") && said.contains("eval"), "{said}");
}

#[test]
fn audit_entries_of_several_events_compressed_or_not() {
    let upstream = upstream();
    for compress in [false, true] {
        let redis = Redis::start();
        let settings = format!("[audit]\nentry = \"batch\"\ncompress = {compress}");
        let node = node(&upstream, &redis.url(), "").config(&settings).start();
        works(&node);
        eventually("a batch is in the stream", || {
            (redis.cli(&["XLEN", "portcullis:audit:{gate-1}"]) != "0").then_some(())
        });
        let first = redis.cli(&["XRANGE", "portcullis:audit:{gate-1}", "-", "+", "COUNT", "1"]);
        assert_eq!(first.lines().nth(1), Some("events"), "{first}");
        // The magic number of an lz4 frame, after a byte that no terminal shows.
        assert_eq!(first.contains("\"M\u{18}"), compress, "{first}");
    }
}

#[test]
fn settings_that_would_do_nothing_are_refused() {
    let upstream = upstream();
    for (settings, word) in [
        ("[audit]\nentry = \"batch\"", "kind = \"redis\""),
        ("[audit]\ncompress = true", "entry = \"batch\""),
    ] {
        let (code, _, err) = Node::with().upstream(&upstream.url()).config(settings).refused();
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(word), "{err}");
    }
    let route = "[[route]]\nname = \"known\"\npath = \"/known\"\nupstream = \"main\"\nwhen_store_is_down = \"allow_known\"\n";
    for (more, word) in [
        ("require_acr = \"urn:portcullis:acr:2\"", "strong or recent"),
        ("authenticate = [\"session\"]", "bearer tokens"),
    ] {
        let config = format!("{route}{more}");
        let (code, _, err) = Node::with().upstream(&upstream.url()).config(&config).refused();
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(word), "{err}");
    }
}
