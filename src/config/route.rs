//! `[[route]]`: what is reachable, and how one proves who one is there.

use std::time::Duration;

use super::fields::non_empty;
use super::reader::{Section, defaults};
use super::template::Template;
use super::values::{auth_method, duration, host_pattern, method, origin, plain_name};
use crate::model::{Acr, AuthMethod};

/// The names of the identity headers that an upstream gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IdentityHeaders {
    /// `Portcullis-*`.
    #[default]
    Portcullis,
    /// Those of oauth2-proxy.
    Oauth2Proxy,
    /// Those of Authelia.
    Authelia,
    /// Those of authentik.
    Authentik,
    /// Those of Pomerium.
    Pomerium,
    /// None.
    None,
}

/// What happens when the store cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenStoreIsDown {
    /// 503.
    #[default]
    Deny,
    /// What this node verified before and did not hear to be revoked goes on.
    AllowKnown,
}

/// `[route.timeout]`
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// Connecting to a server.
    pub connect: Duration,
    /// From the request's end to the answer's head.
    pub first_byte: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
    /// The same for upgrades, event streams and gRPC.
    pub stream_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        defaults(Self::read)
    }
}

/// `[[route]]`
#[derive(Clone, Debug)]
pub struct Route {
    /// Unique; in audits and metrics.
    pub name: String,
    /// empty: every host; `*.example.com` allowed
    pub hosts: Vec<String>,
    /// A template: `/orders/{id}`, `/files/{rest*}`.
    pub path: String,
    /// empty: every method
    pub methods: Vec<http::Method>,
    /// Absent: for forward-auth only.
    pub upstream: Option<String>,
    /// Which credentials count, in this order; `none` last.
    pub authenticate: Vec<AuthMethod>,
    /// How strongly one must have signed in.
    pub require_acr: Option<Acr>,
    /// How long ago at most.
    pub max_auth_age: Option<Duration>,
    /// Whether the upstream gets the client's `Authorization` and our cookie.
    pub pass_authorization: bool,
    /// Which identity headers the upstream gets.
    pub identity_headers: IdentityHeaders,
    /// Whether the upstream gets a signed assertion.
    pub assertion: bool,
    /// None: unlimited
    pub body_limit: Option<u64>,
    /// `[route.timeout]`
    pub timeout: Timeouts,
    /// Origins of other sites that may use it.
    pub cors_origins: Vec<String>,
    /// Path templates whose parameters the audit hides.
    pub mask: Vec<String>,
    /// What happens when the store cannot be reached.
    pub when_store_is_down: WhenStoreIsDown,
    /// For how long at most [`WhenStoreIsDown::AllowKnown`] goes on; never longer than `tokens.access_ttl`.
    pub allow_known_for: Duration,
    /// Whether paths may hold an encoded slash.
    pub allow_encoded_slash: bool,
    /// Whether paths may hold an encoded percent.
    pub allow_encoded_percent: bool,
    /// what policies see as `obj` instead of the path
    pub resource: Option<String>,
}

