//! `/api/v1/users`: accounts. The answer never contains a password hash.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::change::Change;
use super::endpoint::{Answer, Endpoint, list, schema};
use super::guard::Rank;
use super::problem::Problem;
use crate::accounts::{Account, AccountError, Origin};
use crate::http::Services;
use crate::model::{AttributeValue, Attributes, RefusalKind, RoleName, Username};

/// The calls of this resource.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint::read("/users", "Every account.", || web::get().to(read))
        .answers(Answer::Json(200, list::<View>)),
    Endpoint::change("POST", "/users", Rank::Administrator, "Adds an account.", || web::post().to(add))
        .takes(schema::<New>)
        .answers(Answer::Json(201, schema::<View>)),
    Endpoint::read("/users/{name}", "One account.", || web::get().to(show))
        .answers(Answer::Json(200, schema::<View>)),
    Endpoint::change(
        "PATCH",
        "/users/{name}",
        Rank::Administrator,
        "Changes what is named, and ends everything that the account holds.",
        || web::patch().to(change),
    )
    .takes(schema::<Patch>)
    .answers(Answer::Json(200, schema::<View>)),
    Endpoint::change(
        "DELETE",
        "/users/{name}",
        Rank::Administrator,
        "Deletes an account, and ends everything that it holds.",
        || web::delete().to(remove),
    ),
    Endpoint::change(
        "POST",
        "/users/{name}/unlock",
        Rank::Operator,
        "Forgets the failed sign-ins of an account.",
        || web::post().to(unlock),
    )
    .answers(Answer::Json(200, schema::<View>)),
];

/// The most attributes of an account.
const MOST_ATTRIBUTES: usize = 64;
/// The longest name or text of an attribute, tenant or e-mail address, in bytes.
const LONGEST: usize = 256;

/// An account as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
struct View {
    #[schema(value_type = String)]
    name: Username,
    /// Roles that it carries; the policy files may give more.
    #[schema(value_type = Vec<String>)]
    roles: Vec<RoleName>,
    /// For policies: texts, numbers, booleans, lists.
    #[schema(value_type = Object)]
    attributes: Attributes,
    /// `dom` in policies.
    tenant: Option<String>,
    email: Option<String>,
    /// Only a verified address is passed on.
    email_verified: bool,
    disabled: bool,
    /// Whether it has a password.
    password: bool,
    created: String,
    password_changed: Option<String>,
    /// `store`, or `file`: read-only here.
    #[schema(value_type = String)]
    origin: Origin,
}

