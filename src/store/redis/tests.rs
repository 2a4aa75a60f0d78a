//! The conformance suite against real servers, and what is refused.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::model::{Secret, SystemClock, Timestamp};
use crate::store::{AuditEntry, Expect, RevocationEntry, Revoked, Shipped, Table, conformance};

/// A server of our own, ended with the value.
struct Server {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Starts `/usr/bin/redis-server`; `arguments` get the folder.
    fn start(arguments: impl Fn(&std::path::Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"])
            .arg(folder.path())
            .args(arguments(folder.path()))
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Self { child, port, folder };
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn plain() -> Self {
        Self::start(|_| Vec::new())
    }

    fn config(&self) -> config::Redis {
        config(format!("redis://127.0.0.1:{}", self.port))
    }

    async fn store(&self) -> Store {
        opened(&self.config()).await.unwrap()
    }
}

fn config(url: String) -> config::Redis {
    config::Redis {
        mode: config::RedisMode::Single,
        urls: vec![url],
        username: None,
        password: None,
        database: None,
        ca: None,
        certificate: None,
        key: None,
        prefix: "portcullis:".to_owned(),
        timeout: Duration::from_secs(5),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

async fn opened(config: &config::Redis) -> Result<Store, StoreError> {
    opened_with(config, &config::Audit::default()).await
}

async fn opened_with(config: &config::Redis, audit: &config::Audit) -> Result<Store, StoreError> {
    open(config, audit, tokio::runtime::Handle::current(), Arc::new(SystemClock)).await
}

/// How events are put into entries: one each, several, several compressed.
fn forms() -> [config::Audit; 3] {
    let batch = config::Audit { entry: config::AuditEntry::Batch, ..config::Audit::default() };
    [config::Audit::default(), batch.clone(), config::Audit { compress: true, ..batch }]
}

async fn refusal(config: &config::Redis) -> String {
    match opened(config).await {
        Err(StoreError::Refused(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("must be refused"),
    }
}

/// The server counts time itself, so that this is the one place where a test waits.
async fn conforms(config: &config::Redis) {
    conformance::run(&opened(config).await.unwrap(), Arc::new(SystemClock), tokio::time::sleep).await;
}

async fn raw(config: &config::Redis, command: &str) -> redis::Value {
    let client = connection::client(config).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let mut words = command.split(' ');
    redis::cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).query_async(&mut raw).await.unwrap()
}

#[tokio::test]
async fn a_plain_server_conforms() {
    let server = Server::plain();
    conforms(&server.config()).await;
}

#[tokio::test]
async fn entries_of_several_events_conform() {
    for audit in &forms()[1..] {
        let server = Server::plain();
        let store = opened_with(&server.config(), audit).await.unwrap();
        conformance::run(&store, Arc::new(SystemClock), tokio::time::sleep).await;
    }
}

#[tokio::test]
async fn a_stream_whose_form_changed_is_read_as_one() {
    let server = Server::plain();
    let event = |seq: u64| AuditEntry { seq, time: Timestamp::default(), json: format!("{{\"seq\":{seq}}}") };
    let events: Vec<AuditEntry> = (1..=90).map(event).collect();
    for (round, audit) in forms().iter().cycle().take(9).enumerate() {
        let audit_store = opened_with(&server.config(), audit).await.unwrap().audit;
        // Each shipment repeats a part of the one before.
        let from = (round * 10).saturating_sub(3);
        let sent = &events[from..round * 10 + 10];
        let epoch = 1_000 + u64::try_from(round).unwrap() / 2;
        let after = u64::try_from(round * 10).unwrap();
        assert_eq!(audit_store.append("n", epoch, after, sent).await.unwrap(), Shipped::There);
        let there = &events[..round * 10 + 10];
        assert_eq!(audit_store.read("n", 1, 1000).await.unwrap(), there);
        for from in [2, 9, 10, 11, 15, 57, 90] {
            let wanted: Vec<_> = there.iter().filter(|event| event.seq >= from).take(7).cloned().collect();
            assert_eq!(audit_store.read("n", from, 7).await.unwrap(), wanted);
            let before = there.iter().rev().filter(|event| event.seq < from);
            let wanted: Vec<_> = before.take(13).cloned().collect();
            assert_eq!(audit_store.read_back("n", Some(from), 13).await.unwrap(), wanted, "{from} {round}");
        }
    }
}

#[tokio::test]
async fn a_cut_end_is_noticed_and_can_be_shipped_again() {
    let server = Server::plain();
    let store = server.store().await;
    let event = |seq: u64| AuditEntry { seq, time: Timestamp::default(), json: format!("{{\"seq\":{seq}}}") };
    let events: Vec<AuditEntry> = (1..=9).map(event).collect();
    store.audit.append("n", 1_000, 0, &events[..6]).await.unwrap();
    for id in ["1000-5", "1000-6"] {
        raw(&server.config(), &format!("XDEL portcullis:audit:{{n}} {id}")).await;
    }
    assert_eq!(store.audit.append("n", 1_000, 6, &events[6..]).await.unwrap(), Shipped::Behind(4));
    assert_eq!(store.audit.append("n", 1_000, 4, &events[4..]).await.unwrap(), Shipped::There);
    assert_eq!(store.audit.read("n", 1, 100).await.unwrap(), events);
    raw(&server.config(), "FLUSHALL").await;
    assert_eq!(store.audit.append("n", 1_000, 9, &[event(10)]).await.unwrap(), Shipped::Behind(0));
}

#[tokio::test]
async fn a_password_conforms_and_a_wrong_one_is_refused() {
    let server = Server::start(|_| words("--requirepass hunter2"));
    let mut config = server.config();
    assert!(refusal(&config).await.contains("credentials"));
    config.password = Some(Secret::new("wrong".to_owned()));
    let text = refusal(&config).await;
    assert!(text.contains("credentials") && !text.contains("wrong\""), "{text}");
    config.password = Some(Secret::new("hunter2".to_owned()));
    conforms(&config).await;
}

#[tokio::test]
async fn an_acl_user_with_its_own_database_and_prefix_conforms() {
    let acl = "--user gate on >s3cret ~gate:* &* +@all -@dangerous +info +role --user default off";
    let server = Server::start(|_| words(acl));
    let mut config = server.config();
    config.username = Some("gate".to_owned());
    config.password = Some(Secret::new("s3cret".to_owned()));
    config.database = Some(3);
    config.prefix = "gate:".to_owned();
    conforms(&config).await;
    let redis::Value::Int(count) = raw(&config, "DBSIZE").await else { panic!() };
    assert!(count > 0);
    config.database = Some(0);
    assert_eq!(raw(&config, "DBSIZE").await, redis::Value::Int(0));
}

/// Writes a CA, and a certificate for `localhost` that it signed.
fn certificates(folder: &std::path::Path) -> (PathBuf, PathBuf, PathBuf) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    (
        write("ca.pem", ca_certificate.pem()),
        write("server.pem", certificate.pem()),
        write("server.key", key.serialize_pem()),
    )
}

#[tokio::test]
async fn tls_with_its_own_ca_conforms_and_without_it_there_is_no_connection() {
    let server = Server::start(|folder| {
        let (ca, certificate, key) = certificates(folder);
        let port = free_port();
        std::fs::write(folder.join("port"), port.to_string()).unwrap();
        words(&format!(
            "--tls-port {port} --tls-ca-cert-file {} --tls-cert-file {} --tls-key-file {} --tls-auth-clients optional",
            ca.display(),
            certificate.display(),
            key.display()
        ))
    });
    let port = std::fs::read_to_string(server.folder.path().join("port")).unwrap();
    let mut config = config(format!("rediss://localhost:{port}"));
    config.ca = Some(server.folder.path().join("ca.pem"));
    conforms(&config).await;
    config.certificate = Some(server.folder.path().join("server.pem"));
    assert!(refusal(&config).await.contains("belong together"));
    config.key = Some(server.folder.path().join("server.key"));
    opened(&config).await.unwrap();
    config.ca = Some(server.folder.path().join("port"));
    assert!(refusal(&config).await.contains("holds no certificate"));
    config.ca = Some(server.folder.path().join("missing.pem"));
    assert!(refusal(&config).await.contains("missing.pem"));
    config.ca = None;
    assert!(matches!(opened(&config).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_server_that_may_drop_state_is_refused() {
    let server = Server::start(|_| words("--maxmemory 100mb --maxmemory-policy allkeys-lru"));
    let text = refusal(&server.config()).await;
    assert!(text.contains("`CONFIG SET maxmemory-policy noeviction`"), "{text}");
    raw(&server.config(), "CONFIG SET maxmemory-policy noeviction").await;
    server.store().await;
}

#[tokio::test]
async fn other_modes_and_absent_servers_are_told() {
    let mut config = config(format!("redis://127.0.0.1:{}", free_port()));
    assert!(matches!(opened(&config).await, Err(StoreError::Unavailable(_))));
    for (mode, name) in [(config::RedisMode::Sentinel, "sentinel"), (config::RedisMode::Cluster, "cluster")] {
        config.mode = mode;
        assert!(refusal(&config).await.contains(name));
    }
}

fn revoked(name: &str) -> RevocationEntry {
    let now = crate::model::Clock::now(&SystemClock);
    let what = Revoked::Subject(name.to_owned());
    RevocationEntry { what, not_before: now, until: now.plus(Duration::from_secs(600)) }
}

#[tokio::test]
async fn a_log_that_was_flushed_or_cut_gets_a_new_epoch() {
    let server = Server::plain();
    let log = server.store().await.revocations;
    for name in ["a", "b", "c"] {
        log.append(&revoked(name)).await.unwrap();
    }
    let before = log.head().await.unwrap();
    assert_eq!(before.index, 3);
    raw(&server.config(), "FLUSHALL").await;
    let flushed = log.head().await.unwrap();
    assert!(flushed.epoch > before.epoch && flushed.index == 0);
    for name in ["a", "b"] {
        log.append(&revoked(name)).await.unwrap();
    }
    raw(&server.config(), "DEL portcullis:revocations").await;
    // Another node, that has not seen the loss, cannot hide it from one that has seen the entries.
    let appended = log.append(&revoked("d")).await.unwrap();
    assert!(appended.epoch > flushed.epoch && appended.index == 1);
    assert_eq!(log.after(before, 10).await.unwrap().len(), 1, "another epoch is read from its beginning");
}

#[tokio::test]
async fn audit_streams_have_the_documented_form() {
    let server = Server::plain();
    let store = server.store().await;
    let event = AuditEntry { seq: 1, time: Timestamp::default(), json: "{}".to_owned() };
    store.audit.append("gate-1", 1_800_000_000_000, 0, &[event]).await.unwrap();
    let found = raw(&server.config(), "XRANGE portcullis:audit:{gate-1} - +").await;
    let found: Vec<(String, Vec<String>)> = redis::from_redis_value(found).unwrap();
    assert_eq!(found, [("1800000000000-1".to_owned(), vec!["event".to_owned(), "{}".to_owned()])]);
    let keys: Vec<String> =
        redis::from_redis_value(raw(&server.config(), "KEYS portcullis:audit:*").await).unwrap();
    assert_eq!(keys, ["portcullis:audit:{gate-1}"]);
}

#[tokio::test]
async fn writes_wait_for_replicas_that_are_in_step() {
    let master = Server::plain();
    let store = master.store().await;
    let replica = Server::start(|_| words(&format!("--replicaof 127.0.0.1 {}", master.port)));
    assert!(refusal(&replica.config()).await.contains("replica"));
    in_step(&master).await;
    store.revocations.append(&revoked("a")).await.unwrap();
    let length = raw(&replica.config(), "XLEN portcullis:revocations").await;
    assert_eq!(length, redis::Value::Int(1));
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let mut server = Server::plain();
    let mut config = server.config();
    config.timeout = Duration::from_millis(500);
    let store = opened(&config).await.unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert!(matches!(store.records.ping().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.records.get(Table::Once, "x").await, Err(StoreError::Unavailable(_))));
    server.child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--port", &server.port.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while store.records.ping().await.is_err() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.records.put(Table::Once, "x", b"1", None, Expect::Absent).await.unwrap(), Some(1));
}

#[test]
fn a_store_outlives_the_runtimes_of_its_callers() {
    let server = Server::plain();
    let home = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = server.config();
    let call = |work: std::pin::Pin<Box<dyn Future<Output = ()>>>| {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
    };
    let handle = home.handle().clone();
    let store = std::cell::OnceCell::new();
    let opening = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let opened =
        opening.block_on(open(&config, &config::Audit::default(), handle, Arc::new(SystemClock))).unwrap();
    drop(opening);
    assert!(store.set(opened).is_ok());
    for _ in 0..3 {
        let records = store.get().unwrap().records.clone();
        call(Box::pin(async move { records.ping().await.unwrap() }));
    }
}

/// Waits until the replica is in step with its master.
async fn in_step(master: &Server) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let info: String = redis::from_redis_value(raw(&master.config(), "INFO replication").await).unwrap();
        if info.contains("state=online") {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{info}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_a_replica_does_not_confirm_does_not_count_also_when_it_is_sent_again() {
    let master = Server::plain();
    let replica = Server::start(|_| words(&format!("--replicaof 127.0.0.1 {}", master.port)));
    in_step(&master).await;
    let mut config = master.config();
    config.timeout = Duration::from_millis(600);
    let store = opened(&config).await.unwrap();
    let event = AuditEntry { seq: 1, time: Timestamp::default(), json: "{}".to_owned() };
    let ship = || store.audit.append("n", 1, 0, std::slice::from_ref(&event));
    let pid = rustix::process::Pid::from_child(&replica.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    for _ in 0..2 {
        let Err(StoreError::Unavailable(text)) = ship().await else { panic!("must not count") };
        assert!(text.contains("0 of 1 replicas"), "{text}");
    }
    // Nor on a new connection, for which the write is another's.
    let again = opened(&config).await.unwrap();
    assert!(again.audit.append("n", 1, 0, std::slice::from_ref(&event)).await.is_err());
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(ship().await.unwrap(), Shipped::There);
    assert_eq!(raw(&replica.config(), "XLEN portcullis:audit:{n}").await, redis::Value::Int(1));
}

/// Answers as a server whose run id is another one each time that it is asked `changes`, and counts replicas as told.
async fn impostor(listener: tokio::net::TcpListener, changes: bool) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let asked = Arc::new(std::sync::atomic::AtomicU64::new(0));
    while let Ok((mut socket, _)) = listener.accept().await {
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut bytes = vec![0; 65_536];
            while let Ok(count @ 1..) = socket.read(&mut bytes).await {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let mut answer = String::new();
                for command in text.split("\r\n*").filter(|command| !command.is_empty()) {
                    let word = command.split("\r\n").nth(2).unwrap_or_default().to_uppercase();
                    match word.as_str() {
                        "INFO" => {
                            let number =
                                asked.fetch_add(u64::from(changes), std::sync::atomic::Ordering::SeqCst);
                            let info = format!("run_id:{number}\r\nrole:master\r\n");
                            answer.push_str(&format!("${}\r\n{info}\r\n", info.len()));
                        }
                        "EVAL" | "WAIT" => answer.push_str(":1\r\n"),
                        _ => answer.push_str("+OK\r\n"),
                    }
                }
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn a_write_counts_only_when_the_same_server_answers_before_and_after() {
    for changes in [false, true] {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let config = config(format!("redis://{}", listener.local_addr().unwrap()));
        let serving = tokio::spawn(impostor(listener, changes));
        let client = connection::client(&config).unwrap();
        let runtime = tokio::runtime::Handle::current();
        let connection = Connection::open(&client, &config, &runtime).await.unwrap();
        let write = redis::cmd("EVAL").arg("x").arg(0).take();
        let written = connection.send_confirmed::<u64>(write).await;
        if changes {
            assert!(matches!(written, Err(StoreError::Unavailable(text)) if text.contains("another server")));
        } else {
            assert_eq!(written.unwrap(), 1);
        }
        serving.abort();
    }
}
