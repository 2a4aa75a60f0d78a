//! Our own endpoints: an actix-web application, built once per worker and called in process.
//!
//! `service` hands it the requests below `listen.prefix` and for the well-known documents. An endpoint is added in its
//! door, not here; a further reserved path is a line in `config::is_reserved`. Doors register their endpoints under [`MOUNT`]; what
//! comes to another `listen.prefix` is put there, so that the prefix can change while the node runs.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::HttpMessage as _;
use actix_web::dev::{Service as _, ServiceResponse};
use actix_web::web::{Data, ServiceConfig};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::gateway::Gateway;
use crate::http::{Caller, Services};
use crate::model::{Body, BoxError, Refusal, RefusalKind, body};

/// Where doors register their endpoints, whatever `listen.prefix` is.
const MOUNT: &str = "/auth";

/// The largest body that our own endpoints read.
const BODY_LIMIT: usize = crate::http::body::LIMIT;

type Call = dyn Fn(actix_http::Request) -> LocalBoxFuture<'static, Result<ServiceResponse, actix_web::Error>>;

/// The application of one worker.
#[derive(Clone)]
pub(super) struct Doors(Rc<Call>);

impl Doors {
    /// Builds the application.
    pub(super) async fn build(
        services: Arc<Services>,
        gateway: Arc<Gateway>,
        doors: fn(&mut ServiceConfig),
    ) -> Self {
        Self::of(move |config| {
            config.app_data(Data::from(services)).app_data(Data::from(gateway));
            doors(config);
        })
        .await
    }

    async fn of(configure: impl FnOnce(&mut ServiceConfig)) -> Self {
        let app = actix_web::App::new().configure(configure);
        let service = Rc::new(actix_web::test::init_service(app).await);
        Self(Rc::new(move |request| {
            let service = Rc::clone(&service);
            Box::pin(async move { service.call(request).await })
        }))
    }

    /// Answers a request for an own endpoint.
    pub(super) async fn call<B>(&self, caller: Caller, prefix: &str, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (head, incoming) = request.into_parts();
        let bytes = match Limited::new(incoming, BODY_LIMIT).collect().await {
            Ok(collected) => collected.to_bytes(),
            // The door gets one byte more than it takes, and says in its own words that it is too large.
            Err(error) if error.is::<LengthLimitError>() => Bytes::from(vec![0; BODY_LIMIT + 1]),
            Err(error) => return problem(body_refusal(&*error), &caller),
        };
        let Some(request) = to_actix(&head, bytes, caller.clone(), prefix) else {
            return problem(RefusalKind::BadRequest, &caller);
        };
        let answer = match (self.0)(request).await {
            Ok(answer) => answer.into_parts().1,
            Err(error) => actix_web::HttpResponse::from_error(error),
        };
        match from_actix(answer).await {
            Some(answer) => answer,
            None => problem(RefusalKind::Internal, &caller),
        }
    }
}

/// True behind Envoy's endpoint, where the path stands that Envoy was asked for: the door gives the verdict on it.
pub(super) fn is_envoys(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("/verify/envoy/"))
}

