//! What must hold of routes: their upstreams exist, none hides another, none is where our own endpoints are.

use super::reader::Context;
use super::template::Template;
use super::{ClientAuth, Config, Route, WhenStoreIsDown};
use crate::model::AuthMethod;

/// Documents of ours, which are nobody's to route.
const WELL_KNOWN: [&str; 5] = [
    "/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server",
    "/.well-known/jwks.json",
    "/.well-known/authzen-configuration",
    "/.well-known/oauth-protected-resource",
];

/// Where the decision API is, when it is enabled.
pub const ACCESS: &str = "/access/v1";

/// True for paths of the decision API.
pub fn is_access(path: &str) -> bool {
    path.strip_prefix(ACCESS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// True for paths that are ours below `prefix` (`listen.prefix`) and beside it, and never a route's.
pub fn is_reserved(path: &str, prefix: &str) -> bool {
    let below =
        |reserved: &str| path.strip_prefix(reserved).and_then(|rest| rest.bytes().next()) == Some(b'/');
    let resource = WELL_KNOWN.last().is_some_and(|document| below(document));
    path == prefix || below(prefix) || resource || WELL_KNOWN.contains(&path)
}

/// Notes every mistake of the routes.
pub(super) fn check(config: &Config, context: &mut Context) {
    let prefix = config.listen.prefix.as_str();
    if config.authzen.enabled && (is_access(prefix) || ACCESS.starts_with(&format!("{prefix}/"))) {
        let why = format!("`{prefix}` is where `[authzen]` answers (`{ACCESS}`); choose another prefix");
        context.problem("listen.prefix", why);
    }
    for (index, route) in config.routes.iter().enumerate() {
        let key = |key: &str| format!("route[{index}].{key}");
        upstream_exists(config, route, &key("upstream"), context);
        not_reserved(config, route, &key("path"), context);
        authentication(route, &key("authenticate"), context);
        certificates_are_asked_for(config, route, &key("authenticate"), context);
        known_tokens_only(route, &key("when_store_is_down"), context);
        let others = config.routes.get(..index).unwrap_or_default();
        unlike_others(route, index, others, context);
    }
}

fn upstream_exists(config: &Config, route: &Route, key: &str, context: &mut Context) {
    let Some(name) = &route.upstream else { return };
    if config.upstreams.iter().any(|upstream| upstream.name == *name) {
        return;
    }
    if (0..config.upstreams.len()).any(|index| context.is_faulty(&format!("upstream[{index}].name"))) {
        return;
    }
    let known: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let route = &route.name;
    context.problem(key, format!("upstream `{name}` of route `{route}` does not exist; known: {known}"));
}

fn not_reserved(config: &Config, route: &Route, key: &str, context: &mut Context) {
    let Ok(template) = Template::parse(&route.path) else { return };
    let start = template.literal_start();
    let below = |reserved: &str| {
        start.strip_prefix(reserved).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let exact = WELL_KNOWN.iter().find(|document| start == **document || start == format!("{document}/"));
    let resource = WELL_KNOWN.last().filter(|document| below(document));
    let prefix = Some(config.listen.prefix.as_str()).filter(|prefix| below(prefix));
    let access = Some(ACCESS).filter(|access| config.authzen.enabled && below(access));
    if let Some(reserved) = prefix.or(access).or_else(|| exact.or(resource).copied()) {
        let name = &route.name;
        context.problem(key, format!("route `{name}` is below `{reserved}`, which is this gateway's own"));
    }
}

fn authentication(route: &Route, key: &str, context: &mut Context) {
    let name = &route.name;
    let methods = &route.authenticate;
    let none = methods.iter().position(|method| *method == AuthMethod::None);
    if methods.is_empty() {
        if context.is_set(key) {
            context.problem(
                key,
                format!("`authenticate` of route `{name}` is empty; [\"none\"] lets anyone ask"),
            );
        }
    } else if none.is_some_and(|at| at + 1 != methods.len()) {
        context.problem(
            key,
            format!("`none` must be last in `authenticate` of route `{name}`: it ends the search"),
        );
    }
    for (index, method) in methods.iter().enumerate() {
        if methods.iter().take(index).any(|earlier| earlier == method) && *method != AuthMethod::None {
            let word = method.as_str();
            context.problem(key, format!("`{word}` is twice in `authenticate` of route `{name}`"));
        }
    }
}

/// `allow_known` is for bearer tokens, and never where a stronger sign-in is asked for.
fn known_tokens_only(route: &Route, key: &str, context: &mut Context) {
    if route.when_store_is_down != WhenStoreIsDown::AllowKnown {
        return;
    }
    let name = &route.name;
    if !route.authenticate.contains(&AuthMethod::Bearer) {
        context
            .problem(key, format!("`allow_known` is for bearer tokens, which route `{name}` does not take"));
    }
    if route.require_acr.is_some() || route.max_auth_age.is_some() {
        context.problem(
            key,
            format!("route `{name}` asks for a strong or recent sign-in: `allow_known` cannot be used there"),
        );
    }
}

fn certificates_are_asked_for(config: &Config, route: &Route, key: &str, context: &mut Context) {
    if !route.authenticate.contains(&AuthMethod::Certificate) {
        return;
    }
    let name = &route.name;
    let rules = &config.listen.tls.clients;
    if route.hosts.is_empty() {
        if !rules.iter().any(|rule| rule.auth != ClientAuth::Off) {
            context.problem(
                key,
                format!("route `{name}` takes certificates, and no [[listen.tls.client]] asks for them"),
            );
        }
        return;
    }
    for host in &route.hosts {
        let matching = rules.iter().flat_map(|rule| rule.hosts.iter().map(move |pattern| (pattern, rule)));
        let best = matching
            .filter_map(|(pattern, rule)| Some((precision(pattern, host)?, rule.auth)))
            .max_by_key(|(precision, _)| *precision);
        if best.is_none_or(|(_, auth)| auth == ClientAuth::Off) {
            context.problem(
                key,
                format!("route `{name}` takes certificates, and no [[listen.tls.client]] asks for them on `{host}`"),
            );
        }
    }
}

/// How exactly a pattern names the host (which may be a pattern itself); `None` when it does not.
fn precision(pattern: &str, host: &str) -> Option<usize> {
    if pattern == host {
        return Some(usize::MAX);
    }
    if pattern == "*" {
        return Some(0);
    }
    let suffix = pattern.strip_prefix('*')?;
    host.trim_start_matches("*").ends_with(suffix).then_some(suffix.len())
}

fn unlike_others(route: &Route, index: usize, others: &[Route], context: &mut Context) {
    let Ok(template) = Template::parse(&route.path) else { return };
    for (other_index, other) in others.iter().enumerate() {
        let faulty = |at: usize| context.is_faulty(&format!("route[{at}].path"));
        if faulty(index) || faulty(other_index) {
            continue;
        }
        let same_host = (route.hosts.is_empty() && other.hosts.is_empty())
            || route.hosts.iter().any(|host| other.hosts.contains(host));
        let same_method = route.methods.is_empty()
            || other.methods.is_empty()
            || route.methods.iter().any(|method| other.methods.contains(method));
        if same_host && same_method && Template::parse(&other.path).as_ref() == Ok(&template) {
            let (name, earlier) = (&route.name, &other.name);
            context.problem(
                &format!("route[{index}].path"),
                format!("route `{name}` is equal to route `{earlier}`: same hosts, path and methods"),
            );
        }
    }
}
