//! Integration tests: the real program on free ports, one file per behaviour.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod accounts;
mod audit;
mod audit_events;
mod authzen;
mod browser;
mod canonical;
mod crashes;
mod credentials;
mod demo;
mod docs_policies;
mod docs_promises;
mod enumeration;
mod faults;
mod first_minute;
mod floods;
mod forward_auth;
mod hostile;
mod httpbin;
mod layers;
mod mtls;
mod nginx;
mod nodes;
mod oidc;
mod ops;
mod ops_hostile;
mod ops_init;
mod ops_offline;
mod ops_why;
mod pages;
mod passwords;
mod policies;
mod proxy;
mod proxy_bodies;
mod proxy_log;
mod proxy_streams;
mod races;
mod random;
mod randomized;
mod redis;
mod reload;
mod session_tokens;
mod smuggling;
mod sso;
mod sso_hostile;
mod support;
mod tls;
mod tokens;
