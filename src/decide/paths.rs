//! Which rows can be about an object: the patterns of the rows, segment by segment.
//!
//! Used by `index`, for each group of rows with the same subject, or for all. A pattern is taken apart into segments that
//! are plain texts or parameters; from the first segment on that is neither, anything may follow. What is found is a
//! superset: the matcher is still asked about each row. A function with patterns of another kind is one more arm of
//! [`Shape::of`].

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _};

use ahash::RandomState;

use super::functions::Style;

/// Segments of a pattern that are looked at.
const DEEPEST: usize = 64;

/// How the object column is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// `r.obj == p.obj`
    Equal,
    /// `keyMatch`
    Prefix,
    /// `keyMatch2` to `keyMatch5`.
    Pattern(Style),
}

/// A pattern: leading segments of which each is a text or any (`None`), and whether they are all.
#[derive(PartialEq, Eq, Debug)]
struct Shape<'a> {
    segments: Vec<Option<&'a str>>,
    whole: bool,
}

impl<'a> Shape<'a> {
    fn of(comparison: Comparison, pattern: &'a str) -> Self {
        let style = match comparison {
            Comparison::Equal => {
                let segments: Vec<_> = pattern.split('/').map(Some).take(DEEPEST).collect();
                let whole = pattern.split('/').nth(DEEPEST).is_none();
                return Self { segments, whole };
            }
            Comparison::Prefix => {
                let Some((prefix, _)) = pattern.split_once('*') else {
                    return Self::of(Comparison::Equal, pattern);
                };
                let mut segments: Vec<_> = prefix.split('/').map(Some).collect();
                // The last one may go on.
                segments.pop();
                segments.truncate(DEEPEST);
                return Self { segments, whole: false };
            }
            Comparison::Pattern(style) => style,
        };
        // Each side of a top-level `|` matches by itself.
        if pattern.contains(['|', '(', ')', '[', ']', '\\', '^', '$', '?', '+']) {
            return Self { segments: Vec::new(), whole: false };
        }
        if style == Style::Regex {
            return Self { segments: Vec::new(), whole: false };
        }
        let mut segments = Vec::new();
        for segment in pattern.split('/') {
            let plain =
                |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_-~%=,@!".contains(c));
            let parameter = match style {
                Style::Colon | Style::ColonGroups => segment.strip_prefix(':'),
                _ => segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')),
            };
            match parameter {
                _ if segments.len() == DEEPEST => return Self { segments, whole: false },
                Some(name) if plain(name) => segments.push(None),
                None if plain(segment) => segments.push(Some(segment)),
                _ => return Self { segments, whole: false },
            }
        }
        Self { segments, whole: true }
    }
}

/// A run of `rows`.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    start: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// Rows whose pattern ends here.
    whole: Run,
    /// Rows whose pattern goes on with anything.
    open: Run,
}

/// Rows by group and pattern.
#[derive(Debug)]
pub struct Paths {
    comparison: Comparison,
    /// By the hash of a group and the segments up to here; two that have one hash share their rows.
    nodes: HashMap<u64, Node, RandomState>,
    rows: Vec<u32>,
    hasher: RandomState,
}

/// Collects rows before they are put in order.
pub struct Building {
    comparison: Comparison,
    hasher: RandomState,
    steps: Vec<u64>,
    found: Vec<(u64, bool, u32)>,
}

impl Building {
    /// Nothing yet.
    pub fn new(comparison: Comparison) -> Self {
        let hasher = RandomState::new();
        Self { comparison, hasher, steps: Vec::new(), found: Vec::new() }
    }

    /// Adds a row of a group.
    pub fn add(&mut self, group: u32, row: u32, pattern: &str) {
        let shape = Shape::of(self.comparison, pattern);
        let mut at = step(&self.hasher, u64::from(group), None);
        self.steps.push(at);
        for segment in &shape.segments {
            at = step(&self.hasher, at, Some(*segment));
            self.steps.push(at);
        }
        self.found.push((at, shape.whole, row));
    }

    /// Puts all in order.
    pub fn finish(mut self) -> Paths {
        let mut nodes: HashMap<u64, Node, RandomState> = HashMap::default();
        for at in self.steps {
            nodes.entry(at).or_default();
        }
        nodes.shrink_to_fit();
        self.found.sort_unstable();
        let mut rows = Vec::with_capacity(self.found.len());
        for run in self.found.chunk_by(|one, next| (one.0, one.1) == (next.0, next.1)) {
            let Some((at, whole, _)) = run.first() else { continue };
            let place = Run {
                start: u32::try_from(rows.len()).unwrap_or(u32::MAX),
                len: u32::try_from(run.len()).unwrap_or(0),
            };
            rows.extend(run.iter().map(|(_, _, row)| *row));
            let node = nodes.entry(*at).or_default();
            if *whole {
                node.whole = place;
            } else {
                node.open = place;
            }
        }
        Paths { comparison: self.comparison, nodes, rows, hasher: self.hasher }
    }
}

/// The next place after one: the group's (`None`), a parameter's (`Some(None)`), a text's.
fn step(hasher: &RandomState, from: u64, segment: Option<Option<&str>>) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u64(from);
    match segment {
        None => state.write_u8(0),
        Some(None) => state.write_u8(1),
        Some(Some(text)) => {
            state.write_u8(2);
            state.write(text.as_bytes());
        }
    }
    state.finish()
}

impl Paths {
    /// Whether the rows that are not found for this object are certainly false, without an error.
    pub fn is_certain(&self, object: &str) -> bool {
        // A prefix that ends within a character is an error.
        self.comparison != Comparison::Prefix || object.is_ascii()
    }

    /// The rows of a group that can be about an object, not in order.
    pub fn find(&self, group: u32, object: &str, found: &mut Vec<u32>) {
        let object = match self.comparison {
            Comparison::Pattern(Style::ShortBraces) => object.split('?').next().unwrap_or_default(),
            _ => object,
        };
        let root = step(&self.hasher, u64::from(group), None);
        if let Some(node) = self.nodes.get(&root) {
            self.walk(root, node, Some(object), found);
        }
    }

    fn walk(&self, at: u64, node: &Node, rest: Option<&str>, found: &mut Vec<u32>) {
        self.take(node.open, found);
        let Some(rest) = rest else {
            self.take(node.whole, found);
            return;
        };
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        for next in [step(&self.hasher, at, Some(Some(segment))), step(&self.hasher, at, Some(None))] {
            if let Some(node) = self.nodes.get(&next) {
                self.walk(next, node, rest, found);
            }
        }
    }

    fn take(&self, run: Run, found: &mut Vec<u32>) {
        let start = run.start as usize;
        found.extend_from_slice(self.rows.get(start..start + run.len as usize).unwrap_or_default());
    }
}
