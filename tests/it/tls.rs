//! TLS as real clients speak it (curl and OpenSSL), with good certificates from two makers and with hostile ones.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SerialNumber};

use crate::support::authority::{Authority, Pair, parameters};
use crate::support::{Builder, Node, Reply, Upstream, curl};

/// A node with a certificate for `localhost`; `ca.pem` in its directory is the authority of its certificates.
fn node(servers: &Authority, upstream: &str) -> Builder {
    let own = servers.server(&["localhost"]);
    Node::with().tls(&own.certificate, &own.key).file("ca.pem", servers.pem()).config(&format!(
        "[[upstream]]\nname = \"main\"\nservers = [\"{upstream}\"]\n\
         [[route]]\nname = \"open\"\npath = \"/open\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n"
    ))
}

fn echo() -> Upstream {
    Upstream::start(|request| Reply::ok(&format!("for {}", request.header("portcullis-user"))))
}

const ANYONE: &str = "p, *, /open, GET, allow\np, svc, /*, GET|POST, allow\np, admin, /*, .*, allow";

#[test]
fn each_name_has_its_certificate_and_both_versions_of_tls_and_http_work() {
    let (servers, others) = (Authority::new("servers"), Authority::new("others"));
    let upstream = echo();
    let (a, wild) = (servers.server(&["a.test"]), others.server(&["*.wild.test"]));
    let node = node(&servers, &upstream.url())
        .file("a.pem", &a.certificate)
        .secret_file("a.key", &a.key)
        .file("wild.pem", &wild.certificate)
        .secret_file("wild.key", &wild.key)
        .file("others.pem", others.pem())
        .config(
            "[[listen.tls.certificate]]\nnames = [\"a.test\"]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n\
             [[listen.tls.certificate]]\nnames = [\"*.wild.test\"]\ncertificate = \"wild.pem\"\nkey = \"wild.key\"\n",
        )
        .policy(ANYONE)
        .start();
    for name in ["localhost", "a.test", "A.test"] {
        let answer = curl(&node, name, "/open", &[]);
        assert_eq!((answer.code, answer.status.as_str()), (0, "200 2"), "{name}: {answer:?}");
    }
    let wild = curl(&node, "x.wild.test", "/open", &["--cacert", "others.pem"]);
    assert_eq!((wild.code, wild.status.as_str()), (0, "200 2"), "{wild:?}");
    for (name, ca) in [
        ("x.wild.test", "ca.pem"),
        ("a.test", "others.pem"),
        ("unknown.test", "ca.pem"),
        ("wild.test", "others.pem"),
    ] {
        assert_eq!(curl(&node, name, "/open", &["--cacert", ca]).code, 60, "{name} with {ca}");
    }
    assert_eq!(
        curl(&node, "unknown.test", "/open", &["-k"]).status,
        "200 2",
        "the first certificate is the default"
    );
    for (options, status) in [
        (&["--tls-max", "1.2"][..], "200 2"),
        (&["--tlsv1.3"], "200 2"),
        (&["--http1.1"], "200 1.1"),
        (&["--http1.1", "--tls-max", "1.2"], "200 1.1"),
    ] {
        let answer = curl(&node, "localhost", "/open", options);
        assert_eq!((answer.code, answer.status.as_str()), (0, status), "{options:?}: {answer:?}");
    }
    let old = curl(&node, "localhost", "/open", &["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]);
    assert_ne!(old.code, 0, "TLS 1.1 is not spoken: {old:?}");
}

const CLIENTS: &str = "[[listen.tls.client]]\nhosts = [\"*\"]\nauth = \"optional\"\nca = \"clients.pem\"\ncrl = \"clients.crl\"\n\
     [[listen.tls.client]]\nhosts = [\"must.test\"]\nauth = \"required\"\nca = \"clients.pem\"\ncrl = \"clients.crl\"\n\
     [[listen.tls.client]]\nhosts = [\"off.test\"]\nauth = \"off\"\n\
     [[certificate_principal]]\nmatches = \"cn:svc\"\nname = \"svc\"\n\
     [[route]]\nname = \"machines\"\npath = \"/machines\"\nhosts = [\"localhost\", \"must.test\"]\nupstream = \"main\"\n\
     authenticate = [\"certificate\"]\n";

fn with_clients(servers: &Authority, clients: &Authority, upstream: &Upstream) -> Builder {
    let names = servers.server(&["must.test", "off.test"]);
    node(servers, &upstream.url())
        .config(CLIENTS)
        .file("names.pem", &names.certificate)
        .secret_file("names.key", &names.key)
        .config("[[listen.tls.certificate]]\nnames = [\"must.test\", \"off.test\"]\ncertificate = \"names.pem\"\nkey = \"names.key\"\n")
        .file("clients.pem", clients.pem())
        .file("clients.crl", clients.list(&[66]))
        .policy(ANYONE)
}

/// Writes a client's certificate and returns curl's options for it.
fn shown(node: &Node, pair: &Pair) -> Vec<String> {
    node.write("me.pem", &pair.certificate);
    node.write("me.key", &pair.key);
    ["--cert", "me.pem", "--key", "me.key"].map(str::to_owned).into()
}

#[test]
fn client_certificates_are_off_optional_or_required_by_host() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let upstream = echo();
    let node = with_clients(&servers, &clients, &upstream).start();
    let ask = |name: &str, path: &str, options: &[String]| {
        curl(&node, name, path, &options.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let svc = shown(&node, &clients.client("svc"));
    for versions in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let versions: Vec<String> = versions.iter().map(|text| (*text).to_owned()).collect();
        let with = [svc.clone(), versions.clone()].concat();
        for name in ["localhost", "must.test"] {
            let answer = ask(name, "/machines", &with);
            assert_eq!(
                (answer.status.as_str(), answer.body.as_str()),
                ("200 2", "for svc"),
                "{name} {answer:?}"
            );
        }
        assert_eq!(ask("localhost", "/machines", &versions).status, "401 2", "optional: the route says no");
        assert_eq!(ask("localhost", "/open", &versions).status, "200 2");
        assert_ne!(ask("must.test", "/open", &versions).code, 0, "required: no connection without one");
        assert_eq!(ask("off.test", "/open", &with).body, "for ");
    }
    let stranger = shown(&node, &clients.client("stranger"));
    assert_eq!(ask("localhost", "/machines", &stranger).status, "401 2", "no rule makes it a principal");
    let tokens =
        curl(&node, "localhost", "/auth/certificate", &["-X", "POST", "--cert", "me.pem", "--key", "me.key"]);
    assert_eq!(tokens.status, "401 2", "{tokens:?}");
    shown(&node, &clients.client("svc"));
    let tokens =
        curl(&node, "localhost", "/auth/certificate", &["-X", "POST", "--cert", "me.pem", "--key", "me.key"]);
    assert_eq!(tokens.status, "200 2", "{tokens:?}");
}

#[test]
fn one_connection_cannot_serve_hosts_with_different_rules() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let upstream = echo();
    let node = with_clients(&servers, &clients, &upstream).start();
    let port = node.port();
    for (sni, host, status) in [
        ("off.test", "must.test", "421"),
        ("off.test", "localhost", "421"),
        ("localhost", "must.test", "421"),
        ("localhost", "a.test", "200"),
        ("off.test", "off.test", "200"),
    ] {
        let header = format!("host: {host}:{port}");
        let answer = curl(&node, sni, "/open", &["--http1.1", "-H", &header]);
        assert_eq!(answer.status, format!("{status} 1.1"), "{sni} for {host}: {answer:?}");
    }
}

#[test]
fn hostile_client_certificates_do_not_get_through_the_handshake() {
    let (servers, clients, others) =
        (Authority::new("servers"), Authority::new("clients"), Authority::new("clients"));
    let upstream = echo();
    let node = with_clients(&servers, &clients, &upstream).start();
    let self_signed = {
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters("svc", |_| {}).self_signed(&key).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    };
    let no_authority = clients.client("svc");
    let issued_by_a_client = {
        let key = KeyPair::from_pem(&no_authority.key).expect("a key");
        let issuer = rcgen::Issuer::from_ca_cert_pem(&no_authority.certificate, key).expect("an issuer");
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters("svc", |_| {}).signed_by(&key, &issuer).expect("a certificate");
        Pair { certificate: certificate.pem() + no_authority.certificate.as_str(), key: key.serialize_pem() }
    };
    let past = |p: &mut CertificateParams| {
        p.not_before = rcgen::date_time_ymd(2020, 1, 1);
        p.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let future = |p: &mut CertificateParams| {
        p.not_before = rcgen::date_time_ymd(2090, 1, 1);
        p.not_after = rcgen::date_time_ymd(2091, 1, 1);
    };
    let hostile = [
        ("expired", clients.issue("svc", past)),
        ("not valid yet", clients.issue("svc", future)),
        ("of another authority with the same name", others.client("svc")),
        (
            "for servers",
            clients.issue("svc", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        ("revoked", clients.issue("svc", |p| p.serial_number = Some(SerialNumber::from(vec![66])))),
        ("self-signed", self_signed),
        ("issued by a client", issued_by_a_client),
    ];
    for (what, pair) in &hostile {
        shown(&node, pair);
        for name in ["localhost", "must.test"] {
            for version in ["1.2", "1.3"] {
                let options = ["--cert", "me.pem", "--key", "me.key", "--tls-max", version];
                let answer = curl(&node, name, "/machines", &options);
                assert!(
                    answer.code != 0 && answer.status.starts_with("000"),
                    "{what} {name} {version}: {answer:?}"
                );
            }
        }
    }
    assert!(upstream.recorded().is_empty());
    shown(&node, &clients.client("svc"));
    assert_eq!(
        curl(&node, "localhost", "/machines", &["--cert", "me.pem", "--key", "me.key"]).status,
        "200 2"
    );
}

/// Runs openssl in a directory.
fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What `openssl ca` needs; without the extensions it makes lists of version 1.
const LIST: &str = "[ca]\ndefault_ca = d\n[d]\ndatabase = index.txt\ndefault_md = sha256\ncrlnumber = number\n\
                    crl_extensions = e\n[e]\nauthorityKeyIdentifier = keyid\n[plain]\ndatabase = index.txt\ndefault_md = sha256\n";

#[test]
fn certificates_and_lists_made_by_openssl_work_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    let read = |name: &str| std::fs::read_to_string(at.join(name)).expect("a file");
    std::fs::write(at.join("ca.cnf"), LIST).expect("written");
    std::fs::write(at.join("index.txt"), "").expect("written");
    std::fs::write(at.join("server.ext"), "subjectAltName = DNS:localhost\nextendedKeyUsage = serverAuth\n")
        .expect("written");
    std::fs::write(at.join("client.ext"), "extendedKeyUsage = clientAuth\n").expect("written");
    openssl(at, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 30");
    for (name, subject, key, extension) in [
        ("server", "/CN=localhost", "rsa:2048", "server.ext"),
        ("good", "/CN=svc/O=Acme", "ec -pkeyopt ec_paramgen_curve:P-256", "client.ext"),
        ("revoked", "/CN=svc", "ed25519", "client.ext"),
    ] {
        openssl(
            at,
            &format!("req -new -newkey {key} -nodes -keyout {name}.key -out {name}.csr -subj {subject}"),
        );
        openssl(
            at,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile {extension} -out {name}.pem"
            ),
        );
    }
    std::fs::write(at.join("number"), "01\n").expect("written");
    openssl(at, "ca -config ca.cnf -keyfile ca.key -cert ca.pem -revoke revoked.pem");
    openssl(at, "ca -config ca.cnf -keyfile ca.key -cert ca.pem -gencrl -crldays 30 -out ca.crl");
    openssl(at, "ca -config ca.cnf -name plain -keyfile ca.key -cert ca.pem -gencrl -crldays 30 -out v1.crl");
    let upstream = echo();
    let with = |list: &str| {
        Node::with()
        .tls(&read("server.pem"), &read("server.key"))
        .file("ca.pem", read("ca.pem"))
        .file("ca.crl", read(list))
        .config(&format!(
            "[[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n\
             [[listen.tls.client]]\nhosts = [\"*\"]\nauth = \"optional\"\nca = \"ca.pem\"\ncrl = \"ca.crl\"\n\
             [[certificate_principal]]\nmatches = \"O=Acme,CN=svc\"\nname = \"svc\"\n\
             [[route]]\nname = \"machines\"\npath = \"/machines\"\nupstream = \"main\"\nauthenticate = [\"certificate\"]\n",
            upstream.url()
        ))
        .policy(ANYONE)
    };
    let (code, _, err) = with("v1.crl").refused();
    assert!(code == 2 && err.contains("ca.crl") && err.contains("crl_extensions"), "{err}");
    let node = with("ca.crl").start();
    let ask = |name: &str| {
        shown(&node, &Pair { certificate: read(&format!("{name}.pem")), key: read(&format!("{name}.key")) });
        curl(&node, "localhost", "/machines", &["--cert", "me.pem", "--key", "me.key"])
    };
    let good = ask("good");
    assert_eq!((good.status.as_str(), good.body.as_str()), ("200 2", "for svc"), "{good:?}");
    assert_ne!(ask("revoked").code, 0);
}

#[test]
fn certificates_that_cannot_be_used_keep_the_node_from_starting() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let upstream = echo();
    let good = servers.server(&["localhost"]);
    let other = servers.server(&["localhost"]);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    type Change<'a> = &'a dyn Fn(Builder) -> Builder;
    let start = |change: Change<'_>| change(with_clients(&servers, &clients, &upstream)).refused();
    let key = good.key.as_str();
    let wrong: [(&str, &str, Change<'_>); 9] = [
        ("an empty authority", "clients.pem", &|b| b.file("clients.pem", "")),
        ("a broken authority", "clients.pem", &|b| b.file("clients.pem", garbage)),
        ("text instead of an authority", "clients.pem", &|b| b.file("clients.pem", "hello")),
        ("a broken list", "clients.crl", &|b| b.file("clients.crl", "hello")),
        ("an empty list", "clients.crl", &|b| b.file("clients.crl", "")),
        ("another's key", "server", &|b| b.secret_file("tls/server.key", &other.key)),
        ("no key in the key file", "server.key", &|b| b.secret_file("tls/server.key", garbage)),
        ("a key that everyone reads", "server.key", &|b| b.file("tls/server.key", key)),
        ("a missing authority", "nowhere.pem", &|b| {
            b.config(
                "[[listen.tls.client]]\nhosts = [\"x.test\"]\nauth = \"required\"\nca = \"nowhere.pem\"\n",
            )
        }),
    ];
    for (what, named, change) in wrong {
        let (code, out, err) = start(change);
        assert_eq!(code, 2, "{what}: {out}{err}");
        assert!(err.contains(named), "{what} is not named: {err}");
        assert!(out.is_empty(), "{what}: {out}");
    }
}

/// A TLS server that says who called and records nothing.
fn tls_upstream(pair: &Pair, clients: Option<&Authority>) -> Upstream {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(|c| c.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
    let builder = rustls::ServerConfig::builder();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM"))
                .expect("a root");
            builder.with_client_cert_verifier(
                rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier"),
            )
        }
    };
    let config = Arc::new(builder.with_single_cert(chain, key).expect("a certificate"));
    Upstream::raw(move |stream, _| {
        use std::io::{BufRead as _, BufReader, Write as _};
        let session = rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
        let mut tls = BufReader::new(rustls::StreamOwned::new(session, stream));
        let mut line = String::new();
        loop {
            line.clear();
            match tls.read_line(&mut line) {
                Ok(count) if count > 2 => {}
                Ok(2) => drop(tls.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecure")),
                _ => return,
            }
        }
    })
}

#[test]
fn upstreams_over_tls_are_verified_by_their_own_authority_and_name() {
    let (inside, others, gateways) =
        (Authority::new("inside"), Authority::new("others"), Authority::new("gateways"));
    let good = tls_upstream(&inside.server(&["localhost"]), None);
    let wrong_name = tls_upstream(&inside.server(&["elsewhere.test"]), None);
    let wrong_authority = tls_upstream(&others.server(&["localhost"]), None);
    let for_clients = tls_upstream(&inside.client("localhost"), None);
    let mutual = tls_upstream(&inside.server(&["localhost"]), Some(&gateways));
    let us = gateways.client("portcullis");
    let tls = "ca = \"inside.pem\"\n";
    let ours = format!("{tls}certificate = \"us.pem\"\nkey = \"us.key\"\n");
    let named = format!("{tls}server_name = \"elsewhere.test\"\n");
    let all: [(&str, &Upstream, &str, u16); 8] = [
        ("good", &good, tls, 200),
        ("wrong-name", &wrong_name, tls, 502),
        ("named", &wrong_name, &named, 200),
        ("wrong-authority", &wrong_authority, tls, 502),
        ("for-clients", &for_clients, tls, 502),
        ("system", &good, "", 502),
        ("mutual", &mutual, &ours, 200),
        ("mutual-without", &mutual, tls, 502),
    ];
    let mut builder = Node::with()
        .file("inside.pem", inside.pem())
        .file("us.pem", &us.certificate)
        .secret_file("us.key", &us.key);
    for (name, upstream, tls, _) in &all {
        let port = upstream.address().port();
        builder = builder.config(&format!(
            "[[upstream]]\nname = \"{name}\"\nservers = [\"https://localhost:{port}\"]\n[upstream.tls]\n{tls}\
             [[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\n"
        ));
    }
    let node = builder.start();
    let bob = node.token("bob");
    for (name, _, _, status) in &all {
        let answer = node.ask("GET", &format!("/{name}"), &bob);
        assert_eq!(answer.status().as_u16(), *status, "{name}");
        if *status == 200 {
            assert_eq!(answer.text().expect("text"), "secure");
        }
    }
    let (code, _, err) = Node::with()
        .config("[[upstream]]\nname = \"u\"\nservers = [\"https://localhost:1\"]\n[upstream.tls]\nca = \"inside.pem\"\n")
        .file("inside.pem", "")
        .refused();
    assert_eq!(code, 2);
    assert!(err.contains("inside.pem"), "{err}");
}
