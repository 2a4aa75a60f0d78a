//! The whole configuration. Read by `load`; every other module is given its section, or this.

use std::collections::HashSet;

use super::reader::{Section, defaults};
use super::{
    Accounts, Admin, Audit, Authzen, CertificatePrincipal, Client, ForwardAuth, Listen, Node, Passwords,
    Policy, Provider, Route, Session, Store, Tokens, TrustedIssuer, Upstream,
};

/// The whole configuration of a node, checked: what is here is consistent.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[listen]`
    pub listen: Listen,
    /// `[admin]`
    pub admin: Admin,
    /// `[store]`
    pub store: Store,
    /// `[tokens]`
    pub tokens: Tokens,
    /// `[session]`
    pub session: Session,
    /// `[passwords]`
    pub passwords: Passwords,
    /// `[accounts]`
    pub accounts: Accounts,
    /// `[policy]`
    pub policy: Policy,
    /// `[audit]`
    pub audit: Audit,
    /// `[forward_auth]`
    pub forward_auth: ForwardAuth,
    /// `[authzen]`
    pub authzen: Authzen,
    /// `[[upstream]]`
    pub upstreams: Vec<Upstream>,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[[provider]]`
    pub providers: Vec<Provider>,
    /// `[[client]]`
    pub clients: Vec<Client>,
    /// `[[trusted_issuer]]`
    pub trusted_issuers: Vec<TrustedIssuer>,
    /// `[[certificate_principal]]`
    pub certificate_principals: Vec<CertificatePrincipal>,
}

impl Default for Config {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Config {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        let node = s.table("node", "This node.", Node::read);
        let listen = s.table("listen", "The public listener.", Listen::read);
        let public = listen.public_url.clone();
        let config = Self {
            node,
            listen,
            admin: s.table(
                "admin",
                "The operators' listener: health, metrics, admin API, console.",
                Admin::read,
            ),
            store: s.table("store", "Where accounts, sessions, keys and audits are kept.", Store::read),
            tokens: s.table("tokens", "The tokens that this gateway issues.", |s| Tokens::read(s, &public)),
            session: s.table("session", "Browser sessions.", Session::read),
            passwords: s.table("passwords", "Passwords of accounts.", Passwords::read),
            accounts: s.table("accounts", "Accounts under version control.", Accounts::read),
            policy: s.table("policy", "The policies that decide.", Policy::read),
            audit: s.table("audit", "The record of every decision.", Audit::read),
            forward_auth: s.table("forward_auth", "Verdicts for other proxies.", ForwardAuth::read),
            authzen: s.table("authzen", "Decisions for other programs.", Authzen::read),
            upstreams: s.tables("upstream", "Servers behind this gateway.", Upstream::read),
            routes: s.tables("route", "What is reachable, and how one proves who one is there.", Route::read),
            providers: s.tables("provider", "Single sign-on from another identity provider.", Provider::read),
            clients: s.tables(
                "client",
                "An application or machine that signs in through this gateway.",
                Client::read,
            ),
            trusted_issuers: s.tables(
                "trusted_issuer",
                "Access tokens of others that routes accept.",
                TrustedIssuer::read,
            ),
            certificate_principals: s.tables(
                "certificate_principal",
                "Which client certificate is whom; one that no rule matches is nobody.",
                CertificatePrincipal::read,
            ),
        };
        s.unsupported(&["rate_limit", "rate_limits", "registration", "introspection", "device"]);
        config
    }

    /// True for paths that are ours, and never a route's, in this configuration.
    pub fn reserves(&self, path: &str) -> bool {
        super::is_reserved(path, &self.listen.prefix) || (self.authzen.enabled && super::is_access(path))
    }

    /// Every name that the configuration gives as a role: mappings, clients and certificates.
    pub fn given_roles(&self) -> HashSet<String> {
        let mapped = self.providers.iter().flat_map(|provider| provider.roles.values());
        let trusted = self.trusted_issuers.iter().flat_map(|issuer| issuer.roles.values());
        let clients = self.clients.iter().flat_map(|client| &client.roles);
        let certificates = self.certificate_principals.iter().flat_map(|rule| &rule.roles);
        mapped
            .chain(trusted)
            .chain(clients)
            .chain(certificates)
            .map(|role| role.as_str().to_owned())
            .collect()
    }
}
