//! Our cookies: the session, the pre-session value that CSRF tokens hang on, and the binding of a carried session.
//! Each exists under one name only, chosen by the scheme of `public_url`.

use actix_web::http::header::{HeaderValue, SET_COOKIE};
use actix_web::{HttpRequest, HttpResponse};

use crate::config::Config;

/// Which of our cookies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The browser session.
    Session,
    /// Random, before there is a session: CSRF tokens are made from it.
    Before,
    /// Random, set on a host that waits for a session from the host of `public_url`.
    Binding,
    /// Random, set while a browser is away at another identity provider.
    SignOn,
    /// Which account signed in with this browser before, for the limits of failed sign-ins.
    Device,
}

impl Kind {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Session => "portcullis",
            Self::Before => "portcullis-before",
            Self::Binding => "portcullis-binding",
            Self::SignOn => "portcullis-sso",
            Self::Device => "portcullis-device",
        }
    }

    /// Seconds that the browser keeps it; the session cookie ends with the browser or the stored session.
    const fn max_age(self) -> Option<u32> {
        match self {
            Self::Session => None,
            Self::Before => Some(3600),
            Self::Binding | Self::SignOn => Some(600),
            // 400 days, the most that browsers keep (RFC 6265bis §5.5).
            Self::Device => Some(34_560_000),
        }
    }
}

/// True when cookies are `Secure` and `__Host-`: `public_url` is https.
pub fn secure(config: &Config) -> bool {
    config.listen.public_url.scheme() == "https"
}

/// The cookie's name: `__Host-portcullis`, or `portcullis` on plain HTTP.
pub fn name(kind: Kind, secure: bool) -> String {
    if secure { format!("__Host-{}", kind.suffix()) } else { kind.suffix().to_owned() }
}

/// The value of `Set-Cookie` that sets it.
pub fn set(kind: Kind, value: &str, secure: bool) -> String {
    let mut text = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", name(kind, secure));
    if secure {
        text.push_str("; Secure");
    }
    if let Some(seconds) = kind.max_age() {
        text.push_str(&format!("; Max-Age={seconds}"));
    }
    text
}

/// Adds `Set-Cookie` to an answer.
pub fn append(answer: &mut HttpResponse, cookie: &str) {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        answer.headers_mut().append(SET_COOKIE, value);
    }
}

/// The value of `Set-Cookie` that removes it.
pub fn clear(kind: Kind, secure: bool) -> String {
    let rest = if secure { "; Secure" } else { "" };
    format!("{}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0{rest}", name(kind, secure))
}

/// The value that the browser sent: of this one name, there once, made of the characters that we give out.
pub fn read(request: &HttpRequest, kind: Kind, secure: bool) -> Option<String> {
    let name = name(kind, secure);
    let mut found = None;
    for header in request.headers().get_all("cookie") {
        for pair in header.as_bytes().split(|byte| *byte == b';') {
            let pair = std::str::from_utf8(pair).unwrap_or_default().trim_matches([' ', '\t']);
            let Some((key, value)) = pair.split_once('=') else { continue };
            if key != name {
                continue;
            }
            if found.is_some() {
                return None;
            }
            found = Some(value.to_owned());
        }
    }
    found.filter(|value| {
        !value.is_empty()
            && value.len() <= 128
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn the_session_cookie_is_bound_to_its_host() {
        let text = set(Kind::Session, "v", true);
        assert_eq!(text, "__Host-portcullis=v; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert!(!set(Kind::Session, "v", false).contains("Secure"));
        assert!(clear(Kind::Session, true).contains("Max-Age=0"));
    }

    #[test]
    fn one_name_is_read_and_only_once() {
        let of = |text: &str, secure| {
            let request = TestRequest::get().insert_header(("cookie", text)).to_http_request();
            read(&request, Kind::Session, secure)
        };
        assert_eq!(of("a=b; __Host-portcullis=abc_-1", true).as_deref(), Some("abc_-1"));
        assert_eq!(of("portcullis=abc", true), None);
        assert_eq!(of("__Host-portcullis=abc", false), None);
        assert_eq!(of("__Host-portcullis=a; __Host-portcullis=b", true), None);
        assert_eq!(of("__Host-portcullis=a b", true), None);
        assert_eq!(of("__Host-portcullis=", true), None);
    }
}
