//! One reading of a request: canonical host and path. Route, policy, audit and upstream get this text and no other.
//!
//! `listen` reads requests with [`Target::from_request`]; the forward-auth doors read what another proxy was asked for
//! with [`Target::from_parts`]. A new rule of reading is a branch of [`CanonicalPath::parse`] or
//! [`CanonicalHost::parse`], a line in the tests below, and a line in `docs/canonical-requests.md`.

use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, Method, Uri};

/// Why a request has no single reading; refused with 400 `not-canonical`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotCanonical(pub &'static str);

/// A host name: lower case, without port, userinfo or trailing dot. IPv6 literals keep their brackets.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CanonicalHost {
    name: Arc<str>,
    port: Option<u16>,
}

/// A path that has one reading: begins with `/`, no dot segments, unreserved octets decoded, hex in upper case.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CanonicalPath(Arc<str>);

impl CanonicalHost {
    /// Reads a Host header or `:authority`: no userinfo; default port (80 or 443, by `secure`) and one trailing dot removed.
    ///
    /// # Errors
    /// When it is empty or not a host and optional port.
    pub fn parse(text: &str, secure: bool) -> Result<Self, NotCanonical> {
        if text.contains('@') {
            return Err(NotCanonical("the host has userinfo"));
        }
        let (name, port) = if text.starts_with('[') {
            let end = text.find(']').ok_or(NotCanonical("the host is not an address in brackets"))?;
            let (address, rest) = text.split_at(end);
            let address: Ipv6Addr = address
                .trim_start_matches('[')
                .parse()
                .map_err(|_| NotCanonical("the host is not an address in brackets"))?;
            let rest = rest.strip_prefix(']').unwrap_or(rest);
            let port = match rest {
                "" => None,
                _ => Some(rest.strip_prefix(':').ok_or(NotCanonical("something follows the host"))?),
            };
            (format!("[{address}]"), port)
        } else {
            match text.split_once(':') {
                Some((name, port)) => (host_name(name)?, Some(port)),
                None => (host_name(text)?, None),
            }
        };
        let port = port.map(port_number).transpose()?.filter(|port| *port != default_port(secure));
        Ok(Self { name: name.into(), port })
    }

    /// The name alone.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, when it is not the scheme's default.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

const fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

fn host_name(text: &str) -> Result<String, NotCanonical> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() || name.len() > 253 {
        return Err(NotCanonical("the host is empty or too long"));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if !name.split('.').all(label) {
        return Err(NotCanonical("the host is not a host name"));
    }
    Ok(name.to_ascii_lowercase())
}

fn port_number(text: &str) -> Result<u16, NotCanonical> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(port) if digits => Ok(port),
        _ => Err(NotCanonical("the port is not a number from 1 to 65535")),
    }
}

