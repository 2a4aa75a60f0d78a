//! What browsers need besides the verdict: navigations, requests from other sites, CORS.
//!
//! Called by `gateway`. Everything here reads headers of the request and says yes or no.

use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use super::routes::Entry;
use crate::http::Caller;

/// True for a GET with which a browser opens a page: it can be sent to a login page.
pub(super) fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    if method != Method::GET {
        return false;
    }
    let navigates = single(headers, "sec-fetch-mode").is_some_and(|mode| mode == b"navigate");
    let first =
        headers.get(ACCEPT).and_then(|accept| accept.as_bytes().split(|b| *b == b',' || *b == b';').next());
    navigates || first.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/html"))
}

/// The value of a header that is there exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
}

/// The origin of the request itself (RFC 6454 §6.2).
pub(super) fn own_origin(caller: &Caller) -> String {
    format!("{}://{}", if caller.secure { "https" } else { "http" }, caller.target.host)
}

/// True when a browser's session may act: a safe method, or a request that comes from here or a listed origin.
pub(super) fn may_act(caller: &Caller, headers: &HeaderMap, entry: &Entry) -> bool {
    let safe = matches!(caller.target.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    if safe && !headers.contains_key(UPGRADE) {
        return true;
    }
    if matches!(single(headers, "sec-fetch-site"), Some(b"same-origin" | b"none")) {
        return true;
    }
    let Some(origin) = single(headers, "origin") else { return false };
    if entry.origins.iter().any(|listed| listed.as_bytes() == origin) {
        return true;
    }
    !headers.contains_key("sec-fetch-site") && origin == own_origin(caller).as_bytes()
}

/// The method that a CORS preflight asks for.
pub(super) fn preflight(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

/// The listed origin that sent the request.
pub(super) fn listed_origin<'a>(entry: &'a Entry, headers: &HeaderMap) -> Option<&'a HeaderValue> {
    let origin = single(headers, "origin")?;
    entry.origins.iter().find(|listed| listed.as_bytes() == origin)
}

/// Lets the origin read the answer, and nobody whom an upstream names instead.
pub(super) fn allow_origin(entry: &Entry, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
    if entry.origins.is_empty() {
        return;
    }
    answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
    answer.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    answer.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// What an allowed preflight is answered (Fetch standard, CORS-preflight fetch).
pub(super) fn answer_preflight(entry: &Entry, asked: &Method, request: &HeaderMap, answer: &mut HeaderMap) {
    let methods = if entry.config.methods.is_empty() {
        asked.as_str().to_owned()
    } else {
        entry.config.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
    };
    let mut set = |name: HeaderName, value: HeaderValue| {
        answer.insert(name, value);
    };
    if let Ok(methods) = HeaderValue::try_from(methods) {
        set(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(headers) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        set(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
    }
    set(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn only_page_loads_are_navigations() {
        let yes: [&[(&str, &str)]; 4] = [
            &[("sec-fetch-mode", "navigate")],
            &[("accept", "text/html,application/xhtml+xml;q=0.9")],
            &[("accept", " Text/HTML;q=0.9, */*")],
            &[("sec-fetch-mode", "navigate"), ("accept", "*/*")],
        ];
        for pairs in yes {
            assert!(is_navigation(&Method::GET, &headers(pairs)), "{pairs:?}");
            assert!(!is_navigation(&Method::POST, &headers(pairs)));
        }
        let no: [&[(&str, &str)]; 4] = [
            &[],
            &[("accept", "*/*")],
            &[("accept", "application/json, text/html")],
            &[("sec-fetch-mode", "cors")],
        ];
        for pairs in no {
            assert!(!is_navigation(&Method::GET, &headers(pairs)), "{pairs:?}");
        }
    }

    #[test]
    fn a_preflight_names_its_method() {
        let asked = headers(&[("origin", "https://a"), ("access-control-request-method", "PUT")]);
        assert_eq!(preflight(&Method::OPTIONS, &asked), Some(Method::PUT));
        assert_eq!(preflight(&Method::GET, &asked), None);
        assert_eq!(preflight(&Method::OPTIONS, &headers(&[("origin", "https://a")])), None);
    }
}
