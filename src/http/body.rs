//! Reading the small bodies that own endpoints take: bounded, one content type, every parameter at most once.
//! Called by every door with a POST.

use actix_web::{HttpRequest, web};
use bytes::Bytes;

use crate::model::{Refusal, RefusalKind};

/// The most that an own endpoint reads, in bytes.
pub const LIMIT: usize = 64 * 1024;

/// What a Content-Type says, as far as own endpoints tell types apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// The content type of a request.
///
/// # Errors
/// 415 when it is neither JSON nor a form, is missing, or is there twice.
pub fn media(request: &HttpRequest) -> Result<Media, Refusal> {
    let mut values = request.headers().get_all("content-type");
    let first = values.next().and_then(|value| value.to_str().ok());
    let essence = first.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match (essence.as_deref(), values.next()) {
        (Some("application/json"), None) => Ok(Media::Json),
        (Some("application/x-www-form-urlencoded"), None) => Ok(Media::Form),
        _ => Err(Refusal::new(RefusalKind::UnsupportedMediaType, "send application/json or a form")),
    }
}

/// The whole body.
///
/// # Errors
/// 413 above [`LIMIT`], 400 when it broke off.
pub async fn read(payload: web::Payload) -> Result<Bytes, Refusal> {
    match payload.to_bytes_limited(LIMIT).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(Refusal::new(RefusalKind::BadRequest, format!("the body broke off: {error}"))),
        Err(_) => Err(Refusal::new(RefusalKind::TooLarge, "body of an own endpoint")),
    }
}

/// Parameters of a form or a query; each name at most once.
#[derive(Clone, Default)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads `application/x-www-form-urlencoded` text.
    ///
    /// # Errors
    /// 400 for a repeated name (RFC 6749 §3.2) and for bytes that are not UTF-8 after decoding.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let bad = |detail: &'static str| Refusal::new(RefusalKind::BadRequest, detail);
        if percent_encoding::percent_decode(bytes).decode_utf8().is_err() {
            return Err(bad("a parameter is not UTF-8"));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(bytes) {
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(bad("a parameter is there twice"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// The value, when the parameter is there and not empty (RFC 6749 §3.1: an empty one counts as omitted).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn parameters_are_read_once() {
        let form = Parameters::parse(b"a=1&b=%C3%A9+x&empty=").unwrap();
        assert_eq!(form.get("a"), Some("1"));
        assert_eq!(form.get("b"), Some("é x"));
        assert_eq!(form.get("empty"), None);
        assert!(Parameters::parse(b"a=1&a=1").is_err());
        assert!(Parameters::parse(b"a=%FF").is_err());
    }

    #[test]
    fn other_content_types_are_refused() {
        let of = |value: &str| {
            media(&TestRequest::post().insert_header(("content-type", value)).to_http_request())
        };
        assert_eq!(of("application/json; charset=utf-8").unwrap(), Media::Json);
        assert_eq!(of("Application/X-WWW-Form-urlencoded").unwrap(), Media::Form);
        assert_eq!(of("text/plain").unwrap_err().kind, RefusalKind::UnsupportedMediaType);
        assert!(media(&TestRequest::post().to_http_request()).is_err());
    }
}
