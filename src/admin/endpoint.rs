//! The one table of the admin API: what is routed, which rank it needs and what the OpenAPI document says are the same
//! entries. Each resource is a file with its `ENDPOINTS`; a new resource is one file and one line in [`all`].

use std::collections::BTreeMap;

use actix_web::{Route, web};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::guard::Rank;
use super::problem::Problem;
use super::{audit, clients, keys, openapi, policy, sessions, tokens, users};
use crate::model::RefusalKind;

/// Where the API stands.
pub const PREFIX: &str = "/api/v1";

/// Notes the schemas that a type needs, and returns a reference to its own.
pub type Describe = fn(&mut Map<String, Value>) -> Value;

/// What a call is answered with when it succeeds.
#[derive(Clone, Copy)]
pub enum Answer {
    /// 204.
    Nothing,
    /// 200 with audit events, one JSON object a line.
    Lines,
    /// 200 with some JSON object.
    Document,
    /// A status with JSON of a schema.
    Json(u16, Describe),
}

/// One call.
pub struct Endpoint {
    /// The method.
    pub method: &'static str,
    /// Below [`PREFIX`], with `{names}`.
    pub path: &'static str,
    /// What an operator must be.
    pub rank: Rank,
    /// True when it changes something: such a call is recorded before its effect.
    pub changes: bool,
    /// One sentence.
    pub summary: &'static str,
    /// The handler.
    pub route: fn() -> Route,
    /// The JSON body.
    pub takes: Option<Describe>,
    /// Query parameters and what they mean.
    pub query: &'static [(&'static str, &'static str)],
    /// What it answers.
    pub answer: Answer,
}

impl Endpoint {
    /// A call that reads: for viewers and above.
    pub const fn read(path: &'static str, summary: &'static str, route: fn() -> Route) -> Self {
        Self {
            method: "GET",
            path,
            rank: Rank::Viewer,
            changes: false,
            summary,
            route,
            takes: None,
            query: &[],
            answer: Answer::Document,
        }
    }

    /// A call that changes something.
    pub const fn change(
        method: &'static str,
        path: &'static str,
        rank: Rank,
        summary: &'static str,
        route: fn() -> Route,
    ) -> Self {
        Self { method, rank, changes: true, answer: Answer::Nothing, ..Self::read(path, summary, route) }
    }

    /// With this JSON body.
    pub const fn takes(self, schema: Describe) -> Self {
        Self { takes: Some(schema), ..self }
    }

    /// With these query parameters.
    pub const fn query(self, query: &'static [(&'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    /// Answered so.
    pub const fn answers(self, answer: Answer) -> Self {
        Self { answer, ..self }
    }
}

/// Every call of the API.
pub fn all() -> impl Iterator<Item = &'static Endpoint> {
    [
        users::ENDPOINTS,
        sessions::ENDPOINTS,
        tokens::ENDPOINTS,
        keys::ENDPOINTS,
        clients::ENDPOINTS,
        policy::ENDPOINTS,
        audit::ENDPOINTS,
        openapi::ENDPOINTS,
    ]
    .into_iter()
    .flatten()
}

/// The call that a matched pattern and a method mean.
pub fn find(method: &str, pattern: &str) -> Option<&'static Endpoint> {
    let path = pattern.strip_prefix(PREFIX)?;
    all().find(|endpoint| endpoint.method == method && endpoint.path == path)
}

/// Routes every call; another method of a known path is 405, everything else 404.
pub fn routes(config: &mut web::ServiceConfig) {
    let mut resources: BTreeMap<&str, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in all() {
        resources.entry(endpoint.path).or_default().push(endpoint);
    }
    // `{name}` matches any one segment, so that a literal of the same place has to be there first.
    let mut resources: Vec<_> = resources.into_iter().collect();
    resources.sort_by_key(|(path, _)| path.contains('{'));
    for (path, endpoints) in resources {
        let methods: Vec<_> = endpoints.iter().map(|endpoint| endpoint.method).collect();
        let methods = methods.join(", ");
        let resource = endpoints
            .into_iter()
            .fold(web::resource(path), |resource, endpoint| resource.route((endpoint.route)()));
        let refuse = move || std::future::ready(Err::<&str, _>(Problem::only(&methods)));
        config.service(resource.default_service(web::to(refuse)));
    }
    config.default_service(web::to(|| async {
        let detail = "there is no such resource; /api/v1/openapi.json lists all";
        Err::<&str, _>(Problem::new(RefusalKind::NotFound, detail))
    }));
}

/// A reference to the type's schema, which is added with all that it refers to.
pub fn schema<T: ToSchema>(into: &mut Map<String, Value>) -> Value {
    let mut needed = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut needed);
    for (name, schema) in needed {
        into.insert(name, serde_json::to_value(schema).unwrap_or_default());
    }
    json!({"$ref": format!("#/components/schemas/{}", T::name())})
}

/// A list of the type.
pub fn list<T: ToSchema>(into: &mut Map<String, Value>) -> Value {
    json!({"type": "array", "items": schema::<T>(into)})
}
