//! A certificate authority and a server certificate for development, made by `init`.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const DAY: Duration = Duration::from_secs(86_400);
/// How long the authority and its certificate count: a team that goes on has its own by then.
const COUNTS: u32 = 365;

/// PEM texts.
pub struct Certificates {
    /// The authority's certificate.
    pub ca: String,
    /// The authority's key.
    pub ca_key: String,
    /// The server's certificate.
    pub server: String,
    /// The server's key.
    pub server_key: String,
}

/// An authority of its own, and a certificate of it for `host` and for this machine's own names.
///
/// # Errors
/// When the host cannot stand in a certificate, or the library refuses.
pub fn make(host: &str) -> Result<Certificates, rcgen::Error> {
    let now = SystemTime::now();
    let (from, until) = (now - DAY, now + DAY * COUNTS);
    let ca_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "Portcullis development CA");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (authority.not_before, authority.not_after) = (from.into(), until.into());
    let ca = authority.self_signed(&ca_key)?;

    let mut names = vec![host.to_owned()];
    names.extend(
        ["localhost", "127.0.0.1", "::1"].into_iter().filter(|name| *name != host).map(str::to_owned),
    );
    let server_key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, host);
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    (server.not_before, server.not_after) = (from.into(), until.into());
    let issuer = Issuer::from_params(&authority, &ca_key);
    let certificate = server.signed_by(&server_key, &issuer)?;
    Ok(Certificates {
        ca: ca.pem(),
        ca_key: ca_key.serialize_pem(),
        server: certificate.pem(),
        server_key: server_key.serialize_pem(),
    })
}

/// True when the text is a name or address that a certificate can be for.
pub fn is_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok() || CertificateParams::new(vec![host.to_owned()]).is_ok()
}
