//! `/api/v1/sessions`: who is signed in, in browsers and with refresh tokens; and ending it, everywhere at once.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::change::Change;
use super::endpoint::{Answer, Endpoint, list, schema};
use super::guard::Rank;
use super::problem::Problem;
use crate::http::Services;
use crate::model::RefusalKind;

/// The calls of this resource.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint::read("/sessions", "Sign-ins that count, the newest first.", || web::get().to(read))
        .query(&[("subject", "of this principal alone")])
        .answers(Answer::Json(200, list::<View>)),
    Endpoint::change(
        "DELETE",
        "/sessions",
        Rank::Operator,
        "Ends everything that a principal holds: sessions, refresh tokens, access tokens.",
        || web::delete().to(end_all),
    )
    .query(&[("subject", "whose; required")])
    .answers(Answer::Json(200, schema::<Ended>)),
    Endpoint::change(
        "DELETE",
        "/sessions/{sid}",
        Rank::Operator,
        "Ends one sign-in on all hosts, with the tokens issued in it.",
        || web::delete().to(end),
    ),
];

/// How somebody is signed in.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum SessionKind {
    /// With a cookie.
    Browser,
    /// With a refresh token.
    Token,
}

/// A sign-in that counts.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct View {
    /// Its id: the `sid` of tokens, and of the cookies of all hosts.
    sid: String,
    /// The principal's name.
    subject: String,
    kind: SessionKind,
    /// Where the cookie counts.
    host: Option<String>,
    /// Whom the refresh token was issued to.
    client: Option<String>,
    /// When the person signed in.
    created: String,
    /// When it was used last, to the minute.
    last_seen: String,
}

/// What was ended.
#[derive(Serialize, ToSchema)]
#[schema(as = EndedSessions)]
struct Ended {
    subject: String,
    /// How many sign-ins.
    sessions: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    subject: Option<String>,
}

async fn read(services: web::Data<Services>, whose: web::Query<Whose>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(all(&services, whose.subject.as_deref()).await?))
}

async fn all(services: &Services, subject: Option<&str>) -> Result<Vec<View>, Problem> {
    let browsers = services.sessions.list(subject).await?.into_iter().map(|session| View {
        sid: session.sid,
        subject: session.subject,
        kind: SessionKind::Browser,
        host: Some(session.host),
        client: None,
        created: session.created.rfc3339(),
        last_seen: session.last_seen.rfc3339(),
    });
    let families = services.tokens.families(subject).await?.into_iter().map(|family| View {
        sid: family.sid,
        subject: family.subject,
        kind: SessionKind::Token,
        host: None,
        client: Some(family.client),
        created: family.created.rfc3339(),
        last_seen: family.rotated.rfc3339(),
    });
    let mut all: Vec<_> = browsers.chain(families).collect();
    all.sort_by(|one, other| other.created.cmp(&one.created));
    Ok(all)
}

async fn end(
    services: web::Data<Services>,
    change: Change,
    sid: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    change.record(&services, &format!("/sessions/{sid}")).await?;
    if services.sessions.revoke(&sid).await? {
        return Ok(HttpResponse::NoContent().finish());
    }
    let detail = format!("no session or refresh token has the id `{sid}`; `portcullis session list` has all");
    Err(Problem::new(RefusalKind::NotFound, detail))
}

async fn end_all(
    services: web::Data<Services>,
    change: Change,
    whose: web::Query<Whose>,
) -> Result<HttpResponse, Problem> {
    let subject = whose.into_inner().subject.filter(|subject| !subject.is_empty());
    let Some(subject) = subject else {
        return Err(Problem::new(RefusalKind::BadRequest, "say whose sessions: ?subject=NAME"));
    };
    let known = services.directory.principal_exists(&subject).await?;
    let sessions = all(&services, Some(&subject)).await?.len();
    if !known && sessions == 0 {
        return Err(Problem::new(RefusalKind::NotFound, format!("there is no principal `{subject}`")));
    }
    change.record(&services, &format!("/sessions/of/{subject}")).await?;
    super::revoke_subject(&services, &subject).await?;
    Ok(HttpResponse::Ok().json(Ended { subject, sessions }))
}
