//! Texts of settings to values: durations, sizes, networks, hosts. Errors say what a right one looks like.
//!
//! Called by the sections. A new kind of text is one function here.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use url::{Host, Url};

use crate::model::{AuthMethod, RoleName};

/// `200ms`, `10s`, `5m`, `12h`, `30d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a duration; write a whole number and ms, s, m, h or d, as in \"5m\"");
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let total = number.checked_mul(millis).filter(|total| *total <= 36_500 * 86_400_000);
    total.map(Duration::from_millis).ok_or_else(|| format!("`{text}` is longer than a hundred years"))
}

/// The same, longer than nothing.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    let value = duration(text)?;
    if value.is_zero() { Err(format!("`{text}` must be longer than nothing")) } else { Ok(value) }
}

/// `512B`, `64KiB`, `10MiB`, `1GiB`, in bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is not a size; write a whole number and B, KiB, MiB or GiB, as in \"64KiB\"");
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    let total = number.checked_mul(factor).filter(|total| i64::try_from(*total).is_ok());
    total.ok_or_else(|| format!("`{text}` is too large"))
}

/// `1KiB/s`, in bytes a second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a rate; write a size for each second, as in \"1KiB/s\"");
    size(text.strip_suffix("/s").ok_or_else(wrong)?).map_err(|_| wrong())
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

/// `127.0.0.1:8080`, `[::]:80`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an address and port, as in \"127.0.0.1:8080\""))
}

/// A network that is not everything: `10.0.0.0/8`, `192.0.2.7`, `fd00::/8`.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = network.map_err(|_| format!("`{text}` is not a network, as in \"10.0.0.0/8\""))?;
    if network.prefix_len() == 0 {
        return Err(format!("`{text}` is every address; name the networks that are meant"));
    }
    Ok(network.trunc())
}

/// An absolute http or https URL without a user, a password or a fragment.
pub(super) fn web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text)
        .map_err(|_| "is not a URL; write it in full, as in \"https://gate.example.com\"".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("`{text}` must begin with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password".to_owned());
    }
    if url.fragment().is_some() {
        return Err(format!("`{text}` must not have a fragment (#)"));
    }
    Ok(url)
}

/// The same, and plain http only to this machine.
pub(super) fn secure_url(text: &str) -> Result<Url, String> {
    let url = web_url(text)?;
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err(format!("`{text}` must be https://; http:// is for loopback only"));
    }
    Ok(url)
}

/// A URL of a server: nothing after the host and port.
pub(super) fn server_url(text: &str) -> Result<Url, String> {
    let url = web_url(text)?;
    if url.path() != "/" || url.query().is_some() {
        return Err(format!("`{text}` must end after the host and port"));
    }
    Ok(url)
}

/// Our own address as browsers see it.
pub(super) fn public_url(text: &str) -> Result<Url, String> {
    let url = secure_url(text)?;
    server_url(url.as_str()).map_err(|_| format!("`{text}` must end after the host and port"))
}

/// A Redis URL; the message never holds it, since it may hold a password.
pub(super) fn redis_url(text: &str) -> Result<String, String> {
    let wrong = "is not a Redis URL, as in \"redis://127.0.0.1:6379\", \"rediss://\" for TLS, or \"unix:///run/redis.sock\"";
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "redis" | "rediss") && url.has_host() => Ok(text.to_owned()),
        Ok(url) if url.scheme() == "unix" && !url.has_host() && url.path().len() > 1 => Ok(text.to_owned()),
        _ => Err(wrong.to_owned()),
    }
}

/// An origin as browsers send it: scheme, host and port alone.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let url =
        web_url(text).map_err(|_| format!("`{text}` is not an origin, as in \"https://app.example.com\""))?;
    let origin = url.origin().ascii_serialization();
    if origin == text {
        Ok(origin)
    } else {
        Err(format!("`{text}` is not how browsers send this origin; write `{origin}`"))
    }
}

/// True when the host of the URL is this machine, whatever the resolver says.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A host name or address without port, in lower case; a bare IPv6 address gets its brackets.
pub(super) fn host(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = inner.unwrap_or(name).parse::<std::net::Ipv6Addr>() {
        return Ok(format!("[{address}]"));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(name.to_owned())
    } else {
        Err(format!("`{text}` is not a host name; write it without scheme, port and path"))
    }
}

