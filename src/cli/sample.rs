//! The sample API behind the demo: a first page for browsers, orders, reports, a public greeting and an echo.

use std::net::SocketAddr;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use askama::Template;
use serde_json::{Value, json};

use crate::http::page::STYLE;

/// Serves the sample API on a free loopback port from a thread of its own, until the process ends.
///
/// # Errors
/// When no port can be bound.
pub fn start() -> std::io::Result<SocketAddr> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    std::thread::Builder::new().name("sample-api".into()).spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(|| App::new().configure(routes)).workers(1).disable_signals();
            match server.listen(socket) {
                Ok(server) => {
                    if let Err(error) = server.run().await {
                        tracing::error!("the sample API ended: {error}");
                    }
                }
                Err(error) => tracing::error!("the sample API did not start: {error}"),
            }
        });
    })?;
    Ok(address)
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(first_page))
        .route("/orders", web::get().to(orders))
        .service(
            web::resource("/orders/{id}")
                .route(web::get().to(order))
                .route(web::put().to(order))
                .route(web::delete().to(order)),
        )
        .route("/reports/{department}", web::get().to(report))
        .route("/public/hello", web::get().to(hello))
        .route("/echo", web::to(echo));
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>Sample API</title><link rel="icon" href="data:,"><style>{{ style|safe }}</style></head>
<body><main>
<h1>Sample API</h1>
{% if user.is_empty() %}<p>You are not signed in. The terminal has the passwords of alice and bob.</p>
{% else %}<p>Portcullis says that you are <strong>{{ user }}</strong> ({{ roles }}).</p>
{% endif %}<a class="button" href="/public/hello">/public/hello, for anyone</a>
<a class="button" href="/orders/7">/orders/7, for readers and admins</a>
<a class="button" href="/reports/sales">/reports/sales, for those in sales</a>
<a class="button" href="/reports/engineering">/reports/engineering, for those there</a>
<a class="button" href="/echo">/echo, the request as it comes here</a>
<p class="or" style="margin-bottom:0"></p>
{% if user.is_empty() %}<a class="button" style="color:var(--on);background:var(--act);border-color:var(--act)" href="/auth/login?return_to=/">Sign in</a>
{% else %}<a class="button" href="/auth/logout">Sign out</a>
{% endif %}</main></body>
</html>
"#
)]
struct FirstPage<'a> {
    style: &'a str,
    user: &'a str,
    roles: &'a str,
}

/// Who is there comes from the gateway's headers, as an API behind it would do it.
async fn first_page(request: HttpRequest) -> HttpResponse {
    let told =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let user = Some(told("portcullis-user")).filter(|name| *name != "anonymous").unwrap_or_default();
    let html = FirstPage { style: STYLE, user, roles: told("portcullis-roles") }.render().unwrap_or_default();
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(html)
}

async fn orders() -> HttpResponse {
    HttpResponse::Ok().json(json!([{"id": "7", "item": "lamp"}, {"id": "8", "item": "quill"}]))
}

async fn order(request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    let done = match request.method().as_str() {
        "PUT" => "stored",
        "DELETE" => "deleted",
        _ => "read",
    };
    HttpResponse::Ok().json(json!({"id": *id, "item": "lamp", "done": done}))
}

async fn report(department: web::Path<String>) -> HttpResponse {
    HttpResponse::Ok().json(json!({"department": *department, "orders": 42}))
}

async fn hello() -> HttpResponse {
    HttpResponse::Ok().json(json!({"hello": "world"}))
}

async fn echo(request: HttpRequest) -> HttpResponse {
    let mut headers = serde_json::Map::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match headers.get_mut(name.as_str()) {
            Some(Value::Array(values)) => values.push(value.into()),
            _ => drop(headers.insert(name.to_string(), json!([value]))),
        }
    }
    HttpResponse::Ok().json(json!({
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "headers": headers,
    }))
}
