//! Talking to a node: its operators' listener over HTTP, or the same resources in process on the opened store.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{Context, Done, Failure};

/// How long a node may take to answer a command.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// A running node's operators' listener.
pub struct Node {
    host: String,
    token: Option<String>,
}

impl Node {
    /// The node that `--admin-url`, the environment or the configuration names, with its admin token.
    ///
    /// # Errors
    /// When the configuration cannot be read or the URL is not `http://host:port`.
    pub fn find(context: &Context) -> Result<Self, Failure> {
        let from_environment = std::env::var("PORTCULLIS_ADMIN_TOKEN").ok();
        if let Some(url) = &context.admin_url {
            let parsed = url::Url::parse(url).ok().filter(|url| url.scheme() == "http");
            let host =
                parsed.and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
            let host =
                host.ok_or_else(|| Failure::usage(format!("`{url}` is not an http:// URL of a node")))?;
            return Ok(Self { host, token: from_environment.or_else(|| Self::local_token(context)) });
        }
        let config = context.load()?.config;
        let file = config.node.data_dir.join("admin.token");
        Ok(Self {
            host: config.admin.address.to_string(),
            token: from_environment.or_else(|| std::fs::read_to_string(file).ok()),
        })
    }

    fn local_token(context: &Context) -> Option<String> {
        let config = context.load().ok()?.config;
        std::fs::read_to_string(config.node.data_dir.join("admin.token")).ok()
    }

    /// Calls a resource: the answer's body, or the failure that its problem describes.
    ///
    /// # Errors
    /// Code 3 when nothing listens there, 1 or 2 for the node's refusals.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String, Failure> {
        let (status, text) = tokio::time::timeout(ANSWERS_WITHIN, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_elapsed| Err("it did not answer within 30 s".into()))
            .map_err(|error| {
                Failure::unreachable(format!(
                    "no node answers at http://{}: {error}; start one with `portcullis serve`, or name it with --admin-url",
                    self.host
                ))
            })?;
        if status.is_success() {
            return Ok(text);
        }
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let said = problem.get("detail").or_else(|| problem.get("title")).and_then(Value::as_str);
        let message = said.map_or_else(|| format!("the node answered {status}: {text}"), str::to_owned);
        Err(match status {
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Failure::usage(message)
            }
            status if status.is_server_error() => Failure::unreachable(message),
            _ => Failure::no(message),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, String), String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect(&self.host).await.map_err(|error| said(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| said(&error))?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(ToString::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(bytes))).map_err(|error| said(&error))?;
        let response = sender.send_request(request).await.map_err(|error| said(&error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| said(&error))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }
}

/// Runs one command's asynchronous work.
///
/// # Errors
/// What the work says; code 2 when the runtime cannot start.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::usage(format!("the runtime does not start: {error}")))?
        .block_on(work)
}

/// `portcullis healthcheck`: 0 when the node is ready, else 1 with the reasons.
pub fn healthcheck(context: &Context) -> Done {
    let asked = Node::find(context).and_then(|node| {
        block_on(async move {
            let (status, text) =
                tokio::time::timeout(ANSWERS_WITHIN, node.exchange(Method::GET, "/readyz", None))
                    .await
                    .unwrap_or_else(|_elapsed| Err("it did not answer".into()))
                    .map_err(Failure::no)?;
            if status.is_success() { Ok(()) } else { Err(Failure::no(text)) }
        })
    });
    asked.map_err(|failure| Failure { code: 1, ..failure })
}
