//! Role graphs of the files (`g`, `g2`, …), immutable and shared, and the roles of one subject.
//!
//! casbin's own role manager is one graph for all definitions and would have to be changed to add the roles that a
//! principal carries; here each definition has its graph, and carried roles are links of the subject for one request.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::config::RoleSource;

/// casbin's limit of levels, the name itself included.
pub const LEVELS: usize = 10;

/// The links of one role definition: domain (empty without one) to name to roles.
#[derive(Debug, Default)]
pub struct RoleGraph {
    links: HashMap<String, HashMap<String, Vec<Arc<str>>>>,
    roles: HashSet<Arc<str>>,
}

impl RoleGraph {
    /// Adds `name` has `role` (in `domain`).
    pub fn add(&mut self, name: &str, role: &str, domain: &str) {
        let role: Arc<str> = Arc::from(role);
        self.roles.insert(Arc::clone(&role));
        if name == &*role {
            return;
        }
        let known = self.links.entry(domain.to_owned()).or_default().entry(name.to_owned()).or_default();
        if !known.contains(&role) {
            known.push(role);
        }
    }

    /// Names that stand as roles.
    pub fn roles(&self) -> &HashSet<Arc<str>> {
        &self.roles
    }

    fn of(&self, name: &str, domain: &str) -> &[Arc<str>] {
        self.links.get(domain).and_then(|names| names.get(name)).map_or(&[], Vec::as_slice)
    }

    /// Every role that casbin reaches from `name` when its own links are `first`: breadth first, newest link first, and
    /// one level is counted each time the queue runs empty, so a plain chain ends after nine links.
    fn reach(&self, name: &str, first: &[Arc<str>], domain: &str) -> BTreeSet<Arc<str>> {
        let mut seen = BTreeSet::new();
        let mut queue: VecDeque<Arc<str>> = VecDeque::new();
        // The subject itself is the first level.
        let mut levels = 1;
        for role in first.iter().rev() {
            if &**role != name && seen.insert(Arc::clone(role)) {
                queue.push_back(Arc::clone(role));
            }
        }
        let mut reached = BTreeSet::new();
        while levels < LEVELS {
            let Some(role) = queue.pop_front() else { break };
            if queue.is_empty() {
                levels += 1;
            }
            for next in self.of(&role, domain).iter().rev() {
                if &**next != name && seen.insert(Arc::clone(next)) {
                    queue.push_back(Arc::clone(next));
                }
            }
            reached.insert(role);
        }
        reached
    }

    /// True when `name` has `role`, itself included.
    pub fn has(&self, name: &str, role: &str, domain: &str) -> bool {
        name == role || self.reach(name, self.of(name, domain), domain).contains(role)
    }

    /// The links from `name` to `role`, both included, when there are any.
    pub fn path(&self, name: &str, role: &str, domain: &str) -> Option<Vec<Arc<str>>> {
        let mut edge: Vec<Vec<Arc<str>>> = vec![vec![Arc::from(name)]];
        let mut seen = HashSet::new();
        for _ in 0..=LEVELS {
            let mut next = Vec::new();
            for path in edge {
                let Some(last) = path.last() else { continue };
                if &**last == role {
                    return Some(path);
                }
                if seen.insert(Arc::clone(last)) {
                    next.extend(self.of(last, domain).iter().map(|role| {
                        let mut longer = path.clone();
                        longer.push(Arc::clone(role));
                        longer
                    }));
                }
            }
            edge = next;
        }
        None
    }
}

/// One graph for each role definition of the model.
#[derive(Debug, Default)]
pub struct RoleGraphs(pub HashMap<String, RoleGraph>);

/// A subject's name, its domain, and every role that counts for it through `g` there.
#[derive(Debug, Default)]
pub struct Closure {
    /// The subject's name.
    pub name: Arc<str>,
    /// Its domain; empty without one.
    pub domain: Arc<str>,
    /// Carried and inherited roles, as the setting selects.
    pub roles: BTreeSet<Arc<str>>,
    /// False where the files' links of the subject do not count.
    files: bool,
}

impl RoleGraphs {
    /// The roles of a subject. `token`: its own links are the carried ones alone; what a role inherits from other roles
    /// is still said by the files.
    pub fn closure(
        &self,
        name: &Arc<str>,
        carried: &[Arc<str>],
        domain: &Arc<str>,
        source: RoleSource,
        domains: bool,
    ) -> Closure {
        static EMPTY: std::sync::LazyLock<RoleGraph> = std::sync::LazyLock::new(RoleGraph::default);
        let graph = self.0.get("g").unwrap_or(&EMPTY);
        let graph_domain: &str = if domains { domain } else { "" };
        let mut first: Vec<Arc<str>> = Vec::new();
        if !matches!(source, RoleSource::Token) {
            first.extend(graph.of(name, graph_domain).iter().cloned());
        }
        if !matches!(source, RoleSource::Files) {
            first.extend(carried.iter().cloned());
        }
        let roles = graph.reach(name, &first, graph_domain);
        Closure {
            name: Arc::clone(name),
            domain: Arc::from(graph_domain),
            roles,
            files: !matches!(source, RoleSource::Token),
        }
    }

    /// The answer of `g(name, role, domain)` for a request of `subject`.
    pub fn has(&self, definition: &str, subject: &Closure, name: &str, role: &str, domain: &str) -> bool {
        if name == role {
            return true;
        }
        let graph = self.0.get(definition);
        if definition == "g" && name == &*subject.name {
            if domain == &*subject.domain {
                return subject.roles.contains(role);
            }
            return subject.files && graph.is_some_and(|graph| graph.has(name, role, domain));
        }
        graph.is_some_and(|graph| graph.has(name, role, domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(links: &[(&str, &str)]) -> RoleGraphs {
        let mut graph = RoleGraph::default();
        for (name, role) in links {
            graph.add(name, role, "");
        }
        RoleGraphs(HashMap::from([("g".to_owned(), graph)]))
    }

    #[test]
    fn carried_and_file_roles_join_as_the_setting_says() {
        let graphs = graph(&[("bob", "writer"), ("admin", "reader"), ("writer", "reader")]);
        let bob = Arc::from("bob");
        let carried = [Arc::from("admin")];
        let names = |source| {
            let closure = graphs.closure(&bob, &carried, &Arc::from(""), source, false);
            closure.roles.iter().map(|role| role.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(RoleSource::Union), ["admin", "reader", "writer"]);
        assert_eq!(names(RoleSource::Files), ["reader", "writer"]);
        assert_eq!(names(RoleSource::Token), ["admin", "reader"]);
    }

    #[test]
    fn cycles_end_and_depth_is_bounded() {
        let names: Vec<String> = (0..15).map(|n| format!("n{n}")).collect();
        let links: Vec<(&str, &str)> =
            names.windows(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
        let graphs = graph(&links);
        let graph_g = &graphs.0["g"];
        assert!(graph_g.has("n0", "n9", ""));
        assert!(!graph_g.has("n0", "n10", ""));
        let cyclic = graph(&[("a", "b"), ("b", "a")]);
        assert!(cyclic.0["g"].has("a", "b", ""));
        assert!(!cyclic.0["g"].has("a", "c", ""));
        assert_eq!(graph_g.path("n0", "n2", "").map(|path| path.len()), Some(3));
    }
}
