//! Who calls an OAuth endpoint: a `[[client]]` with its secret, by Basic or in the form, or the built-in public client;
//! and the error answers of RFC 6749 §5.2.

use actix_web::HttpResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use crate::http::Services;
use crate::http::answer::own;
use crate::http::body::Parameters;
use crate::http::caller::only;
use crate::identify::SignInError;
use crate::model::{Principal, Refusal, RefusalKind, RequestId};

/// The public client of our own sign-ins, assumed when no client is named.
pub const BUILT_IN: &str = "portcullis";

/// An error of RFC 6749 §5.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OauthError {
    /// `invalid_grant`, …
    pub error: &'static str,
    /// For developers; ASCII without quotes.
    pub description: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// 401 after `Authorization: Basic`.
    pub basic: bool,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u32>,
}

impl OauthError {
    /// 400.
    pub const fn new(error: &'static str, description: &'static str) -> Self {
        Self { error, description, status: 400, basic: false, retry_after: None }
    }

    /// 503: try again.
    pub const fn unavailable() -> Self {
        Self {
            status: 503,
            retry_after: Some(1),
            ..Self::new("temporarily_unavailable", "try again shortly")
        }
    }

    /// 429: too many wrong secrets.
    pub const fn too_often(seconds: u32) -> Self {
        let error = Self::new("temporarily_unavailable", "too many wrong secrets; wait");
        Self { status: 429, retry_after: Some(seconds), ..error }
    }

    /// What a refusal is in OAuth's words.
    pub fn from_refusal(refusal: &Refusal) -> Self {
        match refusal.kind.status().as_u16() {
            503 => Self::unavailable(),
            413 => Self { status: 413, ..Self::new("invalid_request", "the body is too large") },
            500.. => Self { status: 500, ..Self::new("server_error", "something went wrong here") },
            _ if refusal.kind == RefusalKind::UnsupportedMediaType => {
                Self::new("invalid_request", "send application/x-www-form-urlencoded")
            }
            _ => Self::new("invalid_request", "a parameter is malformed or repeated"),
        }
    }

    const fn invalid_client(basic: bool) -> Self {
        Self { status: 401, basic, ..Self::new("invalid_client", "unknown client or wrong secret") }
    }

    /// The audit's `reason`.
    pub fn reason(&self) -> &'static str {
        let kind = match (self.status, self.error) {
            (503, _) => RefusalKind::StoreUnavailable,
            (429, _) => RefusalKind::RateLimited,
            (413, _) => RefusalKind::TooLarge,
            (500.., _) => RefusalKind::Internal,
            (_, "invalid_client") => RefusalKind::Unauthenticated,
            (_, "invalid_grant" | "invalid_token") => RefusalKind::InvalidToken,
            (403, _) => RefusalKind::CrossSite,
            (_, "unauthorized_client" | "invalid_scope") => RefusalKind::Forbidden,
            _ => RefusalKind::BadRequest,
        };
        kind.name()
    }

    /// The answer.
    pub fn answer(&self, id: RequestId) -> HttpResponse {
        let mut builder = own(self.status, id);
        if self.status == 401 {
            let scheme = if self.basic { "Basic" } else { "Bearer" };
            let error = if self.error == "invalid_token" { ", error=\"invalid_token\"" } else { "" };
            builder.insert_header(("www-authenticate", format!("{scheme} realm=\"portcullis\"{error}")));
        }
        if let Some(seconds) = self.retry_after {
            builder.insert_header(("retry-after", seconds.to_string()));
        }
        let body = serde_json::json!({ "error": self.error, "error_description": self.description });
        builder.insert_header(("content-type", "application/json")).body(body.to_string())
    }
}

/// Who calls.
#[derive(Debug)]
pub struct Caller {
    /// The client's id.
    pub id: String,
    /// The principal of a client that proved its secret; `None` for the built-in one, which proves nothing.
    pub principal: Option<Principal>,
}

/// What the request says of its client, before anything is checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Claimed {
    id: Option<String>,
    secret: Option<String>,
    basic: bool,
}

