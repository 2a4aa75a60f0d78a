//! Working on a store when no node runs: everything that a node consists of is opened without its sockets, and the
//! admin API is called in process, as `cli:<os user>`. Used by `node` and `init`.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpMessage as _;
use actix_web::body::to_bytes;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::test::TestRequest;
use futures_util::future::LocalBoxFuture;
use http::{Method, StatusCode};
use serde_json::Value;

use super::{Failure, serve};
use crate::admin::{self, Operator, Rank};
use crate::app;
use crate::config::{Loaded, StoreKind};
use crate::http::Services;

/// How long another command may hold the store before this one gives up.
const WAIT: Duration = Duration::from_secs(2);
/// How long reading the revocations may take; what depends on them is refused after it.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
/// How long what was recorded may take to reach the store.
const SHIP_WITHIN: Duration = Duration::from_secs(10);

type Call = dyn Fn(actix_http::Request) -> LocalBoxFuture<'static, Result<ServiceResponse, actix_web::Error>>;

/// The opened store with the admin API over it.
pub struct Offline {
    services: Arc<Services>,
    call: Box<Call>,
    operator: Operator,
}

impl Offline {
    /// Opens the store of a configuration; `load` reads it, again for each try.
    ///
    /// # Errors
    /// Code 3 naming the process that holds the store or the data directory; else why a node would not start.
    pub async fn open(load: impl Fn() -> Result<Loaded, Failure>) -> Result<Self, Failure> {
        let started = Instant::now();
        let services = loop {
            let loaded = load()?;
            let (data_dir, embedded) =
                (loaded.config.node.data_dir.clone(), loaded.config.store.kind == StoreKind::Embedded);
            let error = match app::open(loaded).await {
                Ok(services) => break services,
                Err(error) => error,
            };
            let files = [(embedded, "store.redb"), (true, "audit/lock")];
            let held = files.iter().filter(|(looked_at, _)| *looked_at);
            let Some(holder) = held.map(|(_, name)| data_dir.join(name)).find_map(|path| holder(&path))
            else {
                return Err(serve::failure(&error));
            };
            if started.elapsed() >= WAIT {
                return Err(Failure { name: "held", ..Failure::unreachable(holder) });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        // Another store's revocations are read first: what is answered of tokens and sessions depends on them.
        while !services.revocations.is_fresh() && started.elapsed() < KNOWN_WITHIN {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let app = actix_web::App::new()
            .app_data(actix_web::web::Data::from(Arc::clone(&services)))
            .configure(admin::configure);
        let service = std::rc::Rc::new(actix_web::test::init_service(app).await);
        let call = Box::new(move |request: actix_http::Request| -> LocalBoxFuture<'static, _> {
            let service = std::rc::Rc::clone(&service);
            Box::pin(async move { service.call(request).await })
        });
        let operator = Operator { name: format!("cli:{}", os_user()), rank: Rank::Administrator, auth: None };
        Ok(Self { services, call, operator })
    }

    /// Which store it works on, for people.
    pub fn place(&self) -> String {
        let config = self.services.config.load();
        match config.store.kind {
            StoreKind::Embedded => {
                format!("the embedded store in {}", config.node.data_dir.display())
            }
            StoreKind::Redis => "the Redis store".to_owned(),
        }
    }

    /// One call of the admin API.
    ///
    /// # Errors
    /// When the call or its answer cannot be made of these texts.
    pub async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, String), String> {
        let method =
            actix_web::http::Method::from_bytes(method.as_str().as_bytes()).map_err(|e| e.to_string())?;
        let mut request = TestRequest::with_uri(path).method(method).insert_header(("host", "localhost"));
        if let Some(body) = body {
            request = request
                .insert_header(("content-type", "application/json"))
                .insert_header(("content-length", body.to_string().len()))
                .set_payload(body.to_string());
        }
        let request = request.to_request();
        request.extensions_mut().insert(self.operator.clone());
        let answer = match (self.call)(request).await {
            Ok(answer) => answer.into_parts().1,
            Err(error) => error.error_response(),
        };
        let status = StatusCode::from_u16(answer.status().as_u16()).map_err(|error| error.to_string())?;
        let bytes = to_bytes(answer.into_body()).await.map_err(|error| error.to_string())?;
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Ships what was recorded to the store and ends.
    pub async fn close(self) {
        self.services.recorder.close(SHIP_WITHIN).await;
    }
}

/// Who holds the lock of a file, in words; none when nobody does. `/proc/locks` has a line per lock:
/// `1: FLOCK  ADVISORY  WRITE 708 08:01:1312 0 EOF`.
fn holder(path: &Path) -> Option<String> {
    let inode = std::fs::metadata(path).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let own = std::process::id();
    let pid = locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(4);
        let pid: u32 = fields.next()?.parse().ok()?;
        let of = fields.next()?.rsplit(':').next()?.parse::<u64>().ok()?;
        (of == inode && pid != own).then_some(pid)
    })?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    let command: String = words.join(" ").trim().chars().take(120).collect();
    let named = if command.is_empty() { String::new() } else { format!(" (`{command}`)") };
    Some(format!(
        "no operators' listener answers, and {} is held by process {pid}{named}: name its listener with --admin-url, or stop it",
        path.display()
    ))
}

/// The name of the user that runs this command.
fn os_user() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id == uid).then(|| name.to_owned())
    });
    found.unwrap_or(uid)
}