impl From<Account> for View {
    fn from(account: Account) -> Self {
        Self {
            password: account.password_hash.is_some(),
            created: account.created.rfc3339(),
            password_changed: account.password_changed.map(crate::model::Timestamp::rfc3339),
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

/// A new account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewUser)]
struct New {
    /// Letters, digits and `.` `_` `@` `+` `-`.
    #[schema(value_type = String)]
    name: Username,
    /// 8 characters to 1024 bytes; without one nobody signs in with a password.
    #[serde(default)]
    password: Option<String>,
    /// Operators' roles are given by a change of the account only.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    roles: Vec<RoleName>,
    #[serde(default)]
    #[schema(value_type = Object)]
    attributes: Attributes,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
}

/// What changes; what is not named stays.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields, default)]
#[schema(as = UserChange)]
struct Patch {
    password: Option<String>,
    /// All roles.
    #[schema(value_type = Option<Vec<String>>)]
    roles: Option<Vec<RoleName>>,
    /// All attributes.
    #[schema(value_type = Option<Object>)]
    attributes: Option<Attributes>,
    /// `null` removes it.
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    tenant: Option<Option<String>>,
    /// `null` removes it. A new address is not verified unless `email_verified` says so.
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<String>>,
    email_verified: Option<bool>,
    disabled: Option<bool>,
}

/// A member that is there: `null` or a text.
fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

async fn read(services: web::Data<Services>) -> Result<HttpResponse, Problem> {
    let accounts = services.directory.list().await?;
    Ok(HttpResponse::Ok().json(accounts.into_iter().map(View::from).collect::<Vec<_>>()))
}

async fn find(services: &Services, name: &str) -> Result<Account, Problem> {
    let found = services.directory.find(name).await?;
    Ok(found.ok_or_else(|| AccountError::Unknown(name.to_owned()))?)
}

async fn show(services: web::Data<Services>, name: web::Path<String>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(View::from(find(&services, &name).await?)))
}

async fn add(
    services: web::Data<Services>,
    change: Change,
    new: web::Json<New>,
) -> Result<HttpResponse, Problem> {
    let new = new.into_inner();
    check(new.tenant.as_deref(), new.email.as_deref(), Some(&new.attributes))?;
    if new.email_verified && new.email.is_none() {
        return Err(Problem::new(RefusalKind::BadRequest, "`email_verified` needs an `email`"));
    }
    if let Some(role) = new.roles.iter().find(|role| role.is_operator()) {
        let detail = format!(
            "role `{role}` is an operator's: add the account without it, then give it with `portcullis user set {} --role {role}`",
            new.name
        );
        return Err(Problem::new(RefusalKind::BadRequest, detail));
    }
    let now = services.clock.now();
    let password_hash = hashed(&services, new.password.as_deref()).await?;
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
    change.record(&services, &format!("/users/{}", account.name)).await?;
    let name = account.name.clone();
    services.directory.add(account).await?;
    Ok(HttpResponse::Created().json(View::from(find(&services, name.as_str()).await?)))
}

async fn change(
    services: web::Data<Services>,
    change: Change,
    name: web::Path<String>,
    patch: web::Json<Patch>,
) -> Result<HttpResponse, Problem> {
    let patch = patch.into_inner();
    let text = |given: &'_ Option<Option<String>>| given.clone().flatten();
    check(text(&patch.tenant).as_deref(), text(&patch.email).as_deref(), patch.attributes.as_ref())?;
    for role in patch.roles.iter().flatten() {
        role.check_operator().map_err(|error| Problem::new(RefusalKind::BadRequest, error.to_string()))?;
    }
    let before = find(&services, &name).await?;
    let email = patch.email.clone().unwrap_or(before.email);
    if patch.email_verified == Some(true) && email.is_none() {
        return Err(Problem::new(RefusalKind::BadRequest, "`email_verified` needs an `email`"));
    }
    let now = services.clock.now();
    let password_hash = hashed(&services, patch.password.as_deref()).await?;
    change.record(&services, &format!("/users/{}", before.name)).await?;
    let apply = |account: &mut Account| {
        if let Some(hash) = &password_hash {
            account.password_hash = Some(hash.clone());
            account.password_changed = Some(now);
        }
        if let Some(roles) = &patch.roles {
            account.roles.clone_from(roles);
        }
        if let Some(attributes) = &patch.attributes {
            account.attributes.clone_from(attributes);
        }
        if let Some(disabled) = patch.disabled {
            account.disabled = disabled;
        }
        if let Some(tenant) = &patch.tenant {
            account.tenant.clone_from(tenant);
        }
        if let Some(email) = &patch.email {
            // Whoever had verified the old address said nothing of the new one.
            account.email_verified &= account.email == *email;
            account.email.clone_from(email);
        }
        if let Some(verified) = patch.email_verified {
            account.email_verified = verified;
        }
    };
    let account = services.directory.update(&name, &apply).await?;
    // What was issued before says what is no longer true.
    ended(&services, &name).await?;
    Ok(HttpResponse::Ok().json(View::from(account)))
}

async fn remove(
    services: web::Data<Services>,
    change: Change,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let account = find(&services, &name).await?;
    change.record(&services, &format!("/users/{}", account.name)).await?;
    services.directory.delete(&name).await?;
    ended(&services, &name).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn unlock(
    services: web::Data<Services>,
    change: Change,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let account = find(&services, &name).await?;
    change.record(&services, &format!("/users/{}/unlock", account.name)).await?;
    services.identifier.unlock(account.name.as_str()).await?;
    Ok(HttpResponse::Ok().json(View::from(account)))
}

/// Revokes all that the account holds; the change before it is done already, and the problem says so.
async fn ended(services: &Services, name: &str) -> Result<(), Problem> {
    super::revoke_subject(services, name).await.map_err(|error| {
        let detail = format!(
            "account `{name}` is changed, but what it holds may still count: {error}; run `portcullis session revoke --sub {name}`"
        );
        Problem::new(RefusalKind::StoreUnavailable, detail)
    })
}

fn check(tenant: Option<&str>, email: Option<&str>, attributes: Option<&Attributes>) -> Result<(), Problem> {
    let wrong = |detail: String| Err(Problem::new(RefusalKind::BadRequest, detail));
    if tenant.is_some_and(|tenant| !plain(tenant)) {
        return wrong(format!("`tenant` has 1 to {LONGEST} bytes and no control characters"));
    }
    if email.is_some_and(|email| !is_email(email)) {
        return wrong("`email` is not an e-mail address".to_owned());
    }
    let Some(Attributes(attributes)) = attributes else { return Ok(()) };
    if attributes.len() > MOST_ATTRIBUTES {
        return wrong(format!("an account has {MOST_ATTRIBUTES} attributes at most"));
    }
    let unfit = attributes.iter().find(|(name, value)| !plain(name) || !fits(value));
    unfit.map_or(Ok(()), |(name, _)| {
        wrong(format!(
            "attribute {name:?}: names and texts have 1 to {LONGEST} bytes and no control characters"
        ))
    })
}

fn plain(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn fits(value: &AttributeValue) -> bool {
    match value {
        AttributeValue::Text(text) => text.is_empty() || plain(text),
        AttributeValue::List(values) => values.len() <= MOST_ATTRIBUTES && values.iter().all(fits),
        _ => true,
    }
}

fn is_email(text: &str) -> bool {
    let split = text.split_once('@');
    text.len() <= LONGEST
        && text.bytes().all(|b| b.is_ascii_graphic())
        && split
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'))
}

async fn hashed(services: &Services, password: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(password) = password else { return Ok(None) };
    if password.chars().count() < 8 || password.len() > 1024 {
        let detail = "a password has 8 characters at least and 1024 bytes at most";
        return Err(Problem::new(RefusalKind::BadRequest, detail));
    }
    Ok(Some(services.identifier.hash(password).await?))
}
