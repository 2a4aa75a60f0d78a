//! `[[upstream]]`: servers behind this gateway.

use std::path::PathBuf;

use url::Url;

use super::fields::non_empty;
use super::files::FileKind;
use super::reader::Section;
use super::store::pair;
use super::values::{plain_name, server_url};

/// How a server is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
}

/// `[[upstream]]`
#[derive(Clone, Debug)]
pub struct Upstream {
    /// What routes call it; the audience of assertions.
    pub name: String,
    /// Its servers: scheme, host and port.
    pub servers: Vec<Url>,
    /// How one is chosen.
    pub balance: Balance,
    /// `[upstream.tls]`
    pub tls: UpstreamTls,
}

/// `[upstream.tls]`
#[derive(Clone, Debug, Default)]
pub struct UpstreamTls {
    /// Who must have issued the servers' certificates; absent: the system's authorities.
    pub ca: Option<PathBuf>,
    /// The name that certificates must have, instead of the URL's host.
    pub server_name: Option<String>,
    /// Our certificate, there together with `key`.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

impl Upstream {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        s.unsupported(&["health"]);
        Self {
            name: s.required("name", "text", String::new(), "What routes call it, unique.", plain_name),
            servers: s.required_list(
                "servers",
                "list of URLs",
                "Its servers: `http://` or `https://`, host and port.",
                server_url,
            ),
            balance: s.choice(
                "balance",
                &[("round_robin", Balance::RoundRobin)],
                &["least_connections", "random", "consistent_hash", "weighted"],
                "How a server is chosen.",
            ),
            tls: s.table("tls", "TLS to `https://` servers.", UpstreamTls::read),
        }
    }
}

impl UpstreamTls {
    fn read(s: &mut Section<'_>) -> Self {
        let tls = Self {
            ca: s.file(
                "ca",
                FileKind::Certificates,
                "Who must have issued the servers' certificates, PEM; by default the system's authorities.",
            ),
            server_name: s.optional(
                "server_name",
                "text",
                "The name that certificates must have, instead of the URL's host.",
                |text| non_empty(text).and_then(|text| super::values::host(&text)),
            ),
            certificate: s.file(
                "certificate",
                FileKind::Certificates,
                "Our certificate for the servers, PEM.",
            ),
            key: s.file("key", FileKind::Key, "Its private key, PEM, readable by its owner only."),
        };
        pair(s, tls.certificate.is_some(), tls.key.is_some());
        tls
    }
}
