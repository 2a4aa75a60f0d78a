//! Client certificates over the wire: nobody gets past the rule of a host, by another name, by resumption or in pieces.

use std::io::{Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use crate::support::{Node, Reply, Upstream};

type Authority = CertifiedIssuer<'static, KeyPair>;
type Identity = (CertificateDer<'static>, KeyPair);

fn authority() -> Authority {
    let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, "The authority");
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key")).expect("an authority")
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    parameters
}

fn issued(parameters: &CertificateParams, by: &Authority) -> Identity {
    let key = KeyPair::generate().expect("a key");
    (parameters.signed_by(&key, by).expect("a certificate").der().clone(), key)
}

fn own(parameters: &CertificateParams) -> Identity {
    let key = KeyPair::generate().expect("a key");
    (parameters.self_signed(&key).expect("a certificate").der().clone(), key)
}

struct Gate {
    upstream: Upstream,
    node: Node,
    server: CertificateDer<'static>,
    clients: Authority,
}

impl Gate {
    /// `closed.example` requires a certificate, `asking.example` asks for one, `open.example` does not.
    fn start() -> Self {
        let upstream = Upstream::start(|_| Reply::ok("reached"));
        let names = ["localhost", "closed.example", "asking.example", "open.example"].map(str::to_owned);
        let server = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let clients = authority();
        let node = Node::with()
            .tls(&server.cert.pem(), &server.signing_key.serialize_pem())
            .file("tls/clients.pem", clients.pem())
            .config(&format!(
                r#"
                [forward_auth]
                callers = ["127.0.0.1/32"]
                [[listen.tls.client]]
                hosts = ["closed.example"]
                auth = "required"
                ca = "tls/clients.pem"
                [[listen.tls.client]]
                hosts = ["asking.example"]
                auth = "optional"
                ca = "tls/clients.pem"
                [[upstream]]
                name = "main"
                servers = ["{}"]
                [[route]]
                name = "closed"
                hosts = ["closed.example", "asking.example"]
                path = "/{{rest*}}"
                upstream = "main"
                authenticate = ["certificate"]
                [[route]]
                name = "open"
                hosts = ["open.example"]
                path = "/{{rest*}}"
                upstream = "main"
                authenticate = ["none"]
                [[certificate_principal]]
                matches = "cn:svc"
                name = "svc"
                roles = ["robot"]
                "#,
                upstream.url()
            ))
            .policy("p, anonymous, /*, GET, allow\np, robot, /*, GET, allow")
            .start();
        Self { upstream, node, server: server.cert.der().clone(), clients }
    }

    fn config(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.server.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate.clone()], key).expect("an identity")
            }
        })
    }

    /// What one request gets, whole, and whether the handshake was a full one.
    fn ask(&self, config: &Arc<ClientConfig>, name: &str, host: &str) -> (String, Option<HandshakeKind>) {
        ask(self.node.address(), config, name, host)
    }

    fn targets(&self) -> usize {
        self.upstream.recorded().len()
    }
}

/// Sends each byte of what the handshake writes in a segment of its own.
struct Pieces(TcpStream);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes.get(..1).unwrap_or_default())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl std::io::Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

fn ask(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
    host: &str,
) -> (String, Option<HandshakeKind>) {
    let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    exchange(address, config, name, &request)
}

fn exchange(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
    request: &str,
) -> (String, Option<HandshakeKind>) {
    let socket = TcpStream::connect(address).expect("a connection");
    socket.set_nodelay(true).expect("nodelay");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let client = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut stream = StreamOwned::new(client, Pieces(socket));
    // A handshake that is refused shows at the write or at the read.
    drop(stream.write_all(request.as_bytes()));
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    (String::from_utf8_lossy(&bytes).into_owned(), stream.conn.handshake_kind())
}

