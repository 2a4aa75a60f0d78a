//! The upstreams of a configuration: their servers, whose turn it is, and how TLS is spoken to them.
//!
//! Built by `gateway` for each configuration; read by `forward`. Another way to balance is one more arm of
//! [`Group::order`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

use crate::config;
use crate::metrics::UpstreamServer;

/// How long a server that refused a connection comes last.
const SHUNNED: Duration = Duration::from_secs(1);

static NEXT_SERVER: AtomicU64 = AtomicU64::new(1);

/// All upstreams of a configuration, shared by the workers: server lists, turn counters, TLS configurations.
#[derive(Debug)]
pub struct Upstreams {
    groups: AHashMap<String, Group>,
}

/// The servers of one upstream.
#[derive(Debug)]
pub(super) struct Group {
    servers: Vec<Server>,
    turn: AtomicUsize,
}

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    /// Unique in the process: idle connections of an older configuration are never taken for this one's.
    pub(super) id: u64,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    began: Instant,
    /// Its URL, without a slash at the end.
    url: String,
    /// Whether the last connection to it could be opened.
    up: Arc<AtomicBool>,
    /// Milliseconds after `began` until which this server comes last.
    shunned_until: AtomicU64,
}

impl Upstreams {
    /// Reads the servers and loads their authorities and keys.
    ///
    /// # Errors
    /// File and reason when a CA or key cannot be used, or a server's URL is not `http` or `https` with a host.
    pub fn build(config: &config::Config) -> Result<Arc<Self>, String> {
        Self::of(&config.upstreams)
    }

    pub(super) fn of(upstreams: &[config::Upstream]) -> Result<Arc<Self>, String> {
        let mut groups = AHashMap::new();
        for upstream in upstreams {
            groups.insert(upstream.name.clone(), Group::build(upstream)?);
        }
        Ok(Arc::new(Self { groups }))
    }

    /// True when there is an upstream of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }

    /// Every server, for the metrics.
    pub fn servers(&self) -> Vec<UpstreamServer> {
        let servers = self.groups.iter().flat_map(|(name, group)| {
            group.servers.iter().map(|server| UpstreamServer {
                upstream: name.clone(),
                server: server.url.clone(),
                up: Arc::clone(&server.up),
            })
        });
        servers.collect()
    }

    pub(super) fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }
}

impl Group {
    fn build(upstream: &config::Upstream) -> Result<Self, String> {
        let mut tls = None;
        if upstream.servers.iter().any(|server| server.scheme() == "https") {
            tls = Some(
                client_config(&upstream.tls).map_err(|why| format!("upstream `{}`: {why}", upstream.name))?,
            );
        }
        let servers = upstream
            .servers
            .iter()
            .map(|url| Server::build(url, tls.as_ref(), &upstream.tls))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| format!("upstream `{}`: {why}", upstream.name))?;
        if servers.is_empty() {
            return Err(format!("upstream `{}` has no servers", upstream.name));
        }
        Ok(Self { servers, turn: AtomicUsize::new(0) })
    }

    /// The servers, each once, in the order in which to try them: round robin, those that just failed last.
    pub(super) fn order(&self) -> impl Iterator<Item = &Server> {
        let first = if self.servers.len() > 1 { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let turned = move || {
            self.servers.iter().cycle().skip(first % self.servers.len().max(1)).take(self.servers.len())
        };
        turned().filter(|server| !server.is_shunned()).chain(turned().filter(|server| server.is_shunned()))
    }
}

impl Server {
    fn build(
        url: &Url,
        tls: Option<&Arc<ClientConfig>>,
        settings: &config::UpstreamTls,
    ) -> Result<Self, String> {
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(format!("`{url}` has no host")),
        };
        let port = url.port_or_known_default().ok_or_else(|| format!("`{url}` has no port"))?;
        let tls = match (url.scheme(), tls) {
            ("http", _) => None,
            ("https", Some(tls)) => {
                let name = settings.server_name.clone().unwrap_or_else(|| host.clone());
                let name =
                    ServerName::try_from(name).map_err(|_| format!("`{url}` is not a name for TLS"))?;
                Some((Arc::clone(tls), name))
            }
            _ => return Err(format!("`{url}` is neither http:// nor https://")),
        };
        Ok(Self {
            id: NEXT_SERVER.fetch_add(1, Ordering::Relaxed),
            host,
            port,
            tls,
            url: url.as_str().trim_end_matches('/').to_owned(),
            up: Arc::new(AtomicBool::new(true)),
            began: Instant::now(),
            shunned_until: AtomicU64::new(0),
        })
    }

    /// Lets this server come last for a while: it just refused a connection.
    pub(super) fn shun(&self) {
        self.up.store(false, Ordering::Relaxed);
        self.shunned_until.store(millis(self.began.elapsed().saturating_add(SHUNNED)), Ordering::Relaxed);
    }

    /// A connection to this server was opened.
    pub(super) fn opened(&self) {
        self.up.store(true, Ordering::Relaxed);
    }

    fn is_shunned(&self) -> bool {
        let until = self.shunned_until.load(Ordering::Relaxed);
        until != 0 && millis(self.began.elapsed()) < until
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn client_config(settings: &config::UpstreamTls) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|why| format!("{}: {why}", path.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?
        .with_root_certificates(roots);
    let mut config = match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) => {
            let private =
                PrivateKeyDer::from_pem_file(key).map_err(|why| format!("{}: {why}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, private)
                .map_err(|why| format!("{}: {why}", certificate.display()))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err("a client certificate needs both `certificate` and `key`".to_owned()),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| format!("{}: {why}", path.display()))?;
    if found.is_empty() { Err(format!("{} has no certificate", path.display())) } else { Ok(found) }
}
