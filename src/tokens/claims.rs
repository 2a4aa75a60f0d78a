//! Reading an access token strictly (RFC 9068, RFC 7519, RFC 8725): every doubt is a problem, and a token with a problem
//! is refused. The same code answers a request and `token inspect`.
//!
//! A new claim is a field of [`Claims`] and a line in [`Claims::read`].

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value};

use super::json::Unique;
use crate::keys::Verifier;
use crate::model::{Acr, AttributeValue, Attributes, RoleName, Timestamp};

/// The longest token that is looked at, in bytes.
pub(super) const LONGEST: usize = 16 * 1024;

/// 9999-12-31T23:59:59Z: later times are mistakes.
const LAST_SECOND: u64 = 253_402_300_799;

/// What a token has to say to count here.
pub struct Expected<'a> {
    /// The one issuer.
    pub issuer: &'a str,
    /// One of these is in `aud`.
    pub audience: &'a [String],
    /// The time; there is no leeway.
    pub now: Timestamp,
}

/// Whether the signature is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signature {
    /// By a key of the set, with the algorithm that belongs to it.
    Valid,
    /// It is not.
    Invalid,
    /// The set has no such key.
    NoKey,
}

/// What verification says of a token: the answer of `token inspect`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Inspection {
    /// Whether the signature is right.
    pub signature: Signature,
    /// The header; `null` when it cannot be read.
    pub header: Value,
    /// The claims; `null` when they cannot be read.
    pub claims: Value,
    /// What is wrong; empty: the token counts.
    pub problems: Vec<String>,
    /// The typed claims, when nothing is wrong with them.
    #[serde(skip)]
    pub(super) read: Option<Claims>,
}

/// The claims of an access token, each of its type.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    pub(super) kid: String,
    pub(super) subject: String,
    pub(super) client: String,
    pub(super) jti: String,
    pub(super) issued: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) scope: Vec<Arc<str>>,
    pub(super) auth_time: Option<Timestamp>,
    pub(super) acr: Acr,
    pub(super) amr: Vec<Arc<str>>,
    pub(super) sid: Option<String>,
    pub(super) roles: Vec<Arc<str>>,
    pub(super) attributes: Attributes,
    pub(super) tenant: Option<String>,
    pub(super) email: Option<String>,
    pub(super) certificate: Option<String>,
}

/// Looks at a token with the keys that `key` gives by `kid`; keys, addresses and certificates in its header are ignored.
pub fn inspect(
    token: &str,
    key: &dyn Fn(&str) -> Option<Arc<Verifier>>,
    expected: &Expected<'_>,
) -> Inspection {
    let mut seen = Inspection {
        signature: Signature::NoKey,
        header: Value::Null,
        claims: Value::Null,
        problems: Vec::new(),
        read: None,
    };
    let (header, claims, message, signature) = match split(token) {
        Ok(parts) => parts,
        Err(problem) => {
            seen.problems.push(problem);
            return seen;
        }
    };
    let Some(header) = object(header) else {
        seen.problems.push("the header is not an object in base64url with each member once".to_owned());
        return seen;
    };
    let kid = check_header(&header, &["at+jwt"], &mut seen.problems);
    match kid.as_deref().and_then(key) {
        None => seen.problems.push("no key of ours has its `kid`".to_owned()),
        Some(verifier) => {
            seen.signature = check_signature(&header, message, signature, &verifier, &mut seen.problems);
        }
    }
    seen.header = Value::Object(header);
    let Some(claims) = object(claims) else {
        seen.problems.push("the claims are not an object in base64url with each member once".to_owned());
        return seen;
    };
    let read = Claims::read(&claims, kid.unwrap_or_default(), expected, &mut seen.problems);
    seen.claims = Value::Object(claims);
    if seen.problems.is_empty() && seen.signature == Signature::Valid {
        seen.read = read;
    }
    seen
}

