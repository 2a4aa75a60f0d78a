//! The caller as a handler's argument, and its request's headers in the form that other modules read.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Caller;

impl FromRequest for Caller {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let found = request.extensions().get::<Self>().cloned();
        ready(found.ok_or_else(|| actix_web::error::ErrorInternalServerError("something went wrong here")))
    }
}

impl Caller {
    /// Scheme and authority that the request came to, as a browser writes it in `Origin`.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.target.host)
    }
}

/// The request's headers in the types of the `http` crate that the rest of the program uses.
pub fn headers(request: &HttpRequest) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(request.headers().len());
    for (name, value) in request.headers() {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_str().as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            map.append(name, value);
        }
    }
    map
}

/// The one value of a header; `None` when it is missing, repeated or not visible ASCII.
pub fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

/// The token of `Authorization: Bearer` (RFC 6750 §2.1).
pub fn bearer_token(header: Option<&str>) -> Option<&str> {
    let (scheme, token) = header?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_repeated_header_has_no_single_value() {
        let mut map = HeaderMap::new();
        map.append("x-a", HeaderValue::from_static("1"));
        assert_eq!(only(&map, "x-a"), Some("1"));
        map.append("x-a", HeaderValue::from_static("1"));
        assert_eq!(only(&map, "x-a"), None);
        assert_eq!(only(&map, "x-b"), None);
    }
}
