//! The request that the other proxy got, as it tells us. Nothing is cleaned: a text with two readings is refused.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use serde::Deserialize;

use crate::http::caller::only;
use crate::model::{Refusal, RefusalKind, Target};

/// What the proxy was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Original {
    /// The method.
    pub method: String,
    /// The Host.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// The scheme was https.
    pub secure: bool,
    /// What the caller says of the client's address, as a list with the nearest last.
    pub forwarded: Option<String>,
}

impl Original {
    /// The one reading of it.
    ///
    /// # Errors
    /// 400 `not-canonical`.
    pub fn target(&self) -> Result<Target, Refusal> {
        if self.path.contains('#') {
            return Err(Refusal::new(RefusalKind::NotCanonical, "a fragment in the original request"));
        }
        Target::from_parts(&self.method, &self.host, &self.path, self.secure)
            .map_err(|error| Refusal::new(RefusalKind::NotCanonical, error.0))
    }
}

fn bad(detail: &'static str) -> Refusal {
    Refusal::new(RefusalKind::BadRequest, detail)
}

fn forwarded(headers: &HeaderMap) -> Option<String> {
    let lines: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().map(|value| value.to_str().unwrap_or("?")).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

/// `X-Original-Method` and `X-Original-URL`.
pub fn nginx(headers: &HeaderMap) -> Result<Original, Refusal> {
    let method = only(headers, "x-original-method").ok_or(bad("send X-Original-Method once"))?;
    let url = only(headers, "x-original-url").ok_or(bad("send X-Original-URL once"))?;
    let (scheme, rest) = url.split_once("://").ok_or(bad("X-Original-URL has no scheme"))?;
    let start = rest.find('/').ok_or(bad("X-Original-URL has no path"))?;
    let (host, path) = rest.split_at(start);
    Ok(Original {
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        secure: secure(scheme)?,
        forwarded: forwarded(headers),
    })
}

/// `X-Forwarded-Method`, `-Proto`, `-Host` and `-Uri`.
pub fn forward(headers: &HeaderMap) -> Result<Original, Refusal> {
    let get = |name: &str| only(headers, name).map(str::to_owned);
    let proto = get("x-forwarded-proto").ok_or(bad("send X-Forwarded-Proto once"))?;
    Ok(Original {
        method: get("x-forwarded-method").ok_or(bad("send X-Forwarded-Method once"))?,
        host: get("x-forwarded-host").ok_or(bad("send X-Forwarded-Host once"))?,
        path: get("x-forwarded-uri").ok_or(bad("send X-Forwarded-Uri once"))?,
        secure: secure(&proto)?,
        forwarded: forwarded(headers),
    })
}

/// Method, path and host of the check itself; `raw` is the request target as it came. Envoy sends the scheme only where
/// it is told to (`X-Forwarded-Proto` among `allowed_headers`): without it, it is that of `public_url` (`https`).
pub fn envoy(method: &str, raw: &str, headers: &HeaderMap, https: bool) -> Result<Original, Refusal> {
    let path = raw.strip_prefix("/auth/verify/envoy").ok_or(bad("not the endpoint's own path"))?;
    let secure = match headers.contains_key("x-forwarded-proto") {
        true => secure(only(headers, "x-forwarded-proto").ok_or(bad("send X-Forwarded-Proto once"))?)?,
        false => https,
    };
    Ok(Original {
        method: method.to_owned(),
        host: only(headers, "host").ok_or(bad("send Host once"))?.to_owned(),
        path: path.to_owned(),
        secure,
        forwarded: forwarded(headers),
    })
}

fn secure(scheme: &str) -> Result<bool, Refusal> {
    match scheme {
        "https" | "wss" => Ok(true),
        "http" | "ws" => Ok(false),
        _ => Err(bad("the original scheme is neither http nor https")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    method: String,
    host: String,
    path: String,
    #[serde(default)]
    headers: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    ip: Option<std::net::IpAddr>,
}

/// The JSON question: the request, and the headers in which its credentials are. `https` is the scheme of `public_url`.
pub fn json(body: &[u8], https: bool) -> Result<(Original, HeaderMap), Refusal> {
    let question: Question = serde_json::from_slice(body)
        .map_err(|_| bad("send {\"method\",\"host\",\"path\",\"headers\"?,\"ip\"?}"))?;
    let mut map = HeaderMap::new();
    for (name, value) in &question.headers {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("a header's name is malformed"))?;
        let values = match value {
            serde_json::Value::Array(values) => values.iter().collect(),
            one => vec![one],
        };
        for value in values {
            let value = value
                .as_str()
                .and_then(|text| HeaderValue::from_str(text).ok())
                .ok_or(bad("a header's value is not a text"))?;
            map.append(name.clone(), value);
        }
    }
    let original = Original {
        method: question.method,
        host: question.host,
        path: question.path,
        secure: https,
        forwarded: question.ip.map(|ip| ip.to_string()),
    };
    Ok((original, map))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn nginx_sends_method_and_url_once() {
        let good = [("x-original-method", "GET"), ("x-original-url", "https://a.example:8443/x//y?z=%2F")];
        let original = nginx(&map(&good)).unwrap();
        assert_eq!((original.host.as_str(), original.path.as_str()), ("a.example:8443", "/x//y?z=%2F"));
        assert!(original.secure);
        for bad in ["https:/a/b", "https://a.example", "ftp://a/b", "/x"] {
            assert!(nginx(&map(&[("x-original-method", "GET"), ("x-original-url", bad)])).is_err(), "{bad}");
        }
        assert!(nginx(&map(&good[..1])).is_err());
        assert!(nginx(&map(&[good[0], good[0], good[1]])).is_err());
    }

    #[test]
    fn forward_needs_all_four() {
        let all = [
            ("x-forwarded-method", "GET"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-uri", "/x"),
        ];
        assert!(forward(&map(&all)).is_ok());
        for missing in 0..all.len() {
            let rest: Vec<_> =
                all.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, p)| *p).collect();
            assert_eq!(forward(&map(&rest)).unwrap_err().kind, RefusalKind::BadRequest);
        }
        let twice: Vec<_> = all.iter().chain(&all[3..]).copied().collect();
        assert!(forward(&map(&twice)).is_err());
    }

    #[test]
    fn a_fragment_is_refused() {
        let mut original = forward(&map(&[
            ("x-forwarded-method", "GET"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-uri", "/x#y"),
        ]))
        .unwrap();
        assert_eq!(original.target().unwrap_err().kind, RefusalKind::NotCanonical);
        original.path.clear();
        assert!(original.path.is_empty());
    }

    #[test]
    fn credentials_of_a_json_question_come_from_its_headers() {
        let body = br#"{"method":"GET","host":"a","path":"/x","headers":{"Authorization":"Bearer t","x":["1","2"]},"ip":"192.0.2.1"}"#;
        let (original, headers) = json(body, true).unwrap();
        assert_eq!(headers.get("authorization").unwrap(), "Bearer t");
        assert_eq!(headers.get_all("x").iter().count(), 2);
        assert_eq!(original.forwarded.as_deref(), Some("192.0.2.1"));
        for bad in [
            "{}",
            "[]",
            r#"{"method":"GET","host":"a","path":"/","headers":{"x":1}}"#,
            r#"{"method":"GET","method":"PUT","host":"a","path":"/"}"#,
        ] {
            assert!(json(bad.as_bytes(), true).is_err(), "{bad}");
        }
    }
}