/// Header, claims, the text that is signed, and the signature (RFC 7515 §7.1).
pub(super) fn split(token: &str) -> Result<(&str, &str, &str, &str), String> {
    if token.len() > LONGEST {
        return Err(format!("the token is longer than {LONGEST} bytes"));
    }
    let parts = token.rsplit_once('.').and_then(|(message, signature)| {
        let (header, claims) = message.split_once('.').filter(|(_, claims)| !claims.contains('.'))?;
        Some((header, claims, message, signature))
    });
    parts.ok_or_else(|| "the token has not three parts".to_owned())
}

pub(super) fn object(part: &str) -> Option<Map<String, Value>> {
    match serde_json::from_slice::<Unique>(&BASE64URL.decode(part).ok()?).ok()?.0 {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// The `kid`, when the header is that of an access token: its `typ` is one of `types`.
pub(super) fn check_header(
    header: &Map<String, Value>,
    types: &[impl AsRef<str>],
    problems: &mut Vec<String>,
) -> Option<String> {
    let typ = header.get("typ").and_then(Value::as_str).unwrap_or_default();
    if !types.iter().any(|wanted| media_type(wanted.as_ref()) == media_type(typ)) {
        let types: Vec<_> = types.iter().map(|wanted| format!("`{}`", wanted.as_ref())).collect();
        problems.push(format!("`typ` is not {}: it is no access token", types.join(" or ")));
    }
    if header.contains_key("crit") {
        problems.push("`crit` names extensions, and none is known here".to_owned());
    }
    let kid = header.get("kid").and_then(Value::as_str).map(str::to_owned);
    if kid.is_none() {
        problems.push("there is no `kid`".to_owned());
    }
    kid
}

/// RFC 7515 §4.1.9: case does not count, and `application/` may be left out.
fn media_type(typ: &str) -> String {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").map(str::to_owned).unwrap_or(typ)
}

pub(super) fn check_signature(
    header: &Map<String, Value>,
    message: &str,
    signature: &str,
    verifier: &Verifier,
    problems: &mut Vec<String>,
) -> Signature {
    let named = header.get("alg").and_then(Value::as_str);
    if named != Some(algorithm_name(verifier.algorithm)) {
        problems.push("`alg` is not the algorithm of the key".to_owned());
        return Signature::Invalid;
    }
    let verified =
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &verifier.key, verifier.algorithm);
    if verified.unwrap_or(false) {
        return Signature::Valid;
    }
    problems.push("the signature is wrong".to_owned());
    Signature::Invalid
}

/// Asymmetric algorithms by their JOSE name; the others have none here and so match nothing.
pub(super) const fn algorithm_name(algorithm: jsonwebtoken::Algorithm) -> &'static str {
    match algorithm {
        jsonwebtoken::Algorithm::ES256 => "ES256",
        jsonwebtoken::Algorithm::ES384 => "ES384",
        jsonwebtoken::Algorithm::EdDSA => "EdDSA",
        jsonwebtoken::Algorithm::RS256 => "RS256",
        jsonwebtoken::Algorithm::RS384 => "RS384",
        jsonwebtoken::Algorithm::RS512 => "RS512",
        jsonwebtoken::Algorithm::PS256 => "PS256",
        jsonwebtoken::Algorithm::PS384 => "PS384",
        jsonwebtoken::Algorithm::PS512 => "PS512",
        _ => "",
    }
}

/// Reads members one by one, noting each that is missing or of another type.
pub(super) struct Reader<'a> {
    pub(super) claims: &'a Map<String, Value>,
    pub(super) problems: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// The member as `T`: `None` when it is absent, and noted when it is of another type (`null` included).
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        kind: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.claims.get(name)?;
        let typed = read(value);
        if typed.is_none() {
            self.problems.push(format!("`{name}` is not {kind}"));
        }
        typed
    }

    pub(super) fn required<T>(
        &mut self,
        name: &str,
        kind: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        if !self.claims.contains_key(name) {
            self.problems.push(format!("`{name}` is missing"));
        }
        self.optional(name, kind, read)
    }
}