impl fmt::Display for CanonicalHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl CanonicalPath {
    /// Makes the path canonical. The flags say whether it holds an encoded slash or percent.
    ///
    /// An encoded slash or percent stays as `%2F` and `%25` in the text and is no separator.
    ///
    /// # Errors
    /// When it is ambiguous (`docs/canonical-requests.md`).
    pub fn parse(raw: &str) -> Result<(Self, Encoded), NotCanonical> {
        let Some(rest) = raw.strip_prefix('/') else {
            return Err(NotCanonical("the path does not begin with a slash"));
        };
        let mut encoded = Encoded::default();
        let mut text = String::with_capacity(raw.len());
        let mut segments = rest.split('/').peekable();
        let mut decoded = Vec::new();
        while let Some(segment) = segments.next() {
            if segment.is_empty() && segments.peek().is_some() {
                return Err(NotCanonical("the path has an empty segment"));
            }
            decoded.clear();
            text.push('/');
            read_segment(segment, &mut text, &mut decoded, &mut encoded)?;
            let decoded = std::str::from_utf8(&decoded).map_err(|_| NotCanonical("the path is not UTF-8"))?;
            check_decoded(decoded, segments.peek().is_none())?;
        }
        Ok((Self(text.into()), encoded))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// What a segment must not be after one decoding: whoever decodes an encoded slash or percent must find no other path.
fn check_decoded(segment: &str, last: bool) -> Result<(), NotCanonical> {
    if segment.contains('/') {
        let mut parts = segment.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() && (!last || parts.peek().is_some()) {
                return Err(NotCanonical("an encoded slash makes an empty segment"));
            }
        }
    }
    if segment.split('/').any(is_dots) {
        return Err(NotCanonical("the path has a dot segment"));
    }
    if segment.split('%').skip(1).any(is_encoded_twice) {
        return Err(NotCanonical("the path is encoded twice"));
    }
    Ok(())
}

/// True for what follows a percent sign that a second decoding would turn into a dot, slash, backslash, NUL or percent.
fn is_encoded_twice(after: &str) -> bool {
    let digits = after.get(..2).unwrap_or_default();
    ["2e", "2f", "5c", "00", "25"].iter().any(|octet| digits.eq_ignore_ascii_case(octet))
}

/// `.` and `..`, also before a `;`: servers that know path parameters cut there first.
fn is_dots(segment: &str) -> bool {
    let name = segment.split(';').next().unwrap_or(segment);
    matches!(name, "." | "..")
}

/// Appends one segment's canonical text, and its octets after one decoding.
fn read_segment(
    segment: &str,
    text: &mut String,
    decoded: &mut Vec<u8>,
    encoded: &mut Encoded,
) -> Result<(), NotCanonical> {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let octet = match (bytes.next().and_then(hex_value), bytes.next().and_then(hex_value)) {
                    (Some(high), Some(low)) => high << 4 | low,
                    _ => return Err(NotCanonical("the path has a percent sign without two hex digits")),
                };
                read_octet(octet, text, encoded)?;
                decoded.push(octet);
            }
            b'\\' => return Err(NotCanonical("the path has a backslash")),
            b'?' | b'#' => return Err(NotCanonical("the path has a query or fragment in it")),
            0x21..=0x7e => {
                text.push(char::from(byte));
                decoded.push(byte);
            }
            _ => return Err(NotCanonical("the path has a byte that must be percent-encoded")),
        }
    }
    Ok(())
}

fn read_octet(octet: u8, text: &mut String, encoded: &mut Encoded) -> Result<(), NotCanonical> {
    match octet {
        b'\\' => return Err(NotCanonical("the path has an encoded backslash")),
        0..=0x1f | 0x7f => return Err(NotCanonical("the path has an encoded control byte")),
        b'/' => encoded.slash = true,
        b'%' => encoded.percent = true,
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            text.push(char::from(octet));
            return Ok(());
        }
        _ => {}
    }
    text.push('%');
    text.push(hex_digit(octet >> 4));
    text.push(hex_digit(octet & 0xf));
    Ok(())
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn hex_digit(value: u8) -> char {
    char::from(if value < 10 { b'0' + value } else { b'A' + (value & 0xf) - 10 })
}

/// What a path holds that only routes which opted in with `allow_encoded` take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Encoded {
    /// `%2F`: `allow_encoded = ["slash"]`. An encoded backslash has no such way; it is always refused.
    pub slash: bool,
    /// `%25`: `allow_encoded = ["percent"]`. What a second decoding would turn into a dot, slash, backslash, NUL or
    /// percent (`%252e`) has no such way.
    pub percent: bool,
}

impl Encoded {
    /// True when a route's consent is needed.
    pub const fn any(self) -> bool {
        self.slash || self.percent
    }
}

/// What is asked for: the one text that everyone reads.
#[derive(Clone, Debug)]
pub struct Target {
    /// The method, case-sensitive.
    pub method: Method,
    /// The host.
    pub host: CanonicalHost,
    /// The path.
    pub path: CanonicalPath,
    /// The query without `?`, as it came; never part of a decision.
    pub query: Option<Arc<str>>,
    /// What needs a route's consent.
    pub encoded: Encoded,
}

