//! Pages of a search: how many results, and where the next page begins. A token is the last thing that was looked at, with
//! a digest of the question that it belongs to; it opens nothing, so it is not signed.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::question::bad;
use crate::model::Refusal;

/// Results of a page when the caller does not say, and the most that it gets.
pub const MOST: usize = 100;

/// Bytes of the digest.
const DIGEST: usize = 16;

/// Which page is asked for.
#[derive(Debug)]
pub struct Page {
    /// Most results.
    pub limit: usize,
    /// Results come after this; empty: from the start.
    pub after: String,
    question: Vec<u8>,
}

impl Page {
    /// Reads `page`. `what` is searched for.
    ///
    /// # Errors
    /// 400 for a limit that is none, and a token that does not belong to this question.
    pub fn read(what: &str, body: &Map<String, Value>) -> Result<Self, Refusal> {
        let mut question = what.to_owned();
        for member in ["subject", "action", "resource", "context"] {
            question.push_str(&body.get(member).map(Value::to_string).unwrap_or_default());
            question.push('\n');
        }
        let digest = digest(&SHA256, question.as_bytes());
        let question = digest.as_ref().iter().take(DIGEST).copied().collect();
        let first = Self { limit: MOST, after: String::new(), question };
        let page = match body.get("page") {
            None => return Ok(first),
            Some(page) => page.as_object().ok_or(bad("`page` must be an object"))?,
        };
        let limit = match page.get("limit") {
            None => MOST,
            Some(limit) => {
                let limit = limit.as_u64().filter(|limit| *limit > 0);
                let limit = limit.ok_or(bad("`limit` of `page` must be a positive whole number"))?;
                usize::try_from(limit).unwrap_or(MOST).min(MOST)
            }
        };
        let after = match page.get("token").map(Value::as_str) {
            None | Some(Some("")) => String::new(),
            Some(token) => first
                .opened(token.unwrap_or_default())
                .ok_or(bad("`token` of `page` is not one of this question"))?,
        };
        Ok(Self { limit, after, ..first })
    }

    /// The token of the page after this thing.
    pub fn token(&self, last: &str) -> String {
        URL_SAFE_NO_PAD.encode([&self.question, last.as_bytes()].concat())
    }

    fn opened(&self, token: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let after = bytes.strip_prefix(self.question.as_slice())?;
        String::from_utf8(after.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_belongs_to_its_question() {
        let body = |page: Value, name: &str| json!({"action": {"name": name}, "page": page});
        let read = |what: &str, body: &Value| Page::read(what, body.as_object().unwrap());
        let token = read("subject", &body(json!({}), "GET")).unwrap().token("bob");
        let next = body(json!({"token": token, "limit": 1_000_000}), "GET");
        let page = read("subject", &next).unwrap();
        assert_eq!((page.after.as_str(), page.limit), ("bob", MOST));
        assert!(read("resource", &next).is_err());
        assert!(read("subject", &body(json!({"token": token}), "PUT")).is_err());
        for page in [
            json!([]),
            json!({"limit": 0}),
            json!({"limit": -1}),
            json!({"limit": 1.5}),
            json!({"limit": "1"}),
            json!({"token": 1}),
            json!({"token": "é"}),
            json!({"token": "AAAA"}),
        ] {
            assert!(read("subject", &body(page.clone(), "GET")).is_err(), "{page}");
        }
    }
}
