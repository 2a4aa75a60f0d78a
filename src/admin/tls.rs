//! The certificate of the operators' listener, which can be replaced while connections live.
//!
//! `start` loads it, a reload prepares and commits.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config;

/// The live certificate.
#[derive(Debug)]
pub struct AdminTls(ArcSwap<CertifiedKey>);

/// A certificate that was read and is not in use yet.
pub struct Prepared(Arc<CertifiedKey>);

impl AdminTls {
    pub(super) fn load(tls: &config::AdminTls) -> Result<Self, String> {
        Self::prepare(tls).map(|prepared| Self(ArcSwap::new(prepared.0)))
    }

    pub(super) fn server_config(self: &Arc<Self>) -> ServerConfig {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver)
    }

    /// Reads the certificate and its key again, beside what is in use.
    ///
    /// # Errors
    /// The file that cannot be used.
    pub fn prepare(tls: &config::AdminTls) -> Result<Prepared, String> {
        let named = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let chain: Vec<_> = CertificateDer::pem_file_iter(&tls.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| named(&tls.certificate, &error))?;
        let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| named(&tls.key, &error))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider);
        certified.map(|key| Prepared(Arc::new(key))).map_err(|error| named(&tls.certificate, &error))
    }

    /// Uses what was prepared, for connections that come after.
    pub fn commit(&self, prepared: Prepared) {
        self.0.store(prepared.0);
    }
}

impl ResolvesServerCert for AdminTls {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}
