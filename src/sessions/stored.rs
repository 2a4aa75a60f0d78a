//! What the store keeps of a session, never the cookie itself.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::SessionInfo;
use crate::model::{Principal, Timestamp};
use crate::revocation::Credential;
use crate::store::StoreError;

/// One cookie's session.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) principal: Principal,
    pub(super) sid: Arc<str>,
    pub(super) created: Timestamp,
    pub(super) seen: Timestamp,
    pub(super) host: String,
}

/// A session on its way to another host.
#[derive(Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) principal: Principal,
    pub(super) created: Timestamp,
    pub(super) host: String,
    pub(super) binding: String,
}

impl Stored {
    pub(super) fn credential(&self) -> Credential<'_> {
        Credential {
            sid: Some(&self.sid),
            subject: Some(&self.principal.name),
            issued: self.created,
            ..Credential::default()
        }
    }

    pub(super) fn into_info(self) -> SessionInfo {
        SessionInfo {
            sid: self.sid.to_string(),
            subject: self.principal.name.to_string(),
            created: self.created,
            last_seen: self.seen,
            host: self.host,
        }
    }
}

/// The key of a cookie's record: hex SHA-256.
pub(super) fn hash(cookie: &str) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, cookie.as_bytes()))
}

/// 32 bytes in base64url: everything else is unknown without asking the store.
pub(super) fn looks_like_a_cookie(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

pub(super) fn written<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Refused(error.to_string()))
}

pub(super) fn parsed<T: DeserializeOwned>(key: &str, json: &[u8]) -> Result<T, StoreError> {
    let corrupt =
        |error: serde_json::Error| StoreError::Corrupt { key: key.to_owned(), reason: error.to_string() };
    serde_json::from_slice(json).map_err(corrupt)
}

/// True when a refresh token family (written by `tokens`) belongs to the sign-in.
pub(super) fn family_has_sid(json: &[u8], sid: &str) -> bool {
    let value: Option<serde_json::Value> = serde_json::from_slice(json).ok();
    value.as_ref().and_then(|value| value.pointer("/principal/sid")?.as_str()) == Some(sid)
}