impl Route {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        s.unsupported(&["shadow", "rate_limit", "rate_limits"]);
        let encoded = s.list(
            "allow_encoded",
            "list: slash, percent",
            &[],
            "Which encoded characters its paths may hold.",
            |text| match text {
                "slash" | "percent" => Ok(text.to_owned()),
                _ => Err(format!("`{text}` is not known here; known: slash, percent")),
            },
        );
        let has = |word: &str| encoded.iter().any(|found| found == word);
        Self {
            name: s.required("name", "text", String::new(), "In audits and metrics, unique.", plain_name),
            hosts: s.list(
                "hosts",
                "list of hosts",
                &[],
                "Which hosts, `*.example.com` allowed; without any, every host.",
                host_pattern,
            ),
            path: s.required(
                "path",
                "path template",
                "/".to_owned(),
                "Segments: literal, `{name}`, and `{rest*}` at the end, which also matches nothing.",
                template,
            ),
            methods: s.list(
                "methods",
                "list of methods",
                &[],
                "Which methods; without any, every method. GET does not imply HEAD.",
                method,
            ),
            upstream: s.optional(
                "upstream",
                "text",
                "The `[[upstream]]` that gets the requests; absent: for forward-auth only.",
                non_empty,
            ),
            authenticate: s.list(
                "authenticate",
                "list: bearer, session, certificate, password, none",
                &["bearer", "session"],
                "Which credentials count; `none`, which must be last, lets anyone ask as `anonymous`.",
                auth_method,
            ),
            require_acr: s.optional(
                "require_acr",
                "text",
                "How strongly one must have signed in: `urn:portcullis:acr:1`, `:2` or `:3`.",
                acr,
            ),
            max_auth_age: s.optional(
                "max_auth_age",
                "duration",
                "How long ago one may have signed in.",
                duration,
            ),
            pass_authorization: s.boolean(
                "pass_authorization",
                false,
                "Pass the client's Authorization and our cookie on to the upstream.",
            ),
            identity_headers: s.choice(
                "identity_headers",
                &[
                    ("portcullis", IdentityHeaders::Portcullis),
                    ("oauth2-proxy", IdentityHeaders::Oauth2Proxy),
                    ("authelia", IdentityHeaders::Authelia),
                    ("authentik", IdentityHeaders::Authentik),
                    ("pomerium", IdentityHeaders::Pomerium),
                    ("none", IdentityHeaders::None),
                ],
                &[],
                "The names of the identity headers that the upstream gets.",
            ),
            assertion: s.boolean("assertion", true, "Send the upstream a signed assertion."),
            body_limit: s.size_or_none(
                "body_limit",
                "10MiB",
                "The most a request's body may hold; not counted after an upgrade or for gRPC.",
            ),
            timeout: s.table("timeout", "How long the upstream may take.", Timeouts::read),
            cors_origins: s.table("cors", "Browsers on other sites.", |s| {
                s.list("origins", "list of origins", &[], "Origins that may use the route.", origin)
            }),
            mask: s.list(
                "mask",
                "list of path templates",
                &[],
                "Paths whose parameters the audit hides.",
                template,
            ),
            when_store_is_down: s.choice(
                "when_store_is_down",
                &[("deny", WhenStoreIsDown::Deny), ("allow_known", WhenStoreIsDown::AllowKnown)],
                &[],
                "Refuse with 503, or let bearer tokens pass that this node has verified before.",
            ),
            allow_known_for: s.positive_duration(
                "allow_known_for",
                "5m",
                "For how long `allow_known` goes on after the store was heard last; never longer than `tokens.access_ttl`.",
            ),
            allow_encoded_slash: has("slash"),
            allow_encoded_percent: has("percent"),
            resource: s.optional(
                "resource",
                "text",
                "What policies see as `obj` instead of the path.",
                non_empty,
            ),
        }
    }
}

impl Timeouts {
    fn read(s: &mut Section<'_>) -> Self {
        Self {
            connect: s.positive_duration("connect", "2s", "Connecting to a server."),
            first_byte: s.positive_duration(
                "first_byte",
                "30s",
                "From the end of the request to the head of the answer.",
            ),
            idle: s.positive_duration("idle", "60s", "Between two pieces of a body."),
            stream_idle: s.positive_duration(
                "stream_idle",
                "1h",
                "The same for upgrades, event streams and gRPC.",
            ),
        }
    }
}

fn template(text: &str) -> Result<String, String> {
    Template::parse(text).map(|_| text.to_owned())
}

fn acr(text: &str) -> Result<Acr, String> {
    Acr::parse(text).filter(|acr| *acr != Acr::Zero).ok_or_else(|| {
        format!("`{text}` is not known here; known: urn:portcullis:acr:1, urn:portcullis:acr:2, urn:portcullis:acr:3")
    })
}
