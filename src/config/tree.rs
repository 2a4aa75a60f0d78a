//! A TOML document as a tree in which every value knows its place, with the environment laid over it.
//!
//! Made by `load` and `accounts_file`, read through `reader`.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A line of the file, from 1.
    Line(u32),
    /// An environment variable.
    Env(String),
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub value: Value,
    pub place: Place,
    /// The text of the environment variable, for settings that are text although it reads as a number.
    pub raw: Option<String>,
}

/// What a value can be.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Array(Vec<Item>),
    Table(Entries),
    /// A date, or a number that does not fit.
    Other(String),
}

/// The entries of a table.
pub(super) type Entries = BTreeMap<String, Item>;

/// The prefix of environment variables that are settings.
const PREFIX: &str = "PORTCULLIS__";

impl Item {
    /// The value as TOML, for people.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Value::Text(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(value) => value.to_string(),
            Value::Other(text) => text.clone(),
            Value::Array(items) => {
                format!("[{}]", items.iter().map(Self::shown).collect::<Vec<_>>().join(", "))
            }
            Value::Table(entries) => {
                let pairs = entries.iter().map(|(key, item)| format!("{key:?} = {}", item.shown()));
                format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// What kind of value this is, with its article.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "a text",
            Value::Integer(_) => "a number",
            Value::Float(_) => "a decimal number",
            Value::Boolean(_) => "a boolean",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(_) => "a date or a number out of range",
        }
    }

    fn holds_table(&self) -> bool {
        match &self.value {
            Value::Table(_) => true,
            Value::Array(items) => items.iter().any(Self::holds_table),
            _ => false,
        }
    }
}

/// Reads a document; all syntax errors with their lines.
pub(super) fn parse(text: &str) -> Result<Entries, Vec<(u32, String)>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(entries(text, table.get_ref()));
    }
    let place = |at: Option<std::ops::Range<usize>>| at.map_or(1, |range| line_of(text, range.start));
    Err(errors.iter().map(|error| (place(error.span()), error.message().replace('\n', ", "))).collect())
}

fn entries(text: &str, table: &DeTable<'_>) -> Entries {
    let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        (key.get_ref().to_string(), item(text, value.get_ref(), Place::Line(line_of(text, key.span().start))))
    };
    table.iter().map(entry).collect()
}

fn item(text: &str, value: &DeValue<'_>, place: Place) -> Item {
    let element = |value: &Spanned<DeValue<'_>>| {
        item(text, value.get_ref(), Place::Line(line_of(text, value.span().start)))
    };
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::Other(number.to_string()), Value::Integer),
        DeValue::Float(number) => {
            number.as_str().parse().map_or_else(|_| Value::Other(number.to_string()), Value::Float)
        }
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(at) => Value::Other(at.to_string()),
        DeValue::Array(values) => Value::Array(values.iter().map(element).collect()),
        DeValue::Table(table) => Value::Table(entries(text, table)),
    };
    Item { value, place, raw: None }
}

fn line_of(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    u32::try_from(before.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u32::MAX - 1) + 1
}

/// Lays the variables `PORTCULLIS__SECTION__KEY` over the tree; mistakes by variable.
pub(super) fn overlay(root: &mut Entries, env: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    for (name, value) in env {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        if let Err(mistake) = set(root, &path, name, value) {
            mistakes.push((name.clone(), mistake));
        }
    }
    mistakes
}

fn set(table: &mut Entries, path: &[String], name: &str, text: &str) -> Result<(), String> {
    let Some((key, rest)) = path.split_first() else { return Ok(()) };
    if key.is_empty() {
        return Err("names no key; write PORTCULLIS__SECTION__KEY".to_owned());
    }
    if rest.is_empty() {
        let item = from_env(name, text);
        if item.holds_table() {
            return Err("tables and lists of tables are set in the file only".to_owned());
        }
        if table.get(key).is_some_and(Item::holds_table) {
            return Err(format!("`{key}` is a table; set its keys one by one"));
        }
        // The other spelling of a secret in the file: the environment wins over it too.
        let other = key.strip_suffix("_file").map_or_else(|| format!("{key}_file"), str::to_owned);
        if table.get(&other).is_some_and(|other| matches!(other.place, Place::Line(_))) {
            table.remove(&other);
        }
        table.insert(key.clone(), item);
        return Ok(());
    }
    let empty =
        || Item { value: Value::Table(Entries::new()), place: Place::Env(name.to_owned()), raw: None };
    match &mut table.entry(key.clone()).or_insert_with(empty).value {
        Value::Table(inner) => set(inner, rest, name, text),
        Value::Array(_) => Err(format!("`{key}` is a list of tables, which is set in the file only")),
        _ => Err(format!("`{key}` is not a table")),
    }
}

fn from_env(name: &str, text: &str) -> Item {
    let place = Place::Env(name.to_owned());
    let mut item = match DeValue::parse(text) {
        Ok(value) => item(text, value.get_ref(), place.clone()),
        Err(_) => Item { value: Value::Text(text.to_owned()), place: place.clone(), raw: None },
    };
    mark(&mut item, &place);
    item.raw = Some(text.to_owned());
    item
}

fn mark(item: &mut Item, place: &Place) {
    item.place = place.clone();
    if let Value::Array(items) = &mut item.value {
        items.iter_mut().for_each(|item| mark(item, place));
    }
}
