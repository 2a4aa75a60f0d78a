//! What a request looks like to a matcher: read piece by piece by `compiled`, or as rhai's values.
//!
//! Another field of `env` or `sub` is one more line in [`Facts::read`] and in the function that makes the object, and
//! one more line in the policy guide.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use casbin::rhai::{Dynamic, Map};

use super::Question;
use super::compiled::Kind;
use super::load::Fields;
use super::roles::Closure;
use crate::model::{AttributeValue, Principal, Timestamp};

/// Everything that is known of a request when it is decided.
#[derive(Clone, Debug)]
pub struct Facts {
    principal: Arc<Principal>,
    object: String,
    action: String,
    host: String,
    ip: IpAddr,
    secure: bool,
    at: Timestamp,
    node: Arc<str>,
}

/// Where a text or boolean of a request comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// `sub`, where it is a text.
    Name,
    /// A field of `sub`.
    Subject(String),
    /// `dom`
    Domain,
    /// `obj`
    Object,
    /// `act`
    Action,
    /// A field of `env`.
    Environment(String),
}

/// What is read there.
#[derive(Debug)]
pub enum Value<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Number(i64),
}

impl Source {
    /// The source of a bound token (`sub`, `dom`, `obj`, `act`, `env`), or of a field of it; `None` for an object as a
    /// whole and for a field of a text. `read`: the fields that the policy reads of the token, when it is an object.
    pub fn of(bound: &str, field: Option<&str>, read: Option<&[String]>) -> Option<Self> {
        Some(match (bound, field, read) {
            ("sub", None, None) => Self::Name,
            ("sub", Some(field), Some(_)) => Self::Subject(field.to_owned()),
            ("env", Some(field), _) => Self::Environment(field.to_owned()),
            ("dom", None, _) => Self::Domain,
            ("obj", None, _) => Self::Object,
            ("act", None, _) => Self::Action,
            _ => return None,
        })
    }

    /// What it certainly is; an attribute can be anything.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Name | Self::Domain | Self::Object | Self::Action => Some(Kind::Text),
            Self::Subject(field) => {
                ["name", "kind", "dom", "acr"].contains(&field.as_str()).then_some(Kind::Text)
            }
            Self::Environment(field) => Some(match field.as_str() {
                "secure" => Kind::Boolean,
                "time" | "weekday" => Kind::Number,
                _ => Kind::Text,
            }),
        }
    }
}

impl Facts {
    /// The facts of a question.
    pub fn of(principal: &Arc<Principal>, question: &Question<'_>, at: Timestamp, node: &Arc<str>) -> Self {
        Self {
            principal: Arc::clone(principal),
            object: question.object.to_owned(),
            action: question.action.to_owned(),
            host: question.host.to_owned(),
            ip: question.ip,
            secure: question.secure,
            at,
            node: Arc::clone(node),
        }
    }

    /// Reads a text or boolean; `None` when something else stands there.
    pub fn read<'a>(&'a self, source: &Source) -> Option<Value<'a>> {
        let borrowed = |text: &'a str| Some(Value::Text(Cow::Borrowed(text)));
        let tenant = self.principal.tenant.as_deref().unwrap_or_default();
        match source {
            Source::Name => borrowed(&self.principal.name),
            Source::Domain => borrowed(tenant),
            Source::Object => borrowed(&self.object),
            Source::Action => borrowed(&self.action),
            Source::Subject(field) => match field.as_str() {
                "name" => borrowed(&self.principal.name),
                "kind" => borrowed(self.principal.kind.as_str()),
                "dom" => borrowed(tenant),
                "acr" => borrowed(self.principal.acr.as_str()),
                "roles" | "amr" => None,
                field => match self.principal.attributes.0.get(field) {
                    None => borrowed(""),
                    Some(AttributeValue::Text(text)) => borrowed(text),
                    Some(AttributeValue::Boolean(value)) => Some(Value::Boolean(*value)),
                    Some(AttributeValue::Integer(value)) => Some(match i32::try_from(*value) {
                        Ok(_) => Value::Number(*value),
                        Err(_) => Value::Text(Cow::Owned(value.to_string())),
                    }),
                    Some(AttributeValue::Float(value)) => Some(Value::Text(Cow::Owned(value.to_string()))),
                    Some(AttributeValue::List(_)) => None,
                },
            },
            Source::Environment(field) => match field.as_str() {
                "ip" => Some(Value::Text(Cow::Owned(self.ip.to_string()))),
                "node" => borrowed(&self.node),
                "host" => borrowed(&self.host),
                "secure" => Some(Value::Boolean(self.secure)),
                "time" => Some(Value::Number(self.minute())),
                "weekday" => Some(Value::Number(self.weekday())),
                _ => borrowed(""),
            },
        }
    }

    /// The object.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// rhai's values in the order of `bound`.
    pub fn values(&self, bound: &[String], fields: &Fields, subject: &Closure) -> Vec<Dynamic> {
        let value = |token: &String| {
            let read = fields.get(token).and_then(Option::as_ref);
            match (token.as_str(), read) {
                ("sub", None) => text(&self.principal.name),
                ("sub", Some(read)) => object(self.subject(subject), read),
                ("dom", _) => text(self.principal.tenant.as_deref().unwrap_or_default()),
                ("obj", _) => text(&self.object),
                ("act", _) => text(&self.action),
                ("env", read) => object(self.environment(), read.map_or(&[], Vec::as_slice)),
                _ => text(""),
            }
        };
        bound.iter().map(value).collect()
    }

    fn subject(&self, subject: &Closure) -> Map {
        let principal = &self.principal;
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

    /// Minutes since midnight, UTC.
    fn minute(&self) -> i64 {
        self.at.seconds().rem_euclid(86_400) / 60
    }

    /// Monday is 1, Sunday is 7 (ISO 8601), UTC.
    fn weekday(&self) -> i64 {
        // 1970-01-01 was a Thursday.
        (self.at.seconds().div_euclid(86_400) + 3).rem_euclid(7) + 1
    }

    fn environment(&self) -> Map {
        let mut map = Map::new();
        map.insert("time".into(), number(self.minute()));
        map.insert("weekday".into(), number(self.weekday()));
        map.insert("ip".into(), text(&self.ip.to_string()));
        map.insert("node".into(), text(&self.node));
        map.insert("host".into(), text(&self.host));
        map.insert("secure".into(), Dynamic::from(self.secure));
        map
    }
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

/// An object in which every field that the policy reads exists: absent ones are empty texts.
fn object(mut map: Map, read: &[String]) -> Dynamic {
    for field in read {
        if !map.contains_key(field.as_str()) {
            map.insert(field.as_str().into(), text(""));
        }
    }
    Dynamic::from_map(map)
}
