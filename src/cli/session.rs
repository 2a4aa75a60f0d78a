//! `portcullis session`: who is signed in, and ending it.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::node::{Node, segment, with};
use super::{Context, Done, table};

/// What to do with sign-ins.
#[derive(Subcommand, Debug)]
pub enum SessionCommand {
    /// List the sign-ins that count: browsers and refresh tokens.
    #[command(after_help = "Example:\n  portcullis session list --sub alice")]
    List {
        /// Only of this principal.
        #[arg(long, value_name = "NAME")]
        sub: Option<String>,
    },
    /// End one sign-in with all tokens issued in it, or everything that a principal holds.
    #[command(
        group = clap::ArgGroup::new("what").required(true),
        after_help = "Examples:\n  portcullis session revoke 3q2-7wAAAAAAAAAAAAAAAA\n  portcullis session revoke --sub alice"
    )]
    Revoke {
        /// Its id (`sid`).
        #[arg(allow_hyphen_values = true, group = "what")]
        sid: Option<String>,
        /// Everything of this principal.
        #[arg(long, value_name = "NAME", group = "what")]
        sub: Option<String>,
    },
}

/// Runs the command.
pub fn run(context: &Context, command: &SessionCommand) -> Done {
    match command {
        SessionCommand::List { sub } => list(context, sub.as_deref()),
        SessionCommand::Revoke { sid: Some(sid), .. } => {
            let path = format!("/api/v1/sessions/{}", segment(sid));
            with(context, async |node: &Node<'_>| node.call(Method::DELETE, &path, None).await)?;
            let text = format!("ended {sid}, with everything issued in it\n");
            context.print(&json!({"sid": sid, "revoked": true}), &text);
            Ok(())
        }
        SessionCommand::Revoke { sub, .. } => {
            let path = of(sub.as_deref());
            let ended = with(context, async |node: &Node<'_>| node.json(Method::DELETE, &path, None).await)?;
            let count = ended.get("sessions").and_then(Value::as_u64).unwrap_or(0);
            let name = sub.as_deref().unwrap_or_default();
            let signs = if count == 1 { "sign-in" } else { "sign-ins" };
            let text = format!("ended {count} {signs} of {name}, and every token issued until now\n");
            context.print(&ended, &text);
            Ok(())
        }
    }
}

fn of(subject: Option<&str>) -> String {
    match subject {
        Some(subject) => format!("/api/v1/sessions?subject={}", segment(subject)),
        None => "/api/v1/sessions".to_owned(),
    }
}

fn list(context: &Context, subject: Option<&str>) -> Done {
    let path = of(subject);
    let sessions = with(context, async |node: &Node<'_>| node.json(Method::GET, &path, None).await)?;
    let mut rows =
        vec![["SID", "SUBJECT", "KIND", "AT", "SIGNED IN", "LAST SEEN"].map(str::to_owned).to_vec()];
    rows.extend(sessions.as_array().into_iter().flatten().map(|session| {
        let text = |key: &str| session.get(key).and_then(Value::as_str).unwrap_or("");
        let at = if text("host").is_empty() { text("client") } else { text("host") };
        [text("sid"), text("subject"), text("kind"), at, text("created"), text("last_seen")]
            .map(str::to_owned)
            .to_vec()
    }));
    context.print(&sessions, &table(&rows));
    Ok(())
}
