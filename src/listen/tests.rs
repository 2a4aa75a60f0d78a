//! The listener on real sockets, with a double behind it.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::sync::{Semaphore, watch};

use super::service::Behind;
use super::tls::{TlsConfigs, TlsReloader};
use super::worker::{Sockets, run_with};
use crate::config::{ClientAuth, ClientCertificates, Limits, Listen, ServerCertificate, Tls};
use crate::http::Caller;
use crate::model::{Body, BoxError, Connection, Refusal, RequestId, Timestamp, body};

struct Double(Listen);

impl Behind for Double {
    fn listen<R>(&self, read: impl FnOnce(&Listen) -> R) -> R {
        read(&self.0)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1)
    }

    fn knows_host(&self, host: &str) -> bool {
        host == "localhost"
    }

    fn is_question(&self, _connection: &Connection, _path: &str) -> bool {
        false
    }

    fn malformed(&self) {}

    async fn refuse(
        &self,
        _connection: &Connection,
        _client_ip: IpAddr,
        _request_id: RequestId,
        _method: &Method,
        _headers: &HeaderMap,
        refusal: Refusal,
    ) -> Response<Body> {
        let mut answer = Response::new(body::full(refusal.kind.name()));
        *answer.status_mut() = refusal.kind.status();
        answer
    }

    async fn own<B>(&self, _caller: Caller, _request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        Response::new(body::full("own"))
    }

    async fn serve<B>(&self, caller: Caller, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let path = caller.target.path.as_str().to_owned();
        if path == "/slow" {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let length = match request.into_body().collect().await {
            Ok(body) => body.to_bytes().len(),
            Err(_) => return Response::new(body::full("broken")),
        };
        let name =
            caller.connection.certificate.as_ref().and_then(|certificate| certificate.common_name.clone());
        let text = format!("{} {path} {length} {}", caller.target.host, name.unwrap_or_default());
        Response::new(body::full(text))
    }
}

fn listen(tls: Tls) -> Listen {
    Listen {
        address: "127.0.0.1:0".parse().unwrap(),
        public_url: "http://localhost".parse().unwrap(),
        prefix: "/auth".into(),
        redirect_http: None,
        trusted_proxies: Vec::new(),
        strip_headers: Vec::new(),
        return_to_hosts: Vec::new(),
        limits: Limits {
            head: 8192,
            fields: 20,
            head_timeout: Duration::from_millis(300),
            body_rate: 1024,
            keep_alive: Duration::from_millis(900),
            connections: 4,
            h2_streams: 10,
            drain: Duration::from_secs(5),
        },
        tls,
    }
}

