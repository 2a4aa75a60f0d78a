//! Every way in which a request is refused or fails: one list, used by the answer, the audit and the metrics.

use std::borrow::Cow;

use http::StatusCode;

/// Which refusal; its name is the audit's `reason` and the end of the problem's `type` URN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RefusalKind {
    /// 400: the request has no single reading.
    NotCanonical,
    /// 400: a request to one of our own endpoints that is malformed.
    BadRequest,
    /// 400: the client went away, or ended its request, before all of it had come.
    Interrupted,
    /// 401: no credential that the route takes.
    Unauthenticated,
    /// 401: a token that is wrong.
    InvalidToken,
    /// 401: authenticated, but not strongly or recently enough (RFC 9470).
    StepUpRequired,
    /// 403: the policy does not allow it.
    Forbidden,
    /// 403: a browser's session used from another site.
    CrossSite,
    /// 404: no route.
    NoRoute,
    /// 404: no such endpoint or object of ours.
    NotFound,
    /// 405: the route exists, for other methods.
    MethodNotAllowed,
    /// 408: the client did not send its request in time.
    RequestTimeout,
    /// 409: the object exists or was changed meanwhile.
    Conflict,
    /// 413: the body is larger than the route takes.
    TooLarge,
    /// 415: another content type than the endpoint takes.
    UnsupportedMediaType,
    /// 421: TLS name and Host select different client-certificate rules.
    Misdirected,
    /// 429: too often.
    RateLimited,
    /// 431: the head is larger than allowed.
    HeadersTooLarge,
    /// 500: a fault of ours; never an allow.
    Internal,
    /// 502: the upstream could not be reached or broke the protocol.
    UpstreamFailed,
    /// 503: the store is away and the answer depends on it.
    StoreUnavailable,
    /// 503: the decision could not be recorded.
    AuditUnavailable,
    /// 503: a bounded queue is full.
    Overloaded,
    /// 504: the upstream did not answer in time.
    UpstreamTimeout,
}

impl RefusalKind {
    /// The name: audit `reason`, and `type` is `urn:portcullis:problem:<name>` (RFC 9457).
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotCanonical => "not-canonical",
            Self::BadRequest => "bad-request",
            Self::Interrupted => "interrupted",
            Self::Unauthenticated => "unauthenticated",
            Self::InvalidToken => "invalid-token",
            Self::StepUpRequired => "step-up-required",
            Self::Forbidden => "forbidden",
            Self::CrossSite => "cross-site",
            Self::NoRoute => "no-route",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::RequestTimeout => "request-timeout",
            Self::Conflict => "conflict",
            Self::TooLarge => "too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::Misdirected => "misdirected",
            Self::RateLimited => "rate-limited",
            Self::HeadersTooLarge => "headers-too-large",
            Self::Internal => "internal",
            Self::UpstreamFailed => "upstream-failed",
            Self::StoreUnavailable => "store-unavailable",
            Self::AuditUnavailable => "audit-unavailable",
            Self::Overloaded => "overloaded",
            Self::UpstreamTimeout => "upstream-timeout",
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NotCanonical | Self::BadRequest | Self::Interrupted => StatusCode::BAD_REQUEST,
            Self::Unauthenticated | Self::InvalidToken | Self::StepUpRequired => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::CrossSite => StatusCode::FORBIDDEN,
            Self::NoRoute | Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::StoreUnavailable | Self::AuditUnavailable | Self::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The short text for the client: it says nothing of rules, accounts or upstreams.
    pub const fn title(self) -> &'static str {
        match self {
            Self::NotCanonical => "the request target is ambiguous",
            Self::BadRequest => "the request is malformed",
            Self::Interrupted => "the request ended before its body did",
            Self::Unauthenticated => "sign in first",
            Self::InvalidToken => "the token is not valid",
            Self::StepUpRequired => "a stronger or more recent sign-in is needed",
            Self::Forbidden => "not allowed",
            Self::CrossSite => "not allowed from another site",
            Self::NoRoute | Self::NotFound => "not found",
            Self::MethodNotAllowed => "method not allowed",
            Self::RequestTimeout => "the request took too long to arrive",
            Self::Conflict => "it exists already or was changed meanwhile",
            Self::TooLarge => "the request body is too large",
            Self::UnsupportedMediaType => "unsupported content type",
            Self::Misdirected => "this connection cannot serve that host",
            Self::RateLimited => "too many requests",
            Self::HeadersTooLarge => "the request head is too large",
            Self::Internal => "something went wrong here",
            Self::UpstreamFailed => "the upstream failed",
            Self::StoreUnavailable => "temporarily unavailable",
            Self::AuditUnavailable => "temporarily unavailable, decisions cannot be recorded",
            Self::Overloaded => "too busy",
            Self::UpstreamTimeout => "the upstream did not answer in time",
        }
    }
}

/// One refusal: the kind for everyone, the detail for the log alone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", kind.name())]
pub struct Refusal {
    /// Which.
    pub kind: RefusalKind,
    /// What exactly was wrong, for the log; never sent to the client.
    pub detail: Cow<'static, str>,
    /// Seconds for `Retry-After`, where a later try can succeed.
    pub retry_after: Option<u32>,
    /// The value of `Allow` for 405.
    pub allow: Option<String>,
    /// What `WWW-Authenticate` says besides the scheme, for 401 (RFC 6750 §3, RFC 9470 §3), for example
    /// `error="invalid_token"`.
    pub challenge: Option<String>,
    /// The request brought a session cookie that counts as absent and is to be cleared.
    pub clear_cookie: bool,
}

impl Refusal {
    /// A refusal with its detail for the log.
    pub fn new(kind: RefusalKind, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = match kind {
            RefusalKind::StoreUnavailable | RefusalKind::AuditUnavailable | RefusalKind::Overloaded => {
                Some(1)
            }
            _ => None,
        };
        Self { kind, detail: detail.into(), retry_after, allow: None, challenge: None, clear_cookie: false }
    }

    /// The same with `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The texts between `before` and the next quotation mark or backquote.
    fn named(text: &str, before: &str) -> Vec<String> {
        let after = text.split(before).skip(1);
        after.filter_map(|rest| rest.split(['"', '`']).next()).map(str::to_owned).collect()
    }

    #[test]
    fn every_name_is_documented_and_no_other() {
        let source = include_str!("refusal.rs").split("pub const fn status").next().unwrap();
        let names: BTreeSet<_> = named(source, "=> \"").into_iter().collect();
        assert!(names.len() > 20 && names.contains("not-canonical"), "{names:?}");
        let documented = named(include_str!("../../docs/problems.md"), "\n| `");
        assert_eq!(documented.iter().cloned().collect::<BTreeSet<_>>(), names);
        assert_eq!(documented.len(), names.len(), "each once");
    }
}