fn body_refusal(error: &(dyn std::error::Error + 'static)) -> RefusalKind {
    error.downcast_ref::<Refusal>().map_or(RefusalKind::BadRequest, |refusal| refusal.kind)
}

/// The request in the types of actix (`http` 0.2). `None` when one of them does not take what `http` 1 took.
fn to_actix(
    head: &http::request::Parts,
    bytes: Bytes,
    caller: Caller,
    prefix: &str,
) -> Option<actix_http::Request> {
    use actix_web::http as old;

    let mut request = actix_http::Request::with_payload(actix_http::Payload::from(bytes));
    let to = request.head_mut();
    to.method = old::Method::from_bytes(head.method.as_str().as_bytes()).ok()?;
    to.peer_addr = Some(caller.connection.peer);
    // Envoy puts the path that it asks about behind this one, and is owed the verdict on what it read itself.
    let raw = head.uri.path();
    let path = if is_envoys(raw, prefix) { raw } else { caller.target.path.as_str() };
    let path = match path.strip_prefix(prefix) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{MOUNT}{rest}"),
        _ => path.to_owned(),
    };
    let target = match &caller.target.query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    to.uri = target.parse().ok()?;
    for (name, value) in &head.headers {
        let name = old::header::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        to.headers_mut().append(name, old::header::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    if !to.headers().contains_key(old::header::HOST) {
        let host = old::header::HeaderValue::from_str(&caller.target.host.to_string()).ok()?;
        to.headers_mut().insert(old::header::HOST, host);
    }
    request.extensions_mut().insert(caller);
    Some(request)
}

async fn from_actix(answer: actix_web::HttpResponse) -> Option<Response<Body>> {
    let status = StatusCode::from_u16(answer.status().as_u16()).ok()?;
    let mut to = Response::builder().status(status);
    for (name, value) in answer.headers() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        to = to.header(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    let bytes = actix_web::body::to_bytes(answer.into_body()).await.ok()?;
    to.body(body::full(bytes)).ok()
}

/// RFC 9457, for what is refused before a door is asked.
fn problem(kind: RefusalKind, caller: &Caller) -> Response<Body> {
    let document = serde_json::json!({
        "type": format!("urn:portcullis:problem:{}", kind.name()),
        "title": kind.title(),
        "status": kind.status().as_u16(),
        "request_id": caller.request_id,
    });
    let mut answer = Response::new(body::full(document.to_string()));
    *answer.status_mut() = kind.status();
    let headers = answer.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    set_own(headers);
    answer
}

/// What every own answer carries.
pub(super) fn set_own(headers: &mut http::HeaderMap) {
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(http::header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::is_reserved;
    use crate::model::{Connection, RequestId, Target};
    use actix_web::{HttpRequest, HttpResponse};

    fn caller(path: &str) -> Caller {
        Caller {
            connection: Arc::new(Connection {
                peer: "192.0.2.1:1".parse().unwrap(),
                local: "192.0.2.2:2".parse().unwrap(),
                secure: true,
                server_name: None,
                client_rule: None,
                certificate: None,
            }),
            request_id: RequestId::from_bytes([1; 16]),
            client_ip: "192.0.2.7".parse().unwrap(),
            target: Target::from_parts("POST", "gate.example", path, true).unwrap(),
            secure: true,
        }
    }

    async fn echo(request: HttpRequest, body: String) -> HttpResponse {
        let caller = request.extensions().get::<Caller>().cloned().unwrap();
        HttpResponse::Created()
            .append_header(("set-cookie", "a=1"))
            .append_header(("set-cookie", "b=2"))
            .body(format!("{} {} {} {body}", caller.client_ip, request.method(), request.uri()))
    }

    async fn ask(uri: &str, path: &str, body: impl Into<Bytes>) -> (StatusCode, usize, String) {
        ask_under("/auth", uri, path, body).await
    }

    async fn ask_under(
        prefix: &str,
        uri: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (StatusCode, usize, String) {
        let configure = |config: &mut ServiceConfig| {
            config.route("/auth/echo", actix_web::web::post().to(echo));
            config.route("/auth/verify/envoy/{path:.*}", actix_web::web::post().to(echo));
        };
        let doors = Doors::of(configure).await;
        let request = Request::post(uri).body(http_body_util::Full::new(body.into())).unwrap();
        let answer = doors.call(caller(path), prefix, request).await;
        let (head, body) = answer.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        (head.status, head.headers.get_all("set-cookie").iter().count(), text)
    }

    #[tokio::test]
    async fn the_application_answers_in_process() {
        let (status, cookies, text) = ask("/auth/%65cho?x=y", "/auth/echo?x=y", "hello").await;
        assert_eq!(
            (status, cookies, text.as_str()),
            (StatusCode::CREATED, 2, "192.0.2.7 POST /auth/echo?x=y hello")
        );
        assert_eq!(ask("/auth/none", "/auth/none", "").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn envoy_gets_the_path_that_it_sent() {
        let (_, _, text) = ask("/auth/verify/envoy/%61", "/auth/verify/envoy/a", "").await;
        assert_eq!(text, "192.0.2.7 POST /auth/verify/envoy/%61 ");
    }

    #[tokio::test]
    async fn another_prefix_leads_to_the_same_endpoints() {
        let (status, _, text) = ask_under("/gate/in", "/gate/in/echo?x", "/gate/in/echo?x", "").await;
        assert_eq!((status, text.as_str()), (StatusCode::CREATED, "192.0.2.7 POST /auth/echo?x "));
        let (_, _, text) = ask_under("/gate", "/gate/verify/envoy/%61", "/gate/verify/envoy/a", "").await;
        assert_eq!(text, "192.0.2.7 POST /auth/verify/envoy/%61 ");
    }

    #[tokio::test]
    async fn of_a_large_body_a_door_sees_that_it_is_too_large() {
        let (status, _, text) = ask("/auth/echo", "/auth/echo", vec![b'a'; BODY_LIMIT * 10]).await;
        assert_eq!(status, StatusCode::CREATED);
        assert_eq!(text.bytes().filter(|byte| *byte == 0).count(), BODY_LIMIT + 1);
    }

    #[test]
    fn own_paths_are_exact() {
        for path in [
            "/auth",
            "/auth/",
            "/auth/login",
            "/.well-known/jwks.json",
            "/.well-known/oauth-protected-resource/orders",
        ] {
            assert!(is_reserved(path, "/auth"), "{path}");
        }
        for path in
            ["/", "/authors", "/auth%2Flogin", "/.well-known/", "/.well-known/jwks.json/", "/a/auth/login"]
        {
            assert!(!is_reserved(path, "/auth"), "{path}");
        }
    }
}
