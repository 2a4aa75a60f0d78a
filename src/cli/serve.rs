//! `portcullis serve`: run a node until SIGTERM or Ctrl-C; SIGHUP reloads.

use std::io::Write as _;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Context, Done, Failure, Output, node};
use crate::app::{self, AppError};

/// Runs the command.
pub fn run(context: &Context) -> Done {
    start_logging();
    let loaded = context.load()?;
    let files = app::Files { path: context.config.clone(), watched: loaded.watched.clone() };
    node::block_on(async {
        let services = app::open(loaded).await.map_err(|error| failure(&error))?;
        let running = app::run(services, files).map_err(|error| failure(&error))?;
        let signals = Signals::listen()?;
        tracing::info!(public = %running.public, admin = %running.admin, "the node serves");
        if context.output == Output::Json {
            ready(&running);
        }
        signals.until_stopped(&running, false).await;
        running.stop().await;
        tracing::info!("the node stopped");
        Ok(())
    })
}

/// The one line on standard output that a script waits for: where the node listens, and its admin token. Only with
/// `-o json`, as the token is a secret.
fn ready(running: &app::Running) {
    let config = running.services().config.load();
    let scheme = |tls: bool| if tls { "https" } else { "http" };
    let line = serde_json::json!({
        "public": format!("{}://{}", scheme(!config.listen.tls.certificates.is_empty()), running.public),
        "admin": format!("{}://{}", scheme(config.admin.tls.is_some()), running.admin),
        "admin_token": running.admin_token,
    });
    let mut out = std::io::stdout().lock();
    // A closed pipe is no reason to end.
    let _closed = writeln!(out, "{line}").and_then(|()| out.flush()).is_err();
}

/// What is logged without `RUST_LOG`. The libraries that read what clients send say nothing: anybody could fill the log.
const LOGGED: &str = "info,casbin=warn,actix_server=warn,actix_http=off,h2=off,hyper=off,rustls=off";

/// Log lines go to standard error, one JSON object each; `RUST_LOG` chooses the level.
pub fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new(LOGGED));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that logging is set up already.
    let _already = builder.json().flatten_event(true).try_init().is_err();
}

/// What a person reads when a node does not start.
pub fn failure(error: &AppError) -> Failure {
    let message = match error {
        AppError::Policy(problems) => {
            let lines: Vec<_> =
                problems.iter().map(|p| format!("{}:{}: {}", p.file, p.line, p.message)).collect();
            lines.join("\n")
        }
        other => other.to_string(),
    };
    Failure { code: error.exit_code(), name: "start", message }
}

/// The signals that a node follows.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on they wait for [`Signals::until_stopped`]. To be called before anybody is told that the node is
    /// ready: a signal that comes earlier ends the process as it stands.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::usage(format!("signals: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or Ctrl-C; SIGHUP reloads meanwhile, or ends too where it means that the terminal is gone.
    pub async fn until_stopped(mut self, running: &app::Running, hangup_ends: bool) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    if hangup_ends {
                        return;
                    }
                    running.reload().await;
                }
            }
        }
    }
}
