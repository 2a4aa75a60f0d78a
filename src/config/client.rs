//! `[[client]]`: an application or machine that signs in through this gateway.

use url::Url;

use super::provider::scope;
use super::reader::Section;
use super::values::{outside_role, redirect_uri};
use crate::model::{Attributes, RoleName, Secret};

/// Grants that a client can have.
const GRANTS: [&str; 3] = ["authorization_code", "refresh_token", "client_credentials"];
/// Grants of the design that this version lacks.
const LATER: [&str; 2] =
    ["urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange"];

/// `[[client]]`
#[derive(Clone, Debug)]
pub struct Client {
    /// Its principal is `client:<id>`.
    pub id: String,
    /// Absent: a public client (PKCE).
    pub secret: Option<Secret>,
    /// Where it may be sent back to, compared exactly.
    pub redirect_uris: Vec<Url>,
    /// What it may do at the token endpoint.
    pub grant_types: Vec<String>,
    /// What it may ask for.
    pub scopes: Vec<String>,
    /// Roles of `client:<id>`.
    pub roles: Vec<RoleName>,
    /// Attributes of `client:<id>`.
    pub attributes: Attributes,
}

impl Client {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        let client = Self {
            id: s.required("id", "text", String::new(), "Unique; its principal is `client:<id>`.", id),
            secret: s.secret("secret", "How it proves itself; without one it is public and uses PKCE."),
            redirect_uris: s.list(
                "redirect_uris",
                "list of URLs",
                &[],
                "Where people may be sent back to, compared exactly.",
                redirect_uri,
            ),
            grant_types: s.list(
                "grant_types",
                "list: authorization_code, refresh_token, client_credentials",
                &["authorization_code", "refresh_token"],
                "What it may do at the token endpoint.",
                grant,
            ),
            scopes: s.list("scopes", "list of texts", &["openid"], "What it may ask for.", scope),
            roles: s.list(
                "roles",
                "list of roles",
                &[],
                "Roles of `client:<id>`, for a machine.",
                outside_role,
            ),
            attributes: s.attributes("attributes", "Attributes of `client:<id>`, for policies."),
        };
        let granted = |grant: &str| client.grant_types.iter().any(|found| found == grant);
        let secret_given = s.context.is_set(&s.key("secret")) || s.context.is_set(&s.key("secret_file"));
        if granted("client_credentials") && !secret_given {
            s.problem("grant_types", "`client_credentials` needs a `secret` or `secret_file`");
        }
        if granted("refresh_token") && !granted("authorization_code") {
            s.problem("grant_types", "`refresh_token` needs `authorization_code` beside it");
        }
        if granted("authorization_code") && client.redirect_uris.is_empty() && !s.describing() {
            let key = s.key("redirect_uris");
            let message = format!("client `{}` has no `redirect_uris`: nobody can sign in to it", client.id);
            s.context.warning(&key, message);
        }
        client
    }
}

fn id(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
    if !(1..=64).contains(&text.len()) || !text.bytes().all(allowed) {
        return Err(format!("`{text}` is not a client's id: 1 to 64 letters, digits and `.` `_` `~` `-`"));
    }
    if text == "portcullis" {
        return Err("`portcullis` is the built-in client of this gateway; choose another id".to_owned());
    }
    Ok(text.to_owned())
}

fn grant(text: &str) -> Result<String, String> {
    if GRANTS.contains(&text) {
        Ok(text.to_owned())
    } else if LATER.contains(&text) {
        Err(format!("`{text}` is not supported by this version; known: {}", GRANTS.join(", ")))
    } else {
        Err(format!("`{text}` is not known here; known: {}", GRANTS.join(", ")))
    }
}
