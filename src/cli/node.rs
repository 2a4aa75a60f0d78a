//! Talking to a node: its operators' listener, or the same resources in process on the opened store when nothing listens
//! there. Every command that needs a node goes through [`with`].

use std::cell::{Cell, OnceCell};

use http::{Method, StatusCode};
use serde_json::Value;

use super::offline::Offline;
use super::remote::{Away, Remote};
use super::{Context, Done, Failure, Output, emit};
use crate::record::printable;

/// Problem names that are passed on as the code of a failure.
const PROBLEMS: [&str; 13] = [
    "audit-unavailable",
    "bad-request",
    "conflict",
    "cross-site",
    "forbidden",
    "invalid-token",
    "method-not-allowed",
    "misdirected",
    "not-found",
    "overloaded",
    "store-unavailable",
    "too-large",
    "unsupported-media-type",
];

/// A node, or its store.
pub struct Node<'a> {
    context: &'a Context,
    remote: Remote,
    /// A URL was named: that node is meant, and no other store is opened instead.
    named: bool,
    answered: Cell<bool>,
    offline: OnceCell<Offline>,
}

/// Does the work with the node that `--admin-url`, the environment or the configuration names.
///
/// # Errors
/// What the work says; code 2 when the configuration cannot be read.
pub fn with<T>(
    context: &Context,
    work: impl AsyncFnOnce(&Node<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut node = Node::find(context)?;
    block_on(async {
        let done = work(&node).await;
        if let Some(offline) = node.offline.take() {
            offline.close().await;
        }
        done
    })
}

impl<'a> Node<'a> {
    fn find(context: &'a Context) -> Result<Self, Failure> {
        let remote = match &context.admin_url {
            Some(url) => Remote::at(url, context.load().ok().map(|loaded| loaded.config).as_ref())?,
            None => Remote::of(&context.load()?.config),
        };
        let named = context.admin_url.is_some();
        Ok(Self { context, remote, named, answered: Cell::new(false), offline: OnceCell::new() })
    }

    /// Calls a resource: the answer's body, or the failure that its problem describes.
    ///
    /// # Errors
    /// Code 3 when nothing listens there and the store cannot be opened, 1 or 2 for refusals.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String, Failure> {
        let (status, text) = self.exchange(method, path, body).await?;
        if status.is_success() {
            return Ok(text);
        }
        Err(self.failure(status, &text))
    }

    /// The same, read as JSON.
    ///
    /// # Errors
    /// Like [`Node::call`]; code 3 when the answer is no JSON.
    pub async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let text = self.call(method, path, body).await?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|error| {
            Failure::unreachable(format!("what answers at {} is no node: {error}", self.remote.host))
        })
    }

    /// True when the store was opened here because nothing listens.
    pub fn is_offline(&self) -> bool {
        self.offline.get().is_some()
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, String), Failure> {
        if let Some(offline) = self.offline.get() {
            return offline.exchange(&method, path, body).await.map_err(Failure::usage);
        }
        let token = self.token();
        match self.remote.exchange(token.as_deref(), method.clone(), path, body).await {
            Ok(answer) => {
                self.answered.set(true);
                Ok(answer)
            }
            Err(Away::NothingListens) if !self.named && !self.answered.get() => {
                let offline = Offline::open(|| self.context.load()).await?;
                self.say_offline(&offline.place());
                let offline = self.offline.get_or_init(|| offline);
                offline.exchange(&method, path, body).await.map_err(Failure::usage)
            }
            Err(Away::NothingListens) => Err(self.unreachable("nothing listens there")),
            Err(Away::Other(why)) => Err(self.unreachable(&why)),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::unreachable(format!(
            "no node answers at {}: {why}; start one with `portcullis serve`, or name it with --admin-url",
            self.remote.host
        ))
    }

    /// What answers there is something else.
    fn stranger(&self) -> Failure {
        let Remote { host, .. } = &self.remote;
        Failure::unreachable(format!(
            "what answers at {host} is not a node's operators' listener; it is at `[admin] address` of the node's configuration: name it with --admin-url"
        ))
    }

    /// Why the node does not take the token of this command, and where another comes from.
    fn no_entry(&self, said: &str) -> String {
        let host = &self.remote.host;
        let file = self.context.load().ok().map(|loaded| loaded.config.node.data_dir.join("admin.token"));
        if self.token().is_some() {
            let given = std::env::var_os("PORTCULLIS_ADMIN_TOKEN").filter(|token| !token.is_empty());
            let source = match (given, file) {
                (None, Some(file)) => file.display().to_string(),
                _ => "PORTCULLIS_ADMIN_TOKEN".to_owned(),
            };
            return format!("the node at {host} does not take the admin token of {source}: {said}");
        }
        let place = match file.map(|file| (std::fs::read(&file).err(), file)) {
            Some((Some(error), file)) => format!(" ({}: {error})", file.display()),
            _ => String::new(),
        };
        format!(
            "the node at {host} wants an admin token{place}: set PORTCULLIS_ADMIN_TOKEN, or name the node's configuration with --config"
        )
    }

    /// Read for every call: it is new at every start of a node.
    fn token(&self) -> Option<String> {
        std::env::var("PORTCULLIS_ADMIN_TOKEN").ok().filter(|token| !token.is_empty()).or_else(|| {
            let config = self.context.load().ok()?.config;
            std::fs::read_to_string(config.node.data_dir.join("admin.token")).ok()
        })
    }

    fn say_offline(&self, place: &str) {
        let message = format!("no node listens at {}: worked offline on {place}", self.remote.host);
        match self.context.output {
            Output::Text => eprintln!("{}", printable(&message)),
            Output::Json => {
                eprintln!("{}", serde_json::json!({"notice": {"code": "offline", "message": message}}));
            }
        }
    }

    fn failure(&self, status: StatusCode, text: &str) -> Failure {
        let problem: Value = serde_json::from_str(text).unwrap_or_default();
        let member = |name: &str| problem.get(name).and_then(Value::as_str);
        // The admin API always says what to do; what a gateway tells its clients has no detail.
        let Some(detail) = member("detail") else {
            return match status.is_client_error() {
                true => self.stranger(),
                false => Failure::unreachable(format!("{} answered {status}", self.remote.host)),
            };
        };
        let message = match status {
            StatusCode::UNAUTHORIZED => self.no_entry(detail),
            _ => detail.to_owned(),
        };
        let kind = member("type").and_then(|kind| kind.rsplit(':').next());
        let failure = match status {
            StatusCode::CONFLICT | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Failure::no(message),
            status if status.is_client_error() => Failure::usage(message),
            _ => Failure::unreachable(message),
        };
        let known = kind.and_then(|kind| PROBLEMS.into_iter().find(|known| *known == kind));
        Failure { name: known.unwrap_or(failure.name), ..failure }
    }
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
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
        block_on(async {
            match node.remote.exchange(None, Method::GET, "/readyz", None).await {
                Ok((status, text)) if status.is_success() => {
                    emit(if context.output == Output::Json { text.as_str() } else { "ready" });
                    Ok(())
                }
                Ok((_, text)) if reasons(&text).is_empty() => Err(node.stranger()),
                Ok((_, text)) => Err(Failure { name: "not-ready", ..Failure::no(reasons(&text)) }),
                Err(Away::NothingListens) => Err(node.unreachable("nothing listens there")),
                Err(Away::Other(why)) => Err(node.unreachable(&why)),
            }
        })
    });
    asked.map_err(|failure| Failure { code: 1, ..failure })
}

/// The reasons of `/readyz`, one a line; none in another answer.
fn reasons(text: &str) -> String {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let reasons = answer.get("reasons").and_then(Value::as_array);
    let lines: Vec<_> = reasons
        .into_iter()
        .flatten()
        .filter_map(|reason| {
            let text = |name: &str| reason.get(name).and_then(Value::as_str);
            Some(format!("{}: {}", text("code")?, text("message")?))
        })
        .collect();
    lines.join("\n")
}
