//! Requests drawn from the rows of a policy: hits, near misses, unknown subjects, odd paths.
//!
//! Used by `bench`. The same rows give the same requests: the numbers come from a seed. Another kind of request is one more
//! arm of [`Draw::request`].

use std::collections::HashMap;
use std::sync::Arc;

use super::definition::mentioned;
use super::expression;
use super::snapshot::Snapshot;
use crate::model::{AttributeValue, AuthMethod, Principal, PrincipalKind};

/// Names that no row knows.
const STRANGERS: u64 = 1_000;
/// Roles that are followed down to a name that is no role.
const LEVELS: usize = 10;

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"];
const ODD: [&str; 12] = [
    "/",
    "",
    "*",
    "//",
    "/a//b",
    "/%C3%A9/x",
    "/é",
    "/:id",
    "/{id}",
    "/a/../b",
    "/%2Fetc/passwd",
    "/a;b=c/?d=e",
];

/// One request.
pub struct Drawn {
    /// Who asks; one `Arc` for all requests of one subject, as of a session.
    pub principal: Arc<Principal>,
    /// The object.
    pub object: String,
    /// The method.
    pub action: String,
    /// On TLS.
    pub secure: bool,
}

/// A name, its roles and its tenant.
type Who = (String, Vec<Arc<str>>, String);

/// Draws requests.
pub struct Draw<'a> {
    snapshot: &'a Snapshot,
    numbers: Numbers,
    /// The columns for subject, tenant, object and action.
    columns: [Option<usize>; 4],
    /// Who has a role in a domain: of `g`, and of the other definitions.
    members: [HashMap<(&'a str, &'a str), Vec<&'a str>>; 2],
    known: HashMap<Who, Arc<Principal>>,
    attributes: Vec<String>,
}

/// Numbers of a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let at = self.below(all.len());
        all.get(at).copied()
    }
}

impl<'a> Draw<'a> {
    /// Looks at the rows.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let columns = ["sub", "dom", "obj", "act"].map(|bound| column(snapshot, bound));
        let mut members: [HashMap<_, Vec<_>>; 2] = Default::default();
        for row in &snapshot.links {
            let [name, role, rest @ ..] = row.values.as_slice() else { continue };
            let domain = rest.first().map_or("", String::as_str);
            let [subjects, others] = &mut members;
            let of = if row.kind == "g" { subjects } else { others };
            of.entry((role.as_str(), domain)).or_default().push(name.as_str());
        }
        let own = ["name", "kind", "roles", "dom", "acr", "amr"];
        let read = snapshot.fields.get("sub").and_then(Option::as_ref);
        let attributes = read.into_iter().flatten().filter(|field| !own.contains(&field.as_str())).cloned();
        let attributes = attributes.collect();
        Self { snapshot, numbers: Numbers(1), columns, members, known: HashMap::new(), attributes }
    }

    /// The next request: of ten, four are for a row, three nearly, two by a stranger, one for an odd path.
    pub fn request(&mut self) -> Drawn {
        let row = self.numbers.below(self.snapshot.rows.len());
        let (sub, dom) = (self.text(row, 0), self.text(row, 1));
        let object = self.text(row, 2).map_or("/", |text| self.member(1, text, "").unwrap_or(text));
        let mut object = example(object, &mut self.numbers);
        let mut action = match self.text(row, 3) {
            None | Some("*" | ".*") => "GET".to_owned(),
            Some(pattern) => example(pattern, &mut self.numbers),
        };
        let secure = self.numbers.below(2) == 0;
        let principal = match self.numbers.below(10) {
            0..4 => self.holder(sub, dom),
            4..7 => {
                let mut sub = sub;
                match self.numbers.below(5) {
                    0 => self.numbers.of(&METHODS).unwrap_or_default().clone_into(&mut action),
                    1 => object.push_str("/more"),
                    2 => object.truncate(object.rfind('/').unwrap_or(0)),
                    3 => object = object.replacen('/', "/x", 1),
                    _ => {
                        let other = self.numbers.below(self.snapshot.rows.len());
                        sub = self.text(other, 0);
                    }
                }
                self.holder(sub, dom)
            }
            7..9 => {
                let number = self.numbers.below(usize::try_from(STRANGERS).unwrap_or(1));
                self.principal(format!("stranger-{number}"), Vec::new(), dom.unwrap_or_default())
            }
            _ => {
                object = match self.numbers.below(ODD.len() + 2) {
                    0 => "/a".repeat(2_000),
                    1 => format!("/{}", "x".repeat(4_000)),
                    at => ODD.get(at - 2).map(|odd| (*odd).to_owned()).unwrap_or_default(),
                };
                self.holder(sub, dom)
            }
        };
        Drawn { principal, object, action, secure }
    }

    fn text(&self, row: usize, token: usize) -> Option<&'a str> {
        let column = self.columns.get(token).copied().flatten()?;
        self.snapshot.rows.value(row, column)
    }

    fn member(&mut self, of: usize, role: &str, domain: &str) -> Option<&'a str> {
        let members = self.members.get(of)?.get(&(role, domain))?;
        self.numbers.of(members)
    }

    /// Someone for whom a row with this subject is: who has the role by the files, who carries it, or the name itself.
    fn holder(&mut self, subject: Option<&str>, domain: Option<&str>) -> Arc<Principal> {
        let domain = domain.unwrap_or_default();
        let Some(subject) = subject.filter(|subject| *subject != "*") else {
            let number = self.numbers.below(usize::try_from(STRANGERS).unwrap_or(1));
            return self.principal(format!("user-{number}"), Vec::new(), domain);
        };
        if !self.is_role(subject) && !self.snapshot.definition.roles.contains_key("g") {
            return self.principal(subject.to_owned(), Vec::new(), domain);
        }
        let domains = self.snapshot.definition.roles.get("g") == Some(&3);
        let mut name = subject;
        for _ in 0..LEVELS {
            match self.member(0, name, if domains { domain } else { "" }) {
                Some(member) => name = member,
                None => break,
            }
        }
        if name != subject && !self.is_role(name) {
            return self.principal(name.to_owned(), Vec::new(), domain);
        }
        // A subject that no link names is as often a name as a role that its principal carries.
        if !self.is_role(subject) && self.numbers.below(2) == 0 {
            return self.principal(subject.to_owned(), Vec::new(), domain);
        }
        self.principal(format!("holder of {subject}"), vec![Arc::from(subject)], domain)
    }

    fn is_role(&self, name: &str) -> bool {
        self.snapshot.graphs.0.get("g").is_some_and(|graph| graph.roles().contains(name))
    }

    fn principal(&mut self, name: String, roles: Vec<Arc<str>>, domain: &str) -> Arc<Principal> {
        let key = (name, roles, domain.to_owned());
        if let Some(known) = self.known.get(&key) {
            return Arc::clone(known);
        }
        let (name, roles, _) = &key;
        let mut principal = Principal::new(name.as_str(), PrincipalKind::User, AuthMethod::Session);
        principal.roles.clone_from(roles);
        principal.tenant = (!domain.is_empty()).then(|| Arc::from(domain));
        for attribute in &self.attributes {
            let number = self.numbers.below(100);
            let value = match self.numbers.below(8) {
                0 => continue,
                1 => AttributeValue::Boolean(number < 50),
                2..5 => AttributeValue::Integer(i64::try_from(number).unwrap_or(0)),
                _ => {
                    let rows = &self.snapshot.rows;
                    let row = self.numbers.below(rows.len());
                    let text = rows.value(row, self.numbers.below(self.snapshot.definition.policy.len()));
                    AttributeValue::Text(text.unwrap_or_default().to_owned())
                }
            };
            principal.attributes.0.insert(attribute.clone(), value);
        }
        let principal = Arc::new(principal);
        self.known.insert(key, Arc::clone(&principal));
        principal
    }
}

