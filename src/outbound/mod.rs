//! Calls of ours to servers that configuration or discovery names: identity providers, key sets. Bounded in time and
//! size, without redirects, and never to an address inside unless the configuration says so (SSRF).
//!
//! Called by `sso` and by whoever fetches another issuer's keys. It speaks HTTP/1.1 and implements `oauth2`'s client.

mod address;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The largest answer that is read, in bytes.
pub const BODY_LIMIT: usize = 1024 * 1024;

/// Why a call failed. For the log: the text names hosts and addresses.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The CA file cannot be used.
    #[error("cannot read certificates from {path}: {reason}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The URL is not one that we call.
    #[error("{0}")]
    Url(&'static str),
    /// Every address of the host is private, loopback or link-local.
    #[error("{0} is an inside address; set allow_private where that is intended")]
    Private(String),
    /// It could not be reached, or broke TLS or HTTP.
    #[error("{host}: {reason}")]
    Failed {
        /// Whom we called.
        host: String,
        /// What happened.
        reason: String,
    },
    /// It took too long.
    #[error("{0} did not answer in time")]
    Timeout(String),
}

/// The client. Cheap to clone; each call is a connection of its own.
#[derive(Clone)]
pub struct Outbound {
    tls: Arc<ClientConfig>,
    allow_private: bool,
    connect: Duration,
    total: Duration,
}

impl Outbound {
    /// A client that trusts the CA file, or the system's certificates. `allow_private` also permits plain HTTP.
    ///
    /// # Errors
    /// When the CA file cannot be read or holds no certificate, or the system has none.
    pub fn new(ca: Option<&Path>, allow_private: bool) -> Result<Self, OutboundError> {
        let roots = roots(ca)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| OutboundError::Failed { host: "tls".to_owned(), reason: error.to_string() })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(tls),
            allow_private,
            connect: Duration::from_secs(3),
            total: Duration::from_secs(10),
        })
    }

    /// Other limits: for connecting (DNS and TLS included), and for the whole call.
    #[must_use]
    pub fn timeouts(mut self, connect: Duration, total: Duration) -> Self {
        (self.connect, self.total) = (connect, total);
        self
    }

    /// Sends the request and reads the whole answer. Redirects are answers like others.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, OutboundError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        match tokio::time::timeout(self.total, self.call(request)).await {
            Ok(result) => result,
            Err(_) => Err(OutboundError::Timeout(host)),
        }
    }

    async fn call(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, OutboundError> {
        let uri = request.uri().clone();
        let host = uri.host().ok_or(OutboundError::Url("the URL has no host"))?.to_owned();
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(OutboundError::Url("a URL with a user name is not called"));
        }
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if self.allow_private => false,
            _ => return Err(OutboundError::Url("only https is called")),
        };
        let request = origin_form(request, &uri)?;
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let opening = async {
            let stream = self.open(&host, port).await?;
            if !secure {
                return Ok(Stream::Plain(stream));
            }
            let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(bare).map_err(|_| OutboundError::Url("not a host name"))?;
            let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
            Ok(Stream::Tls(Box::new(tls.await.map_err(failed(&host))?)))
        };
        let stream = tokio::time::timeout(self.connect, opening)
            .await
            .map_err(|_| OutboundError::Timeout(host.clone()))??;
        match stream {
            Stream::Plain(stream) => exchange(stream, request, &host).await,
            Stream::Tls(stream) => exchange(stream, request, &host).await,
        }
    }

    /// Connects to an address that was checked itself, so that no second look-up can change it.
    async fn open(&self, host: &str, port: u16) -> Result<TcpStream, OutboundError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((bare, port)).await.map_err(failed(host))?;
        let addresses: Vec<SocketAddr> =
            found.filter(|at| address::permitted(at.ip(), self.allow_private)).collect();
        if addresses.is_empty() {
            return Err(OutboundError::Private(host.to_owned()));
        }
        TcpStream::connect(addresses.as_slice()).await.map_err(failed(host))
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

