//! `/api/v1/users`: accounts. The answer never contains a password hash.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::guard::{Operator, problem};
use crate::accounts::{Account, AccountError, Origin};
use crate::http::Services;
use crate::identify::SignInError;
use crate::model::{Attributes, RefusalKind, RoleName, Timestamp, Username};
use crate::record::{Event, Kind, Outcome};
use crate::store::Revoked;

/// Adds the resource.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/users").get(list).post(add))
        .service(web::resource("/users/{name}").get(show).patch(change).delete(remove));
}

/// An account as operators see it.
#[derive(Serialize)]
struct View {
    name: Username,
    roles: Vec<RoleName>,
    attributes: Attributes,
    tenant: Option<String>,
    email: Option<String>,
    email_verified: bool,
    disabled: bool,
    password: bool,
    created: String,
    origin: Origin,
}

impl From<Account> for View {
    fn from(account: Account) -> Self {
        Self {
            password: account.password_hash.is_some(),
            created: account.created.rfc3339(),
            name: account.name,
            roles: account.roles,
            attributes: account.attributes,
            tenant: account.tenant,
            email: account.email,
            email_verified: account.email_verified,
            disabled: account.disabled,
            origin: account.origin,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: Username,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    roles: Vec<RoleName>,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Change {
    password: Option<String>,
    roles: Option<Vec<RoleName>>,
    attributes: Option<Attributes>,
    tenant: Option<String>,
    email: Option<String>,
    email_verified: Option<bool>,
    disabled: Option<bool>,
}

async fn list(services: web::Data<Services>) -> HttpResponse {
    match services.directory.list().await {
        Ok(accounts) => HttpResponse::Ok().json(accounts.into_iter().map(View::from).collect::<Vec<_>>()),
        Err(error) => problem(RefusalKind::StoreUnavailable, &error.to_string()),
    }
}

async fn show(services: web::Data<Services>, name: web::Path<String>) -> HttpResponse {
    match services.directory.find(&name).await {
        Ok(Some(account)) => HttpResponse::Ok().json(View::from(account)),
        Ok(None) => refused(&AccountError::Unknown(name.into_inner())),
        Err(error) => problem(RefusalKind::StoreUnavailable, &error.to_string()),
    }
}

async fn add(services: web::Data<Services>, operator: Operator, new: web::Json<New>) -> HttpResponse {
    let new = new.into_inner();
    let now = services.clock.now();
    let password_hash = match hashed(&services, new.password.as_deref()).await {
        Ok(hash) => hash,
        Err(response) => return response,
    };
    let account = Account {
        password_changed: password_hash.as_ref().map(|_| now),
        name: new.name,
        password_hash,
        roles: new.roles,
        attributes: new.attributes,
        tenant: new.tenant,
        email: new.email,
        email_verified: new.email_verified,
        disabled: false,
        created: now,
        origin: Origin::Store,
    };
    if let Err(response) = recorded(&services, &operator, "POST", account.name.as_str(), now).await {
        return response;
    }
    match services.directory.add(account.clone()).await {
        Ok(()) => HttpResponse::Created().json(View::from(account)),
        Err(error) => refused(&error),
    }
}

async fn change(
    services: web::Data<Services>,
    operator: Operator,
    name: web::Path<String>,
    change: web::Json<Change>,
) -> HttpResponse {
    let change = change.into_inner();
    let now = services.clock.now();
    let password_hash = match hashed(&services, change.password.as_deref()).await {
        Ok(hash) => hash,
        Err(response) => return response,
    };
    if let Err(response) = recorded(&services, &operator, "PATCH", &name, now).await {
        return response;
    }
    let apply = |account: &mut Account| {
        if let Some(hash) = &password_hash {
            account.password_hash = Some(hash.clone());
            account.password_changed = Some(now);
        }
        change.roles.clone_into_if_some(&mut account.roles);
        change.attributes.clone_into_if_some(&mut account.attributes);
        change.disabled.clone_into_if_some(&mut account.disabled);
        change.email_verified.clone_into_if_some(&mut account.email_verified);
        if change.tenant.is_some() {
            account.tenant.clone_from(&change.tenant);
        }
        if change.email.is_some() {
            account.email.clone_from(&change.email);
        }
    };
    let account = match services.directory.update(&name, &apply).await {
        Ok(account) => account,
        Err(error) => return refused(&error),
    };
    // What was issued before says what is no longer true.
    match revoke_all(&services, &name).await {
        Ok(()) => HttpResponse::Ok().json(View::from(account)),
        Err(error) => problem(RefusalKind::StoreUnavailable, &error.to_string()),
    }
}

async fn remove(services: web::Data<Services>, operator: Operator, name: web::Path<String>) -> HttpResponse {
    if let Err(response) = recorded(&services, &operator, "DELETE", &name, services.clock.now()).await {
        return response;
    }
    if let Err(error) = services.directory.delete(&name).await {
        return refused(&error);
    }
    match revoke_all(&services, &name).await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => problem(RefusalKind::StoreUnavailable, &error.to_string()),
    }
}

/// Sets a field when the change names it.
trait CloneIntoIfSome<T> {
    fn clone_into_if_some(&self, target: &mut T);
}

impl<T: Clone> CloneIntoIfSome<T> for Option<T> {
    fn clone_into_if_some(&self, target: &mut T) {
        if let Some(value) = self {
            target.clone_from(value);
        }
    }
}

async fn revoke_all(services: &Services, name: &str) -> Result<(), crate::store::StoreError> {
    let config = services.config.load();
    let until = services.clock.now().plus(config.tokens.refresh_ttl.max(config.session.absolute));
    services.revocations.revoke(Revoked::Subject(name.to_owned()), until).await
}

async fn hashed(services: &Services, password: Option<&str>) -> Result<Option<String>, HttpResponse> {
    let Some(password) = password else { return Ok(None) };
    if password.chars().count() < 8 || password.len() > 1024 {
        return Err(problem(
            RefusalKind::BadRequest,
            "a password has 8 characters at least and 1024 bytes at most",
        ));
    }
    match services.identifier.hash(password).await {
        Ok(hash) => Ok(Some(hash)),
        Err(SignInError::Store(error)) => Err(problem(RefusalKind::StoreUnavailable, &error.to_string())),
        Err(_busy) => Err(problem(RefusalKind::Overloaded, "the hashing queue is full; try again")),
    }
}

/// Records what an operator is about to change; nothing changes unrecorded.
async fn recorded(
    services: &Services,
    operator: &Operator,
    method: &str,
    name: &str,
    now: Timestamp,
) -> Result<(), HttpResponse> {
    let path = format!("/api/v1/users/{name}");
    let principal = crate::model::Principal::new(
        operator.name.as_str(),
        crate::model::PrincipalKind::User,
        crate::model::AuthMethod::Bearer,
    );
    let event = Event {
        principal: Some(&principal),
        method: Some(method),
        path: Some(&path),
        ..Event::new(Kind::Admin, Outcome::Allow, now)
    };
    services
        .recorder
        .security(&event, None)
        .await
        .map_err(|error| problem(RefusalKind::AuditUnavailable, &error.to_string()))
}

fn refused(error: &AccountError) -> HttpResponse {
    let kind = match error {
        AccountError::Exists(_) | AccountError::Changed(_) => RefusalKind::Conflict,
        AccountError::Unknown(_) => RefusalKind::NotFound,
        AccountError::NameIsRole(_) | AccountError::RoleIsName(_) | AccountError::InFile(_) => {
            RefusalKind::BadRequest
        }
        AccountError::Store(_) => RefusalKind::StoreUnavailable,
    };
    problem(kind, &error.to_string())
}
