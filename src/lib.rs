//! Portcullis: an access-control gateway in front of web APIs.
//!
//! ```text
//! socket ─ listen ─▶ gateway ─▶ identify ─▶ decide ─▶ forward ─▶ upstream
//!                      │          who?       may they?   pass it on
//!                      └──────────────── record ◀───────────── what was decided, always
//! ```
//!
//! Read [`gateway`] first: the path of a request in one function. `docs/life-of-a-request.md` is the tour.
//!
//! Imports point down only; `tests/it/layers.rs` holds the source against this table:
//!
//! | layer | modules | may import |
//! |---|---|---|
//! | 0 | `model` | nothing of ours |
//! | 1 | `config`, `store`, `metrics`, `outbound` | 0 (`store` and `outbound` their own configuration section) |
//! | 2 | `keys`, `revocation`, `accounts` | 0-1 |
//! | 3 | `tokens`, `sessions` | 0-2 |
//! | 4 | `identify`, `decide`, `forward`, `record`, `cluster` | 0-3, never each other (`forward` takes `decide::Permit`) |
//! | 5 | `http` | 0-4 |
//! | 6 | `gateway` | 0-5 |
//! | 7 | `verify`, `authzen`, `oidc`, `sso`, `portal`, `admin` | 0-6, never each other |
//! | 8 | `listen` | 0-7 |
//! | 9 | `app`, then `cli`, `main` | everything below |

// The path of a request.
pub mod listen;

pub mod gateway;

pub mod identify;

pub mod decide;

pub mod forward;

pub mod record;

// Doors: other ways in.
pub mod admin;
pub mod authzen;
pub mod oidc;
pub mod portal;
pub mod sso;
pub mod verify;

// What the stages and doors use.
pub mod accounts;
pub mod cluster;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod outbound;
pub mod revocation;
pub mod sessions;
pub mod store;
pub mod tokens;

// What everything is made of.
pub mod config;
pub mod model;

// What puts it together.
pub mod app;
pub mod cli;
