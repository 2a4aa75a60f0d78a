//! Request targets and hosts: one reading, and the same one when it is read again.
#![no_main]

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Uri};
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use portcullis::model::{CanonicalHost, CanonicalPath, Target};

fuzz_target!(|input: (&str, &str, bool)| {
    let (path, host, secure) = input;
    if let Ok((once, encoded)) = CanonicalPath::parse(path) {
        let text = once.as_str();
        assert_eq!(CanonicalPath::parse(text), Ok((once.clone(), encoded)));
        assert!(percent_decode_str(path).eq(percent_decode_str(text)));
        let decoded: Vec<u8> = percent_decode_str(text).collect();
        let decoded = String::from_utf8(decoded).expect("UTF-8");
        assert!(!decoded.contains("//") && !decoded.contains('\\'));
        let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
        assert!(!decoded.split('/').any(dots));
        assert_eq!(encoded.slash, text.contains("%2F"));
        assert_eq!(encoded.percent, text.contains("%25"));
        let again = Target::from_parts("GET", "a", text, secure).expect("canonical");
        assert_eq!(again.path, once);
    }
    if let Ok(once) = CanonicalHost::parse(host, secure) {
        assert_eq!(CanonicalHost::parse(&once.to_string(), secure), Ok(once));
    }
    if let (Ok(uri), Ok(value)) = (path.parse::<Uri>(), HeaderValue::from_str(host)) {
        let mut headers = HeaderMap::new();
        headers.append(HOST, value);
        let _ = Target::from_request(&Method::GET, &uri, &headers, secure);
    }
});
