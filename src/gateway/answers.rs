//! Our own answers on the data path: problems (RFC 9457), challenges (RFC 6750, 7617, 9470), the way to the login page.
//!
//! Called by `gateway`. A refusal says its name and nothing of rules, accounts or upstreams.

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, LOCATION, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use super::browser::own_origin;
use super::headers::REQUEST_ID;
use crate::http::Caller;
use crate::model::{Body, Refusal, RefusalKind, RequestId, body};

const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What answers need of the configuration.
#[derive(Debug)]
pub(super) struct Ours {
    login: String,
    clear_cookie: HeaderValue,
}

impl Ours {
    pub(super) fn new(public_url: &Url, prefix: &str) -> Self {
        let public = public_url.as_str().trim_end_matches('/');
        let cookie = if public_url.scheme() == "https" {
            "__Host-portcullis=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0; Secure"
        } else {
            "portcullis=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"
        };
        Self {
            login: format!("{public}{prefix}/login?return_to="),
            clear_cookie: HeaderValue::from_static(cookie),
        }
    }

    /// Where a browser signs in to come back to this request.
    pub(super) fn login(&self, caller: &Caller) -> String {
        let target = &caller.target;
        let mut back = own_origin(caller);
        back.push_str(target.path.as_str());
        if let Some(query) = &target.query {
            back.push('?');
            back.push_str(query);
        }
        format!("{}{}", self.login, utf8_percent_encode(&back, QUERY))
    }

    pub(super) fn clear_cookie(&self, answer: &mut HeaderMap) {
        answer.append(SET_COOKIE, self.clear_cookie.clone());
    }
}

/// The id as every answer carries it.
pub(super) fn set_request_id(id: RequestId, answer: &mut HeaderMap) {
    answer.insert(REQUEST_ID, id.header_value());
}

/// An answer of ours without a body.
pub(super) fn bare(status: StatusCode, id: RequestId) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = status;
    own(response.headers_mut(), id);
    response
}

/// The way to the login page.
pub(super) fn redirect(location: &str, id: RequestId) -> Response<Body> {
    let mut response = bare(StatusCode::FOUND, id);
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// A refusal as `application/problem+json`. `basic`: the route also takes a user name and password.
pub(super) fn problem(refusal: &Refusal, id: RequestId, basic: bool) -> Response<Body> {
    let kind = refusal.kind;
    let status = kind.status();
    let text = format!(
        r#"{{"type":"urn:portcullis:problem:{}","title":"{}","status":{},"request_id":"{id}"}}"#,
        kind.name(),
        kind.title(),
        status.as_u16(),
    );
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    own(headers, id);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    let mut set = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(name, value);
        }
    };
    if status == StatusCode::UNAUTHORIZED {
        set(WWW_AUTHENTICATE, challenge(refusal));
        if basic {
            set(WWW_AUTHENTICATE, "Basic realm=\"portcullis\", charset=\"UTF-8\"".to_owned());
        }
    }
    if let Some(allow) = &refusal.allow {
        set(ALLOW, allow.clone());
    }
    if let Some(seconds) = refusal.retry_after {
        set(RETRY_AFTER, seconds.to_string());
    }
    response
}

fn challenge(refusal: &Refusal) -> String {
    match (&refusal.challenge, refusal.kind) {
        (Some(challenge), _) => format!("Bearer {challenge}"),
        (None, RefusalKind::InvalidToken) => "Bearer error=\"invalid_token\"".to_owned(),
        (None, _) => "Bearer realm=\"portcullis\"".to_owned(),
    }
}

fn own(headers: &mut HeaderMap, id: RequestId) {
    set_request_id(id, headers);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[test]
    fn a_refusal_names_itself_and_nothing_else() {
        let id = RequestId::from_bytes([7; 16]);
        let mut refusal = Refusal::new(RefusalKind::MethodNotAllowed, "secret detail");
        refusal.allow = Some("GET".to_owned());
        let response = problem(&refusal, id, false);
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET");
        assert_eq!(response.headers()["x-request-id"], id.to_string().as_str());
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["type"], "urn:portcullis:problem:method-not-allowed");
        assert_eq!(json["request_id"], id.to_string());
        assert!(!String::from_utf8_lossy(&bytes).contains("secret"));
    }

    #[test]
    fn challenges_name_an_error_only_with_a_token() {
        let of = |kind| {
            let refusal = Refusal::new(kind, "");
            problem(&refusal, RequestId::from_bytes([0; 16]), false).headers()["www-authenticate"].clone()
        };
        assert_eq!(of(RefusalKind::Unauthenticated), "Bearer realm=\"portcullis\"");
        assert_eq!(of(RefusalKind::InvalidToken), "Bearer error=\"invalid_token\"");
        let mut refusal = Refusal::new(RefusalKind::StepUpRequired, "");
        refusal.challenge = Some("error=\"insufficient_user_authentication\", max_age=\"60\"".to_owned());
        let response = problem(&refusal, RequestId::from_bytes([0; 16]), true);
        let all: Vec<_> = response.headers().get_all(WWW_AUTHENTICATE).iter().collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], "Bearer error=\"insufficient_user_authentication\", max_age=\"60\"");
    }
}
