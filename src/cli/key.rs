//! `portcullis key`: the keys that sign tokens.

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::node::{Node, segment, with};
use super::{Context, Done, emit, table};

/// What to do with signing keys.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// List the signing keys and what each does now.
    #[command(after_help = "Example:\n  portcullis key list")]
    List,
    /// Publish a new key; after `access_ttl`, when every verifier has seen it, it signs.
    #[command(after_help = "Example:\n  portcullis key rotate")]
    Rotate,
    /// Withdraw a key at once: what it signed is refused on every node. The last one that can sign is refused.
    #[command(
        after_help = "Example, for a key that leaked:\n  portcullis key rotate && portcullis key retire OLD_KID"
    )]
    Retire {
        /// Its id.
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
    /// Print the published set (RFC 7517).
    #[command(after_help = "Example:\n  portcullis key jwks > jwks.json")]
    Jwks,
}

/// Runs the command.
pub fn run(context: &Context, command: &KeyCommand) -> Done {
    let call = |method: Method, path: &str| {
        with(context, async |node: &Node<'_>| node.json(method, &format!("/api/v1/keys{path}"), None).await)
    };
    match command {
        KeyCommand::List => {
            let keys = call(Method::GET, "")?;
            let rows: Vec<_> = keys.as_array().into_iter().flatten().map(row).collect();
            context.print(&keys, &listed(rows));
        }
        KeyCommand::Rotate => {
            let key = call(Method::POST, "/rotate")?;
            context.print(&key, &listed(vec![row(&key)]));
        }
        KeyCommand::Retire { kid } => {
            let key = call(Method::POST, &format!("/{}/retire", segment(kid)))?;
            context.print(&key, &listed(vec![row(&key)]));
        }
        KeyCommand::Jwks => emit(call(Method::GET, "/jwks")?),
    }
    Ok(())
}

fn listed(rows: Vec<Vec<String>>) -> String {
    let head = ["KID", "ALGORITHM", "STATE", "SIGNS FROM", "COUNTS UNTIL"].map(str::to_owned).to_vec();
    table(&[vec![head], rows].concat())
}

fn row(key: &Value) -> Vec<String> {
    let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    ["kid", "algorithm", "state", "signs_from", "verifies_until"].map(text).to_vec()
}
