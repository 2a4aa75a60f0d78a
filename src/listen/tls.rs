//! TLS by server name: which certificate is shown, and which client certificates are asked for.
//!
//! [`TlsConfigs::load`] reads all files; a connection takes the set that is current when it is accepted and keeps it.
//! A new TLS setting is a field of `config::Tls` and one line in [`TlsConfigs::load`] or `server_config`.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use crate::config::{ClientAuth, ClientCertificates, Tls};

/// TLS configuration that can be replaced while connections live.
#[derive(Debug)]
pub struct TlsReloader {
    current: ArcSwap<TlsConfigs>,
}

impl TlsReloader {
    pub(super) fn new(configs: TlsConfigs) -> Self {
        Self { current: ArcSwap::from_pointee(configs) }
    }

    /// Reads certificates, keys, authorities and revocation lists again, beside what is in use.
    ///
    /// # Errors
    /// The file that cannot be used, and what to do about it.
    pub fn prepare(&self, tls: &Tls) -> Result<Prepared, String> {
        TlsConfigs::load(tls).map(Prepared)
    }

    /// Uses what was prepared, for connections that come after.
    pub fn commit(&self, prepared: Prepared) {
        self.current.store(Arc::new(prepared.0));
    }

    pub(super) fn current(&self) -> Arc<TlsConfigs> {
        self.current.load_full()
    }
}

/// A set that was read and is not in use yet.
#[derive(Debug)]
pub struct Prepared(TlsConfigs);

/// One consistent set: a configuration without client certificates, and one for each rule that asks for them.
#[derive(Debug)]
pub(super) struct TlsConfigs {
    plain: Arc<ServerConfig>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    hosts: Vec<String>,
    /// `None`: asks for no certificate.
    config: Option<Arc<ServerConfig>>,
}

impl TlsConfigs {
    /// Loads everything that the section names.
    ///
    /// # Errors
    /// The file, and what to do about it.
    pub(super) fn load(tls: &Tls) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let resolver = Arc::new(Certificates::load(tls, &provider)?);
        let plain = server_config(&provider, None, Arc::clone(&resolver))?;
        let mut rules = Vec::new();
        for rule in &tls.clients {
            let config = match rule.auth {
                ClientAuth::Off => None,
                ClientAuth::Optional | ClientAuth::Required => {
                    let verifier = verifier(rule, &provider)?;
                    Some(server_config(&provider, Some(verifier), Arc::clone(&resolver))?)
                }
            };
            rules.push(Rule {
                hosts: rule.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
                config,
            });
        }
        Ok(Self { plain, rules })
    }

    /// The rule that asks connections with this TLS server name, or requests to this host, for a certificate.
    /// An exact host beats a wildcard (the longest first), and `*` is everything else, no name included.
    pub(super) fn client_rule(&self, name: Option<&str>) -> Option<usize> {
        let best = self
            .rules
            .iter()
            .enumerate()
            .filter_map(|(at, rule)| {
                rule.hosts.iter().filter_map(|host| fit(host, name)).max().map(|fit| (fit, at))
            })
            .max_by_key(|(fit, at)| (*fit, std::cmp::Reverse(*at)));
        let (_, at) = best?;
        self.rules.get(at).and_then(|rule| rule.config.as_ref()).map(|_| at)
    }

    /// The configuration of a rule, or the one that asks for no certificate.
    pub(super) fn server_config(&self, rule: Option<usize>) -> Arc<ServerConfig> {
        let config = rule.and_then(|at| self.rules.get(at)).and_then(|rule| rule.config.as_ref());
        Arc::clone(config.unwrap_or(&self.plain))
    }
}

/// How well a pattern fits: `None` not at all, more is better.
fn fit(pattern: &str, name: Option<&str>) -> Option<usize> {
    if pattern == "*" {
        return Some(0);
    }
    let name = name?;
    if pattern == name {
        return Some(usize::MAX);
    }
    let suffix = pattern.strip_prefix('*').filter(|suffix| suffix.starts_with('.'))?;
    let label = name.strip_suffix(suffix)?;
    (!label.is_empty() && !label.contains('.')).then_some(suffix.len())
}

/// Server certificates by name; the first is the default.
#[derive(Debug)]
struct Certificates(Vec<(Vec<String>, Arc<CertifiedKey>)>);

impl Certificates {
    fn load(tls: &Tls, provider: &CryptoProvider) -> Result<Self, String> {
        let mut certificates = Vec::new();
        for entry in &tls.certificates {
            let chain = pem_items::<CertificateDer<'static>>(&entry.certificate, "certificate")?;
            let key = read(&entry.key)?;
            let key = PrivateKeyDer::from_pem_slice(&key)
                .map_err(|error| broken(&entry.key, "private key", &error.to_string()))?;
            let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
                format!(
                    "{}: cannot be used with the key {} ({error}); put the certificate chain and its own key there",
                    entry.certificate.display(),
                    entry.key.display()
                )
            })?;
            let names = entry.names.iter().map(|name| name.to_ascii_lowercase()).collect();
            certificates.push((names, Arc::new(certified)));
        }
        if certificates.is_empty() {
            return Err("listen.tls: no certificate; add a [[listen.tls.certificate]]".to_owned());
        }
        Ok(Self(certificates))
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let mut best = (0, self.0.first()?);
        for entry in &self.0 {
            match entry.0.iter().filter_map(|pattern| fit(pattern, name)).max() {
                Some(fit) if fit > best.0 => best = (fit, entry),
                _ => {}
            }
        }
        Some(Arc::clone(&best.1.1))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.find(name.as_deref())
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    resolver: Arc<Certificates>,
) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| format!("listen.tls: {error}"))?;
    let asks = verifier.is_some();
    let mut config = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if asks {
        // A resumed session brings its certificate along without a verification, so there are none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

fn verifier(
    rule: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let Some(ca) = &rule.ca else {
        return Err(format!(
            "listen.tls.client for {}: no ca; name the file with the authorities whose certificates count",
            rule.hosts.join(", ")
        ));
    };
    let mut roots = RootCertStore::empty();
    for certificate in pem_items::<CertificateDer<'static>>(ca, "certificate")? {
        roots.add(certificate).map_err(|error| broken(ca, "certificate", &error.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(crl) = &rule.crl {
        builder =
            builder.with_crls(pem_items::<CertificateRevocationListDer<'static>>(crl, "revocation list")?);
    }
    if rule.auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| {
        let file = rule.crl.as_ref().unwrap_or(ca);
        let hint = "a list must be of version 2, for openssl: `crl_extensions` and `crlnumber`";
        broken(file, "revocation list or authority", &format!("{error}; {hint}"))
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| {
        format!("{}: cannot be read ({error}); check the path and who may read it", path.display())
    })
}

fn broken(path: &Path, what: &str, why: &str) -> String {
    format!("{}: no usable {what} in PEM ({why}); put the right file there", path.display())
}

/// All items of one kind; none at all is an error.
fn pem_items<T: PemObject>(path: &Path, what: &str) -> Result<Vec<T>, String> {
    let text = read(path)?;
    let items = T::pem_slice_iter(&text)
        .collect::<Result<Vec<T>, _>>()
        .map_err(|error| broken(path, what, &error.to_string()))?;
    if items.is_empty() {
        return Err(broken(path, what, "it has none"));
    }
    Ok(items)
}
