//! Headers that belong to one connection (RFC 9110 §7.6.1) and never pass through.
//!
//! `gateway` calls [`remove`] on a request before it sets headers of its own, so that a `Connection` header can
//! never take one of ours away; `forward` calls it on every answer. One more name is one more line of the list.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName};

fn is_per_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "proxy-connection"
            | "keep-alive"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authorization"
    )
}

/// Removes the headers of the connection and everything that a `Connection` header names.
pub fn remove(headers: &mut HeaderMap) {
    let mut gone: Vec<HeaderName> = headers.keys().filter(|name| is_per_connection(name)).cloned().collect();
    if gone.contains(&CONNECTION) {
        let values = headers.get_all(CONNECTION).iter();
        let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        gone.extend(names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()));
    }
    for name in gone {
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
