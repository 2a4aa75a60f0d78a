//! `[admin]`: the operators' listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::files::FileKind;
use super::reader::{Section, defaults};
use super::values::{address, host};

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where operators connect.
    pub address: SocketAddr,
    /// Further names that it answers to.
    pub hosts: Vec<String>,
    /// `[admin.tls]`; there unless the address is loopback.
    pub tls: Option<AdminTls>,
}

/// `[admin.tls]`
#[derive(Clone, Debug, PartialEq)]
pub struct AdminTls {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl Default for Admin {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Admin {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        let admin = Self {
            address: s.parsed(
                "address",
                "address:port",
                SocketAddr::from((Ipv4Addr::LOCALHOST, 9080)),
                "Where operators connect; elsewhere than loopback needs `[admin.tls]`.",
                address,
            ),
            hosts: s.list("hosts", "list of hosts", &[], "Further names that it answers to.", host),
            tls: s.table_optional("tls", "TLS of the operators' listener.", AdminTls::read),
        };
        if !admin.address.ip().is_loopback() && admin.tls.is_none() {
            s.problem(
                "address",
                format!(
                    "`{}` is not loopback: the operators' listener needs [admin.tls] there",
                    admin.address
                ),
            );
        }
        admin
    }
}

impl AdminTls {
    fn read(s: &mut Section<'_>) -> Self {
        Self {
            certificate: s.required_file(
                "certificate",
                FileKind::Certificates,
                "The certificate and its chain, PEM.",
            ),
            key: s.required_file("key", FileKind::Key, "Its private key, PEM, readable by its owner only."),
        }
    }
}
