//! A request in casbin's form: one value for each token of the request definition.
//!
//! Called by `snapshot`. Another field of `env` or `sub` is one more `insert` here, and one more line in the policy guide.

use casbin::rhai::{Dynamic, Map};

use super::Question;
use super::load::Fields;
use super::roles::Closure;
use crate::model::{AttributeValue, Principal, Timestamp};

/// What a request brings besides subject and question.
pub struct Environment<'a> {
    /// Now.
    pub at: Timestamp,
    /// The node's name.
    pub node: &'a str,
}

/// The values in the order of `bound`.
pub fn request(
    bound: &[String],
    fields: &Fields,
    principal: &Principal,
    subject: &Closure,
    question: &Question<'_>,
    environment: &Environment<'_>,
) -> Vec<Dynamic> {
    let value = |token: &String| {
        let read = fields.get(token).and_then(Option::as_ref);
        match (token.as_str(), read) {
            ("sub", None) => text(&principal.name),
            ("sub", Some(read)) => object(subject_fields(principal, subject), read),
            ("dom", _) => text(principal.tenant.as_deref().unwrap_or_default()),
            ("obj", _) => text(question.object),
            ("act", _) => text(question.action),
            ("env", read) => {
                object(environment_fields(question, environment), read.map_or(&[], Vec::as_slice))
            }
            _ => text(""),
        }
    };
    bound.iter().map(value).collect()
}

fn text(value: &str) -> Dynamic {
    Dynamic::from(value.to_owned())
}

/// Whole numbers within 32 bits stay numbers; casbin takes no others, so the rest become texts.
fn number(value: i64) -> Dynamic {
    i32::try_from(value).map_or_else(|_| text(&value.to_string()), Dynamic::from)
}

fn attribute(value: &AttributeValue) -> Dynamic {
    match value {
        AttributeValue::Boolean(value) => Dynamic::from(*value),
        AttributeValue::Integer(value) => number(*value),
        AttributeValue::Float(value) => text(&value.to_string()),
        AttributeValue::Text(value) => text(value),
        AttributeValue::List(values) => Dynamic::from_array(values.iter().map(attribute).collect()),
    }
}

fn subject_fields(principal: &Principal, subject: &Closure) -> Map {
    let mut map = Map::new();
    for (name, value) in &principal.attributes.0 {
        map.insert(name.as_str().into(), attribute(value));
    }
    let texts = |values: Vec<&str>| Dynamic::from_array(values.into_iter().map(text).collect());
    map.insert("name".into(), text(&principal.name));
    map.insert("kind".into(), text(principal.kind.as_str()));
    map.insert("roles".into(), texts(subject.roles.iter().map(|role| &**role).collect()));
    map.insert("dom".into(), text(principal.tenant.as_deref().unwrap_or_default()));
    map.insert("acr".into(), text(principal.acr.as_str()));
    map.insert("amr".into(), texts(principal.amr.iter().map(|method| &**method).collect()));
    map
}

fn environment_fields(question: &Question<'_>, environment: &Environment<'_>) -> Map {
    let seconds = environment.at.seconds();
    let mut map = Map::new();
    map.insert("time".into(), number(seconds.rem_euclid(86_400) / 60));
    // 1970-01-01 was a Thursday; Monday is 1, Sunday is 7 (ISO 8601).
    map.insert("weekday".into(), number((seconds.div_euclid(86_400) + 3).rem_euclid(7) + 1));
    map.insert("ip".into(), text(&question.ip.to_string()));
    map.insert("node".into(), text(environment.node));
    map.insert("host".into(), text(question.host));
    map.insert("secure".into(), Dynamic::from(question.secure));
    map
}

/// An object in which every field that the policy reads exists: absent ones are empty texts.
fn object(mut map: Map, read: &[String]) -> Dynamic {
    for field in read {
        if !map.contains_key(field.as_str()) {
            map.insert(field.as_str().into(), text(""));
        }
    }
    Dynamic::from_map(map)
}
