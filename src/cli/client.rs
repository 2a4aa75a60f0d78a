//! `portcullis client`: the OAuth clients of the configuration.

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::node::{Node, segment, with};
use super::{Context, Done, table};

/// What to do with clients.
#[derive(Subcommand, Debug)]
pub enum ClientCommand {
    /// List the clients.
    #[command(after_help = "Example:\n  portcullis client list")]
    List,
    /// Show a client, without its secret.
    #[command(after_help = "Example:\n  portcullis client show dashboard")]
    Show {
        /// Its id.
        id: String,
    },
}

/// Runs the command.
pub fn run(context: &Context, command: &ClientCommand) -> Done {
    let path = match command {
        ClientCommand::List => "/api/v1/clients".to_owned(),
        ClientCommand::Show { id } => format!("/api/v1/clients/{}", segment(id)),
    };
    let found = with(context, async |node: &Node<'_>| node.json(Method::GET, &path, None).await)?;
    let one = std::slice::from_ref(&found);
    let clients = found.as_array().map_or(one, Vec::as_slice);
    let mut rows = vec![["ID", "GRANTS", "SCOPES", "ROLES"].map(str::to_owned).to_vec()];
    rows.extend(clients.iter().map(row));
    context.print(&found, &table(&rows));
    Ok(())
}

fn row(client: &Value) -> Vec<String> {
    let list = |key: &str| {
        let items = client.get(key).and_then(Value::as_array);
        let texts: Vec<_> = items.into_iter().flatten().filter_map(Value::as_str).collect();
        if texts.is_empty() { "-".to_owned() } else { texts.join(" ") }
    };
    let id = client.get("id").and_then(Value::as_str).unwrap_or("").to_owned();
    vec![id, list("grant_types"), list("scopes"), list("roles")]
}
