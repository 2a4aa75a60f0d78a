//! Where a browser goes after sign-in. Parsed with the URL parser that browsers use; what is not ours is ignored.

use url::Url;

use crate::config::Config;

/// The hosts that `return_to` may name.
#[derive(Clone, Debug)]
pub struct Allowed {
    public: Url,
    /// Hosts of routes; `*.example.com` stands for one label.
    hosts: Vec<String>,
    /// `return_to_hosts`: a host, or a host and port.
    listed: Vec<String>,
}

impl Allowed {
    /// What this configuration allows.
    pub fn of(config: &Config) -> Self {
        Self {
            public: config.listen.public_url.clone(),
            hosts: config.routes.iter().flat_map(|route| route.hosts.iter().cloned()).collect(),
            listed: config.listen.return_to_hosts.clone(),
        }
    }

    /// The URL, when it leads to a host of ours; `None` otherwise: it is ignored then. `own` is the origin of the
    /// request, to which a text that begins with one `/` is relative.
    pub fn parse(&self, text: &str, own: &str) -> Option<Url> {
        if text.len() > 4096 || text.bytes().any(|b| b == b'\\' || b <= 0x20 || b == 0x7F) {
            return None;
        }
        let own = Url::parse(own).ok()?;
        if text.starts_with('/') {
            let url = own.join(text).ok()?;
            return (!text.starts_with("//") && url.origin() == own.origin()).then_some(url);
        }
        let url = Url::parse(text).ok()?;
        let plain = url.username().is_empty() && url.password().is_none() && !authority(text)?.contains('@');
        let scheme = url.scheme() == self.public.scheme();
        (plain && scheme && self.knows(&url)).then_some(url)
    }

    /// True when our own endpoints answer on the URL's host: it is that of `public_url` or of a route.
    pub fn serves(&self, url: &Url) -> bool {
        let host = url.host_str().map(|host| host.strip_suffix('.').unwrap_or(host));
        host.is_some_and(|host| {
            self.public.host_str() == Some(host) || self.hosts.iter().any(|pattern| covers(pattern, host))
        })
    }

    fn knows(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let host = host.strip_suffix('.').unwrap_or(host);
        let port = url.port_or_known_default();
        let with_port = format!("{host}:{}", port.unwrap_or_default());
        if self.listed.iter().any(|known| {
            known.eq_ignore_ascii_case(&with_port)
                || (url.port().is_none() && known.eq_ignore_ascii_case(host))
        }) {
            return true;
        }
        let usual = url.port().is_none() || port == self.public.port_or_known_default();
        let public = self.public.host_str().is_some_and(|known| known == host)
            && port == self.public.port_or_known_default();
        public || (usual && self.hosts.iter().any(|pattern| covers(pattern, host)))
    }
}

fn authority(text: &str) -> Option<&str> {
    text.split_once("://")?.1.split(['/', '?', '#']).next()
}

fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain)),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Allowed {
        Allowed {
            public: Url::parse("https://gate.example/").unwrap(),
            hosts: vec!["api.example".to_owned(), "*.apps.example".to_owned()],
            listed: vec!["other.example".to_owned(), "dev.example:8443".to_owned()],
        }
    }

    fn parse(text: &str) -> Option<String> {
        allowed().parse(text, "https://gate.example").map(|url| url.to_string())
    }

    #[test]
    fn hosts_of_ours_are_taken() {
        for good in [
            "https://gate.example/a?b=c#d",
            "https://api.example/",
            "https://x.apps.example/",
            "https://other.example/",
            "https://dev.example:8443/",
        ] {
            assert_eq!(parse(good).as_deref(), Some(good));
        }
        assert_eq!(parse("/a/b?c").as_deref(), Some("https://gate.example/a/b?c"));
    }

    #[test]
    fn sessions_are_carried_to_hosts_that_are_served_here() {
        let serves = |text: &str| allowed().serves(&Url::parse(text).unwrap());
        assert!(serves("https://gate.example/") && serves("https://api.example/a"));
        assert!(serves("https://x.apps.example/") && !serves("https://other.example/"));
    }

    #[test]
    fn everything_else_is_ignored() {
        for bad in [
            "",
            "a",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "https:evil.example",
            "https://evil.example/",
            "https://gate.example.evil.example/",
            "https://gate.example@evil.example/",
            "https://user@gate.example/",
            "https://@gate.example/",
            "https://gate.example:444/",
            "https://dev.example/",
            "http://gate.example/",
            "http://gate.example:443/",
            "ftp://gate.example:443/",
            "https://a.b.apps.example/",
            "https://apps.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            " https://gate.example/",
            "https://evil.example\\@gate.example/",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
