//! What the connection says of the caller, before the request says anything.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Timestamp;

/// The connection that a request came on.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The direct TCP peer (or what a trusted PROXY header said).
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// True on TLS.
    pub secure: bool,
    /// The TLS server name (SNI), lower-cased, when there was one.
    pub server_name: Option<Arc<str>>,
    /// The index into `[[listen.tls.client]]` of the rule that the TLS name selected; `None` when it asks for no certificate.
    pub client_rule: Option<usize>,
    /// The client certificate, verified against the rule's CA.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// A client certificate that the TLS handshake verified: chain, validity and revocation list at that time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificate {
    /// Upper-case hex of the serial number, without leading zeros.
    pub serial: String,
    /// RFC 4514 text of the subject.
    pub subject: String,
    /// RFC 4514 text of the issuer.
    pub issuer: String,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// DNS, e-mail and URI subject alternative names, as `dns:…`, `email:…`, `uri:…`.
    pub alternative_names: Vec<String>,
    /// Not valid before.
    pub not_before: Timestamp,
    /// Not valid after: checked again at each request.
    pub not_after: Timestamp,
    /// Base64url SHA-256 of the DER (RFC 8705 §3.1 `x5t#S256`).
    pub thumbprint: String,
}
