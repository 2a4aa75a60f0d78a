//! Who the client is when proxies stand before us. `X-Forwarded-*` counts from `listen.trusted_proxies` only.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// The client's address: the rightmost one in `X-Forwarded-For` that is not a trusted proxy's, read from the peer on.
/// What cannot be read ends the reading at the last address that is known.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(client, trusted) {
        return client;
    }
    for value in headers.get_all("x-forwarded-for").iter().rev() {
        let Ok(text) = value.to_str() else { return client };
        for part in text.rsplit(',') {
            let Some(address) = read(part.trim()) else { return client };
            client = address;
            if !is_trusted(client, trusted) {
                return client;
            }
        }
    }
    client
}

/// True when the request came over https: to us, or to a trusted proxy that says so.
pub fn is_secure(tls: bool, peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> bool {
    if tls {
        return true;
    }
    let said = headers
        .get_all("x-forwarded-proto")
        .iter()
        .next_back()
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.rsplit(',').next());
    is_trusted(peer.to_canonical(), trusted)
        && said.is_some_and(|said| said.trim().eq_ignore_ascii_case("https"))
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// An address, which some proxies write with its port.
fn read(text: &str) -> Option<IpAddr> {
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        client_ip(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(ask("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(ask("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(ask("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(ask("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn what_the_client_wrote_itself_does_not_count() {
        assert_eq!(ask("10.0.0.1", &["127.0.0.1, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(ask("10.0.0.1", &["127.0.0.1", "198.51.100.7"]), "198.51.100.7");
        assert_eq!(ask("10.0.0.1", &["10.0.0.9"]), "10.0.0.9");
        assert_eq!(ask("10.0.0.1", &["198.51.100.7, rubbish, 10.0.0.2"]), "10.0.0.2");
    }

    #[test]
    fn ports_and_brackets_are_read() {
        assert_eq!(ask("::1", &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(ask("::1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(ask("::1", &["[2001:db8::1]"]), "2001:db8::1");
    }

    #[test]
    fn https_is_said_by_trusted_proxies_only() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", "http, HTTPS".parse().unwrap());
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert!(is_secure(false, "10.0.0.1".parse().unwrap(), &headers, &trusted));
        assert!(!is_secure(false, "192.0.2.1".parse().unwrap(), &headers, &trusted));
        assert!(is_secure(true, "192.0.2.1".parse().unwrap(), &HeaderMap::new(), &[]));
        headers.append("x-forwarded-proto", "http".parse().unwrap());
        assert!(!is_secure(false, "10.0.0.1".parse().unwrap(), &headers, &trusted));
    }
}