fn origin_form(request: Request<Vec<u8>>, uri: &Uri) -> Result<Request<Full<Bytes>>, OutboundError> {
    let malformed = |_| OutboundError::Url("the URL is malformed");
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let (mut head, body) = request.into_parts();
    head.uri = path.parse().map_err(malformed)?;
    let host = HeaderValue::from_str(authority).map_err(|_| OutboundError::Url("the URL is malformed"))?;
    head.headers.insert(HOST, host);
    head.headers.insert(USER_AGENT, HeaderValue::from_static("portcullis"));
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(Request::from_parts(head, Full::new(Bytes::from(body))))
}

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    host: &str,
) -> Result<Response<Vec<u8>>, OutboundError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed(host))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed(host))?;
        let (head, body) = response.into_parts();
        let bytes = Limited::new(body, BODY_LIMIT).collect().await.map_err(failed(host))?.to_bytes();
        Ok(Response::from_parts(head, bytes.to_vec()))
    };
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        result = &mut answer => result,
        // The connection's end may come before the last bytes were taken from it; its error is the answer's too.
        _ = &mut connection => answer.await,
    }
}

fn failed<E: std::fmt::Display>(host: &str) -> impl FnOnce(E) -> OutboundError {
    let host = host.to_owned();
    move |error| OutboundError::Failed { host, reason: error.to_string() }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, OutboundError> {
    let mut store = RootCertStore::empty();
    let Some(path) = ca else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let bad = |reason: String| OutboundError::Ca { path: path.to_owned(), reason };
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        store.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    Ok(store)
}

impl<'c> oauth2::AsyncHttpClient<'c> for Outbound {
    type Error = OutboundError;
    type Future = Pin<Box<dyn Future<Output = Result<oauth2::HttpResponse, OutboundError>> + Send + 'c>>;

    fn call(&'c self, request: oauth2::HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn answering(bytes: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(&bytes).await;
        });
        at
    }

    fn get(url: &str) -> Request<Vec<u8>> {
        Request::get(url).body(Vec::new()).unwrap()
    }

    fn client(allow_private: bool) -> Outbound {
        Outbound::new(None, allow_private).unwrap()
    }

    #[tokio::test]
    async fn an_answer_is_read_and_a_redirect_not_followed() {
        let at =
            answering(b"HTTP/1.1 302 Found\r\nlocation: http://x/\r\ncontent-length: 2\r\n\r\nhi".to_vec())
                .await;
        let answer = client(true).send(get(&format!("http://{at}/a?b"))).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (302, b"hi".as_slice()));
    }

    #[tokio::test]
    async fn inside_addresses_and_plain_http_are_refused() {
        let refused = client(false).send(get("https://127.0.0.1:9/")).await.unwrap_err();
        assert!(matches!(refused, OutboundError::Private(_)), "{refused}");
        let refused = client(false).send(get("https://[::ffff:10.0.0.1]/")).await.unwrap_err();
        assert!(matches!(refused, OutboundError::Private(_)), "{refused}");
        assert!(matches!(client(false).send(get("http://example.com/")).await, Err(OutboundError::Url(_))));
        assert!(matches!(client(true).send(get("https://a@b/")).await, Err(OutboundError::Url(_))));
    }

    #[tokio::test]
    async fn a_large_or_cut_answer_is_an_error() {
        let mut large = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        large.resize(BODY_LIMIT + 100, b'x');
        let at = answering(large).await;
        assert!(client(true).send(get(&format!("http://{at}/"))).await.is_err());
        let at = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_vec()).await;
        assert!(client(true).send(get(&format!("http://{at}/"))).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let short = client(true).timeouts(Duration::from_millis(50), Duration::from_millis(50));
        assert!(matches!(short.send(get(&format!("http://{at}/"))).await, Err(OutboundError::Timeout(_))));
    }

    #[tokio::test]
    async fn the_certificate_must_be_of_the_named_ca_and_host() {
        let key = rcgen::KeyPair::generate().unwrap();
        let issued =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), issued.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.der().clone()], private)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.shutdown().await;
            }
        });
        let trusting = Outbound::new(Some(ca.path()), true).unwrap();
        let answer = trusting.send(get(&format!("https://localhost:{port}/"))).await.unwrap();
        assert_eq!(answer.body(), b"ok");
        assert!(trusting.send(get(&format!("https://127.0.0.1:{port}/"))).await.is_err());
        assert!(client(true).send(get(&format!("https://localhost:{port}/"))).await.is_err());
    }

    #[test]
    fn a_ca_file_without_certificates_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Outbound::new(Some(file.path()), false), Err(OutboundError::Ca { .. })));
    }
}
