//! Reads tables key by key and collects every mistake, instead of stopping at the first.
//!
//! Sections are read through [`Section`]: each key is one call that names it, its type, its default and its meaning.
//! The same calls fill the defaults (no table given) and the reference (entries are kept instead of values).
//! A new type of value is a method in `fields`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::files::FileKind;
use super::problem::{Origin, Problem};
use super::tree::{Entries, Item, Place, Value};

/// What is known while a document is read.
#[derive(Debug, Default)]
pub(super) struct Context {
    file: PathBuf,
    base: PathBuf,
    env: BTreeMap<String, String>,
    problems: Vec<Problem>,
    /// Keys that have a problem already: one mistake, one line.
    faulty: BTreeSet<String>,
    places: BTreeMap<String, Place>,
    provenance: Vec<(String, String, Origin)>,
    pub warnings: Vec<Problem>,
    /// Files that settings name: key, file, what it must hold.
    pub files: Vec<(String, PathBuf, FileKind)>,
    pub entries: Option<Vec<Entry>>,
}

/// One row of the reference; a heading has no key.
#[derive(Debug)]
pub(super) struct Entry {
    pub section: String,
    pub key: String,
    pub kind: String,
    pub default: String,
    pub doc: String,
}

impl Context {
    pub(super) fn new(file: &Path, env: BTreeMap<String, String>) -> Self {
        let base = file.parent().map(Path::to_path_buf).unwrap_or_default();
        Self { file: file.to_path_buf(), base, env, ..Self::default() }
    }

    /// A context in which reading keeps entries of the reference instead of values.
    pub(super) fn describing() -> Self {
        Self { entries: Some(Vec::new()), ..Self::default() }
    }

    /// The path a setting means: relative ones begin at the folder of the file.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        plain(&self.base.join(path))
    }

    pub(super) fn variable(&self, name: &str) -> Option<&String> {
        self.env.get(name)
    }

    /// Notes a mistake at the key, or at the nearest table around it; the first one of a key counts.
    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        if self.faulty.insert(key.to_owned()) {
            let problem = self.at(key, message.into());
            self.problems.push(problem);
        }
    }

    /// Notes something that is allowed and probably not meant.
    pub(super) fn warning(&mut self, key: &str, message: impl Into<String>) {
        let warning = self.at(key, message.into());
        self.warnings.push(warning);
    }

    fn at(&self, key: &str, message: String) -> Problem {
        let mut at = key;
        loop {
            if let Some(place) = self.places.get(at) {
                return self.problem_in(place, message);
            }
            match at.rfind(['.', '[']) {
                Some(end) => at = at.get(..end).unwrap_or_default(),
                None => return Problem { file: self.file.clone(), line: 1, message },
            }
        }
    }

    fn problem_in(&self, place: &Place, message: String) -> Problem {
        match place {
            Place::Line(line) => Problem { file: self.file.clone(), line: *line, message },
            Place::Env(name) => Problem { file: PathBuf::from(name), line: 0, message },
        }
    }

    pub(super) fn problem_at(&mut self, place: &Place, message: String) {
        let problem = self.problem_in(place, message);
        self.problems.push(problem);
    }

    pub(super) fn is_faulty(&self, key: &str) -> bool {
        self.faulty.contains(key)
    }

    /// True when a section, or a key in it, has a mistake.
    pub(super) fn is_faulty_below(&self, section: &str) -> bool {
        self.faulty
            .iter()
            .any(|key| key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }

    /// True when the file or the environment sets the key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// All mistakes, in the order of the file, each once.
    pub(super) fn take_problems(&mut self) -> Vec<Problem> {
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort();
        problems.dedup();
        problems
    }

    pub(super) fn take_provenance(&mut self) -> Vec<(String, String, Origin)> {
        std::mem::take(&mut self.provenance)
    }

    /// Reads the whole document with `read`.
    pub(super) fn read<T>(&mut self, table: Entries, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        Section::run(self, table, String::new(), String::new(), read)
    }
}

/// What a section is when nothing is set.
pub(super) fn defaults<T>(read: impl FnOnce(&mut Section<'_>) -> T) -> T {
    Context::default().read(Entries::new(), read)
}

/// A table that is being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub context: &'a mut Context,
    table: Entries,
    /// For example `listen.limits` or `route[2]`; empty for the document.
    path: String,
    /// For example `[listen.limits]` or `[[route]]`.
    title: String,
    known: Vec<String>,
}

