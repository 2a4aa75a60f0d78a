//! How the admin API says no (RFC 9457): one error type for every handler, and the answers to bodies, queries and paths
//! that cannot be read. A further source of errors is one `From` here.

use std::fmt;

use actix_web::error::{JsonPayloadError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError, web};

use crate::accounts::AccountError;
use crate::identify::SignInError;
use crate::keys::KeyError;
use crate::model::{RefusalKind, RequestId};
use crate::record::RecordError;
use crate::store::StoreError;
use crate::tokens::TokenError;

/// The largest body of a call, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;

/// A refusal with what to do about it.
#[derive(Debug)]
pub struct Problem {
    kind: RefusalKind,
    detail: String,
    allow: Option<String>,
}

impl Problem {
    /// A problem; `detail` is for the operator and says what to do.
    pub fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), allow: None }
    }

    /// 405 with what the resource takes.
    pub fn only(methods: &str) -> Self {
        let detail = format!("this takes {methods}; /api/v1/openapi.json describes the API");
        Self { allow: Some(methods.to_owned()), ..Self::new(RefusalKind::MethodNotAllowed, detail) }
    }

    /// The answer to the request with this id.
    pub fn answer(&self, request_id: Option<RequestId>) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status_code());
        answer.content_type("application/problem+json");
        if let Some(methods) = &self.allow {
            answer.insert_header(("allow", methods.as_str()));
        }
        if self.kind.status() == http::StatusCode::UNAUTHORIZED {
            answer.insert_header(("www-authenticate", "Bearer realm=\"portcullis operators\""));
        }
        if self.kind.status() == http::StatusCode::SERVICE_UNAVAILABLE {
            answer.insert_header(("retry-after", "1"));
        }
        answer.json(serde_json::json!({
            "type": format!("urn:portcullis:problem:{}", self.kind.name()),
            "title": self.kind.title(),
            "status": self.kind.status().as_u16(),
            "detail": self.detail,
            "request_id": request_id.map(|id| id.to_string()),
        }))
    }

    /// The name of the refusal, for the audit.
    pub const fn name(&self) -> &'static str {
        self.kind.name()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.kind.status().as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        // `guard` writes it anew with the id of the request.
        self.answer(None)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::new(RefusalKind::StoreUnavailable, error.to_string())
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        Self::new(RefusalKind::AuditUnavailable, format!("nothing was changed: {error}"))
    }
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        let kind = match error {
            AccountError::Exists(_) | AccountError::Lookalike(..) | AccountError::Changed(_) => {
                RefusalKind::Conflict
            }
            AccountError::Unknown(_) => RefusalKind::NotFound,
            AccountError::NameIsRole(_) | AccountError::RoleIsName(_) | AccountError::InFile(_) => {
                RefusalKind::BadRequest
            }
            AccountError::Store(_) => RefusalKind::StoreUnavailable,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let kind = match error {
            KeyError::Unknown(_) => RefusalKind::NotFound,
            KeyError::Last(_) => RefusalKind::Conflict,
            KeyError::Store(_) => RefusalKind::StoreUnavailable,
            _ => RefusalKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let kind = match error {
            TokenError::Invalid(_) | TokenError::TooLong(_) => RefusalKind::BadRequest,
            TokenError::Unknown | TokenError::Store(_) => RefusalKind::StoreUnavailable,
            TokenError::Key(_) => RefusalKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<SignInError> for Problem {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Store(error) => error.into(),
            _ => Self::new(RefusalKind::Overloaded, "the hashing queue is full; try again"),
        }
    }
}

/// What bodies, queries and paths that cannot be read are answered with.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .app_data(web::JsonConfig::default().limit(BODY_LIMIT).error_handler(|error, _| body(&error).into()))
        .app_data(web::QueryConfig::default().error_handler(|error, _| query(&error).into()))
        .app_data(web::PathConfig::default().error_handler(|error, _| {
            Problem::new(RefusalKind::BadRequest, format!("the path: {error}")).into()
        }));
}

fn body(error: &JsonPayloadError) -> Problem {
    match error {
        JsonPayloadError::ContentType => Problem::new(
            RefusalKind::UnsupportedMediaType,
            "send the body as JSON with Content-Type: application/json",
        ),
        JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
            Problem::new(RefusalKind::TooLarge, format!("a body has {BODY_LIMIT} bytes at most"))
        }
        JsonPayloadError::Deserialize(error) => {
            Problem::new(RefusalKind::BadRequest, format!("the body: {error}; see /api/v1/openapi.json"))
        }
        other => Problem::new(RefusalKind::BadRequest, format!("the body: {other}")),
    }
}

fn query(error: &QueryPayloadError) -> Problem {
    let QueryPayloadError::Deserialize(error) = error else {
        return Problem::new(RefusalKind::BadRequest, format!("the query: {error}"));
    };
    Problem::new(RefusalKind::BadRequest, format!("the query: {error}; see /api/v1/openapi.json"))
}
