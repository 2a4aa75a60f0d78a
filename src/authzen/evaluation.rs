//! `POST /access/v1/evaluation`: may this subject do this to that resource?

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::Call;
use super::question::{Members, thing};
use super::subject::{self, Subject};
use crate::gateway::{Evaluated, Gateway};
use crate::http::{Caller, Services};
use crate::model::{Refusal, RefusalKind};

/// The endpoint.
pub async fn evaluation(
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
    let result = single(&call).await;
    call.end(result).await
}

/// The body as one question.
///
/// # Errors
/// 400 when it is none, 503 when it cannot be answered or recorded.
pub async fn single(call: &Call) -> Result<Value, Refusal> {
    let members = Members { own: &call.body, defaults: None };
    let denied = evaluate(call, members, &mut None).await?;
    Ok(answer(denied))
}

/// One question; nothing when it is allowed, else why not. `last`: the subject of the question before, looked up once.
///
/// # Errors
/// 400 when it is none, 503 when it cannot be answered or recorded.
pub async fn evaluate<'a>(
    call: &Call,
    members: Members<'a>,
    last: &mut Option<(&'a Value, Subject)>,
) -> Result<Option<RefusalKind>, Refusal> {
    let entity = members.subject(false)?;
    let action = members.action()?;
    let resource = members.resource(false)?;
    let context = members.context()?;
    let value = members.find("subject");
    let known = last.as_ref().filter(|(last, _)| value == Some(*last)).map(|(_, subject)| subject.clone());
    let subject = match known {
        Some(subject) => subject,
        None => subject::find(&call.services, &entity).await?,
    };
    *last = value.map(|value| (value, subject.clone()));
    let config = call.services.config.load_full();
    let asked = Evaluated {
        principal: &subject.principal,
        barred: subject.barred,
        thing: &thing(&resource.kind, &resource.id),
        action: &action,
        host: context.host.as_deref().or(config.listen.public_url.host_str()).unwrap_or_default(),
        ip: context.ip,
        secure: context.secure,
    };
    call.gateway.evaluate(&call.caller, &call.headers, &asked).await
}

/// A decision. Of the rules it says nothing; that the question itself cannot be allowed it does.
pub fn answer(denied: Option<RefusalKind>) -> Value {
    match denied {
        None => json!({"decision": true}),
        Some(kind) if kind != RefusalKind::Forbidden => {
            json!({"decision": false, "context": {"reason": kind.name()}})
        }
        Some(_) => json!({"decision": false}),
    }
}
