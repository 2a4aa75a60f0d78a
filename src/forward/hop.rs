//! Headers that belong to one connection (RFC 9110 §7.6.1) and never pass through.
//!
//! `gateway` calls [`remove`] on a request before it sets headers of its own, so that a `Connection` header can
//! never take one of ours away; `forward` calls it on every answer. One more name is one more entry of the list.

use http::HeaderMap;
use http::header::{
    CONNECTION, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};

const PER_CONNECTION: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
];

/// Removes the headers of the connection and everything that a `Connection` header names.
pub fn remove(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &PER_CONNECTION {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_connection_names_goes_too() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("close, X-Inner ,"));
        headers.append(CONNECTION, HeaderValue::from_static("x-other"));
        for name in ["x-inner", "x-other", "keep-alive", "te", "upgrade", "transfer-encoding", "x-stays"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        remove(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-stays"]);
    }
}
