//! What must hold between settings: names are unique, what is named exists. Routes are in `check_routes`.
//!
//! Called by `load` after reading. A new check is a function here, called from [`check`].

use std::collections::BTreeSet;

use super::reader::Context;
use super::{AuditEntry, ClientAuth, Config, StoreKind};
use crate::model::Account;
use crate::model::RoleName;

/// Notes every mistake between settings.
pub(super) fn check(config: &Config, context: &mut Context) {
    unique_names(config, context);
    issuers(config, context);
    listener(config, context);
    providers(config, context);
    store(config, context);
    super::check_routes::check(config, context);
    super::files::check(context);
}

fn unique<'a>(context: &mut Context, what: &str, key: &str, names: impl Iterator<Item = (String, &'a str)>) {
    let mut seen = BTreeSet::new();
    for (table, name) in names {
        if !name.is_empty() && !seen.insert(name) {
            context.problem(
                &format!("{table}.{key}"),
                format!("there are two {what} `{name}`; names are unique"),
            );
        }
    }
}

fn named<'a, T>(
    table: &'static str,
    items: &'a [T],
    name: impl Fn(&'a T) -> &'a str,
) -> impl Iterator<Item = (String, &'a str)> {
    items.iter().enumerate().map(move |(index, item)| (format!("{table}[{index}]"), name(item)))
}

fn unique_names(config: &Config, context: &mut Context) {
    unique(context, "upstreams", "name", named("upstream", &config.upstreams, |item| &item.name));
    unique(context, "routes", "name", named("route", &config.routes, |item| &item.name));
    unique(context, "clients", "id", named("client", &config.clients, |item| &item.id));
    let providers = named("provider", &config.providers, |item| &item.name);
    let issuers = named("trusted_issuer", &config.trusted_issuers, |item| &item.name);
    unique(context, "providers or trusted issuers", "name", providers.chain(issuers));
    let rules = named("certificate_principal", &config.certificate_principals, |item| &item.matches);
    unique(context, "certificate principals for", "matches", rules);
}

fn issuers(config: &Config, context: &mut Context) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, issuer) in config.trusted_issuers.iter().enumerate() {
        let key = format!("trusted_issuer[{index}].issuer");
        let text = issuer.issuer.as_str();
        if text == config.tokens.issuer {
            context.problem(&key, format!("issuer `{text}` is this gateway's own"));
        } else if !text.is_empty() && seen.contains(&text) {
            context.problem(&key, format!("there are two trusted issuers with issuer `{text}`"));
        }
        seen.push(text);
        if issuer.roles_claim.is_none() && !issuer.roles.is_empty() {
            let key = format!("trusted_issuer[{index}].roles");
            context.problem(&key, "`roles` needs `roles_claim`, which names the claim with the groups");
        }
    }
}

fn listener(config: &Config, context: &mut Context) {
    let tls = &config.listen.tls;
    if tls.certificates.is_empty() && !tls.clients.is_empty() {
        context.problem(
            "listen.tls.client",
            "[[listen.tls.client]] needs a [[listen.tls.certificate]]: without TLS nobody shows a certificate",
        );
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, rule) in tls.clients.iter().enumerate() {
        for host in &rule.hosts {
            if seen.contains(&host.as_str()) {
                let key = format!("listen.tls.client[{index}].hosts");
                context.problem(&key, format!("host `{host}` is in two [[listen.tls.client]]"));
            }
            seen.push(host);
        }
        if rule.hosts.is_empty() {
            let key = format!("listen.tls.client[{index}].hosts");
            context.problem(&key, "`hosts` must not be empty; [\"*\"] is every host");
        }
        if rule.auth == ClientAuth::Off && rule.ca.is_some() {
            let key = format!("listen.tls.client[{index}].ca");
            context.warning(&key, "`ca` has no effect while `auth` is off");
        }
    }
    if config.listen.redirect_http.is_some()
        && config.listen.public_url.scheme() == "http"
        && !context.is_faulty("listen.public_url")
    {
        context
            .problem("listen.redirect_http", "`redirect_http` needs an https:// `public_url` to redirect to");
    }
    let redirect = config.listen.redirect_http;
    let same = |one: std::net::SocketAddr, other| one == other && one.port() != 0;
    if same(config.admin.address, config.listen.address) {
        context.problem("admin.address", "[admin] and [listen] have the same address");
    }
    if redirect
        .is_some_and(|address| same(address, config.listen.address) || same(address, config.admin.address))
    {
        context.problem("listen.redirect_http", "`redirect_http` is the address of another listener");
    }
}

fn providers(config: &Config, context: &mut Context) {
    for (index, provider) in config.providers.iter().enumerate() {
        if !provider.scopes.iter().any(|scope| scope == "openid") {
            context.problem(&format!("provider[{index}].scopes"), "`scopes` must hold `openid`");
        }
        if provider.roles_claim.is_none() && !provider.roles.is_empty() {
            let key = format!("provider[{index}].roles");
            context.problem(&key, "`roles` needs `roles_claim`, which names the claim with the groups");
        }
    }
}

fn store(config: &Config, context: &mut Context) {
    if config.store.kind == StoreKind::Embedded && context.is_set("store.redis.urls") {
        context.warning("store.redis", "[store.redis] has no effect while `kind` is embedded");
    }
    let audit = &config.audit;
    if config.store.kind == StoreKind::Embedded && audit.entry == AuditEntry::Batch {
        context
            .problem("audit.entry", "`entry` is about the Redis stream: it needs [store] kind = \"redis\"");
    }
    if audit.compress && audit.entry == AuditEntry::Event {
        context.problem("audit.compress", "`compress` is for batches: it needs `entry = \"batch\"`");
    }
    let redis = &config.store.redis;
    if redis.ca.is_some() && !redis.urls.iter().all(|url| url.starts_with("rediss:")) {
        context.problem("store.redis.ca", "`ca` is for TLS: the URL must begin with rediss://");
    }
}

/// Notes roles that have the name of a principal: given to someone, they would mean that principal.
pub(super) fn roles_and_names(config: &Config, accounts: &[Account], context: &mut Context) {
    let mut names: BTreeSet<String> =
        accounts.iter().map(|account| account.name.as_str().to_owned()).collect();
    names.extend(config.clients.iter().map(|client| format!("client:{}", client.id)));
    names.extend(config.certificate_principals.iter().map(|rule| rule.name.clone()));
    let mut refuse = |key: String, role: &RoleName| {
        if names.contains(role.as_str()) {
            context.problem(&key, format!("role `{role}` has the name of an existing principal"));
        }
    };
    for (index, item) in config.providers.iter().enumerate() {
        item.roles.values().for_each(|role| refuse(format!("provider[{index}].roles"), role));
    }
    for (index, item) in config.trusted_issuers.iter().enumerate() {
        item.roles.values().for_each(|role| refuse(format!("trusted_issuer[{index}].roles"), role));
    }
    for (index, item) in config.clients.iter().enumerate() {
        item.roles.iter().for_each(|role| refuse(format!("client[{index}].roles"), role));
    }
    for (index, item) in config.certificate_principals.iter().enumerate() {
        item.roles.iter().for_each(|role| refuse(format!("certificate_principal[{index}].roles"), role));
    }
    let carried = accounts.iter().flat_map(|account| &account.roles);
    carried.for_each(|role| refuse("accounts.file".to_owned(), role));
}
