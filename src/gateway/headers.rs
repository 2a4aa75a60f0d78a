//! What an upstream sees of the client's headers: everything that could carry identity or routing is removed, in
//! every spelling, before ours are set.
//!
//! Called by `gateway` for each forwarded request. A name to remove is one more arm of [`is_ours`].

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE, EXPECT, HOST, HeaderName};
use http::{HeaderMap, HeaderValue};

use crate::forward::hop;
use crate::http::Caller;
use crate::model::AuthMethod;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// The id of a request, on requests and answers.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What cleaning needs to know of the request's route and identity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cleaning<'a> {
    /// Normalised names of `listen.strip_headers`.
    pub(super) strip: &'a [String],
    pub(super) pass_authorization: bool,
    pub(super) method: AuthMethod,
}

/// Lower case, with `_` and `.` as `-`: how names are compared.
pub(super) fn normalised(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b == b'_' || b == b'.' || b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase().replace(['_', '.'], "-"))
    } else {
        Cow::Borrowed(name)
    }
}

/// Cleans the client's headers and sets those of the connection and the forwarding.
pub(super) fn prepare(headers: &mut HeaderMap, caller: &Caller, cleaning: Cleaning<'_>) {
    hop::remove(headers);
    let peer = caller.connection.peer.ip().to_canonical();
    let trusted = caller.client_ip.to_canonical() != peer;
    let earlier = if trusted { forwarded_for(headers) } else { None };
    let gone: Vec<HeaderName> =
        headers.keys().filter(|name| goes(name.as_str(), trusted, cleaning.strip)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    headers.remove(EXPECT);
    if !cleaning.pass_authorization {
        headers.remove(AUTHORIZATION);
        remove_our_cookies(headers);
        if cleaning.method == AuthMethod::ApiKey {
            headers.remove("x-api-key");
        }
    }
    set_forwarding(headers, caller, earlier.as_deref());
}

/// Cleans the fields after a chunked body, which some servers add to the headers: no identity, no framing, nothing of
/// the forwarding.
pub(super) fn clean_trailers(trailers: &mut HeaderMap, strip: &[String]) {
    hop::remove(trailers);
    let gone = |name: &HeaderName| goes(name.as_str(), false, strip) || is_framing(name.as_str());
    let gone: Vec<HeaderName> = trailers.keys().filter(|name| gone(name)).cloned().collect();
    for name in gone.iter().chain(&[AUTHORIZATION, COOKIE, EXPECT, HOST]) {
        trailers.remove(name);
    }
}

fn goes(name: &str, trusted: bool, strip: &[String]) -> bool {
    let normal = normalised(name);
    let respelled = matches!(normal, Cow::Owned(_));
    is_ours(&normal)
        || strip.iter().any(|stripped| *stripped == *normal)
        || (respelled && is_framing(&normal))
        || ((respelled || !trusted) && is_forwarding(&normal))
}

/// Names that carry identity or override the request, normalised (`interface.md` §5).
fn is_ours(name: &str) -> bool {
    let starts = |prefix: &str| name.starts_with(prefix);
    match name.as_bytes().first() {
        Some(b'p') => starts("portcullis-"),
        Some(b'r') => matches!(name, "remote-user" | "remote-groups" | "remote-email" | "remote-name"),
        Some(b'c') => starts("client-cert"),
        Some(b's') => starts("ssl-client-"),
        Some(b'f') => name == "forwarded",
        Some(b'x') => {
            matches!(
                name,
                "x-forwarded-user"
                    | "x-forwarded-email"
                    | "x-forwarded-groups"
                    | "x-forwarded-preferred-username"
                    | "x-forwarded-access-token"
                    | "x-forwarded-client-cert"
                    | "x-method-override"
            ) || [
                "x-remote-",
                "x-auth-request-",
                "x-forwarded-tls-client-cert",
                "x-authentik-",
                "x-pomerium-",
                "x-webauth-",
                "x-original-",
                "x-rewrite-",
                "x-http-method",
            ]
            .into_iter()
            .any(starts)
        }
        _ => false,
    }
}

fn is_framing(name: &str) -> bool {
    matches!(
        name,
        "content-length"
            | "content-encoding"
            | "content-type"
            | "transfer-encoding"
            | "proxy-connection"
            | "proxy-authorization"
            | "keep-alive"
            | "x-request-id"
            | "x-api-key"
    )
}

fn is_forwarding(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "x-real-ip" | "true-client-ip" | "cf-connecting-ip")
}

/// What a trusted proxy said of those before it.
fn forwarded_for(headers: &HeaderMap) -> Option<String> {
    let mut joined = String::new();
    for value in headers.get_all(FORWARDED_FOR) {
        let value = value.to_str().ok()?;
        if !joined.is_empty() {
            joined.push_str(", ");
        }
        joined.push_str(value.trim());
    }
    (!joined.is_empty()).then_some(joined)
}

fn set_forwarding(headers: &mut HeaderMap, caller: &Caller, earlier: Option<&str>) {
    let peer = caller.connection.peer.ip().to_canonical();
    let chain = match earlier {
        Some(earlier) => format!("{earlier}, {peer}"),
        None => peer.to_string(),
    };
    if let Ok(chain) = HeaderValue::try_from(chain) {
        headers.insert(FORWARDED_FOR, chain);
    } else {
        headers.remove(FORWARDED_FOR);
    }
    let secure = caller.secure;
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if secure { "https" } else { "http" }));
    let host = &caller.target.host;
    match HeaderValue::try_from(host.to_string()) {
        Ok(value) => {
            headers.insert(HOST, value.clone());
            headers.insert(FORWARDED_HOST, value);
        }
        Err(_) => {
            headers.remove(HOST);
            headers.remove(FORWARDED_HOST);
        }
    }
    let port = match host.port() {
        Some(port) => HeaderValue::from(port),
        None => HeaderValue::from_static(if secure { "443" } else { "80" }),
    };
    headers.insert(FORWARDED_PORT, port);
}

