//! Headers that say who is before us, and the framing of HTTP/1.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::listen::{client_ip, fuzz, is_secure};

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(fuzz::framing(bytes, bytes.len().max(1)), fuzz::framing(bytes, 1));
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let name = HeaderName::from_bytes(name).unwrap_or(HeaderName::from_static("x-forwarded-for"));
        if let Ok(value) = HeaderValue::from_bytes(value.get(1..).unwrap_or_default()) {
            headers.append(name, value);
        }
    }
    let peer = "10.0.0.1".parse().expect("an address");
    let trusted = ["10.0.0.0/8".parse().expect("a network")];
    let _ = client_ip(peer, &headers, &trusted);
    let _ = is_secure(false, peer, &headers, &trusted);
    assert_eq!(client_ip(peer, &headers, &[]), peer);
    assert!(!is_secure(false, peer, &headers, &[]));
});
