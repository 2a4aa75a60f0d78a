//! `[[listen.tls.certificate]]` and `[[listen.tls.client]]`: our certificates, and which hosts ask for the client's.

use std::path::PathBuf;

use super::files::FileKind;
use super::reader::Section;
use super::values::{host_pattern, host_pattern_or_all};

/// `[listen.tls]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// `[[listen.tls.certificate]]`; the first is the default; empty: plain HTTP.
    pub certificates: Vec<ServerCertificate>,
    /// `[[listen.tls.client]]`
    pub clients: Vec<ClientCertificates>,
}

/// `[[listen.tls.certificate]]`
#[derive(Clone, Debug, PartialEq)]
pub struct ServerCertificate {
    /// Hosts that get it, in lower case; `*.example.com` allowed.
    pub names: Vec<String>,
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// Whether a host asks for a client certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// It does not.
    Off,
    /// It asks, and goes on without.
    Optional,
    /// The handshake fails without one.
    Required,
}

impl ClientAuth {
    const WORDS: [(&str, Self); 3] =
        [("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)];
}

/// `[[listen.tls.client]]`
#[derive(Clone, Debug, PartialEq)]
pub struct ClientCertificates {
    /// Which hosts; `*` is every host.
    pub hosts: Vec<String>,
    /// Whether they ask.
    pub auth: ClientAuth,
    /// Who must have issued the certificates, PEM; there unless `auth` is off.
    pub ca: Option<PathBuf>,
    /// What was revoked.
    pub crl: Option<PathBuf>,
}

impl Tls {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self {
            certificates: s.tables(
                "certificate",
                "A certificate of this gateway; several, the first is the default. Without any the listener is plain HTTP.",
                ServerCertificate::read,
            ),
            clients: s.tables("client", "Which hosts ask for client certificates.", ClientCertificates::read),
        }
    }
}

impl ServerCertificate {
    fn read(s: &mut Section<'_>) -> Self {
        Self {
            names: s.list(
                "names",
                "list of hosts",
                &[],
                "Hosts that get this certificate; `*.example.com` is allowed.",
                host_pattern,
            ),
            certificate: s.required_file(
                "certificate",
                FileKind::Certificates,
                "The certificate and its chain, PEM.",
            ),
            key: s.required_file("key", FileKind::Key, "Its private key, PEM, readable by its owner only."),
        }
    }
}

impl ClientCertificates {
    fn read(s: &mut Section<'_>) -> Self {
        let auth = s.required(
            "auth",
            "off \\| optional \\| required",
            ClientAuth::Off,
            "Whether these hosts ask for a client certificate.",
            |text| {
                let found = ClientAuth::WORDS.iter().find(|(name, _)| *name == text);
                found
                    .map(|(_, auth)| *auth)
                    .ok_or_else(|| format!("`{text}` is not known here; known: off, optional, required"))
            },
        );
        let rule = Self {
            hosts: s.list(
                "hosts",
                "list of hosts",
                &["*"],
                "Which hosts; an exact name before `*.example.com` before `*`.",
                host_pattern_or_all,
            ),
            auth,
            ca: s.file(
                "ca",
                FileKind::Certificates,
                "Who must have issued the certificates, PEM; needed unless `auth` is off.",
            ),
            crl: s.file("crl", FileKind::Content, "Which certificates were revoked."),
        };
        if rule.auth != ClientAuth::Off && rule.ca.is_none() {
            s.missing("ca");
        }
        rule
    }
}
