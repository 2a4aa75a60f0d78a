//! From the permit to the answer's head: identity headers, the log, the upstream, the log.
//!
//! Called by `gateway` once a request is admitted. What goes on after the head is looked after by `stream` and `tunnel`.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::upgrade::OnUpgrade;

use super::admit::Admitted;
use super::headers::{self, Cleaning, REQUEST_ID};
use super::limit::Limited;
use super::routes::Entry;
use super::seen::Seen;
use super::stream::{Credentials, Held, StreamEnd, Watched};
use super::{Gateway, Open, Routing, answers, tunnel};
use crate::forward::{Pool, Switched, is_stream};
use crate::http::Caller;
use crate::model::{Body, BoxError, Refusal, RefusalKind};
use crate::record::Outcome;

/// Answers of known length up to this are passed on without being watched.
const SHORT: u64 = 1 << 20;

impl Gateway {
    /// The whole step; always an answer.
    #[expect(clippy::too_many_arguments, reason = "what the stages before found, each once")]
    pub(super) async fn go_on<B>(
        &self,
        routing: &Routing,
        pool: &Pool,
        caller: &Caller,
        mut request: Request<B>,
        admitted: Admitted<'_>,
        seen: &Seen,
        open: &Open,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let Admitted { entry, permit, principal, roles, epoch, store_is_down } = admitted;
        let upstream = entry.config.upstream.as_deref().unwrap_or_default();
        let ready = upload_limit(entry, request.headers())
            .and_then(|limit| Ok((limit, self.identity(entry, &principal, &roles)?)));
        let (limit, identity) = match ready {
            Ok(ready) => ready,
            Err(refusal) => return Box::pin(self.failed(caller, seen, None, &refusal)).await,
        };
        match self.services.recorder.begin(&seen.event(Outcome::Allow, None)).await {
            Ok(pending) => open.replace(Some(pending)),
            Err(error) => {
                let refusal = Refusal::new(RefusalKind::AuditUnavailable, error.to_string());
                return Box::pin(self.failed(caller, seen, None, &refusal)).await;
            }
        };
        let stands = self.still_stands(caller, request.headers(), entry, &principal, epoch, store_is_down);
        if let Err(refusal) = stands.await {
            return Box::pin(self.failed(caller, seen, open.take(), &refusal)).await;
        }
        let credentials = Credentials::of(request.headers());
        let client = wants_websocket(&request).then(|| hyper::upgrade::on(&mut request));
        let mut request = request.map(|body| Limited::new(body, limit, Arc::clone(&routing.strip)));
        let cleaning = Cleaning {
            strip: &routing.strip,
            pass_authorization: entry.config.pass_authorization,
            method: principal.method,
        };
        headers::prepare(request.headers_mut(), caller, cleaning);
        if client.is_some() {
            set_websocket(request.headers_mut());
        }
        identity.set(entry.config.identity_headers, request.headers_mut());
        if !request.headers().contains_key(REQUEST_ID) {
            answers::set_request_id(caller.request_id, request.headers_mut());
        }
        let timeouts = &entry.config.timeout;
        let sent = pool.send(permit, &routing.upstreams, upstream, timeouts, &caller.target, request).await;
        match (sent, open.take()) {
            (Ok(mut answer), Some(pending)) => {
                self.close(seen, pending, answer.status().as_u16(), None);
                headers::remove_foreign_sessions(answer.headers_mut());
                answers::set_request_id(caller.request_id, answer.headers_mut());
                let held = || Held::new(caller, credentials, entry, &principal);
                self.watch(answer, client, seen, held, entry)
            }
            (Err(refusal), pending) => Box::pin(self.failed(caller, seen, pending, &refusal)).await,
            (Ok(_), None) => {
                let refusal = Refusal::new(RefusalKind::Internal, "the decision's record was lost");
                Box::pin(self.failed(caller, seen, None, &refusal)).await
            }
        }
    }

    /// Looks after what comes after the head, when that can take long.
    fn watch(
        &self,
        mut answer: Response<Body>,
        client: Option<OnUpgrade>,
        seen: &Seen,
        held: impl FnOnce() -> Held,
        entry: &Entry,
    ) -> Response<Body> {
        let status = answer.status().as_u16();
        let end = |held: &Held| StreamEnd::new(&self.services, seen.clone(), status, held.unknown());
        if let (Some(client), Some(upstream)) = (client, answer.extensions_mut().remove::<Switched>()) {
            set_websocket(answer.headers_mut());
            let idle = entry.config.timeout.stream_idle;
            let held = held();
            let end = end(&held).always();
            tokio::spawn(tunnel::run(client, upstream, held.guard(&self.services), idle, end));
            return answer;
        }
        let lasting = is_stream(answer.headers());
        let known = http_body::Body::size_hint(answer.body()).exact();
        if !lasting && known.is_some_and(|length| length <= SHORT) {
            return answer;
        }
        let held = held();
        let end = if lasting { end(&held).always() } else { end(&held) };
        let services = &self.services;
        answer.map(|body| http_body_util::BodyExt::boxed_unsync(Watched::new(body, services, held, end)))
    }
}

/// True for the first request of a WebSocket (RFC 6455 §4.2.1). No other protocol is switched to: behind an upgrade to
/// a version of HTTP there would be requests that nobody decided on.
fn wants_websocket<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let lists = |name, wanted: &str| {
        let mut parts = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
        parts.any(|part| part.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
    };
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let only = upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && upgrades.next().is_none();
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && only
        && lists(CONNECTION, "upgrade")
}

/// The two headers that belong to the connection, set anew on either side.
fn set_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The limit that applies to the request's body: `None` when it is not counted.
fn upload_limit(entry: &Entry, headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
    let Some(limit) = entry.config.body_limit.filter(|_| !headers.get(CONTENT_TYPE).is_some_and(grpc)) else {
        return Ok(None);
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(Refusal::new(RefusalKind::TooLarge, format!("the body is larger than {limit} bytes")));
    }
    Ok(Some(limit))
}