#[test]
fn a_certificate_of_the_authority_is_who_it_says_and_no_other_is_anyone() {
    let gate = Gate::start();
    let good = gate.config(Some(&issued(&parameters("svc"), &gate.clients)));
    for host in ["closed.example", "asking.example", "CLOSED.Example.", "closed.example:443"] {
        let name = if host.starts_with("asking") { host } else { "closed.example" };
        let (answer, _) = gate.ask(&good, name, host);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
        assert_eq!(gate.upstream.last().header("portcullis-user"), "svc");
    }
    let before = gate.targets();
    let other = authority();
    let mut expired = parameters("svc");
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let mut future = parameters("svc");
    future.not_before = rcgen::date_time_ymd(2080, 1, 1);
    future.not_after = rcgen::date_time_ymd(2081, 1, 1);
    let mut server_only = parameters("svc");
    server_only.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let cases = [
        ("none", None),
        ("self-signed", Some(own(&parameters("svc")))),
        ("self-signed with the authority's name", Some(own(&parameters("The authority")))),
        ("of an authority with the same name", Some(issued(&parameters("svc"), &other))),
        ("expired", Some(issued(&expired, &gate.clients))),
        ("not yet valid", Some(issued(&future, &gate.clients))),
        ("for servers", Some(issued(&server_only, &gate.clients))),
    ];
    for (name, identity) in &cases {
        let config = gate.config(identity.as_ref());
        let (answer, _) = gate.ask(&config, "closed.example", "closed.example");
        assert_eq!(answer, "", "{name}: the handshake fails");
        let (answer, _) = gate.ask(&config, "asking.example", "asking.example");
        let refused = answer.is_empty() || identity.is_none() && answer.starts_with("HTTP/1.1 401 ");
        assert!(refused, "{name}: {answer}");
    }
    let stranger = gate.config(Some(&issued(&parameters("svc2"), &gate.clients)));
    let (answer, _) = gate.ask(&stranger, "closed.example", "closed.example");
    assert!(answer.starts_with("HTTP/1.1 401 "), "a certificate that no rule names is nobody: {answer}");
    assert_eq!(gate.targets(), before);
}

#[test]
fn the_certificate_of_a_proxy_that_asks_for_a_verdict_is_nobody() {
    let gate = Gate::start();
    let svc = gate.config(Some(&issued(&parameters("svc"), &gate.clients)));
    let host = "asking.example";
    assert!(gate.ask(&svc, host, host).0.starts_with("HTTP/1.1 200 "), "on its own connection it is svc");
    let original = format!("x-original-method: GET\r\nx-original-url: https://{host}/a\r\n");
    let ask =
        format!("GET /auth/verify/nginx HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{original}\r\n");
    let (answer, _) = exchange(gate.node.address(), &svc, host, &ask);
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[test]
fn a_host_is_not_reached_through_the_tls_name_of_another() {
    let gate = Gate::start();
    let nobody = gate.config(None);
    let svc = gate.config(Some(&issued(&parameters("svc"), &gate.clients)));
    for (config, name, host) in [
        (&nobody, "open.example", "closed.example"),
        (&nobody, "open.example", "asking.example"),
        (&nobody, "open.example", "CLOSED.EXAMPLE."),
        (&nobody, "asking.example", "closed.example"),
        (&nobody, "localhost", "closed.example"),
        // No server name at all.
        (&svc, "127.0.0.1", "closed.example"),
        (&svc, "asking.example", "closed.example"),
        (&svc, "closed.example", "open.example"),
        (&svc, "closed.example", "asking.example"),
    ] {
        let (answer, _) = gate.ask(config, name, host);
        if name == "127.0.0.1" {
            // The server's certificate is not for the address: the client ends it.
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 421 "), "{name} {host}: {answer}");
            continue;
        }
        assert!(answer.starts_with("HTTP/1.1 421 "), "{name} {host}: {answer}");
        assert!(answer.contains("urn:portcullis:problem:misdirected"), "{name} {host}: {answer}");
    }
    assert_eq!(gate.targets(), 0);
    let (answer, _) = gate.ask(&nobody, "localhost", "open.example");
    assert!(answer.starts_with("HTTP/1.1 200 "), "names of one rule may differ: {answer}");
}

#[test]
fn where_certificates_are_asked_for_no_session_is_resumed() {
    let gate = Gate::start();
    let svc = gate.config(Some(&issued(&parameters("svc"), &gate.clients)));
    for name in ["closed.example", "asking.example"] {
        for _ in 0..3 {
            let (answer, kind) = gate.ask(&svc, name, name);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert_ne!(kind, Some(HandshakeKind::Resumed), "{name}");
        }
    }
    // The test can see a resumption: it happens where no certificate is asked for.
    let nobody = gate.config(None);
    gate.ask(&nobody, "open.example", "open.example");
    let (_, kind) = gate.ask(&nobody, "open.example", "open.example");
    assert_eq!(kind, Some(HandshakeKind::Resumed));
    // And such a session opens no other host.
    let before = gate.targets();
    let (answer, _) = gate.ask(&nobody, "open.example", "closed.example");
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    assert_eq!(gate.targets(), before);
}
