//! The sample API behind the demo: orders, reports, a public page and an echo.

use std::net::SocketAddr;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::{Value, json};

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
