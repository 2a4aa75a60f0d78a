//! Forward-auth: other proxies ask here, and the verdict is the gateway's own. Registered by `http::routes`; needs
//! `web::Data<Gateway>` beside `web::Data<Services>`. One more caller is a reader in `original.rs` and an arm here.

mod original;
mod reply;

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use http::HeaderMap;

use crate::config::Config;
use crate::gateway::{Asked, Gateway, Verdict};
use crate::http::answer::{other_methods, problem};
use crate::http::body::{self, Media};
use crate::http::caller::headers;
use crate::http::{Caller, Services};
use crate::model::{Connection, Refusal, RefusalKind};
use original::Original;
use reply::Door;

/// The endpoints of this door.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/auth/verify").route(web::post().to(json)).default_service(other_methods("POST")),
        )
        .service(web::resource("/auth/verify/nginx").to(nginx))
        .service(web::resource("/auth/verify/forward").to(forward))
        .service(web::resource("/auth/verify/envoy{rest:.*}").to(envoy));
}

async fn nginx(
    request: HttpRequest,
    caller: Caller,
    services: web::Data<Services>,
    gateway: web::Data<Gateway>,
) -> HttpResponse {
    if let Some(answer) = stranger(&services, &caller) {
        return answer;
    }
    let map = headers(&request);
    let original = original::nginx(&map);
    ask(&request, &caller, &services, &gateway, Door::Nginx, original, map).await
}

async fn forward(
    request: HttpRequest,
    caller: Caller,
    services: web::Data<Services>,
    gateway: web::Data<Gateway>,
) -> HttpResponse {
    if let Some(answer) = stranger(&services, &caller) {
        return answer;
    }
    let map = headers(&request);
    let original = original::forward(&map);
    ask(&request, &caller, &services, &gateway, Door::Forward, original, map).await
}

async fn envoy(
    request: HttpRequest,
    caller: Caller,
    services: web::Data<Services>,
    gateway: web::Data<Gateway>,
) -> HttpResponse {
    if let Some(answer) = stranger(&services, &caller) {
        return answer;
    }
    let map = headers(&request);
    let raw = request.uri().path_and_query().map(|path| path.as_str()).unwrap_or_default();
    let https = crate::http::cookies::secure(&services.config.load());
    let original = original::envoy(request.method().as_str(), raw, &map, https);
    ask(&request, &caller, &services, &gateway, Door::Envoy, original, map).await
}

async fn json(
    request: HttpRequest,
    payload: web::Payload,
    caller: Caller,
    services: web::Data<Services>,
    gateway: web::Data<Gateway>,
) -> HttpResponse {
    if let Some(answer) = stranger(&services, &caller) {
        return answer;
    }
    let read = async {
        if body::media(&request)? != Media::Json {
            return Err(Refusal::new(RefusalKind::UnsupportedMediaType, "send application/json"));
        }
        original::json(&body::read(payload).await?, crate::http::cookies::secure(&services.config.load()))
    };
    match read.await {
        Ok((original, map)) => {
            ask(&request, &caller, &services, &gateway, Door::Json, Ok(original), map).await
        }
        Err(refusal) => {
            let map = headers(&request);
            let refusal = unread(&request, &caller, &gateway, caller.client_ip, &map, refusal).await;
            problem(&refusal, caller.request_id)
        }
    }
}

/// Records the refusal of a question whose original request cannot be read: what the caller is told.
async fn unread(
    request: &HttpRequest,
    caller: &Caller,
    gateway: &Gateway,
    client_ip: IpAddr,
    headers: &HeaderMap,
    refusal: Refusal,
) -> Refusal {
    let method = http::Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or_default();
    gateway.record_unread(client_ip, caller.request_id, &method, headers, refusal).await
}

/// 404 for peers that may not ask: a verdict tells what the policies say.
fn stranger(services: &Services, caller: &Caller) -> Option<HttpResponse> {
    let peer = caller.connection.peer.ip().to_canonical();
    if services.config.load().forward_auth.answers(peer) {
        return None;
    }
    tracing::warn!(
        request_id = %caller.request_id, %peer,
        "a forward-auth question came from an address that is not in [forward_auth] callers"
    );
    let refusal = Refusal::new(RefusalKind::NotFound, "the peer is not in [forward_auth] callers");
    Some(problem(&refusal, caller.request_id))
}

async fn ask(
    request: &HttpRequest,
    caller: &Caller,
    services: &Services,
    gateway: &Gateway,
    door: Door,
    original: Result<Original, Refusal>,
    map: HeaderMap,
) -> HttpResponse {
    let observe = url::form_urlencoded::parse(request.query_string().as_bytes())
        .any(|(name, value)| door != Door::Envoy && name == "mode" && value == "observe");
    let forwarded = original.as_ref().ok().and_then(|original| original.forwarded.as_deref());
    let client_ip = client_ip(&services.config.load(), caller.connection.peer.ip(), forwarded);
    // The TLS connection is the proxy's: its certificate proves nothing of who asked the proxy.
    let connection = Connection {
        peer: caller.connection.peer,
        local: caller.connection.local,
        secure: original.as_ref().map_or(caller.secure, |original| original.secure),
        server_name: None,
        client_rule: None,
        certificate: None,
    };
    let verdict = match original.and_then(|original| original.target().map(|target| (original, target))) {
        Ok((original, target)) => {
            let asking = Caller {
                connection: Arc::new(connection),
                request_id: caller.request_id,
                client_ip,
                target,
                secure: original.secure,
            };
            gateway.ask(Asked { caller: &asking, headers: &map, observe }).await
        }
        Err(refusal) => {
            if !observe {
                Verdict::unknown(unread(request, caller, gateway, client_ip, &map, refusal).await)
            } else {
                let method =
                    http::Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or_default();
                let id = caller.request_id;
                if let Err(error) = gateway.observe_unread(client_ip, id, &method, &map, &refusal).await {
                    tracing::error!(request_id = %id, %error, "an observed verdict is not recorded");
                }
                Verdict::unknown(refusal)
            }
        }
    };
    reply::reply(caller.request_id, door, &verdict, observe)
}

/// The address of the browser: the caller's `X-Forwarded-For` from the right, past every proxy that is trusted.
fn client_ip(config: &Config, peer: IpAddr, forwarded: Option<&str>) -> IpAddr {
    past_proxies(peer, forwarded, |ip| {
        config.listen.trusted_proxies.iter().chain(&config.forward_auth.callers).any(|net| net.contains(ip))
    })
}

fn past_proxies(peer: IpAddr, forwarded: Option<&str>, trusted: impl Fn(&IpAddr) -> bool) -> IpAddr {
    let mut client = peer.to_canonical();
    for part in forwarded.unwrap_or_default().rsplit(',') {
        if !trusted(&client) {
            break;
        }
        let Ok(ip) = part.trim().parse::<IpAddr>() else { break };
        client = ip.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_first_address_that_is_no_proxy() {
        let of = |forwarded: Option<&str>| {
            let peer = "::ffff:10.0.0.1".parse().unwrap();
            let trusted = |ip: &IpAddr| ip.to_string().starts_with("10.");
            past_proxies(peer, forwarded, trusted).to_string()
        };
        assert_eq!(of(None), "10.0.0.1");
        assert_eq!(of(Some("192.0.2.1")), "192.0.2.1");
        assert_eq!(of(Some("203.0.113.9, 192.0.2.1, 10.0.0.2")), "192.0.2.1");
        assert_eq!(of(Some("203.0.113.9, garbage, 10.0.0.2")), "10.0.0.2");
        assert_eq!(of(Some("")), "10.0.0.1");
    }
}
