//! `[listen]` and `[listen.limits]`: the public listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::Tls;
use super::reader::{Section, defaults};
use super::values::{address, header_name, host_and_port, network, public_url};

/// `[listen]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Our own address as browsers see it: scheme, host and port.
    pub public_url: Url,
    /// Where our own endpoints are: begins with `/`, does not end with it.
    pub prefix: String,
    /// A plain HTTP listener that redirects to `public_url`.
    pub redirect_http: Option<SocketAddr>,
    /// Peers whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// More header fields to remove from every request, in lower case.
    pub strip_headers: Vec<String>,
    /// More hosts (and ports) that `return_to` may name.
    pub return_to_hosts: Vec<String>,
    /// `[listen.limits]`
    pub limits: Limits,
    /// `[listen.tls]`
    pub tls: Tls,
}

impl Default for Listen {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Listen {
    /// The path of an own endpoint: `prefix` and, say, `/login`.
    pub fn endpoint(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The same on the host of `public_url`.
    pub fn endpoint_url(&self, path: &str) -> Url {
        self.public(&self.endpoint(path))
    }

    /// A path on the host of `public_url`.
    pub fn public(&self, path: &str) -> Url {
        let mut url = self.public_url.clone();
        url.set_path(path);
        url.set_query(None);
        url
    }

    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self {
            address: s.parsed(
                "address",
                "address:port",
                SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
                "Where clients connect.",
                address,
            ),
            public_url: PublicUrl::read(s),
            prefix: s.parsed(
                "prefix",
                "path",
                "/auth".to_owned(),
                "Where this gateway's own endpoints are; no route can be there.",
                prefix,
            ),
            redirect_http: s.optional(
                "redirect_http",
                "address:port",
                "A plain HTTP listener that redirects everything to `public_url`.",
                address,
            ),
            trusted_proxies: s.list(
                "trusted_proxies",
                "list of networks",
                &[],
                "Peers whose X-Forwarded-* fields are believed. /0 is refused.",
                network,
            ),
            strip_headers: s.list(
                "strip_headers",
                "list of header names",
                &[],
                "More header fields to remove from every request.",
                header_name,
            ),
            return_to_hosts: s.list(
                "return_to_hosts",
                "list of hosts",
                &[],
                "More hosts that `return_to` may lead to after signing in.",
                host_and_port,
            ),
            limits: s.table("limits", "Bounds of connections and requests.", Limits::read),
            tls: s.table("tls", "TLS of the public listener.", Tls::read),
        }
    }
}

struct PublicUrl;

impl PublicUrl {
    const DEFAULT: &str = "http://localhost:8080";
    const DOC: &str =
        "This gateway's address as browsers see it; http:// for loopback only. Cookies and tokens carry it.";

    fn read(s: &mut Section<'_>) -> Url {
        let shown = s.parsed("public_url", "URL", Self::DEFAULT.to_owned(), Self::DOC, |text| {
            public_url(text).map(|_| text.to_owned())
        });
        parsed_constant(&shown)
    }
}

#[expect(clippy::expect_used, reason = "a constant, or a text that was read as a URL a line before")]
fn parsed_constant(text: &str) -> Url {
    Url::parse(text).expect("a URL")
}

/// Stands in for a URL that is missing or wrong, beside the mistake; never part of a loaded configuration.
pub(super) fn placeholder_url() -> Url {
    parsed_constant("https://placeholder.invalid")
}

fn prefix(text: &str) -> Result<String, String> {
    let segment = |segment: &str| {
        !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_~".contains(&b))
    };
    match text.strip_prefix('/') {
        Some(rest) if rest.split('/').all(segment) => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` must begin with `/`, not end with it, and hold letters, digits, `-` and `_`"
        )),
    }
}

/// `[listen.limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request's line and fields.
    pub head: usize,
    /// Header fields of a request.
    pub fields: usize,
    /// How long a request's head may take.
    pub head_timeout: Duration,
    /// Bytes a second that a body of known length must bring.
    pub body_rate: u64,
    /// How long an idle connection stays.
    pub keep_alive: Duration,
    /// Connections at the same time, over all workers.
    pub connections: usize,
    /// HTTP/2 streams of one connection at the same time.
    pub h2_streams: u32,
    /// How long SIGTERM waits for calls in flight.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Limits {
    fn read(s: &mut Section<'_>) -> Self {
        let head = s.size("head", "32KiB", "Bytes of a request's line and header fields together.");
        if !(1024..=1 << 20).contains(&head) {
            s.problem("head", "`head` must be between 1KiB and 1MiB");
        }
        Self {
            head: usize::try_from(head).unwrap_or(usize::MAX),
            fields: s.number("fields", (96, "96"), (8, 1024), "Header fields of a request."),
            head_timeout: s.positive_duration("head_timeout", "5s", "How long a request's head may take."),
            body_rate: s.rate(
                "body_rate",
                "1KiB/s",
                "The least that a body of known length must bring; streams have `stream_idle` of the route.",
            ),
            keep_alive: s.positive_duration("keep_alive", "30s", "How long an idle connection is kept."),
            connections: s.number(
                "connections",
                (25_000, "25000"),
                (1, 10_000_000),
                "Connections at the same time.",
            ),
            h2_streams: s.number(
                "h2_streams",
                (100, "100"),
                (1, 10_000),
                "HTTP/2 streams of one connection at the same time.",
            ),
            drain: s.duration("drain", "30s", "How long SIGTERM waits for calls in flight."),
        }
    }
}

/// The URL as issuers and audiences write it: without the slash that stands for an empty path.
pub(super) fn without_slash(url: &Url) -> String {
    let text = url.as_str();
    if url.path() == "/" { text.strip_suffix('/').unwrap_or(text).to_owned() } else { text.to_owned() }
}