impl Section<'_> {
    fn run<T>(
        context: &mut Context,
        table: Entries,
        path: String,
        title: String,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let mut section = Section { context, table, path, title, known: Vec::new() };
        let value = read(&mut section);
        section.refuse_unknown();
        value
    }

    /// The dotted key of `key` in this section.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// True when the reference is made: there are no values and nothing is required.
    pub(super) fn describing(&self) -> bool {
        self.context.entries.is_some()
    }

    /// True when there is a document, not only defaults.
    fn reading(&self) -> bool {
        !self.describing() && !self.context.file.as_os_str().is_empty()
    }

    /// Declares `key` and takes its value out of the table. `shown` is the default as TOML, or words for it.
    pub(super) fn take(&mut self, key: &str, kind: &str, shown: &str, doc: &str) -> Option<Item> {
        self.known.push(key.to_owned());
        if let Some(entries) = &mut self.context.entries {
            entries.push(Entry {
                section: self.title.clone(),
                key: key.to_owned(),
                kind: kind.to_owned(),
                default: shown.to_owned(),
                doc: doc.to_owned(),
            });
        }
        let path = self.key(key);
        let item = self.table.remove(key);
        if let Some(item) = &item {
            self.context.places.insert(path, item.place.clone());
        }
        item
    }

    /// Keeps where the value of `key` came from, for `config show`.
    pub(super) fn keep(&mut self, key: &str, item: Option<&Item>, shown: &str) {
        let origin = match item.map(|item| &item.place) {
            None => Origin::Default,
            Some(Place::Line(line)) => Origin::File(self.context.file.clone(), *line),
            Some(Place::Env(name)) => Origin::Env(name.clone()),
        };
        let path = self.key(key);
        self.context.provenance.push((path, shown.to_owned(), origin));
    }

    /// Says what the default of `key` comes to on this machine or with the other settings, for `config show`.
    pub(super) fn effective(&mut self, key: &str, shown: &str) {
        let path = self.key(key);
        let mut kept = self.context.provenance.iter_mut().rev();
        if let Some((_, value, _)) =
            kept.find(|(found, _, origin)| *found == path && *origin == Origin::Default)
        {
            shown.clone_into(value);
        }
    }

    /// Notes a mistake at a key of this section.
    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        let path = self.key(key);
        self.context.problem(&path, message);
    }

    /// Notes a mistake in one of the values of `key`; the key itself then gets none beside it.
    pub(super) fn element_problem(&mut self, key: &str, place: &Place, message: String) {
        let path = self.key(key);
        self.context.faulty.insert(path);
        self.context.problem_at(place, message);
    }

    /// Notes a key that is needed and not there.
    pub(super) fn missing(&mut self, key: &str) {
        if self.reading() {
            let title = self.title.clone();
            self.problem(key, format!("`{key}` is missing in {title}"));
        }
    }

    /// Keys that exist in the design and not in this version: refused by name.
    pub(super) fn unsupported(&mut self, keys: &[&str]) {
        for key in keys {
            if let Some(item) = self.table.remove(*key) {
                let within = self.within();
                self.context
                    .problem_at(&item.place, format!("key `{key}`{within} is not supported by this version"));
            }
        }
    }

    /// Refuses a key with a message of its own; true when it was there.
    pub(super) fn refuse(&mut self, key: &str, message: &str) -> bool {
        let item = self.table.remove(key);
        if let Some(item) = &item {
            self.context.problem_at(&item.place, message.to_owned());
        }
        item.is_some()
    }

    fn within(&self) -> String {
        if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) }
    }

    fn refuse_unknown(&mut self) {
        let within = self.within();
        for (key, item) in std::mem::take(&mut self.table) {
            let nearest = self.known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &key));
            let hint = nearest.map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
            self.context.problem_at(&item.place, format!("unknown key `{key}`{within}{hint}"));
            self.context.faulty.insert(self.key(&key));
        }
    }

    /// The title of a table inside this one, without brackets.
    fn inner_title(&self, key: &str) -> String {
        let outer = self.title.trim_matches(['[', ']']);
        if outer.is_empty() { key.to_owned() } else { format!("{outer}.{key}") }
    }

    fn heading(&mut self, title: &str, doc: &str) {
        if let Some(entries) = &mut self.context.entries {
            entries.push(Entry {
                section: title.to_owned(),
                key: String::new(),
                kind: String::new(),
                default: String::new(),
                doc: doc.to_owned(),
            });
        }
    }

    fn open(&mut self, key: &str, item: Option<Item>) -> Option<Entries> {
        let item = item?;
        let path = self.key(key);
        self.context.places.insert(path, item.place.clone());
        match item.value {
            Value::Table(entries) => Some(entries),
            _ => {
                let title = self.inner_title(key);
                self.problem(key, format!("`{key}` must be a table [{title}], not {}", item.kind()));
                None
            }
        }
    }

    /// The table `key`; its defaults when it is not there.
    pub(super) fn table<T>(&mut self, key: &str, doc: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        self.known.push(key.to_owned());
        let title = format!("[{}]", self.inner_title(key));
        self.heading(&title, doc);
        let item = self.table.remove(key);
        let entries = self.open(key, item).unwrap_or_default();
        let path = self.key(key);
        Section::run(self.context, entries, path, title, read)
    }

    /// The table `key`, when it is there.
    pub(super) fn table_optional<T>(
        &mut self,
        key: &str,
        doc: &str,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> Option<T> {
        if self.table.contains_key(key) || self.describing() {
            return Some(self.table(key, doc, read));
        }
        self.known.push(key.to_owned());
        None
    }

    /// The tables `[[key]]`, in their order.
    pub(super) fn tables<T>(&mut self, key: &str, doc: &str, read: impl Fn(&mut Section<'_>) -> T) -> Vec<T> {
        self.known.push(key.to_owned());
        let title = format!("[[{}]]", self.inner_title(key));
        self.heading(&title, doc);
        let path = self.key(key);
        if self.describing() {
            return vec![Section::run(self.context, Entries::new(), format!("{path}[0]"), title, read)];
        }
        let Some(item) = self.table.remove(key) else { return Vec::new() };
        self.context.places.insert(path.clone(), item.place.clone());
        let Value::Array(items) = item.value else {
            let from_env = matches!(item.place, Place::Env(_));
            let hint = if from_env { ", which are set in the file only" } else { "" };
            self.problem(key, format!("`{key}` must be tables {title}{hint}, not {}", item.kind()));
            return Vec::new();
        };
        let mut values = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.context.places.insert(path.clone(), item.place.clone());
            match item.value {
                Value::Table(entries) => {
                    values.push(Section::run(self.context, entries, path, title.clone(), &read));
                }
                _ => self.context.problem(&path, format!("`{key}` holds {}, not a table", item.kind())),
            }
        }
        values
    }
}

/// The path without `folder/..`, where that changes nothing because the folder is no link: it is shown to people.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        let folder = matches!(out.components().next_back(), Some(Component::Normal(_)));
        if part == Component::ParentDir && folder && out.symlink_metadata().is_ok_and(|found| found.is_dir())
        {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}