struct Running {
    address: SocketAddr,
    reloader: Option<Arc<TlsReloader>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(listen: Listen) -> Self {
        let (address, mut sockets) = super::bind_all(listen.address, 1).unwrap();
        let reloader = (!listen.tls.certificates.is_empty())
            .then(|| Arc::new(TlsReloader::new(TlsConfigs::load(&listen.tls).unwrap())));
        let sockets = Sockets {
            main: sockets.remove(0),
            redirect: None,
            tls: reloader.clone(),
            permits: Arc::new(Semaphore::new(listen.limits.connections)),
        };
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn(move || run_with(sockets, stopped, async || Double(listen)));
        Self { address, reloader, stop, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends raw bytes and reads until the connection is closed.
    fn raw(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        until_closed(&mut stream)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn until_closed(stream: &mut impl std::io::Read) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn requests_are_read_once() {
    let running = Running::start(listen(Tls::default()));
    let close = "Connection: close\r\n\r\n";
    let get = |line: &str, fields: &str| running.raw(&format!("{line}\r\n{fields}{close}"));

    let answer = get("GET /%61/b?c HTTP/1.1", "Host: LocalHost.:80\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("localhost /a/b 0 "), "{answer}");
    assert!(answer.contains("x-request-id: "), "{answer}");
    assert!(get("GET /auth/login HTTP/1.1", "Host: localhost\r\n").ends_with("own"));
    assert!(get("GET /auth/login HTTP/1.1", "Host: other\r\n").ends_with("other /auth/login 0 "));
    assert!(get("OPTIONS * HTTP/1.1", "Host: localhost\r\n").starts_with("HTTP/1.1 204"));
    assert!(get("GET http://localhost/x HTTP/1.1", "Host: localhost\r\n").ends_with("localhost /x 0 "));
}

#[test]
fn what_has_no_single_reading_is_refused_and_the_connection_closed() {
    let running = Running::start(listen(Tls::default()));
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "GET http://localhost/ HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n",
        "GET /a/../b HTTP/1.1\r\nHost: a\r\n",
        "GET /%2e%2e/b HTTP/1.1\r\nHost: a\r\n",
        "GET //b HTTP/1.1\r\nHost: a\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n",
    ] {
        // The second request must not be answered.
        let answer = running.raw(&format!("{head}\r\n0\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"), "{head}: {answer}");
        assert!(!answer.contains("/second"), "{head}: {answer}");
    }
}

#[test]
fn heads_are_bounded() {
    let running = Running::start(listen(Tls::default()));
    let fields: String = (0..30).map(|at| format!("x-{at}: y\r\n")).collect();
    assert!(running.raw(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).contains(" 431 "));
    let large = "y".repeat(10_000);
    assert!(running.raw(&format!("GET / HTTP/1.1\r\nHost: a\r\nx: {large}\r\n\r\n")).contains(" 431 "));
}

#[test]
fn quiet_connections_are_closed() {
    let running = Running::start(listen(Tls::default()));
    for (text, least, most) in [
        ("", 250, 800),
        ("GET / HT", 250, 800),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 800, 2000),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n", 250, 2000),
    ] {
        let start = Instant::now();
        running.raw(text);
        let took = start.elapsed().as_millis();
        assert!((least..most).contains(&took), "{text}: {took} ms");
    }
}

#[test]
fn connections_are_bounded() {
    let mut section = listen(Tls::default());
    section.limits.head_timeout = Duration::from_secs(5);
    let running = Running::start(section);
    let held: Vec<TcpStream> = (0..4).map(|_| running.connect()).collect();
    let start = Instant::now();
    assert_eq!(running.raw(""), "");
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(held);
}

#[test]
fn calls_in_flight_finish_at_shutdown() {
    let running = Running::start(listen(Tls::default()));
    let mut stream = running.connect();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    running.stop.send_replace(true);
    assert!(until_closed(&mut stream).ends_with("a /slow 0 "));
    drop(running);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn http2_is_spoken_by_prior_knowledge_too() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let running = Running::start(listen(Tls::default()));
    let client = reqwest::blocking::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/%61", running.address);
    let answer = client.post(url).body("12345").send().unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!(answer.text().unwrap(), format!("{} /a 5 ", running.address));
}

#[test]
fn http2_is_negotiated_and_certificates_are_asked_for_there_too() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let authority = Authority::new();
    let tls = Tls {
        certificates: vec![authority.server("a.example")],
        clients: vec![authority.rule(&["a.example"], ClientAuth::Required)],
    };
    let running = Running::start(listen(tls));
    let (certificate, key) = authority.issue("svc", 7);
    drop((certificate, key));
    let pem = ["svc.pem", "svc.key"].map(|file| std::fs::read(authority.path(file)).unwrap()).concat();
    let client = reqwest::blocking::Client::builder()
        .tls_built_in_root_certs(false)
        .add_root_certificate(reqwest::Certificate::from_pem(authority.ca.pem().as_bytes()).unwrap())
        .identity(reqwest::Identity::from_pem(&pem).unwrap())
        .resolve("a.example", running.address)
        .build()
        .unwrap();
    let url = format!("https://a.example:{}", running.address.port());
    let answer = client.get(format!("{url}/x")).send().unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert!(answer.text().unwrap().ends_with("/x 0 svc"));
    let answer = client.get(format!("{url}/x")).header("host", "b.example").send();
    assert!(answer.is_err() || answer.unwrap().status().is_client_error());
}

/// Files of a small authority.
struct Authority {
    folder: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        Self { folder, ca }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, name: &str, serial: u64) -> (CertificateDer<'static>, KeyPair) {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.serial_number = Some(serial.into());
        parameters.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        (certificate.der().clone(), key)
    }

    fn server(&self, name: &str) -> ServerCertificate {
        self.issue(name, 1);
        ServerCertificate {
            names: vec![name.to_owned()],
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        }
    }

    fn revoke(&self, serial: u64) -> PathBuf {
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: rcgen::date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        std::fs::write(self.path("ca.crl"), list.signed_by(&self.ca).unwrap().pem().unwrap()).unwrap();
        self.path("ca.crl")
    }

    fn rule(&self, hosts: &[&str], auth: ClientAuth) -> ClientCertificates {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        ClientCertificates { hosts, auth, ca: Some(self.path("ca.pem")), crl: None }
    }

    /// One request on a TLS connection: the answer, and the server's certificate.
    fn get(
        &self,
        running: &Running,
        name: &str,
        host: &str,
        identity: Option<&(CertificateDer<'static>, KeyPair)>,
    ) -> (String, Option<CertificateDer<'static>>) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![certificate.clone()],
                    PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
                )
                .unwrap(),
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = rustls::StreamOwned::new(client, running.connect());
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        let answer = until_closed(&mut stream);
        (answer, stream.conn.peer_certificates().and_then(|chain| chain.first()).cloned())
    }
}

#[test]
fn certificates_are_chosen_by_name() {
    let authority = Authority::new();
    let tls = Tls {
        certificates: vec![
            authority.server("first.example"),
            authority.server("*.wild.example"),
            authority.server("a.wild.example"),
        ],
        clients: Vec::new(),
    };
    let running = Running::start(listen(tls));
    for (name, expected) in [
        ("first.example", "first.example"),
        ("b.wild.example", "*.wild.example"),
        ("A.wild.example", "a.wild.example"),
    ] {
        let (answer, shown) = authority.get(&running, name, name, None);
        assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
        let file = std::fs::read(authority.path(&format!("{expected}.pem"))).unwrap();
        let expected: CertificateDer<'_> = rustls::pki_types::pem::PemObject::from_pem_slice(&file).unwrap();
        assert_eq!(shown.unwrap(), expected, "{name}");
    }
}

#[test]
fn client_certificates_are_asked_for_by_host() {
    let authority = Authority::new();
    let mut off = authority.rule(&["open.example"], ClientAuth::Off);
    off.ca = None;
    let mut revoking = authority.rule(&["strict.example"], ClientAuth::Required);
    revoking.crl = Some(authority.revoke(66));
    let tls = Tls {
        certificates: ["any.example", "strict.example", "open.example"]
            .map(|name| authority.server(name))
            .to_vec(),
        clients: vec![authority.rule(&["*"], ClientAuth::Optional), revoking, off],
    };
    let running = Running::start(listen(tls));
    let (good, revoked, foreign) =
        (authority.issue("svc", 7), authority.issue("bad", 66), Authority::new().issue("svc", 7));
    let get = |name, host, identity| authority.get(&running, name, host, identity).0;

    assert!(get("any.example", "any.example", None).ends_with("any.example / 0 "));
    assert!(get("any.example", "any.example", Some(&good)).ends_with("any.example / 0 svc"));
    assert_eq!(get("any.example", "any.example", Some(&foreign)), "");
    assert!(get("strict.example", "strict.example", Some(&good)).ends_with("strict.example / 0 svc"));
    assert_eq!(get("strict.example", "strict.example", None), "");
    assert_eq!(get("strict.example", "strict.example", Some(&revoked)), "");
    assert!(get("open.example", "open.example", Some(&good)).ends_with("open.example / 0 "));
    for (name, host) in [
        ("any.example", "strict.example"),
        ("open.example", "strict.example"),
        ("strict.example", "open.example"),
    ] {
        assert!(get(name, host, Some(&good)).starts_with("HTTP/1.1 421"), "{name} {host}");
    }
    assert!(get("any.example", "other.example", None).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_revocation_list_counts_for_the_next_connection() {
    let authority = Authority::new();
    let mut section = listen(Tls {
        certificates: vec![authority.server("a.example")],
        clients: vec![authority.rule(&["*"], ClientAuth::Required)],
    });
    let running = Running::start(section.clone());
    let identity = authority.issue("svc", 7);
    assert!(authority.get(&running, "a.example", "a.example", Some(&identity)).0.ends_with("svc"));
    section.tls.clients[0].crl = Some(authority.revoke(7));
    let reloader = running.reloader.as_ref().unwrap();
    reloader.commit(reloader.prepare(&section.tls).unwrap());
    assert_eq!(authority.get(&running, "a.example", "a.example", Some(&identity)).0, "");
    std::fs::write(authority.path("ca.crl"), "rubbish").unwrap();
    assert!(reloader.prepare(&section.tls).unwrap_err().contains("ca.crl"));
    assert_eq!(authority.get(&running, "a.example", "a.example", Some(&identity)).0, "");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let certificate = authority.server("a.example");
    let with = |change: &dyn Fn(&mut Tls)| {
        let mut tls = Tls {
            certificates: vec![certificate.clone()],
            clients: vec![authority.rule(&["*"], ClientAuth::Optional)],
        };
        change(&mut tls);
        TlsConfigs::load(&tls).map(drop)
    };
    assert_eq!(with(&|_| ()), Ok(()));
    std::fs::write(authority.path("empty"), "").unwrap();
    std::fs::write(
        authority.path("rubbish"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    authority.issue("other", 2);
    for file in ["empty", "rubbish", "absent"] {
        let path = authority.path(file);
        let name = path.display().to_string();
        for error in [
            with(&|tls| tls.clients[0].ca = Some(path.clone())),
            with(&|tls| tls.clients[0].crl = Some(path.clone())),
            with(&|tls| tls.certificates[0].certificate = path.clone()),
            with(&|tls| tls.certificates[0].key = path.clone()),
        ] {
            assert!(error.clone().unwrap_err().contains(&name), "{file}: {error:?}");
        }
    }
    assert!(with(&|tls| tls.clients[0].ca = None).unwrap_err().contains("ca"));
    assert!(
        with(&|tls| tls.certificates[0].key = authority.path("other.key"))
            .unwrap_err()
            .contains("a.example.pem")
    );
}
