//! A node's operators' listener over HTTP: one connection per call. Used by `node`, which decides what to do when
//! nothing listens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Failure;
use crate::config::Config;

/// How long a node may take to answer a command.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Where an operators' listener is.
pub struct Remote {
    /// `host:port`.
    pub host: String,
    tls: bool,
    /// Certificates that are trusted besides the system's.
    trusted: Option<PathBuf>,
}

/// Why there is no answer.
pub enum Away {
    /// The address refuses connections.
    NothingListens,
    /// Anything else, in words.
    Other(String),
}

impl Remote {
    /// The listener of an `http://` or `https://` URL.
    ///
    /// # Errors
    /// When it is another URL.
    pub fn at(url: &str, config: Option<&Config>) -> Result<Self, Failure> {
        let wrong = || {
            let message = format!("`{url}` is not the URL of a node's operators' listener: http://HOST:PORT");
            Failure::usage(message)
        };
        let parsed = url::Url::parse(url).map_err(|_| wrong())?;
        let bare = parsed.path() == "/" && parsed.query().is_none() && parsed.username().is_empty();
        let tls = match parsed.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let host = parsed.host_str().filter(|_| bare).ok_or_else(wrong)?;
        let port = parsed.port_or_known_default().ok_or_else(wrong)?;
        let trusted = config.and_then(|config| config.admin.tls.as_ref()).map(|tls| tls.certificate.clone());
        Ok(Self { host: format!("{host}:{port}"), tls, trusted })
    }

    /// The listener of a configuration.
    pub fn of(config: &Config) -> Self {
        let mut address = config.admin.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let tls = config.admin.tls.as_ref();
        Self {
            host: address.to_string(),
            tls: tls.is_some(),
            trusted: tls.map(|tls| tls.certificate.clone()),
        }
    }

    /// One call.
    ///
    /// # Errors
    /// When there is no answer within 30 seconds.
    pub async fn exchange(
        &self,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, String), Away> {
        let exchange = async {
            let stream = TcpStream::connect(&self.host).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => Away::NothingListens,
                _ => Away::Other(error.to_string()),
            })?;
            let request = self.request(token, method, path, body).map_err(Away::Other)?;
            if !self.tls {
                return send(stream, request).await.map_err(Away::Other);
            }
            let (name, connector) = self.tls().map_err(Away::Other)?;
            let stream = connector.connect(name, stream).await.map_err(|error| {
                Away::Other(format!("TLS: {error}; name the host that its certificate is for in --admin-url"))
            })?;
            send(stream, request).await.map_err(Away::Other)
        };
        tokio::time::timeout(ANSWERS_WITHIN, exchange)
            .await
            .unwrap_or_else(|_elapsed| Err(Away::Other("it did not answer within 30 s".to_owned())))
    }

    fn request(
        &self,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(ToString::to_string).unwrap_or_default();
        request.body(Full::new(Bytes::from(bytes))).map_err(|error| error.to_string())
    }

    fn tls(&self) -> Result<(ServerName<'static>, tokio_rustls::TlsConnector), String> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls_native_certs::load_native_certs().certs {
            // One that the library does not take is not trusted.
            let _unusable = roots.add(certificate).is_err();
        }
        for certificate in self.trusted.iter().flat_map(|path| certificates(path)) {
            let _unusable = roots.add(certificate).is_err();
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        Ok((name, tokio_rustls::TlsConnector::from(Arc::new(config))))
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).map(|all| all.flatten().collect()).unwrap_or_default()
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let said = |error: hyper::Error| format!("it does not speak HTTP: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(said)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(said)?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}