impl Claims {
    fn read(
        claims: &Map<String, Value>,
        kid: String,
        expected: &Expected<'_>,
        problems: &mut Vec<String>,
    ) -> Option<Self> {
        let mut from = Reader { claims, problems };
        let issuer = from.required("iss", "a text", text);
        let audience = from.required("aud", "a text or a list of texts", audience);
        let subject = from.required("sub", "a text", text);
        let client = from.required("client_id", "a text", text);
        let jti = from.required("jti", "a text", text);
        let expires = from.required("exp", "a time", time);
        let issued = from.required("iat", "a time", time);
        let not_before = from.optional("nbf", "a time", time);
        let auth_time = from.optional("auth_time", "a time", time);
        let scope = from.optional("scope", "a text", |value| value.as_str().map(words)).unwrap_or_default();
        let acr = from.optional("acr", "a level of ours", |value| Acr::parse(value.as_str()?));
        let amr = from.optional("amr", "a list of texts", texts).unwrap_or_default();
        let sid = from.optional("sid", "a text", text);
        let roles = from.optional("roles", "a list of role names", roles).unwrap_or_default();
        let attributes = from.optional("attrs", "an object of plain values", attributes).unwrap_or_default();
        let tenant = from.optional("tenant", "a text", text);
        let email = from.optional("email", "a text", text);
        let certificate = from.optional("cnf", "a certificate's thumbprint", confirmation);
        if issuer.is_some_and(|issuer| issuer != expected.issuer) {
            problems.push("`iss` is another issuer".to_owned());
        }
        if audience.is_some_and(|list| !list.iter().any(|one| expected.audience.contains(one))) {
            problems.push("`aud` is not this audience".to_owned());
        }
        if expires.is_some_and(|expires| expires <= expected.now) {
            problems.push("it has expired".to_owned());
        }
        if not_before.is_some_and(|from| from > expected.now) {
            problems.push("it is not valid yet".to_owned());
        }
        if matches!((issued, expires), (Some(issued), Some(expires)) if issued >= expires) {
            problems.push("`exp` is not after `iat`".to_owned());
        }
        no_id_token(claims, problems);
        let (jti, issued) = (jti?, issued?);
        Some(Self {
            kid,
            subject: subject?,
            client: client?,
            issued: super::issued_at(&jti, issued),
            jti,
            expires: expires?,
            scope,
            auth_time,
            acr: acr.unwrap_or_default(),
            amr,
            sid,
            roles,
            attributes,
            tenant,
            email,
            certificate,
        })
    }
}

/// Notes what only ID tokens have (OpenID Connect Core §2, §3.1.3.6).
pub(super) fn no_id_token(claims: &Map<String, Value>, problems: &mut Vec<String>) {
    for mark in ["nonce", "at_hash", "c_hash"] {
        if claims.contains_key(mark) {
            problems.push(format!("`{mark}` is in ID tokens: it is no access token"));
        }
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A NumericDate (RFC 7519 §2) that is a whole number from 1970 to 9999.
pub(super) fn time(value: &Value) -> Option<Timestamp> {
    let seconds = value.as_u64().filter(|seconds| *seconds <= LAST_SECOND)?;
    i64::try_from(seconds).ok().map(Timestamp::from_seconds)
}

pub(super) fn audience(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(list) => list.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

pub(super) fn words(text: &str) -> Vec<Arc<str>> {
    text.split(' ').filter(|word| !word.is_empty()).map(Arc::from).collect()
}

pub(super) fn texts(value: &Value) -> Option<Vec<Arc<str>>> {
    value.as_array()?.iter().map(|one| one.as_str().map(Arc::from)).collect()
}

fn roles(value: &Value) -> Option<Vec<Arc<str>>> {
    let name = |one: &Value| RoleName::parse(one.as_str()?).ok().map(|role| role.shared());
    let mut names: Vec<_> = value.as_array()?.iter().map(name).collect::<Option<_>>()?;
    names.sort();
    names.dedup();
    Some(names)
}

fn attributes(value: &Value) -> Option<Attributes> {
    let each = value.as_object()?.iter();
    let read = each.map(|(name, value)| Some((name.clone(), AttributeValue::from_json(value)?)));
    read.collect::<Option<_>>().map(Attributes)
}

/// `cnf` with a certificate's thumbprint alone (RFC 8705 §3.1): another confirmation could not be checked.
pub(super) fn confirmation(value: &Value) -> Option<String> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    members.get("x5t#S256").and_then(text)
}
