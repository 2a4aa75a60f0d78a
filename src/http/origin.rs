//! Which site a browser's request came from: `Sec-Fetch-Site` (Fetch Metadata), else `Origin` (RFC 6454).

use http::HeaderMap;

/// What the headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Site {
    /// Our own origin, or the person themselves (address bar, bookmark).
    Own,
    /// Another origin; a subdomain or another port is one too.
    Other,
    /// Neither header, or an opaque origin: an old browser, or no browser.
    Unknown,
}

/// Reads the two headers; `own` is the request's own origin.
pub fn site(headers: &HeaderMap, own: &str) -> Site {
    let mut fetch = headers.get_all("sec-fetch-site").iter();
    if let Some(value) = fetch.next() {
        let ours = matches!(value.as_bytes(), b"same-origin" | b"none") && fetch.next().is_none();
        return if ours { Site::Own } else { Site::Other };
    }
    let mut origins = headers.get_all("origin").iter();
    match (origins.next().map(|value| value.as_bytes()), origins.next()) {
        (None, _) | (Some(b"null"), None) => Site::Unknown,
        (Some(origin), None) if origin.eq_ignore_ascii_case(own.as_bytes()) => Site::Own,
        _ => Site::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn other_sites_are_told_apart() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            site(&map, "https://gate.example")
        };
        assert_eq!(of(&[("sec-fetch-site", "same-origin")]), Site::Own);
        assert_eq!(of(&[("sec-fetch-site", "none")]), Site::Own);
        assert_eq!(of(&[("sec-fetch-site", "same-site"), ("origin", "https://gate.example")]), Site::Other);
        assert_eq!(of(&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]), Site::Other);
        assert_eq!(of(&[("origin", "https://gate.example")]), Site::Own);
        assert_eq!(of(&[("origin", "https://gate.example:444")]), Site::Other);
        assert_eq!(of(&[("origin", "http://gate.example")]), Site::Other);
        assert_eq!(of(&[("origin", "null")]), Site::Unknown);
        assert_eq!(of(&[]), Site::Unknown);
    }
}
