//! What is asked, read strictly: a member that is missing or of another type is a mistake, one that is not known is
//! ignored.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value};

use crate::gateway::Thing;
use crate::model::{CanonicalHost, Refusal, RefusalKind};

/// Longest type and action name, in bytes.
const LONGEST_NAME: usize = 256;
/// Longest id, in bytes.
const LONGEST_ID: usize = 4096;

/// A subject or resource.
#[derive(Debug)]
pub struct Entity {
    /// `type`
    pub kind: String,
    /// `id`; empty where it is searched.
    pub id: String,
    /// `properties`
    pub properties: Map<String, Value>,
}

/// What is known of the request in question.
#[derive(Debug)]
pub struct Context {
    /// `host`
    pub host: Option<String>,
    /// `ip`; unspecified when it is not given, which is in no network of a policy.
    pub ip: IpAddr,
    /// `secure`
    pub secure: bool,
}

/// Members of a question, and what stands in for absent ones.
#[derive(Clone, Copy)]
pub struct Members<'a> {
    /// Its own.
    pub own: &'a Map<String, Value>,
    /// The defaults.
    pub defaults: Option<&'a Map<String, Value>>,
}

/// A mistake of the caller's.
pub fn bad(detail: &'static str) -> Refusal {
    Refusal::new(RefusalKind::BadRequest, detail)
}

impl<'a> Members<'a> {
    /// A member, or its default.
    pub fn find(self, name: &str) -> Option<&'a Value> {
        self.own.get(name).or_else(|| self.defaults?.get(name))
    }

    /// `subject`; `searched`: its id is what is asked for.
    pub fn subject(self, searched: bool) -> Result<Entity, Refusal> {
        entity(self.find("subject"), searched, "`subject` must be {\"type\",\"id\"} with texts")
    }

    /// `resource`; `searched`: its id is what is asked for.
    pub fn resource(self, searched: bool) -> Result<Entity, Refusal> {
        entity(self.find("resource"), searched, "`resource` must be {\"type\",\"id\"} with texts")
    }

    /// The name of `action`.
    pub fn action(self) -> Result<String, Refusal> {
        let wrong = "`action` must be {\"name\"} with a text";
        let action = self.find("action").and_then(Value::as_object).ok_or(bad(wrong))?;
        properties(action, "the properties of `action` must be an object")?;
        text(action, "name", LONGEST_NAME).ok_or(bad(wrong))
    }

    /// `context`
    pub fn context(self) -> Result<Context, Refusal> {
        let none = Map::new();
        let context = match self.find("context") {
            None => &none,
            Some(value) => value.as_object().ok_or(bad("`context` must be an object"))?,
        };
        let secure = match context.get("secure") {
            None => false,
            Some(value) => value.as_bool().ok_or(bad("`secure` of `context` must be a boolean"))?,
        };
        let ip = match context.get("ip") {
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Some(value) => value
                .as_str()
                .and_then(|text| text.parse::<IpAddr>().ok())
                .ok_or(bad("`ip` of `context` must be an address"))?
                .to_canonical(),
        };
        let host = match context.get("host") {
            None => None,
            Some(value) => {
                let host = value.as_str().and_then(|text| CanonicalHost::parse(text, secure).ok());
                Some(host.ok_or(bad("`host` of `context` must be a host"))?.to_string())
            }
        };
        Ok(Context { host, ip, secure })
    }

    /// Every member that is there is well formed, whoever needs it.
    pub fn check(self) -> Result<(), Refusal> {
        let there = |name| self.find(name).is_some();
        if there("subject") {
            self.subject(false)?;
        }
        if there("resource") {
            self.resource(false)?;
        }
        if there("action") {
            self.action()?;
        }
        self.context().map(drop)
    }
}

/// The object of the policy: the path of a `route`, `type:id` of everything else.
pub fn thing(kind: &str, id: &str) -> Thing {
    match kind {
        "route" => Thing::Path(id.to_owned()),
        _ => Thing::Named(format!("{kind}:{id}")),
    }
}

fn entity(value: Option<&Value>, searched: bool, wrong: &'static str) -> Result<Entity, Refusal> {
    let members = value.and_then(Value::as_object).ok_or(bad(wrong))?;
    let kind = text(members, "type", LONGEST_NAME).ok_or(bad(wrong))?;
    let id = match searched {
        true => String::new(),
        false => text(members, "id", LONGEST_ID).ok_or(bad(wrong))?,
    };
    Ok(Entity { kind, id, properties: properties(members, wrong)? })
}

fn properties(members: &Map<String, Value>, wrong: &'static str) -> Result<Map<String, Value>, Refusal> {
    match members.get("properties") {
        None => Ok(Map::new()),
        Some(Value::Object(properties)) => Ok(properties.clone()),
        Some(_) => Err(bad(wrong)),
    }
}

/// A text of some length without control characters.
fn text(members: &Map<String, Value>, name: &str, longest: usize) -> Option<String> {
    let text = members.get(name)?.as_str()?;
    let good = !text.is_empty() && text.len() <= longest && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn members(value: &Value) -> Members<'_> {
        Members { own: value.as_object().unwrap(), defaults: None }
    }

    #[test]
    fn missing_and_mistyped_members_are_mistakes_and_unknown_ones_are_not() {
        let good = json!({"type": "identity", "id": "bob", "more": 1});
        assert_eq!(members(&json!({"subject": good})).subject(false).unwrap().id, "bob");
        for bad in [
            json!(null),
            json!("bob"),
            json!(["identity", "bob"]),
            json!({"type": "identity"}),
            json!({"id": "bob"}),
            json!({"type": "identity", "id": 7}),
            json!({"type": "identity", "id": ""}),
            json!({"type": "identity", "id": "a\u{0}b"}),
            json!({"type": "identity", "id": "x".repeat(LONGEST_ID + 1)}),
            json!({"type": "identity", "id": "bob", "properties": null}),
            json!({"type": "identity", "id": "bob", "properties": []}),
        ] {
            assert!(members(&json!({"subject": bad})).subject(false).is_err(), "{bad}");
        }
        assert!(members(&json!({"subject": {"type": "identity"}})).subject(true).is_ok());
        assert!(members(&json!({"action": "GET"})).action().is_err());
        assert!(members(&json!({"action": {"name": "GET"}})).action().is_ok());
    }

    #[test]
    fn an_address_that_is_none_is_never_taken_for_another() {
        for (context, good) in [
            (json!({"ip": "192.0.2.1", "host": "API.example", "secure": true, "time": "x"}), true),
            (json!({}), true),
            (json!({"ip": "192.0.2"}), false),
            (json!({"ip": 1}), false),
            (json!({"host": "a b"}), false),
            (json!({"secure": "true"}), false),
            (json!([]), false),
        ] {
            assert_eq!(members(&json!({"context": context})).context().is_ok(), good, "{context}");
        }
        let none = json!({});
        assert!(members(&none).context().unwrap().ip.is_unspecified());
    }
}