/// Reads `Authorization: Basic` (RFC 6749 §2.3.1) or `client_id` and `client_secret`.
///
/// # Errors
/// When both are used, or one of them is malformed.
pub fn claimed(headers: &HeaderMap, form: &Parameters) -> Result<Claimed, OauthError> {
    let id = form.get("client_id").map(str::to_owned);
    let secret = form.get("client_secret").map(str::to_owned);
    if !headers.contains_key("authorization") {
        return Ok(Claimed { id, secret, basic: false });
    }
    let (user, password) =
        only(headers, "authorization").and_then(basic).ok_or(OauthError::invalid_client(true))?;
    if secret.is_some() || id.is_some_and(|id| id != user) {
        return Err(OauthError::new("invalid_request", "the client authenticates in two ways"));
    }
    Ok(Claimed { id: Some(user), secret: Some(password), basic: true })
}

fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((form_decoded(user)?, form_decoded(password)?))
}

fn form_decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The client, proved.
///
/// # Errors
/// `invalid_client` when it is unknown, its secret is wrong, or a secret is missing; 429 after too many wrong ones.
pub async fn authenticate(
    services: &Services,
    claimed: &Claimed,
    client_ip: std::net::IpAddr,
) -> Result<Caller, OauthError> {
    let wrong = OauthError::invalid_client(claimed.basic);
    let id = claimed.id.as_deref().unwrap_or(BUILT_IN);
    if id == BUILT_IN {
        return match claimed.secret {
            None => Ok(Caller { id: BUILT_IN.to_owned(), principal: None }),
            Some(_) => Err(wrong),
        };
    }
    match &claimed.secret {
        Some(secret) => {
            let proved = services.identifier.client(id, secret, client_ip).await;
            let principal = proved.map_err(|error| match error {
                SignInError::TooOften { retry_after } => OauthError::too_often(retry_after),
                SignInError::Store(_) | SignInError::Overloaded => OauthError::unavailable(),
                SignInError::Wrong => wrong,
            })?;
            Ok(Caller { id: id.to_owned(), principal: Some(principal) })
        }
        None => Err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(header: Option<&str>, form: &str) -> Result<Claimed, OauthError> {
        let mut map = HeaderMap::new();
        if let Some(value) = header {
            map.insert("authorization", HeaderValue::from_str(value).unwrap());
        }
        claimed(&map, &Parameters::parse(form.as_bytes()).unwrap())
    }

    #[test]
    fn a_client_names_itself_in_one_way() {
        let header = format!("Basic {}", STANDARD.encode("pep:a%2Bb+c"));
        let found = read(Some(&header), "").unwrap();
        assert_eq!(found, Claimed { id: Some("pep".into()), secret: Some("a+b c".into()), basic: true });
        assert!(read(Some(&header), "client_id=pep").is_ok());
        assert_eq!(read(Some(&header), "client_id=x").unwrap_err().error, "invalid_request");
        assert_eq!(read(Some(&header), "client_secret=x").unwrap_err().error, "invalid_request");
        assert_eq!(read(Some("Basic !"), "").unwrap_err().status, 401);
        assert_eq!(read(Some("Bearer x"), "").unwrap_err().status, 401);
        let found = read(None, "client_id=pep&client_secret=s").unwrap();
        assert_eq!(found, Claimed { id: Some("pep".into()), secret: Some("s".into()), basic: false });
    }

    #[test]
    fn errors_have_the_form_of_rfc_6749() {
        let id = RequestId::new(crate::model::Timestamp::from_seconds(1));
        let answer = OauthError::invalid_client(true).answer(id);
        assert_eq!(answer.status().as_u16(), 401);
        assert!(answer.headers().get("www-authenticate").unwrap().to_str().unwrap().starts_with("Basic "));
        assert_eq!(answer.headers().get("cache-control").unwrap(), "no-store");
        assert_eq!(OauthError::unavailable().answer(id).headers().get("retry-after").unwrap(), "1");
    }
}
