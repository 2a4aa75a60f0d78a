//! A verified ID token as a principal: `<provider>:<sub>`, mapped roles only, chosen claims as attributes.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::Provider;
use crate::model::{
    Acr, AttributeValue, Attributes, AuthMethod, Principal, PrincipalKind, Refusal, RefusalKind, Timestamp,
};
use crate::tokens::groups::{find, mapped, texts};

/// The principal.
///
/// # Errors
/// 401 when the subject is missing, too long, or holds characters that are not printable ASCII.
pub fn principal(
    provider: &Provider,
    claims: &Map<String, Value>,
    now: Timestamp,
) -> Result<Principal, Refusal> {
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    if subject.is_empty() || subject.len() > 255 || !subject.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::new(RefusalKind::Unauthenticated, "the ID token's subject cannot be a name"));
    }
    let name = format!("{}:{subject}", provider.name);
    let mut principal = Principal::new(name, PrincipalKind::User, AuthMethod::Session);
    let groups = provider.roles_claim.as_deref().map(|claim| texts(find(claims, claim))).unwrap_or_default();
    let (roles, unmapped) = mapped(&provider.roles, groups);
    principal.roles = roles;
    principal.attributes = attributes(provider, claims, unmapped);
    principal.amr = texts(claims.get("amr")).into_iter().map(Arc::from).collect();
    let several = principal.amr.iter().any(|method| &**method == "mfa");
    principal.acr = if several { Acr::Two } else { Acr::One };
    let at = claims.get("auth_time").and_then(Value::as_i64).map(Timestamp::from_seconds);
    principal.auth_time = Some(at.filter(|at| *at <= now).unwrap_or(now));
    if claims.get("email_verified") == Some(&Value::Bool(true)) {
        principal.email = claims.get("email").and_then(Value::as_str).map(Arc::from);
    }
    Ok(principal)
}

/// True when the ID token alone has every claim that the configuration takes something from.
pub fn complete(provider: &Provider, claims: &Map<String, Value>) -> bool {
    let has = |claim: &str| find(claims, claim).is_some();
    let email = !provider.scopes.iter().any(|scope| scope == "email") || has("email");
    email
        && provider.roles_claim.as_deref().is_none_or(has)
        && provider.attributes.values().all(|claim| has(claim))
}

fn attributes(provider: &Provider, claims: &Map<String, Value>, unmapped: Vec<String>) -> Attributes {
    let mut attributes = Attributes::default();
    if !unmapped.is_empty() {
        let groups = unmapped.into_iter().map(AttributeValue::Text).collect();
        attributes.0.insert("groups".to_owned(), AttributeValue::List(groups));
    }
    for (name, claim) in &provider.attributes {
        if let Some(value) = find(claims, claim).and_then(AttributeValue::from_json) {
            attributes.0.insert(name.clone(), value);
        }
    }
    attributes
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::ProviderKind;
    use crate::model::RoleName;
    use serde_json::json;

    /// A provider `corp` at `issuer`.
    pub fn provider(issuer: &str) -> Provider {
        let roles = [("platform-team", "admin"), ("ops", "portcullis:administrator")];
        Provider {
            name: "corp".to_owned(),
            kind: ProviderKind::Oidc,
            issuer: issuer.parse().unwrap(),
            client_id: "portcullis".to_owned(),
            client_secret: Some(crate::model::Secret::new("secret".to_owned())),
            scopes: vec!["openid".to_owned(), "email".to_owned()],
            roles_claim: Some("realm_access.roles".to_owned()),
            roles: roles.map(|(group, role)| (group.to_owned(), RoleName::parse(role).unwrap())).into(),
            attributes: [("department".to_owned(), "dept".to_owned())].into(),
            display_name: None,
            ca: None,
            allow_private: true,
        }
    }

    fn from(claims: Value) -> Result<Principal, Refusal> {
        principal(&provider("https://id.example"), claims.as_object().unwrap(), Timestamp::from_seconds(100))
    }

    #[test]
    fn only_mapped_groups_become_roles() {
        let got = from(json!({
            "sub": "1234", "dept": "sales", "email": "a@b", "email_verified": "true", "amr": ["pwd"], "auth_time": 50,
            "realm_access": {"roles": ["platform-team", "admin", "ops", "x,admin"]},
        }))
        .unwrap();
        assert_eq!(&*got.name, "corp:1234");
        assert_eq!(got.roles, [Arc::from("admin")]);
        assert_eq!(got.email, None);
        assert_eq!(got.acr, Acr::One);
        assert_eq!(got.auth_time, Some(Timestamp::from_seconds(50)));
        let groups = ["admin", "x,admin"].map(|group| AttributeValue::Text(group.to_owned())).to_vec();
        assert_eq!(got.attributes.0.get("groups"), Some(&AttributeValue::List(groups)));
        assert_eq!(got.attributes.0.get("department"), Some(&AttributeValue::Text("sales".to_owned())));
    }

    #[test]
    fn a_subject_must_be_a_printable_name() {
        for bad in
            [json!({}), json!({"sub": ""}), json!({"sub": 5}), json!({"sub": "a b"}), json!({"sub": "a\n"})]
        {
            assert_eq!(from(bad).unwrap_err().kind, RefusalKind::Unauthenticated);
        }
    }

    #[test]
    fn a_verified_address_and_strong_sign_in_are_taken() {
        let got = from(
            json!({"sub": "1", "email": "a@b", "email_verified": true, "amr": ["pwd", "mfa"], "auth_time": 999}),
        );
        let got = got.unwrap();
        assert_eq!(got.email.as_deref(), Some("a@b"));
        assert_eq!(got.acr, Acr::Two);
        assert_eq!(got.auth_time, Some(Timestamp::from_seconds(100)));
    }
}
