//! An event as the rest of the program hands it over. Built by the request path, accounts, keys, policies and the node.
//!
//! A new kind is a variant of [`Kind`], its name here and its code in `codec`; a new member see `codec`.

use std::sync::Arc;

use crate::model::{Principal, RequestId, RuleRef, Timestamp};

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A decision on a request.
    Access,
    /// A sign-in, good or bad.
    Login,
    /// A token issued, refreshed, revoked.
    Token,
    /// A session begun or ended.
    Session,
    /// A signing key made, activated, retired.
    Key,
    /// A policy loaded or refused.
    Policy,
    /// An operator's change.
    Admin,
    /// A node started, stopped, lost something.
    Node,
    /// The end of a long stream.
    Stream,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Access,
        Self::Login,
        Self::Token,
        Self::Session,
        Self::Key,
        Self::Policy,
        Self::Admin,
        Self::Node,
        Self::Stream,
    ];

    /// The kind with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Every name, for people.
    pub fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    /// The name in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Login => "login",
            Self::Token => "token",
            Self::Session => "session",
            Self::Key => "key",
            Self::Policy => "policy",
            Self::Admin => "admin",
            Self::Node => "node",
            Self::Stream => "stream",
        }
    }
}

/// What was decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A permit was given, whatever the upstream did then.
    Allow,
    /// Refused with a 4xx of ours.
    Deny,
    /// A 5xx of ours before a permit.
    Error,
}

impl Outcome {
    /// The name in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
        }
    }
}

/// Everything known when a decision is made. Borrowed: writing is one copy into the log.
pub struct Event<'a> {
    /// What it is about.
    pub kind: Kind,
    /// What was decided.
    pub decision: Outcome,
    /// The name of the refusal or failure (interface §4).
    pub reason: Option<&'a str>,
    /// When it was decided; durations count from here.
    pub time: Timestamp,
    /// Who asked, when that was verified (or `anonymous` where nobody may ask).
    pub principal: Option<&'a Principal>,
    /// Roles as the policy saw them; the principal's own are not looked at.
    pub roles: &'a [Arc<str>],
    /// Which credential ([`crate::model::AuthMethod::as_str`]).
    pub auth: Option<&'a str>,
    /// Where the request came from.
    pub client_ip: Option<std::net::IpAddr>,
    /// The header, cut at 512 bytes.
    pub user_agent: Option<&'a str>,
    /// The method.
    pub method: Option<&'a str>,
    /// The canonical host.
    pub host: Option<&'a str>,
    /// The canonical path, masked as the route says; never a query.
    pub path: Option<&'a str>,
    /// The route's name.
    pub route: Option<&'a str>,
    /// The policy row that decided.
    pub rule: Option<&'a RuleRef>,
    /// The digest of the policies.
    pub policy: Option<&'a str>,
    /// The verdict of what only observes.
    pub shadow: Option<&'a str>,
    /// Ours.
    pub request_id: Option<RequestId>,
    /// The client's own.
    pub client_request_id: Option<&'a str>,
    /// W3C trace id.
    pub trace_id: Option<&'a str>,
    /// How many this one event stands for.
    pub count: Option<u64>,
}

impl Event<'_> {
    /// An event of which nothing else is known: for struct update syntax.
    pub const fn new(kind: Kind, decision: Outcome, time: Timestamp) -> Self {
        Self {
            kind,
            decision,
            reason: None,
            time,
            principal: None,
            roles: &[],
            auth: None,
            client_ip: None,
            user_agent: None,
            method: None,
            host: None,
            path: None,
            route: None,
            rule: None,
            policy: None,
            shadow: None,
            request_id: None,
            client_request_id: None,
            trace_id: None,
            count: None,
        }
    }

    /// Whether someone's identity was verified.
    pub(super) fn identified(&self) -> bool {
        self.principal.is_some_and(|principal| !principal.is_anonymous())
    }

    /// Whether the last tenth of the log is open to it: to known principals, and to what no caller can bring about.
    pub(super) fn privileged(&self) -> bool {
        self.identified() || !matches!(self.kind, Kind::Access | Kind::Login | Kind::Token | Kind::Session)
    }
}

/// Why an event is not in the log.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No room until more was shipped.
    #[error("the audit log is full: {0}")]
    Full(String),
    /// The disk refuses.
    #[error("the audit log cannot be written: {0}")]
    Io(String),
}
