//! `[[client]]`: a machine that gets its tokens here. Applications that people sign in to are not here yet: what asks for
//! them is refused by name.

use super::provider::scope;
use super::reader::Section;
use super::values::outside_role;
use crate::model::{Attributes, RoleName, Secret};

/// Grants that a client can have.
const GRANTS: [&str; 1] = ["client_credentials"];
/// Grants of the design that this version lacks.
const LATER: [&str; 4] = [
    "authorization_code",
    "refresh_token",
    "urn:ietf:params:oauth:grant-type:device_code",
    "urn:ietf:params:oauth:grant-type:token-exchange",
];
/// What to do instead.
const NO_APPLICATIONS: &str = "people cannot sign in to an application through this gateway in this version; a machine has \
                               `grant_types = [\"client_credentials\"]` and a `secret`";

/// `[[client]]`
#[derive(Clone, PartialEq, Debug)]
pub struct Client {
    /// Its principal is `client:<id>`.
    pub id: String,
    /// How it proves itself. Without one nobody is this client.
    pub secret: Option<Secret>,
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
        let later = format!("`redirect_uris` is not supported by this version: {NO_APPLICATIONS}");
        let application = s.refuse("redirect_uris", &later);
        let client = Self {
            id: s.required("id", "text", String::new(), "Unique; its principal is `client:<id>`.", id),
            secret: s.secret("secret", "How it proves itself."),
            grant_types: s.list(
                "grant_types",
                "list: client_credentials",
                &["client_credentials"],
                "What it may do at the token endpoint; must be given.",
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
        let given = |key: &str| s.context.is_set(&s.key(key));
        let (secret, grants) = (given("secret") || given("secret_file"), given("grant_types"));
        let refused = application || s.context.is_faulty(&s.key("grant_types"));
        if !grants && !refused && !s.describing() {
            // Left out it means an application, and will in later versions.
            s.problem("grant_types", format!("`grant_types` is missing: {NO_APPLICATIONS}"));
        } else if !secret && !refused && !s.describing() {
            s.problem("grant_types", "`client_credentials` needs a `secret` or `secret_file`");
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
