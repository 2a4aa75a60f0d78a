//! Which route a request belongs to: host, then path segment by segment, then method.
//!
//! Compiled from the configuration by `gateway`, looked up once per request. Another kind of segment is one more
//! child of [`Node`] and one arm in [`Node::find`].

use std::borrow::Cow;
use std::sync::Arc;

use ahash::AHashMap;
use http::{HeaderValue, Method};

use crate::config::{self, WhenStoreIsDown};
use crate::model::AuthMethod;

/// All routes of a configuration.
#[derive(Debug, Default)]
pub(super) struct Routes {
    entries: Vec<Entry>,
    exact: AHashMap<String, Node>,
    /// Keyed by what follows `*.`: one label stands for the star.
    wildcard: AHashMap<String, Node>,
    any: Node,
}

/// One route, with what is computed from it once.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) config: config::Route,
    pub(super) name: Arc<str>,
    /// Audience of assertions: the upstream's name, else the route's.
    pub(super) audience: Arc<str>,
    /// Origins that may read answers, as header values.
    pub(super) origins: Vec<HeaderValue>,
    masks: Vec<Vec<Segment>>,
}

/// What a look-up found.
#[derive(Debug)]
pub(super) enum Found<'r> {
    Route(&'r Entry),
    /// The path is known, for other methods: the value of `Allow`, and one of its routes.
    OtherMethods(String, &'r Entry),
    Nothing,
}

#[derive(Debug, Default)]
struct Node {
    literal: AHashMap<Box<str>, Node>,
    parameter: Option<Box<Node>>,
    /// Routes that take every rest.
    rest: Vec<usize>,
    /// Routes that end here.
    here: Vec<usize>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Segment {
    Literal(String),
    Parameter(String),
    Rest(String),
}

impl Routes {
    pub(super) fn build(all: &[config::Route]) -> Result<Self, String> {
        let mut routes = Self::default();
        for route in all {
            let index = routes.entries.len();
            let wrong = |why: String| format!("route `{}`: {why}", route.name);
            let template = template(&route.path).map_err(wrong)?;
            if route.hosts.is_empty() {
                routes.any.insert(&template, index);
            }
            for host in &route.hosts {
                let host = host.to_ascii_lowercase();
                let node = match host.strip_prefix("*.") {
                    Some(domain) => routes.wildcard.entry(domain.to_owned()).or_default(),
                    None => routes.exact.entry(host).or_default(),
                };
                node.insert(&template, index);
            }
            routes.entries.push(Entry::build(route).map_err(wrong)?);
        }
        Ok(routes)
    }

    /// The route for a canonical host, path and method.
    pub(super) fn find(&self, host: &str, path: &str, method: &Method) -> Found<'_> {
        let wildcard = host.split_once('.').and_then(|(_, domain)| self.wildcard.get(domain));
        let trees = [self.exact.get(host), wildcard, Some(&self.any)];
        let path = path.strip_prefix('/').unwrap_or(path);
        let Some(indices) = trees.into_iter().flatten().find_map(|tree| tree.find(Some(path))) else {
            return Found::Nothing;
        };
        let entries = || indices.iter().filter_map(|index| self.entries.get(*index));
        let fits = |entry: &&Entry| entry.config.methods.is_empty() || entry.config.methods.contains(method);
        if let Some(entry) = entries().find(fits) {
            return Found::Route(entry);
        }
        let mut methods: Vec<&str> =
            entries().flat_map(|entry| entry.config.methods.iter().map(Method::as_str)).collect();
        methods.sort_unstable();
        methods.dedup();
        entries().next().map_or(Found::Nothing, |entry| Found::OtherMethods(methods.join(", "), entry))
    }

    /// True when a route names this host or a wildcard for it.
    pub(super) fn names_host(&self, host: &str) -> bool {
        let wildcard = host.split_once('.').is_some_and(|(_, domain)| self.wildcard.contains_key(domain));
        wildcard || self.exact.contains_key(host)
    }
}

impl Entry {
    fn build(route: &config::Route) -> Result<Self, String> {
        let origins = route
            .cors_origins
            .iter()
            .map(|origin| HeaderValue::from_str(origin).map_err(|_| format!("`{origin}` is not an origin")))
            .collect::<Result<_, _>>()?;
        let masks = route.mask.iter().map(|mask| template(mask)).collect::<Result<_, _>>()?;
        let audience = route.upstream.as_deref().unwrap_or(&route.name).into();
        Ok(Self { config: route.clone(), name: route.name.as_str().into(), audience, origins, masks })
    }

    /// For how long known bearer tokens pass while the store is down; `None`: not at all.
    pub(super) fn allow_known(&self) -> Option<std::time::Duration> {
        (self.config.when_store_is_down == WhenStoreIsDown::AllowKnown).then_some(self.config.allow_known_for)
    }

    /// True when the route takes this way to prove identity.
    pub(super) fn lists(&self, method: AuthMethod) -> bool {
        self.config.authenticate.contains(&method)
    }

    /// The path as the audit shows it: masked parameters are their names.
    pub(super) fn audited<'p>(&self, path: &'p str) -> Cow<'p, str> {
        self.masks.iter().find_map(|mask| masked(mask, path)).map_or(Cow::Borrowed(path), Cow::Owned)
    }
}