impl Target {
    /// Reads a request line and head (`secure`: on TLS). Host exactly once, authority equal to it when both exist.
    ///
    /// An HTTP/2 request may carry its host in `:authority` alone; that an HTTP/1 request has a Host at all is for the
    /// caller to see to, who knows the version.
    ///
    /// # Errors
    /// When the request has no single reading.
    pub fn from_request(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        secure: bool,
    ) -> Result<Self, NotCanonical> {
        if method == Method::CONNECT {
            return Err(NotCanonical("the request target is an authority"));
        }
        if uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
            return Err(NotCanonical("the request target is neither http nor https"));
        }
        let Some(path_and_query) = uri.path_and_query() else {
            return Err(NotCanonical("the request target has no path"));
        };
        let host = request_host(uri, headers, secure)?;
        let path = match path_and_query.path() {
            "" => "/",
            path => path,
        };
        let (path, encoded) = CanonicalPath::parse(path)?;
        let query = path_and_query.query().map(Arc::from);
        Ok(Self { method: method.clone(), host, path, query, encoded })
    }

    /// Reads what another proxy says that it was asked for. The path must already be canonical, and nothing is cleaned.
    ///
    /// # Errors
    /// When it is malformed, ambiguous, or not what [`CanonicalPath::parse`] would make of it.
    pub fn from_parts(
        method: &str,
        host: &str,
        path_and_query: &str,
        secure: bool,
    ) -> Result<Self, NotCanonical> {
        let method = Method::from_bytes(method.as_bytes())
            .ok()
            .filter(|method| method != Method::CONNECT)
            .ok_or(NotCanonical("the method is not one"))?;
        let host = CanonicalHost::parse(host, secure)?;
        if !path_and_query.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#') {
            return Err(NotCanonical("the target has a fragment or a byte that must be percent-encoded"));
        }
        let (raw, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(Arc::from(query))),
            None => (path_and_query, None),
        };
        let (path, encoded) = CanonicalPath::parse(raw)?;
        if path.as_str() != raw {
            return Err(NotCanonical(
                "the path is not canonical, and the asking proxy sends its own reading",
            ));
        }
        Ok(Self { method, host, path, query, encoded })
    }
}

