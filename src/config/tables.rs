//! Tables whose keys are the user's own: mappings and attributes, methods of [`Section`].

use std::collections::BTreeMap;

use super::reader::Section;
use super::tree::{Item, Value};
use super::values;
use crate::model::{AttributeValue, Attributes, RoleName};

impl Section<'_> {
    fn mapping<T>(
        &mut self,
        (key, kind, doc): (&str, &str, &str),
        parse: impl Fn(&str, &Item) -> Result<T, String>,
    ) -> BTreeMap<String, T> {
        let item = self.take(key, kind, "{}", doc);
        let shown = item.as_ref().map_or_else(|| "{}".to_owned(), Item::shown);
        self.keep(key, item.as_ref(), &shown);
        let mut values = BTreeMap::new();
        match item.map(|item| (item.kind(), item.value)) {
            None => {}
            Some((_, Value::Table(entries))) => {
                for (name, item) in entries {
                    match parse(&name, &item) {
                        Ok(value) => {
                            values.insert(name, value);
                        }
                        Err(message) => {
                            self.element_problem(key, &item.place, format!("`{key}`, `{name}`: {message}"));
                        }
                    }
                }
            }
            Some((found, _)) => self.problem(key, format!("`{key}`: must be a table, not {found}")),
        }
        values
    }

    /// Names to texts.
    pub(super) fn texts(
        &mut self,
        key: &str,
        doc: &str,
        check: impl Fn(&str, &str) -> Result<(), String>,
    ) -> BTreeMap<String, String> {
        self.mapping((key, "table of texts", doc), |name, item| {
            let text = item.text()?;
            check(name, &text)?;
            Ok(text)
        })
    }

    /// A mapping of others' groups to roles here.
    pub(super) fn roles_mapping(&mut self, key: &str, doc: &str) -> BTreeMap<String, RoleName> {
        self.mapping((key, "table: group = role", doc), |_, item| values::outside_role(&item.text()?))
    }

    /// Attributes for policies.
    pub(super) fn attributes(&mut self, key: &str, doc: &str) -> Attributes {
        Attributes(self.mapping((key, "table of attributes", doc), |name, item| {
            if matches!(name, "name" | "kind" | "roles" | "dom" | "acr" | "amr") {
                return Err("is a field that every principal has; choose another name".to_owned());
            }
            attribute(item)
        }))
    }
}

fn attribute(item: &Item) -> Result<AttributeValue, String> {
    match &item.value {
        Value::Text(text) => Ok(AttributeValue::Text(text.clone())),
        Value::Integer(number) => Ok(AttributeValue::Integer(*number)),
        Value::Float(number) if number.is_finite() => Ok(AttributeValue::Float(*number)),
        Value::Boolean(value) => Ok(AttributeValue::Boolean(*value)),
        Value::Array(items) => {
            items.iter().map(attribute).collect::<Result<_, _>>().map(AttributeValue::List)
        }
        Value::Float(_) | Value::Table(_) | Value::Other(_) => {
            Err(format!("must be a text, a number, a boolean or a list, not {}", item.kind()))
        }
    }
}
