//! The kinds of values that a key can have, one method of [`Section`] each.
//!
//! Called by the `read` functions of the sections. Each method declares the key, reads it or takes its default, and
//! keeps where it came from. A new kind of value is a new method here.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use super::files::FileKind;
use super::reader::Section;
use super::tree::{Item, Value};
use super::values;
use crate::model::Secret;

/// What is shown instead of a secret.
const MASK: &str = "******";

impl Item {
    /// The text of this value; a number in the environment counts as its text.
    pub(super) fn text(&self) -> Result<String, String> {
        match (&self.value, &self.raw) {
            (Value::Text(text), _) => Ok(text.clone()),
            (Value::Array(_) | Value::Table(_), _) | (_, None) => {
                Err(format!("must be a text, not {}", self.kind()))
            }
            (_, Some(raw)) => Ok(raw.clone()),
        }
    }
}

impl Section<'_> {
    /// The core of all: `read` makes the value of an item, `None` says that the default counts.
    fn value<T>(
        &mut self,
        (key, kind, shown, doc): (&str, &str, &str, &str),
        read: impl FnOnce(&Item) -> Result<T, String>,
    ) -> Option<T> {
        let item = self.take(key, kind, shown, doc);
        let text = item.as_ref().map_or_else(|| shown.to_owned(), Item::shown);
        self.keep(key, item.as_ref(), &text);
        match read(&item?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(key, format!("`{key}`: {message}"));
                None
            }
        }
    }

    /// A text with a default that `parse` accepts.
    pub(super) fn parsed<T: Display>(
        &mut self,
        key: &str,
        kind: &str,
        default: T,
        doc: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let shown = format!("{:?}", default.to_string());
        self.value((key, kind, &shown, doc), |item| parse(&item.text()?)).unwrap_or(default)
    }

    /// A text that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        kind: &str,
        doc: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.value((key, kind, "none", doc), |item| parse(&item.text()?))
    }

    /// A text that may be absent and is never shown.
    pub(super) fn hidden<T>(
        &mut self,
        key: &str,
        doc: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let item = self.take(key, "text", "none", doc);
        let shown = if item.is_some() { format!("\"{MASK}\"") } else { "none".to_owned() };
        self.keep(key, item.as_ref(), &shown);
        match item?.text().and_then(|text| parse(&text)) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(key, format!("`{key}` {message}"));
                None
            }
        }
    }

    /// A text that must be there; `placeholder` stands in for one that is not, beside the mistake.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        kind: &str,
        placeholder: T,
        doc: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        match self.value((key, kind, "required", doc), |item| parse(&item.text()?)) {
            Some(value) => value,
            None => {
                self.missing(key);
                placeholder
            }
        }
    }

    /// A list of texts.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        kind: &str,
        default: &[&str],
        doc: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let shown = format!("{default:?}");
        let item = self.take(key, kind, &shown, doc);
        let text = item.as_ref().map_or(shown, Item::shown);
        self.keep(key, item.as_ref(), &text);
        self.elements(key, item, default, parse)
    }

    fn elements<T>(
        &mut self,
        key: &str,
        item: Option<Item>,
        default: &[&str],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(item) = item else {
            return default.iter().filter_map(|text| parse(text).ok()).collect();
        };
        let Value::Array(items) = &item.value else {
            self.problem(key, format!("`{key}`: must be a list of texts, not {}", item.kind()));
            return Vec::new();
        };
        let mut values = Vec::new();
        for item in items {
            match item.text().and_then(|text| parse(&text)) {
                Ok(value) => values.push(value),
                Err(message) => {
                    self.element_problem(key, &item.place, format!("`{key}`: {message}"));
                }
            }
        }
        values
    }

    /// A list that must be there and hold something.
    pub(super) fn required_list<T>(
        &mut self,
        key: &str,
        kind: &str,
        doc: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let item = self.take(key, kind, "required", doc);
        let text = item.as_ref().map_or_else(|| "required".to_owned(), Item::shown);
        self.keep(key, item.as_ref(), &text);
        let empty = matches!(&item, Some(Item { value: Value::Array(items), .. }) if items.is_empty());
        if item.is_none() {
            self.missing(key);
        } else if empty {
            self.problem(key, format!("`{key}` must not be empty"));
        }
        self.elements(key, item, &[], parse)
    }

    /// A list whose URLs may hold passwords: shown without them.
    pub(super) fn redis_urls(&mut self, key: &str, default: &str, doc: &str) -> Vec<String> {
        let item = self.take(key, "list of URLs", &format!("[{default:?}]"), doc);
        let values = self.elements(key, item.clone(), &[default], values::redis_url);
        let shown: Vec<String> = values.iter().map(|url| masked_url(url)).collect();
        self.keep(key, item.as_ref(), &format!("{shown:?}"));
        values
    }

    /// A duration.
    pub(super) fn duration(&mut self, key: &str, default: &str, doc: &str) -> Duration {
        self.duration_by(key, default, doc, values::duration)
    }

    /// A duration longer than nothing.
    pub(super) fn positive_duration(&mut self, key: &str, default: &str, doc: &str) -> Duration {
        self.duration_by(key, default, doc, values::positive_duration)
    }

    fn duration_by(
        &mut self,
        key: &str,
        default: &str,
        doc: &str,
        parse: fn(&str) -> Result<Duration, String>,
    ) -> Duration {
        self.value((key, "duration", &format!("{default:?}"), doc), |item| parse(&item.text()?))
            .unwrap_or_else(|| parse(default).unwrap_or_default())
    }

    /// A size in bytes: a text with a unit, or a number.
    pub(super) fn size(&mut self, key: &str, default: &str, doc: &str) -> u64 {
        self.value((key, "size", &format!("{default:?}"), doc), read_size)
            .unwrap_or_else(|| values::size(default).unwrap_or_default())
    }

    /// A size, or `"none"` for no limit.
    pub(super) fn size_or_none(&mut self, key: &str, default: &str, doc: &str) -> Option<u64> {
        let read = |item: &Item| match &item.value {
            Value::Text(text) if text == "none" => Ok(None),
            _ => read_size(item).map(Some),
        };
        self.value((key, "size or \"none\"", &format!("{default:?}"), doc), read)
            .unwrap_or_else(|| values::size(default).ok())
    }

    /// Bytes a second.
    pub(super) fn rate(&mut self, key: &str, default: &str, doc: &str) -> u64 {
        self.value((key, "size a second", &format!("{default:?}"), doc), |item| values::rate(&item.text()?))
            .unwrap_or_else(|| values::rate(default).unwrap_or_default())
    }

    /// A whole number between `least` and `most`, `shown` as the default in words.
    pub(super) fn number<T>(
        &mut self,
        key: &str,
        (default, shown): (T, &str),
        (least, most): (i64, i64),
        doc: &str,
    ) -> T
    where
        T: TryFrom<i64>,
    {
        let range = move |item: &Item| match item.value {
            Value::Integer(number) if (least..=most).contains(&number) => {
                T::try_from(number).map_err(|_| "is too large".to_owned())
            }
            Value::Integer(number) => Err(format!("{number} is not between {least} and {most}")),
            _ => Err(format!("must be a whole number, not {}", item.kind())),
        };
        self.value((key, "number", shown, doc), range).unwrap_or(default)
    }

    /// A whole number that may be absent.
    pub(super) fn number_optional(&mut self, key: &str, (least, most): (i64, i64), doc: &str) -> Option<i64> {
        let read = move |item: &Item| match item.value {
            Value::Integer(number) if (least..=most).contains(&number) => Ok(number),
            Value::Integer(number) => Err(format!("{number} is not between {least} and {most}")),
            _ => Err(format!("must be a whole number, not {}", item.kind())),
        };
        self.value((key, "number", "none", doc), read)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str, default: bool, doc: &str) -> bool {
        let read = |item: &Item| match item.value {
            Value::Boolean(value) => Ok(value),
            _ => Err(format!("must be true or false, not {}", item.kind())),
        };
        self.value((key, "boolean", &default.to_string(), doc), read).unwrap_or(default)
    }

    /// One of some words, the first being the default; `later` are words of the design that this version lacks.
    pub(super) fn choice<T: Copy + Default>(
        &mut self,
        key: &str,
        words: &[(&str, T)],
        later: &[&str],
        doc: &str,
    ) -> T {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let default = words.first().map(|(name, value)| (*name, *value)).unwrap_or_default();
        let read = |item: &Item| {
            let text = item.text()?;
            if later.contains(&text.as_str()) {
                return Err(format!(
                    "`{text}` is not supported by this version; known: {}",
                    names.join(", ")
                ));
            }
            let found = words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
            found.ok_or_else(|| format!("`{text}` is not known here; known: {}", names.join(", ")))
        };
        let kind = names.join(" \\| ");
        self.value((key, &kind, &format!("{:?}", default.0), doc), read).unwrap_or(default.1)
    }

    /// A file or folder, with a default.
    pub(super) fn path(&mut self, key: &str, default: &str, doc: &str) -> PathBuf {
        let text = self.parsed(key, "path", default.to_owned(), doc, non_empty);
        self.context.resolve(&text)
    }

    /// A file that must hold what `kind` says, when it is named.
    pub(super) fn file(&mut self, key: &str, kind: FileKind, doc: &str) -> Option<PathBuf> {
        let text = self.optional(key, "file", doc, non_empty)?;
        Some(self.register(key, &text, kind))
    }

    /// The same, and it must be named.
    pub(super) fn required_file(&mut self, key: &str, kind: FileKind, doc: &str) -> PathBuf {
        let text = self.required(key, "file", String::new(), doc, non_empty);
        if text.is_empty() { PathBuf::new() } else { self.register(key, &text, kind) }
    }

    fn register(&mut self, key: &str, text: &str, kind: FileKind) -> PathBuf {
        let path = self.context.resolve(text);
        let key = self.key(key);
        self.context.files.push((key, path.clone(), kind));
        path
    }

    /// A secret: the value, `"env:NAME"`, or `KEY_file = "path"`.
    pub(super) fn secret(&mut self, key: &str, doc: &str) -> Option<Secret> {
        let file_key = format!("{key}_file");
        let item = self.take(key, "secret", "none", doc);
        let file_doc = format!("The file that holds `{key}`; one line end at its end is ignored.");
        let file = self.take(&file_key, "file", "none", &file_doc);
        if let Some(item) = &item {
            self.keep(key, Some(item), &format!("\"{MASK}\""));
        }
        if let Some(file) = &file {
            self.keep(&file_key, Some(file), &file.shown());
        }
        let (named, found) = match (item, file) {
            (None, None) => {
                self.keep(key, None, "none");
                return None;
            }
            (Some(_), Some(_)) => {
                (file_key.as_str(), Err(format!("is set beside `{key}`; keep one of the two")))
            }
            (Some(item), None) => (key, item.text().and_then(|text| self.variable_or_text(text))),
            (None, Some(file)) => (
                file_key.as_str(),
                file.text().and_then(|text| {
                    let path = self.register(&file_key, &text, FileKind::Secret);
                    super::files::read_secret(&path)
                }),
            ),
        };
        match found {
            Ok(text) if text.is_empty() => self.problem(named, format!("`{named}`: the secret is empty")),
            Ok(text) => return Some(Secret::new(text)),
            Err(message) => self.problem(named, format!("`{named}`: {message}")),
        }
        None
    }

    fn variable_or_text(&self, text: String) -> Result<String, String> {
        let Some(name) = text.strip_prefix("env:") else { return Ok(text) };
        if name.is_empty() {
            return Err("`env:` names no variable; write \"env:NAME\"".to_owned());
        }
        let value = self.context.variable(name).cloned();
        value.ok_or_else(|| format!("the environment variable {name} is not set"))
    }
}

fn read_size(item: &Item) -> Result<u64, String> {
    match &item.value {
        Value::Integer(number) => {
            u64::try_from(*number).map_err(|_| format!("{number} is not a size: it is below zero"))
        }
        _ => values::size(&item.text()?),
    }
}

/// A text that is not empty.
pub(super) fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn masked_url(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if url.password().is_some() => {
            if url.set_password(Some(MASK)).is_err() {
                MASK.to_owned()
            } else {
                url.to_string()
            }
        }
        _ => text.to_owned(),
    }
}