impl Node {
    fn insert(&mut self, template: &[Segment], index: usize) {
        match template.split_first() {
            None => self.here.push(index),
            Some((Segment::Rest(_), _)) => self.rest.push(index),
            Some((Segment::Parameter(_), after)) => {
                self.parameter.get_or_insert_default().insert(after, index);
            }
            Some((Segment::Literal(text), after)) => {
                self.literal.entry(text.as_str().into()).or_default().insert(after, index);
            }
        }
    }

    /// The routes for what is left of the path; `None` is the end of the path.
    fn find(&self, left: Option<&str>) -> Option<&[usize]> {
        let Some(left) = left else {
            let here = if self.here.is_empty() { &self.rest } else { &self.here };
            return (!here.is_empty()).then_some(here);
        };
        let (segment, after) = match left.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (left, None),
        };
        let literal = self.literal.get(segment).and_then(|node| node.find(after));
        literal
            .or_else(|| {
                let node = self.parameter.as_ref().filter(|_| !segment.is_empty())?;
                node.find(after)
            })
            .or_else(|| (!self.rest.is_empty()).then_some(&*self.rest))
    }
}

/// Reads `/a/{name}/{rest*}`: whole segments only, a rest only at the end.
fn template(text: &str) -> Result<Vec<Segment>, String> {
    let path = text.strip_prefix('/').ok_or_else(|| format!("the path `{text}` must begin with /"))?;
    let mut segments = Vec::new();
    for part in path.split('/') {
        if matches!(segments.last(), Some(Segment::Rest(_))) {
            return Err(format!("in `{text}` nothing may follow a {{rest*}}"));
        }
        let inner = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
        segments.push(match inner {
            Some(name) => match name.strip_suffix('*') {
                Some(name) => Segment::Rest(checked(name, text)?),
                None => Segment::Parameter(checked(name, text)?),
            },
            None if part.contains(['{', '}']) => {
                return Err(format!("in `{text}` a parameter must be a whole segment"));
            }
            None => Segment::Literal(part.to_owned()),
        });
    }
    Ok(segments)
}

fn checked(name: &str, text: &str) -> Result<String, String> {
    let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if good { Ok(name.to_owned()) } else { Err(format!("in `{text}` a parameter has no proper name")) }
}

