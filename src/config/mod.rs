//! The configuration: typed sections, one file each; loading, environment overrides and checking are beside them.
//!
//! Called by the program at start and at every reload ([`fn@load`]), and by `config show` ([`show`]). A setting is one
//! line in the `read` function of its section: key, type, default and meaning together; the reference in
//! `docs/configuration.md` is made from those lines. To add one, add the field, that line, and run the tests of this
//! module, which say how to renew the reference. A section is a file with a `read`, called from [`Config`]'s.

mod accounts;
pub mod accounts_file;
mod admin;
mod audit;
mod authzen;
mod certificate_principal;
mod check;
mod check_routes;
mod client;
mod fields;
mod files;
mod forward_auth;
mod listen;
mod load;
mod node;
mod passwords;
mod policy;
mod problem;
mod provider;
mod reader;
mod reference;
mod root;
mod route;
mod session;
mod store;
mod tables;
mod template;
mod tls;
mod tokens;
mod tree;
mod trusted_issuer;
mod upstream;
mod values;

#[cfg(test)]
mod tests;

pub use accounts::Accounts;
pub use admin::{Admin, AdminTls};
pub use audit::{Audit, AuditEntry, Durability};
pub use authzen::Authzen;
pub use certificate_principal::CertificatePrincipal;
pub use check_routes::{ACCESS, is_access, is_reserved};
pub use client::Client;
pub use forward_auth::ForwardAuth;
pub use listen::{Limits, Listen};
pub use load::{Draft, Loaded, draft, environment, load, show};
pub use node::Node;
pub use passwords::{Hashing, Passwords};
pub use policy::{Policy, RoleSource};
pub use problem::{Origin, Problem};
pub use provider::{Provider, ProviderKind};
pub use reference::reference;
pub use root::Config;
pub use route::{IdentityHeaders, Route, Timeouts, WhenStoreIsDown};
pub use session::Session;
pub use store::{Redis, RedisMode, Store, StoreKind};
pub use tls::{ClientAuth, ClientCertificates, ServerCertificate, Tls};
pub use tokens::{SigningAlgorithm, Tokens};
pub use trusted_issuer::TrustedIssuer;
pub use upstream::{Balance, Upstream, UpstreamTls};