fn request_host(uri: &Uri, headers: &HeaderMap, secure: bool) -> Result<CanonicalHost, NotCanonical> {
    let mut fields = headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(NotCanonical("the request has more than one host"));
    }
    let field = match field {
        None => None,
        Some(value) => {
            let text = value.to_str().map_err(|_| NotCanonical("the host is not a host name"))?;
            Some(CanonicalHost::parse(text, secure)?)
        }
    };
    let authority = match uri.authority() {
        None => None,
        Some(authority) => Some(CanonicalHost::parse(authority.as_str(), secure)?),
    };
    match (authority, field) {
        (None, None) => Err(NotCanonical("the request has no host")),
        (Some(host), None) | (None, Some(host)) => Ok(host),
        (Some(authority), Some(host)) if authority == host => Ok(host),
        (Some(_), Some(_)) => Err(NotCanonical("the request's authority and host differ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(raw: &str) -> Result<String, NotCanonical> {
        CanonicalPath::parse(raw).map(|(path, _)| path.as_str().to_owned())
    }

    #[test]
    fn a_plain_path_stays() {
        for raw in [
            "/",
            "/a",
            "/a/",
            "/a/b;v=1",
            "/a:b@c",
            "/...",
            "/.well-known/x",
            "/a.",
            "/..a",
            "/a*b",
            "/a%20b",
            "/%C3%A9",
            "/a%3Bb",
        ] {
            assert_eq!(path(raw).as_deref(), Ok(raw), "{raw}");
        }
    }

    #[test]
    fn unreserved_is_decoded_and_hex_is_upper_case() {
        assert_eq!(path("/%61%7e%2D%5f").as_deref(), Ok("/a~-_"));
        assert_eq!(path("/%c3%a9").as_deref(), Ok("/%C3%A9"));
        assert_eq!(path("/a%2eb").as_deref(), Ok("/a.b"));
        assert_eq!(path("/%3f%23").as_deref(), Ok("/%3F%23"));
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for raw in [
            "",
            "a",
            "*",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/a",
            "/.%2E/a",
            "/..;x/a",
            "/%2e%2e;/a",
            "/..%3bx/a",
            "/.;",
            "/a%2F..%2Fb",
            "/%2f..",
            "/a\\b",
            "/a%5cb",
            "/a%5Cb",
            "/a%00",
            "/a%0d%0a",
            "/a%7f",
            "/a%1f",
            "/%",
            "/%2",
            "/%zz",
            "/%+1",
            "/%c3",
            "/%ff",
            "/%C3/%A9",
            "/%c0%ae%c0%ae/",
            "/é",
            "/a b",
            "/a\u{7f}",
            "/a\n",
            "/a#b",
            "/a?b",
            "/%252e%252e/a",
            "/a%252Fb",
            "/a%255cb",
            "/a%2500",
            "/a%2525",
            "/a%25%32%66b",
            "/a%2fb%252e",
            "/%2Fa",
            "/a%2F%2Fb",
            "/a%2F/b",
            "/a%2F%2F",
        ] {
            assert!(path(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn encoded_slash_and_percent_are_marked() {
        let (text, encoded) = CanonicalPath::parse("/a%2fb").unwrap();
        assert_eq!((text.as_str(), encoded), ("/a%2Fb", Encoded { slash: true, percent: false }));
        let (text, encoded) = CanonicalPath::parse("/100%25").unwrap();
        assert_eq!((text.as_str(), encoded), ("/100%25", Encoded { slash: false, percent: true }));
        let (text, encoded) = CanonicalPath::parse("/%2561").unwrap();
        assert_eq!((text.as_str(), encoded.percent), ("/%2561", true));
        assert_eq!(CanonicalPath::parse("/a").unwrap().1, Encoded::default());
    }

    #[test]
    fn a_host_has_one_spelling() {
        let host = |text, secure| CanonicalHost::parse(text, secure).map(|host| host.to_string());
        assert_eq!(host("API.Example.com.", true).as_deref(), Ok("api.example.com"));
        assert_eq!(host("api.example.com:443", true).as_deref(), Ok("api.example.com"));
        assert_eq!(host("api.example.com:443", false).as_deref(), Ok("api.example.com:443"));
        assert_eq!(host("api.example.com:80", false).as_deref(), Ok("api.example.com"));
        assert_eq!(host("a.:8080", false).as_deref(), Ok("a:8080"));
        assert_eq!(host("[0:0::1]:8080", false).as_deref(), Ok("[::1]:8080"));
        assert_eq!(host("[::1]", false).as_deref(), Ok("[::1]"));
        assert_eq!(host("127.0.0.1:8080", false).as_deref(), Ok("127.0.0.1:8080"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ".",
            "a..",
            "a..b",
            ":80",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:+1",
            "a:1:2",
            "u@a",
            "@a",
            "a/b",
            "a%2eb",
            "a b",
            "a,b",
            "é",
            "[::1",
            "[::1]x",
            "[[::1]]",
            "[fe80::1%25e]",
            "::1",
            "[1.2.3.4]",
            "*",
            "[::1]:",
        ] {
            assert!(CanonicalHost::parse(text, false).is_err(), "{text}");
        }
        assert!(CanonicalHost::parse(&"a".repeat(64), false).is_err());
        assert!(CanonicalHost::parse(&"a.".repeat(127), false).is_ok());
        assert!(CanonicalHost::parse(&"a.".repeat(128), false).is_err());
    }

    fn request(uri: &str, hosts: &[&str]) -> Result<Target, NotCanonical> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().unwrap());
        }
        Target::from_request(&Method::GET, &uri.parse().unwrap(), &headers, false)
    }

    #[test]
    fn a_request_has_one_host() {
        let target = request("/a?b=/../c", &["A:80"]).unwrap();
        assert_eq!((target.host.name(), target.host.port()), ("a", None));
        assert_eq!((target.path.as_str(), target.query.as_deref()), ("/a", Some("b=/../c")));
        assert_eq!(request("http://a/b", &["A"]).unwrap().path.as_str(), "/b");
        assert_eq!(request("http://a", &["a"]).unwrap().path.as_str(), "/");
        assert_eq!(request("http://a?q", &["a"]).unwrap().query.as_deref(), Some("q"));
        assert_eq!(request("http://a/b", &[]).unwrap().host.name(), "a");
        assert!(request("/a", &[]).is_err());
        assert!(request("/a", &["a", "a"]).is_err());
        assert!(request("http://b/a", &["a"]).is_err());
        assert!(request("http://a:8080/a", &["a"]).is_err());
        assert!(request("http://u@a/a", &["a"]).is_err());
        assert!(request("ftp://a/b", &["a"]).is_err());
        assert!(request("*", &["a"]).is_err());
        assert!(request("a:80", &["a:80"]).is_err());
    }

    #[test]
    fn connect_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "a".parse().unwrap());
        assert!(Target::from_request(&Method::CONNECT, &"/a".parse().unwrap(), &headers, true).is_err());
    }

    #[test]
    fn another_proxys_reading_is_taken_or_refused_never_cleaned() {
        let target = Target::from_parts("GET", "Api:443", "/a%20b?x=%zz", true).unwrap();
        assert_eq!((target.path.as_str(), target.query.as_deref()), ("/a%20b", Some("x=%zz")));
        assert_eq!(target.host.to_string(), "api");
        for raw in
            ["/%61", "/a%c3%a9", "/a#b", "/a?b#c", "/a//b", "a", "", "http://api/a", "/é", "/a b", "/a?b c"]
        {
            assert!(Target::from_parts("GET", "api", raw, true).is_err(), "{raw}");
        }
        assert!(Target::from_parts("G ET", "api", "/", true).is_err());
        assert!(Target::from_parts("", "api", "/", true).is_err());
        assert!(Target::from_parts("CONNECT", "api", "/", true).is_err());
        assert!(Target::from_parts("GET", "", "/", true).is_err());
    }

    /// Paths made of the pieces that attacks are made of.
    fn hostile_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just(".".to_owned()),
            Just("..".to_owned()),
            Just(";".to_owned()),
            Just("%".to_owned()),
            Just("%25".to_owned()),
            Just("%2f".to_owned()),
            Just("%2E".to_owned()),
            Just("%5c".to_owned()),
            Just("%c3%a9".to_owned()),
            any::<u8>().prop_map(|octet| format!("%{octet:02x}")),
            "[ -~]{0,3}",
            ".{0,2}",
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn a_canonical_path_is_a_fixed_point(raw in hostile_path()) {
            if let Ok((once, encoded)) = CanonicalPath::parse(&raw) {
                let (twice, again) = CanonicalPath::parse(once.as_str()).unwrap();
                prop_assert_eq!(&once, &twice);
                prop_assert_eq!(encoded, again);
                prop_assert!(!once.as_str().contains("//"));
                prop_assert!(once.as_str().split('/').all(|segment| !is_dots(segment)));
                prop_assert!(once.as_str().bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
                prop_assert_eq!(encoded.slash, once.as_str().contains("%2F"));
                prop_assert_eq!(encoded.percent, once.as_str().contains("%25"));
                prop_assert!(Target::from_parts("GET", "a", once.as_str(), true).is_ok());
                // Whoever decodes once more, or twice, finds the segments that were authorized, and a plain path.
                let decode = |text: &str| {
                    percent_encoding::percent_decode_str(text).decode_utf8().map(|text| text.into_owned())
                };
                let decoded = decode(once.as_str()).unwrap();
                prop_assert!(!decoded.contains("//") && decoded.split('/').all(|segment| !is_dots(segment)));
                let bytes: Vec<u8> = percent_encoding::percent_decode_str(&decoded).collect();
                let count = |of: &[u8], wanted: u8| of.iter().filter(|byte| **byte == wanted).count();
                for special in *b"/.\\\0" {
                    prop_assert_eq!(count(&bytes, special), count(decoded.as_bytes(), special));
                }
            }
        }

        #[test]
        fn one_decoding_means_the_same_before_and_after(raw in hostile_path()) {
            if let Ok((path, _)) = CanonicalPath::parse(&raw) {
                let before: Vec<u8> = percent_encoding::percent_decode_str(&raw).collect();
                let after: Vec<u8> = percent_encoding::percent_decode_str(path.as_str()).collect();
                prop_assert_eq!(before, after);
            }
        }

        #[test]
        fn any_text_is_read_without_panic(raw in ".*", secure: bool) {
            let _ = CanonicalPath::parse(&raw);
            let _ = Target::from_parts("GET", &raw, &raw, secure);
            if let Ok(host) = CanonicalHost::parse(&raw, secure) {
                prop_assert_eq!(CanonicalHost::parse(&host.to_string(), secure), Ok(host));
            }
        }

        #[test]
        fn a_canonical_host_is_a_fixed_point(raw in "(\\[[0-9a-f:]{0,9}\\]|[a-zA-Z0-9_.-]{0,12})(:[0-9]{0,6})?", secure: bool) {
            if let Ok(host) = CanonicalHost::parse(&raw, secure) {
                prop_assert_eq!(CanonicalHost::parse(&host.to_string(), secure), Ok(host));
            }
        }
    }
}
