//! The verdict in the words of each caller (the table of forward-auth).

use actix_web::{HttpResponse, HttpResponseBuilder};
use http::HeaderMap;

use crate::gateway::Verdict;
use crate::http::answer::{self, own};
use crate::model::{Refusal, RefusalKind, RequestId};

/// Which endpoint was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// nginx's `auth_request`: knows 2xx, 401 and 403, and makes 500 of everything else.
    Nginx,
    /// Traefik and Caddy: they pass our answer on to the browser.
    Forward,
    /// Envoy's ext_authz: passes our answer on.
    Envoy,
    /// Anything that reads JSON.
    Json,
}

/// The answer.
pub fn reply(id: RequestId, door: Door, verdict: &Verdict, observe: bool) -> HttpResponse {
    if observe {
        return observed(id, door, verdict);
    }
    match (verdict, door) {
        (_, Door::Json) => spoken(id, verdict),
        (Verdict::Allowed { headers, .. }, _) => {
            let mut builder = own(200, id);
            copy(&mut builder, headers);
            builder.finish()
        }
        // nginx decides itself whom it sends to the login page.
        (Verdict::Refused { refusal, login, .. }, Door::Nginx) => {
            refused(id, nginx_status(refusal), refusal, login.as_deref())
        }
        (Verdict::Refused { refusal, login: Some(login), navigates: true, .. }, _)
            if refusal.kind.status().as_u16() < 500 =>
        {
            refused(id, 302, refusal, Some(login))
        }
        (Verdict::Refused { refusal, .. }, _) => refused(id, forward_status(refusal), refusal, None),
    }
}

fn nginx_status(refusal: &Refusal) -> u16 {
    match refusal.kind.status().as_u16() {
        401 => 401,
        500.. => 503,
        _ => 403,
    }
}

fn forward_status(refusal: &Refusal) -> u16 {
    match refusal.kind {
        RefusalKind::NotCanonical | RefusalKind::BadRequest => 400,
        _ => nginx_status(refusal),
    }
}

fn refused(id: RequestId, status: u16, refusal: &Refusal, login: Option<&str>) -> HttpResponse {
    let mut builder = own(status, id);
    builder.insert_header(("portcullis-reason", refusal.kind.name()));
    if status == 401 {
        builder.insert_header(("www-authenticate", answer::challenge(refusal)));
    }
    if status == 503 {
        builder.insert_header(("retry-after", refusal.retry_after.unwrap_or(1).to_string()));
    }
    if let Some(location) = login {
        builder.insert_header(("location", location));
    }
    builder.finish()
}

fn observed(id: RequestId, door: Door, verdict: &Verdict) -> HttpResponse {
    let would = match verdict {
        Verdict::Allowed { .. } => "allow",
        Verdict::Refused { .. } => "deny",
    };
    let mut builder = own(200, id);
    builder.insert_header(("portcullis-decision", would));
    if door != Door::Json {
        return builder.finish();
    }
    let body = serde_json::json!({
        "decision": "allow", "status": 200, "reason": null, "subject": null, "roles": [],
        "request_id": id.to_string(), "headers": {},
    });
    builder.insert_header(("content-type", "application/json")).body(body.to_string())
}

fn spoken(id: RequestId, verdict: &Verdict) -> HttpResponse {
    let body = match verdict {
        Verdict::Allowed { principal, roles, headers } => {
            let mut set = serde_json::Map::new();
            for (name, value) in headers {
                let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
                set.insert(name.as_str().to_owned(), text.into());
            }
            let roles: Vec<&str> = roles.iter().map(|role| &**role).collect();
            serde_json::json!({
                "decision": "allow", "status": 200, "reason": null, "subject": &*principal.name,
                "roles": roles, "request_id": id.to_string(), "headers": set,
            })
        }
        Verdict::Refused { refusal, principal, roles, .. } => {
            let roles: Vec<&str> = roles.iter().map(|role| &**role).collect();
            serde_json::json!({
                "decision": "deny", "status": refusal.kind.status().as_u16(), "reason": refusal.kind.name(),
                "subject": principal.as_ref().map(|principal| &*principal.name), "roles": roles,
                "request_id": id.to_string(), "headers": {},
            })
        }
    };
    answer::json(200, id, &body)
}

fn copy(builder: &mut HttpResponseBuilder, headers: &HeaderMap) {
    for (name, value) in headers {
        builder.append_header((name.as_str(), value.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AuthMethod, Principal, PrincipalKind, Timestamp};
    use std::sync::Arc;

    fn answer(door: Door, kind: RefusalKind, login: Option<&str>) -> HttpResponse {
        let mut verdict = Verdict::unknown(Refusal::new(kind, ""));
        if let Verdict::Refused { login: to, navigates, .. } = &mut verdict {
            (*to, *navigates) = (login.map(str::to_owned), true);
        }
        reply(RequestId::new(Timestamp::from_seconds(1)), door, &verdict, false)
    }

    #[test]
    fn each_caller_gets_the_statuses_that_it_knows() {
        use RefusalKind::{
            Forbidden, MethodNotAllowed, NoRoute, NotCanonical, RateLimited, StoreUnavailable,
            Unauthenticated,
        };
        for (kind, nginx, forward) in [
            (Unauthenticated, 401, 401),
            (Forbidden, 403, 403),
            (NoRoute, 403, 403),
            (MethodNotAllowed, 403, 403),
            (RateLimited, 403, 403),
            (NotCanonical, 403, 400),
            (StoreUnavailable, 503, 503),
        ] {
            let got = answer(Door::Nginx, kind, None);
            assert_eq!(got.status().as_u16(), nginx, "{kind:?}");
            assert_eq!(got.headers().get("portcullis-reason").unwrap(), kind.name());
            assert_eq!(answer(Door::Forward, kind, None).status().as_u16(), forward, "{kind:?}");
            assert_eq!(answer(Door::Json, kind, None).status().as_u16(), 200);
        }
    }

    #[test]
    fn a_browser_is_sent_to_the_login_page() {
        let page = "https://gate.example/auth/login";
        let login = Some(page);
        let nginx = answer(Door::Nginx, RefusalKind::Unauthenticated, login);
        assert_eq!(nginx.status().as_u16(), 401);
        assert_eq!(nginx.headers().get("location").unwrap(), page);
        assert!(nginx.headers().contains_key("www-authenticate"));
        let forward = answer(Door::Forward, RefusalKind::Unauthenticated, login);
        assert_eq!(forward.status().as_u16(), 302);
    }

    #[test]
    fn observing_lets_pass_without_identity() {
        let mut headers = HeaderMap::new();
        headers.insert("portcullis-user", http::HeaderValue::from_static("alice"));
        let principal = Arc::new(Principal::new("alice", PrincipalKind::User, AuthMethod::Bearer));
        let verdict = Verdict::Allowed { principal, roles: Arc::from([]), headers };
        let id = RequestId::new(Timestamp::from_seconds(1));
        let answer = reply(id, Door::Nginx, &verdict, true);
        assert_eq!(answer.headers().get("portcullis-decision").unwrap(), "allow");
        assert!(!answer.headers().contains_key("portcullis-user"));
        let answer = reply(id, Door::Nginx, &verdict, false);
        assert_eq!(answer.headers().get("portcullis-user").unwrap(), "alice");
    }
}
