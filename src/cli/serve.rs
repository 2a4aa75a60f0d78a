//! `portcullis serve`: run a node until SIGTERM or Ctrl-C; SIGHUP reloads.

use tokio::signal::unix::{SignalKind, signal};

use super::{Context, Done, Failure, node};
use crate::app::{self, AppError};
use crate::config;

/// Runs the command.
pub fn run(context: &Context) -> Done {
    start_logging();
    let loaded = context.load()?;
    let accounts = accounts(&loaded.config)?;
    node::block_on(async {
        let services = app::open(loaded.config, accounts).await.map_err(|error| failure(&error))?;
        let running = app::run(services).map_err(|error| failure(&error))?;
        tracing::info!(public = %running.public, admin = %running.admin, "the node serves");
        until_stopped(&running).await?;
        running.stop().await;
        tracing::info!("the node stopped");
        Ok(())
    })
}

/// Log lines go to standard error, one JSON object each; `RUST_LOG` chooses the level.
pub fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("info,casbin=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that logging is set up already.
    let _already = builder.json().flatten_event(true).try_init().is_err();
}

/// The accounts file's accounts.
pub fn accounts(config: &config::Config) -> Result<Vec<crate::accounts::Account>, Failure> {
    let Some(path) = &config.accounts.file else { return Ok(Vec::new()) };
    config::accounts_file::load(path).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Failure { code: 2, name: "accounts", message: lines.join("\n") }
    })
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

/// Waits for SIGTERM or Ctrl-C; SIGHUP reloads the policies meanwhile.
pub async fn until_stopped(running: &app::Running) -> Done {
    let listen = |kind| signal(kind).map_err(|error| Failure::usage(format!("signals: {error}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => running.reload().await,
        }
    }
}
