//! CSRF tokens of our forms: an HMAC over a random cookie of the same browser (signed double submit).
//! No page of another site can read the cookie or make the token.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keys::KeyRing;

/// The key of CSRF tokens, the same on every node.
pub fn key(keys: &KeyRing) -> [u8; 32] {
    keys.derive("csrf")
}

/// The token that belongs to the cookie's value.
pub fn token(key: &[u8; 32], cookie: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, cookie.as_bytes()).as_ref())
}

/// True when the form's token belongs to the browser's cookie (constant time).
pub fn matches(key: &[u8; 32], cookie: Option<&str>, token: Option<&str>) -> bool {
    let (Some(cookie), Some(token)) = (cookie, token) else { return false };
    let Ok(tag) = URL_SAFE_NO_PAD.decode(token) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::verify(&key, cookie.as_bytes(), &tag).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_one_cookie_and_one_key() {
        let token = token(&[1; 32], "cookie");
        assert!(matches(&[1; 32], Some("cookie"), Some(&token)));
        assert!(!matches(&[1; 32], Some("other"), Some(&token)));
        assert!(!matches(&[2; 32], Some("cookie"), Some(&token)));
        assert!(!matches(&[1; 32], None, Some(&token)));
        assert!(!matches(&[1; 32], Some("cookie"), None));
        assert!(!matches(&[1; 32], Some("cookie"), Some("")));
    }
}
