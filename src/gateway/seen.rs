//! What is known of a request so far: each stage adds to it, and the audit event is made of it.
//!
//! Made by `gateway` at the start of a request.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method};

use super::headers::REQUEST_ID;
use super::routes::Entry;
use crate::decide::Decision;
use crate::http::Caller;
use crate::http::event::trace_id;
use crate::model::{Principal, RefusalKind, RequestId, Target, Timestamp};
use crate::record::{Event, Kind, Outcome};

/// Longest text of a header that goes into the audit.
const LONGEST: usize = 512;

/// What the stages found.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) time: Timestamp,
    pub(super) request_id: RequestId,
    pub(super) principal: Option<Arc<Principal>>,
    pub(super) decision: Option<Decision>,
    pub(super) clear_cookie: bool,
    pub(super) shadow: Option<&'static str>,
    /// It goes on although the store is down (`allow_known`).
    pub(super) store_is_down: bool,
    /// Another program named the principal and this action; nobody proved to be it.
    pub(super) named: Option<Box<str>>,
    route: Option<Arc<str>>,
    client_ip: IpAddr,
    method: Method,
    target: Option<Target>,
    masked: Option<String>,
    user_agent: Option<HeaderValue>,
    client_request_id: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
}

impl Seen {
    /// A request with a canonical target.
    pub(super) fn new(caller: &Caller, headers: &HeaderMap, time: Timestamp) -> Self {
        let mut seen =
            Self::unread(caller.client_ip, caller.request_id, &caller.target.method, headers, time);
        seen.target = Some(caller.target.clone());
        seen
    }

    /// A request without one.
    pub(super) fn unread(
        client_ip: IpAddr,
        request_id: RequestId,
        method: &Method,
        headers: &HeaderMap,
        time: Timestamp,
    ) -> Self {
        Self {
            time,
            request_id,
            principal: None,
            decision: None,
            clear_cookie: false,
            shadow: None,
            store_is_down: false,
            named: None,
            route: None,
            client_ip,
            method: method.clone(),
            target: None,
            masked: None,
            user_agent: headers.get(USER_AGENT).cloned(),
            client_request_id: headers.get(REQUEST_ID).cloned(),
            traceparent: headers.get("traceparent").cloned(),
        }
    }

    /// The route is known: its name, and what of the path it hides.
    pub(super) fn routed(&mut self, entry: &Entry) {
        self.route = Some(Arc::clone(&entry.name));
        self.mask(entry);
    }

    /// Only what the route hides: the route itself does not take the request.
    pub(super) fn mask(&mut self, entry: &Entry) {
        if let Some(std::borrow::Cow::Owned(masked)) =
            self.target.as_ref().map(|target| entry.audited(target.path.as_str()))
        {
            self.masked = Some(masked);
        }
    }

    /// The target is known after all.
    pub(super) fn canonical(&mut self, target: &Target) {
        self.target = Some(target.clone());
    }

    /// What stands for the path of something that has none.
    pub(super) fn instead_of_a_path(&mut self, text: &str) {
        self.target = None;
        self.masked = Some(text.to_owned());
    }

    /// The path is refused as it stands: the audit has none.
    pub(super) fn not_canonical(&mut self) {
        self.target = None;
        self.masked = None;
    }

    pub(super) fn route_name(&self) -> &str {
        self.route.as_deref().unwrap_or_default()
    }

    /// The access event with everything known by now.
    pub(super) fn event<'a>(&'a self, decision: Outcome, reason: Option<&'a str>) -> Event<'a> {
        let decided = self.decision.as_ref();
        let principal = self.principal.as_deref();
        Event {
            kind: Kind::Access,
            decision,
            reason: reason.or_else(|| self.store_is_down.then(|| RefusalKind::StoreUnavailable.name())),
            time: self.time,
            principal,
            roles: decided.map(|decided| &*decided.roles).unwrap_or_default(),
            auth: match self.named {
                Some(_) => Some("authzen"),
                None => principal.map(|principal| principal.method.as_str()),
            },
            client_ip: Some(self.client_ip),
            user_agent: text(self.user_agent.as_ref()),
            method: Some(self.named.as_deref().unwrap_or(self.method.as_str())),
            host: self.target.as_ref().map(|target| target.host.name()),
            path: self.masked.as_deref().or_else(|| self.target.as_ref().map(|target| target.path.as_str())),
            route: self.route.as_deref(),
            rule: decided.and_then(|decided| decided.rule.as_ref()),
            policy: decided.map(|decided| &*decided.digest),
            shadow: self.shadow,
            request_id: Some(self.request_id),
            client_request_id: text(self.client_request_id.as_ref()),
            trace_id: text(self.traceparent.as_ref()).and_then(trace_id),
            count: None,
        }
    }
}

/// The header's text, when it is ASCII; cut where it is too long.
fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok()).map(|text| text.get(..LONGEST).unwrap_or(text))
}