/// The column that a token of the request is held against: of its name, or the first of a term about it alone.
fn column(snapshot: &Snapshot, bound: &str) -> Option<usize> {
    let definition = &snapshot.definition;
    let at = snapshot.bound.iter().position(|name| name == bound)?;
    let token = definition.request.get(at)?;
    let own = match bound {
        "sub" => snapshot.index().subject().map(|by| by.column),
        "obj" => snapshot.index().object().map(|(column, _)| column),
        _ => None,
    };
    let named = || definition.column(token).filter(|column| !definition.eval_columns.contains(column));
    own.or_else(named).or_else(|| {
        expression::terms(&definition.matcher).iter().find_map(|term| {
            let about = mentioned(term, "r");
            let alone = about.contains(token) && about.iter().all(|other| other == token);
            definition.column(mentioned(term, "p").first().filter(|_| alone)?)
        })
    })
}

/// A text that a pattern matches, as far as a simple reading of it says.
fn example(pattern: &str, numbers: &mut Numbers) -> String {
    let mut text = String::new();
    alternatives(&mut pattern.chars().peekable(), &mut text, numbers);
    text
}

/// Reads up to the end or the bracket that closes the group, and takes one of its alternatives.
fn alternatives(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    into: &mut String,
    numbers: &mut Numbers,
) {
    let begun = into.len();
    let mut found: Vec<String> = Vec::new();
    while let Some(next) = rest.next() {
        let after_slash = into.len() == begun && begun == 0 || into.ends_with('/');
        match next {
            ')' => break,
            '(' => alternatives(rest, into, numbers),
            '|' => found.push(into.split_off(begun)),
            '^' | '$' | '+' | '?' => {}
            '\\' => match rest.next() {
                Some('d') => into.push('7'),
                Some('w') => into.push('x'),
                Some(other) => into.push(other),
                None => {}
            },
            '[' => {
                let class: String = rest.by_ref().take_while(|c| *c != ']').collect();
                into.push(class.chars().next().filter(|c| *c != '^').unwrap_or('x'));
            }
            ':' if after_slash => {
                while rest.next_if(|c| *c != '/').is_some() {}
                into.push_str(&numbers.below(1_000).to_string());
            }
            '{' => {
                let _name: String = rest.by_ref().take_while(|c| *c != '}').collect();
                if after_slash {
                    into.push_str(&numbers.below(1_000).to_string());
                }
            }
            '*' if after_slash => into.push_str("x/y"),
            '*' => {}
            '.' if rest.next_if(|c| *c == '*' || *c == '+').is_some() => into.push('x'),
            other => into.push(other),
        }
    }
    found.push(into.split_off(begun));
    let chosen = numbers.below(found.len());
    into.push_str(found.get(chosen).map_or("", String::as_str));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_match_their_patterns() {
        let mut numbers = Numbers(7);
        for pattern in ["^(GET|POST)$", "^/a/[^/]+/\\d+$", "/orders/.*", "GET|HEAD", "^/(a|b)/c(/.*)?$"] {
            let regex = regex::Regex::new(pattern).unwrap();
            for _ in 0..20 {
                let text = example(pattern, &mut numbers);
                assert!(regex.is_match(&text), "{pattern}: {text}");
            }
        }
        for (pattern, segments) in [("/orders/:id/items/{item}", 5), ("/files/*", 4), ("/a", 2)] {
            let text = example(pattern, &mut numbers);
            assert_eq!(text.split('/').count(), segments, "{text}");
            assert!(!text.contains([':', '{', '*']), "{text}");
        }
    }
}
