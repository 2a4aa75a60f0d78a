//! Whom a question is about: the principal of that name as it is now, with what the caller says of it.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::question::{Entity, bad};
use crate::http::Services;
use crate::http::answer::store_refusal;
use crate::identify::principal_of;
use crate::model::{Acr, AttributeValue, AuthMethod, Principal, PrincipalKind, Refusal, RoleName};
use crate::tokens::PrincipalSource as _;

/// Most roles, and most attributes, that a caller can give.
const MOST: usize = 256;

/// A principal that somebody named.
#[derive(Clone)]
pub struct Subject {
    /// Who.
    pub principal: Arc<Principal>,
    /// Why it may do nothing.
    pub barred: Option<&'static str>,
}

/// The name of a principal: the id of an `identity`, `type:id` of everything else.
pub fn name(kind: &str, id: &str) -> String {
    match kind {
        "identity" => id.to_owned(),
        _ => format!("{kind}:{id}"),
    }
}

/// Finds it. What the caller says of it replaces what is known; the tenant of an account stays.
///
/// # Errors
/// 400 for roles and the like that are none; 503 when the store is away.
pub async fn find(services: &Services, entity: &Entity) -> Result<Subject, Refusal> {
    let name = name(&entity.kind, &entity.id);
    let mut barred = None;
    let known = match services.directory.find(&name).await.map_err(store_refusal)? {
        Some(account) => {
            barred = account.disabled.then_some("the account is disabled");
            Some(principal_of(&account))
        }
        None if name == "anonymous" => Some(Principal::anonymous()),
        None => services.identifier.current(&name).await.map_err(store_refusal)?,
    };
    let mut principal = match known {
        Some(known) => known,
        None => {
            // It would match the rows that are meant for the role.
            if services.directory.is_role(&name).await.map_err(store_refusal)? {
                barred = Some("the name is used as a role");
            }
            let kind = match name.starts_with("client:") {
                true => PrincipalKind::Client,
                false => PrincipalKind::User,
            };
            Principal::new(name, kind, AuthMethod::None)
        }
    };
    // It proved nothing here.
    principal.method = AuthMethod::None;
    (principal.acr, principal.amr) = (Acr::Zero, Vec::new());
    said(&mut principal, &entity.properties)?;
    Ok(Subject { principal: Arc::new(principal), barred })
}

fn said(principal: &mut Principal, properties: &Map<String, Value>) -> Result<(), Refusal> {
    if properties.len() > MOST {
        return Err(bad("a subject has at most 256 properties"));
    }
    for (property, value) in properties {
        match property.as_str() {
            "roles" => {
                let wrong = "`roles` of a subject must be a list of at most 256 roles";
                let mut roles = texts(value, wrong)?
                    .into_iter()
                    .map(|role| RoleName::parse(role).map(|role| role.shared()).map_err(|_| bad(wrong)))
                    .collect::<Result<Vec<_>, _>>()?;
                roles.sort();
                roles.dedup();
                principal.roles = roles;
            }
            "dom" => {
                let tenant = value.as_str().ok_or(bad("`dom` of a subject must be a text"))?;
                if principal.tenant.is_none() {
                    principal.tenant = Some(Arc::from(tenant));
                }
            }
            "acr" => {
                principal.acr = value
                    .as_str()
                    .and_then(Acr::parse)
                    .ok_or(bad("`acr` of a subject must be urn:portcullis:acr:0 to 3"))?;
            }
            "amr" => {
                let methods = texts(value, "`amr` of a subject must be a list of at most 256 texts")?;
                principal.amr = methods.into_iter().map(Arc::from).collect();
            }
            "name" | "kind" => {}
            _ => {
                // What has no attribute form is absent.
                match AttributeValue::from_json(value) {
                    Some(value) => principal.attributes.0.insert(property.clone(), value),
                    None => principal.attributes.0.remove(property),
                };
            }
        }
    }
    Ok(())
}

fn texts<'a>(value: &'a Value, wrong: &'static str) -> Result<Vec<&'a str>, Refusal> {
    let list = value.as_array().filter(|list| list.len() <= MOST).ok_or(bad(wrong))?;
    list.iter().map(|item| item.as_str().ok_or(bad(wrong))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn properties_are_roles_and_attributes() {
        let mut principal = Principal::new("bob", PrincipalKind::User, AuthMethod::None);
        principal.roles = vec![Arc::from("admin")];
        principal.attributes.0.insert("level".to_owned(), AttributeValue::Integer(9));
        let properties = json!({
            "roles": ["reader", "reader", "auditor"], "department": "sales", "level": null, "nested": {"a": 1},
            "dom": "acme", "acr": "urn:portcullis:acr:2", "amr": ["otp"], "name": "alice", "kind": "client",
        });
        said(&mut principal, properties.as_object().unwrap()).unwrap();
        assert_eq!(principal.roles, [Arc::from("auditor"), Arc::from("reader")]);
        assert_eq!((&*principal.name, principal.kind), ("bob", PrincipalKind::User));
        assert_eq!((principal.tenant.as_deref(), principal.acr), (Some("acme"), Acr::Two));
        let attributes: Vec<_> = principal.attributes.0.keys().map(String::as_str).collect();
        assert_eq!(attributes, ["department"]);
        said(&mut principal, json!({"dom": "other"}).as_object().unwrap()).unwrap();
        assert_eq!(principal.tenant.as_deref(), Some("acme"), "a tenant stays");
    }

    #[test]
    fn what_is_no_role_is_a_mistake() {
        let many: Vec<String> = (0..=MOST).map(|at| format!("r{at}")).collect();
        for properties in [
            json!({"roles": "admin"}),
            json!({"roles": ["a,b"]}),
            json!({"roles": [1]}),
            json!({"roles": many}),
            json!({"acr": "strong"}),
            json!({"dom": 1}),
            json!({"amr": "otp"}),
        ] {
            let mut principal = Principal::anonymous();
            assert!(said(&mut principal, properties.as_object().unwrap()).is_err(), "{properties}");
        }
    }
}
