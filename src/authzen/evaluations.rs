//! `POST /access/v1/evaluations`: many questions in one call.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Map, Value, json};

use super::Call;
use super::evaluation::{answer, evaluate, single};
use super::question::{Members, bad};
use crate::gateway::Gateway;
use crate::http::{Caller, Services};
use crate::model::{Refusal, RefusalKind};

/// Most questions in one call.
pub const MOST: usize = 1000;

/// How far one goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Semantic {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

/// The endpoint.
pub async fn evaluations(
    request: HttpRequest,
    payload: web::Payload,
    caller: Caller,
    services: web::Data<Services>,
    gateway: web::Data<Gateway>,
) -> HttpResponse {
    let call = match Call::open(&request, payload, caller, services, gateway).await {
        Ok(call) => call,
        Err(answer) => return answer,
    };
    let result = each(&call).await;
    call.end(result).await
}

async fn each(call: &Call) -> Result<Value, Refusal> {
    let semantic = semantic(&call.body)?;
    let items = match call.body.get("evaluations") {
        None => return single(call).await,
        Some(Value::Array(items)) if items.is_empty() => return single(call).await,
        Some(Value::Array(items)) if items.len() > MOST => return Err(bad("too many evaluations")),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(bad("`evaluations` must be a list")),
    };
    Members { own: &call.body, defaults: None }.check()?;
    let mut results = Vec::with_capacity(items.len());
    let mut last = None;
    for item in items {
        let denied = match item.as_object() {
            Some(own) => evaluate(call, Members { own, defaults: Some(&call.body) }, &mut last).await,
            None => Err(bad("an evaluation must be an object")),
        };
        let (allowed, result) = match denied {
            Ok(denied) => (denied.is_none(), answer(denied)),
            Err(refusal) if refusal.kind == RefusalKind::BadRequest => (false, wrong(call, refusal).await?),
            Err(refusal) => return Err(refusal),
        };
        results.push(result);
        let done = match semantic {
            Semantic::ExecuteAll => false,
            Semantic::DenyOnFirstDeny => !allowed,
            Semantic::PermitOnFirstPermit => allowed,
        };
        if done {
            break;
        }
    }
    Ok(json!({"evaluations": results}))
}

/// A question that is none: denied, with what is wrong with it.
async fn wrong(call: &Call, refusal: Refusal) -> Result<Value, Refusal> {
    let refusal = call.record_refused(refusal).await;
    if refusal.kind != RefusalKind::BadRequest {
        return Err(refusal);
    }
    let error = json!({"status": 400, "message": refusal.detail});
    Ok(json!({"decision": false, "context": {"reason": refusal.kind.name(), "error": error}}))
}

fn semantic(body: &Map<String, Value>) -> Result<Semantic, Refusal> {
    let options = match body.get("options") {
        None => return Ok(Semantic::ExecuteAll),
        Some(options) => options.as_object().ok_or(bad("`options` must be an object"))?,
    };
    match options.get("evaluations_semantic").map(Value::as_str) {
        None | Some(Some("execute_all")) => Ok(Semantic::ExecuteAll),
        Some(Some("deny_on_first_deny")) => Ok(Semantic::DenyOnFirstDeny),
        Some(Some("permit_on_first_permit")) => Ok(Semantic::PermitOnFirstPermit),
        Some(_) => Err(bad(
            "`evaluations_semantic` must be execute_all, deny_on_first_deny or permit_on_first_permit",
        )),
    }
}
