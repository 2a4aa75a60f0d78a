//! A verified client certificate as the rest of the program reads it. Called once per TLS connection.
//!
//! A new member is a field of [`ClientCertificate`] in `model` and one line in [`read`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate, X509Name};

use crate::model::{ClientCertificate, Timestamp};

/// Reads the DER of a certificate that the handshake verified; `None` when it cannot be read, which ends the
/// connection: a certificate that one parser takes and another does not is nobody's identity.
pub fn read(der: &[u8]) -> Option<ClientCertificate> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let serial = hex::encode_upper(certificate.raw_serial());
    let serial = match serial.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    };
    let common_name = certificate.subject().iter_common_name().next();
    let mut alternative_names = Vec::new();
    if let Some(names) = certificate.subject_alternative_name().ok()? {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => alternative_names.push(format!("dns:{name}")),
                GeneralName::RFC822Name(name) => alternative_names.push(format!("email:{name}")),
                GeneralName::URI(name) => alternative_names.push(format!("uri:{name}")),
                _ => {}
            }
        }
    }
    Some(ClientCertificate {
        serial: serial.to_owned(),
        subject: name_text(certificate.subject())?,
        issuer: name_text(certificate.issuer())?,
        common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
        alternative_names,
        not_before: Timestamp::from_seconds(certificate.validity().not_before.timestamp()),
        not_after: Timestamp::from_seconds(certificate.validity().not_after.timestamp()),
        thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(der)),
    })
}

/// RFC 4514: last part first, special characters escaped, so that no value can look like another part.
fn name_text(name: &X509Name<'_>) -> Option<String> {
    let registry = x509_parser::objects::oid_registry();
    let mut parts = Vec::new();
    for part in name.iter_rdn() {
        let mut texts = Vec::new();
        for attribute in part.iter() {
            let oid = attribute.attr_type();
            let text = match (x509_parser::objects::oid2abbrev(oid, registry), attribute.as_str()) {
                (Ok(key), Ok(value)) => format!("{key}={}", escaped(value)),
                (Err(_), Ok(value)) => format!("{}={}", oid.to_id_string(), escaped(value)),
                (_, Err(_)) => {
                    format!("{}=#{}", oid.to_id_string(), hex::encode(attribute.attr_value().data))
                }
            };
            texts.push(text);
        }
        parts.push(texts.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// RFC 4514 §2.4.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => {
                text.push('\\');
                text.push(character);
            }
            '#' if at == 0 => text.push_str("\\#"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            control if control.is_control() => {
                for byte in control.encode_utf8(&mut [0; 4]).bytes() {
                    text.push_str(&format!("\\{byte:02X}"));
                }
            }
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read() {
        let mut parameters = rcgen::CertificateParams::new(vec!["svc.example".into()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Acme, CN=admin");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "svc");
        parameters.subject_alt_names.push(rcgen::SanType::URI("spiffe://example/svc".try_into().unwrap()));
        parameters.serial_number = Some(rcgen::SerialNumber::from(vec![0x0a, 0xbc]));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let read = read(certificate.der()).unwrap();
        assert_eq!(read.serial, "ABC");
        assert_eq!(read.subject, "CN=svc,O=Acme\\, CN\\=admin");
        assert_eq!(read.common_name.as_deref(), Some("svc"));
        assert_eq!(read.alternative_names, ["dns:svc.example", "uri:spiffe://example/svc"]);
        assert_eq!(read.thumbprint.len(), 43);
        assert!(read.not_before < read.not_after);
    }

    #[test]
    fn rubbish_is_nobody() {
        assert_eq!(read(b""), None);
        assert_eq!(read(b"0\x03\x02\x01\x01"), None);
    }
}