/// True for the session cookie and those that our sign-in sets beside it, under either prefix.
fn is_our_cookie(name: &[u8]) -> bool {
    let name = name.strip_prefix(b"__Host-").unwrap_or(name);
    name == b"portcullis" || name.starts_with(b"portcullis-")
}

/// True when the client sent a cookie that may be ours.
fn has_our_cookie(headers: &HeaderMap) -> bool {
    let holds = |value: &HeaderValue| value.as_bytes().windows(10).any(|window| window == b"portcullis");
    headers.get_all(COOKIE).iter().any(holds)
}

fn remove_our_cookies(headers: &mut HeaderMap) {
    if !has_our_cookie(headers) {
        return;
    }
    let mut kept: Vec<u8> = Vec::new();
    for value in headers.get_all(COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            if pair.is_empty() || is_our_cookie(name) {
                continue;
            }
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(pair);
        }
    }
    headers.remove(COOKIE);
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(&kept)
    {
        headers.insert(COOKIE, value);
    }
}

/// Removes from an upstream's answer any cookie under one of our names: only we may set those.
pub(super) fn remove_foreign_sessions(headers: &mut HeaderMap) {
    use http::header::SET_COOKIE;
    let ours = |value: &HeaderValue| {
        let name = value.as_bytes().split(|byte| *byte == b'=' || *byte == b';').next().unwrap_or_default();
        is_our_cookie(name.trim_ascii())
    };
    if !headers.get_all(SET_COOKIE).iter().any(ours) {
        return;
    }
    let kept: Vec<HeaderValue> =
        headers.get_all(SET_COOKIE).iter().filter(|value| !ours(value)).cloned().collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(names: &[&str]) -> HeaderMap {
        names.iter().map(|n| (n.parse::<HeaderName>().unwrap(), HeaderValue::from_static("forged"))).collect()
    }

    fn left(names: &[&str], trusted: bool) -> Vec<String> {
        let strip = [normalised("X_Tenant").into_owned()];
        map(names).keys().filter(|n| !goes(n.as_str(), trusted, &strip)).map(ToString::to_string).collect()
    }

    #[test]
    fn identity_headers_are_removed_in_every_spelling() {
        for name in [
            "Portcullis-User",
            "portcullis_user",
            "Portcullis.Roles",
            "Remote_User",
            "REMOTE.GROUPS",
            "remote-email",
            "remote-name",
            "x_remote_anything",
            "X-Auth-Request-Email",
            "X.Auth_Request.User",
            "X_Forwarded_User",
            "x-forwarded-preferred-username",
            "x-forwarded-access_token",
            "X-Forwarded-Tls-Client-Cert-Info",
            "X-Authentik-Username",
            "x_pomerium_jwt_assertion",
            "X-WebAuth-User",
            "Client-Cert",
            "client_cert_chain",
            "SSL_CLIENT_S_DN",
            "X-Original-URL",
            "X_Original_Method",
            "x-rewrite-url",
            "X-HTTP-Method",
            "x.http.method.override",
            "X-Method-Override",
            "Forwarded",
            "X-Tenant",
            "x.tenant",
            "X_Forwarded_For",
            "x.forwarded.host",
            "content_length",
            "Transfer_Encoding",
            "X-Real-IP",
            "x_real_ip",
            "x-forwarded-for",
        ] {
            assert!(left(&[name], false).is_empty(), "{name}");
        }
        let stays = ["x-custom", "x_custom", "remote-control", "x-request-id", "accept", "x-forward"];
        assert_eq!(left(&stays, false).len(), stays.len());
    }

    #[test]
    fn a_trusted_proxy_may_say_more_of_forwarding_but_never_identity() {
        assert_eq!(
            left(&["x-forwarded-prefix", "x-forwarded-user", "x_forwarded_prefix"], true),
            ["x-forwarded-prefix"]
        );
    }

    #[test]
    fn trailers_carry_no_identity() {
        let mut trailers = map(&[
            "portcullis-user",
            "X_Forwarded_User",
            "x-forwarded-for",
            "x-tenant",
            "authorization",
            "cookie",
            "host",
            "content-length",
            "x-api-key",
            "transfer-encoding",
            "connection",
            "grpc-status",
        ]);
        clean_trailers(&mut trailers, &["x-tenant".to_owned()]);
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }

    #[test]
    fn our_cookies_stay_here() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; __Host-portcullis=secret;b=2"));
        headers
            .append(COOKIE, HeaderValue::from_static("portcullis=x; portcullis-before=y; my-portcullis=z"));
        remove_our_cookies(&mut headers);
        let all: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(all, ["a=1; b=2; my-portcullis=z"]);
        headers.insert(COOKIE, HeaderValue::from_static("portcullis=x"));
        remove_our_cookies(&mut headers);
        assert!(!headers.contains_key(COOKIE));
    }

    #[test]
    fn an_upstream_cannot_set_our_session() {
        use http::header::SET_COOKIE;
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("__Host-portcullis=fixed; Path=/"));
        headers.append(SET_COOKIE, HeaderValue::from_static("theirs=1"));
        remove_foreign_sessions(&mut headers);
        assert_eq!(headers.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), ["theirs=1"]);
    }
}
