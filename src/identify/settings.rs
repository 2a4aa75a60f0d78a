//! What identification takes from the configuration; replaced as a whole at a reload.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::pool;
use crate::config::{CertificatePrincipal, Client, Config, Hashing};
use crate::model::{AuthMethod, ClientCertificate, Principal, PrincipalKind, Username};

pub(super) struct Settings {
    /// Grows with each reload: caches of principals compare it.
    pub(super) generation: u64,
    pub(super) cookie: &'static str,
    pub(super) hashing: Hashing,
    /// What an unknown user's password is compared with.
    pub(super) nobody: String,
    certificates: Vec<CertificatePrincipal>,
    clients: HashMap<String, Client>,
    providers: HashSet<String>,
}

impl Settings {
    pub(super) fn of(config: &Config, generation: u64) -> Self {
        let secure = config.listen.public_url.scheme() == "https";
        Self {
            generation,
            cookie: if secure { "__Host-portcullis" } else { "portcullis" },
            nobody: pool::nobody(&config.passwords.hashing),
            hashing: config.passwords.hashing.clone(),
            certificates: config.certificate_principals.clone(),
            clients: config.clients.iter().map(|client| (client.id.clone(), client.clone())).collect(),
            providers: config.providers.iter().map(|provider| provider.name.clone()).collect(),
        }
    }

    pub(super) fn client(&self, id: &str) -> Option<&Client> {
        self.clients.get(id)
    }

    pub(super) fn has_provider(&self, name: &str) -> bool {
        self.providers.contains(name)
    }

    /// The principal that the first matching rule makes of a certificate.
    pub(super) fn certificate(&self, certificate: &ClientCertificate) -> Option<Principal> {
        self.certificates.iter().find_map(|rule| {
            if !matches(&rule.matches, certificate) {
                return None;
            }
            let name = name(&rule.name, certificate)?;
            let mut principal = from_rule(rule, name);
            principal.expires = Some(certificate.not_after);
            Some(principal)
        })
    }

    /// The principal of this name when a rule can give the name.
    pub(super) fn certificate_named(&self, name: &str) -> Option<Principal> {
        let gives = |rule: &&CertificatePrincipal| match rule.name.split_once("{cn}") {
            None => rule.name == name,
            Some((before, after)) => {
                let rest = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                rest.is_some_and(|cn| Username::parse(cn).is_ok())
            }
        };
        self.certificates.iter().find(gives).map(|rule| from_rule(rule, name.to_owned()))
    }
}

fn matches(rule: &str, certificate: &ClientCertificate) -> bool {
    match rule.split_once(':') {
        Some(("cn", name)) => certificate.common_name.as_deref() == Some(name),
        Some(("dns" | "email" | "uri", _)) => certificate.alternative_names.iter().any(|san| san == rule),
        _ => !rule.is_empty() && certificate.subject == rule,
    }
}

/// The rule's name with the certificate's common name in it: one that an account could have, so that no certificate
/// is taken for a client (`client:…`) or a provider's subject.
fn name(rule: &str, certificate: &ClientCertificate) -> Option<String> {
    if !rule.contains("{cn}") {
        return Some(rule.to_owned()).filter(|name| !name.is_empty() && name != "anonymous");
    }
    let cn = Username::parse(certificate.common_name.as_deref()?).ok()?;
    Some(rule.replace("{cn}", cn.as_str())).filter(|name| !name.starts_with("client:"))
}

fn from_rule(rule: &CertificatePrincipal, name: String) -> Principal {
    let mut principal = Principal::new(name, PrincipalKind::Certificate, AuthMethod::Certificate);
    principal.roles = super::role_names(&rule.roles);
    principal.attributes = rule.attributes.clone();
    principal.acr = crate::model::Acr::One;
    // RFC 8176: a key in software (nothing says more), and its possession proved.
    principal.amr = vec![Arc::from("swk"), Arc::from("pop")];
    principal
}
