//! `[[certificate_principal]]`: which client certificate is whom.

use super::fields::non_empty;
use super::reader::Section;
use super::values::outside_role;
use crate::model::{Attributes, RoleName, Username};

/// Explicit rules by which a client certificate becomes a principal: `[[certificate_principal]]`.
#[derive(Clone, Debug)]
pub struct CertificatePrincipal {
    /// exact subject (RFC 4514), or a SAN `dns:…|email:…|uri:…`, or `cn:…`; a trailing `*` in `cn:`/`uri:` is not a wildcard
    pub matches: String,
    /// the principal's name; `{cn}` is replaced
    pub name: String,
    /// Roles of the principal.
    pub roles: Vec<RoleName>,
    /// Attributes of the principal.
    pub attributes: Attributes,
}

impl CertificatePrincipal {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self {
            matches: s.required(
                "matches",
                "text",
                String::new(),
                "The exact subject (RFC 4514), or `cn:…`, `dns:…`, `email:…`, `uri:…`; nothing is a wildcard.",
                non_empty,
            ),
            name: s.required(
                "name",
                "text",
                String::new(),
                "The principal's name; `{cn}` is the certificate's common name.",
                name,
            ),
            roles: s.list("roles", "list of roles", &[], "Roles of the principal.", outside_role),
            attributes: s.attributes("attributes", "Attributes of the principal, for policies."),
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    Username::parse(&text.replace("{cn}", "x")).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