/// A host, or `*.example.com`.
pub(super) fn host_pattern(text: &str) -> Result<String, String> {
    match text.strip_prefix("*.") {
        Some(rest) => host(rest).map(|host| format!("*.{host}")),
        None if text == "*" => Err("`*` is every host: leave `hosts` out for that".to_owned()),
        None => host(text),
    }
}

/// A host pattern, or `*` for every host.
pub(super) fn host_pattern_or_all(text: &str) -> Result<String, String> {
    if text == "*" { Ok(text.to_owned()) } else { host_pattern(text) }
}

/// A host with or without a port.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            let port = port.parse::<u16>().map_err(|_| format!("`{text}` has no valid port"))?;
            host(name).map(|name| format!("{name}:{port}"))
        }
        _ => host(text),
    }
}

/// A header field's name, in lower case.
pub(super) fn header_name(text: &str) -> Result<String, String> {
    http::HeaderName::from_bytes(text.as_bytes())
        .map(|name| name.as_str().to_owned())
        .map_err(|_| format!("`{text}` is not the name of a header field"))
}

/// An HTTP method, in upper case.
pub(super) fn method(text: &str) -> Result<http::Method, String> {
    let wrong = || format!("`{text}` is not a method; write it in upper case, as in \"GET\"");
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(wrong());
    }
    http::Method::from_bytes(text.as_bytes()).map_err(|_| wrong())
}

/// A way to prove an identity.
pub(super) fn auth_method(text: &str) -> Result<AuthMethod, String> {
    let all = [
        AuthMethod::Bearer,
        AuthMethod::Session,
        AuthMethod::Certificate,
        AuthMethod::Password,
        AuthMethod::None,
    ];
    if text == AuthMethod::ApiKey.as_str() {
        return Err("`api_key` is not supported by this version; a machine is a [[client]] and brings its token as `bearer`"
            .to_owned());
    }
    all.into_iter().find(|method| method.as_str() == text).ok_or_else(|| {
        let names = all.map(AuthMethod::as_str).join(", ");
        format!("`{text}` is not a way to authenticate; known: {names}")
    })
}

/// A role that may be given from outside: operators' roles may not.
pub(super) fn outside_role(text: &str) -> Result<RoleName, String> {
    let role = RoleName::parse(text).map_err(|error| error.to_string())?;
    if role.is_operator() {
        return Err(format!(
            "role `{text}` is an operator's; it is given by `portcullis user set` or the accounts file only"
        ));
    }
    if text == "anonymous" {
        return Err("role `anonymous` has the name of the principal of routes with `none`".to_owned());
    }
    Ok(role)
}

/// A name of ours: `orders`, `orders-v2`.
pub(super) fn plain_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a name: 1 to 64 letters, digits and `.` `_` `-`"))
    }
}

/// A name of a provider or trusted issuer, which begins the names of its principals.
pub(super) fn source_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !(1..=64).contains(&text.len()) || !text.bytes().all(allowed) {
        return Err(format!("`{text}` is not a name here: 1 to 64 lower-case letters, digits and `-`"));
    }
    if matches!(text, "client" | "cli" | "portcullis") {
        return Err(format!("`{text}` is reserved and cannot name a provider or trusted issuer"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "5", "m", "-5m", "5 minutes", "1.5h", "99999999999999999999s", "999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("10MiB"), Ok(10 << 20));
        assert_eq!(size("7"), Ok(7));
        assert_eq!(rate("1KiB/s"), Ok(1024));
        for bad in ["", "KiB", "10MB", "-1B", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(rate("1KiB").is_err());
    }

    #[test]
    fn hosts_are_lower_case_and_without_port() {
        assert_eq!(host("API.example.com."), Ok("api.example.com".to_owned()));
        assert_eq!(host("::1"), Ok("[::1]".to_owned()));
        assert_eq!(host_pattern("*.Example.com"), Ok("*.example.com".to_owned()));
        assert_eq!(host_and_port("localhost:8080"), Ok("localhost:8080".to_owned()));
        for bad in ["", "a:80", "http://a", "a/b", "*", "a..b", "a*.b"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
