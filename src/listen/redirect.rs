//! The plain HTTP listener that knows nothing but the https address (`listen.redirect_http`).

use http::header::{CONNECTION, HOST, LOCATION};
use http::{HeaderValue, Request, Response, StatusCode};
use url::Url;

use super::doors::set_own;
use super::service::Behind;
use crate::model::{Body, Target, body};

/// 308 to the same host when it is one of ours, else to the public URL; 400 for what has no single reading.
pub(super) fn answer<N: Behind, B>(behind: &N, request: &Request<B>) -> Response<Body> {
    let location = if request.headers().contains_key(HOST) {
        Target::from_request(request.method(), request.uri(), request.headers(), false).ok().and_then(
            |target| {
                let known = behind.knows_host(target.host.name());
                let base = behind.listen(|listen| listen.public_url.clone());
                HeaderValue::from_str(&location(&base, known, &target)).ok()
            },
        )
    } else {
        None
    };
    let mut answer = Response::new(body::empty());
    set_own(answer.headers_mut());
    match location {
        Some(location) => {
            *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
            answer.headers_mut().insert(LOCATION, location);
        }
        None => {
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    answer
}

fn location(public_url: &Url, known: bool, target: &Target) -> String {
    let host = if known { target.host.name() } else { public_url.host_str().unwrap_or_default() };
    let port = public_url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let query = target.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
    format!("https://{host}{port}{}{query}", target.path.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_kept_only_when_it_is_ours() {
        let public_url = "https://gate.example:8443".parse().unwrap();
        let target = Target::from_parts("GET", "Api.Example:80", "/a%20b?c=d", false).unwrap();
        assert_eq!(location(&public_url, true, &target), "https://api.example:8443/a%20b?c=d");
        assert_eq!(location(&public_url, false, &target), "https://gate.example:8443/a%20b?c=d");
    }
}