/// The path with its parameters replaced by their names, when the template fits.
fn masked(template: &[Segment], path: &str) -> Option<String> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let mut out = String::with_capacity(path.len());
    for segment in template {
        let part = match segment {
            Segment::Rest(name) => {
                out.push_str(&format!("/{{{name}*}}"));
                return Some(out);
            }
            _ => parts.next()?,
        };
        match segment {
            Segment::Literal(text) if text == part => out.push_str(&format!("/{text}")),
            Segment::Parameter(name) => out.push_str(&format!("/{{{name}}}")),
            _ => return None,
        }
    }
    parts.next().is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::tests::route;

    fn routes(paths: &[(&str, &str, &[&str], &[&str])]) -> Routes {
        let mut built = Routes::default();
        for (name, path, hosts, methods) in paths {
            let mut config = route(name, path);
            config.methods = methods.iter().map(|method| method.parse().unwrap()).collect();
            let index = built.entries.len();
            let parsed = template(path).unwrap();
            if hosts.is_empty() {
                built.any.insert(&parsed, index);
            }
            for host in *hosts {
                match host.strip_prefix("*.") {
                    Some(domain) => built.wildcard.entry(domain.to_owned()).or_default(),
                    None => built.exact.entry((*host).to_owned()).or_default(),
                }
                .insert(&parsed, index);
            }
            built.entries.push(Entry::build(&config).unwrap());
        }
        built
    }

    fn name(routes: &Routes, host: &str, path: &str, method: Method) -> String {
        match routes.find(host, path, &method) {
            Found::Route(entry) => entry.config.name.clone(),
            Found::OtherMethods(allow, _) => format!("405 {allow}"),
            Found::Nothing => "404".to_owned(),
        }
    }

    #[test]
    fn exact_host_beats_wildcard_beats_none() {
        let all = routes(&[
            ("none", "/{rest*}", &[], &[]),
            ("wild", "/{rest*}", &["*.example.com"], &[]),
            ("exact", "/a", &["api.example.com"], &[]),
        ]);
        assert_eq!(name(&all, "api.example.com", "/a", Method::GET), "exact");
        assert_eq!(name(&all, "api.example.com", "/b", Method::GET), "wild");
        assert_eq!(name(&all, "x.api.example.com", "/b", Method::GET), "none");
        assert_eq!(name(&all, "other", "/", Method::GET), "none");
        assert!(all.names_host("x.example.com") && !all.names_host("other"));
    }

    #[test]
    fn literal_beats_parameter_beats_rest_segment_by_segment() {
        let all = routes(&[
            ("rest", "/orders/{rest*}", &[], &[]),
            ("one", "/orders/{id}", &[], &["GET", "DELETE"]),
            ("new", "/orders/new", &[], &[]),
            ("deep", "/orders/{id}/items", &[], &[]),
            ("literal-first", "/orders/new/{x}/end", &[], &[]),
        ]);
        for (path, expected) in [
            ("/orders", "rest"),
            ("/orders/", "rest"),
            ("/orders/7", "one"),
            ("/orders/new", "new"),
            ("/orders/new/items", "deep"),
            ("/orders/7/items", "deep"),
            ("/orders/7/other", "rest"),
            ("/orders/new/1/end", "literal-first"),
            ("/orders/a%2Fb", "one"),
            ("/order", "404"),
            ("/ordersx", "404"),
        ] {
            assert_eq!(name(&all, "h", path, Method::GET), expected, "{path}");
        }
        assert_eq!(name(&all, "h", "/orders/7", Method::POST), "405 DELETE, GET");
    }

    #[test]
    fn get_is_not_head() {
        let all = routes(&[("a", "/a", &[], &["GET"])]);
        assert_eq!(name(&all, "h", "/a", Method::HEAD), "405 GET");
        assert_eq!(name(&all, "h", "/a/", Method::GET), "404");
    }

    #[test]
    fn templates_are_whole_segments() {
        for bad in ["a", "/{rest*}/b", "/x{id}", "/{}", "/{a b}"] {
            assert!(template(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn masked_parameters_are_names() {
        let mut config = route("reset", "/reset/{rest*}");
        config.mask = vec!["/reset/{token}".to_owned(), "/reset/{token}/{rest*}".to_owned()];
        let entry = Entry::build(&config).unwrap();
        assert_eq!(entry.audited("/reset/s3cret"), "/reset/{token}");
        assert_eq!(entry.audited("/reset/s3cret/a/b"), "/reset/{token}/{rest*}");
        assert_eq!(entry.audited("/other"), "/other");
    }
}
