//! `[policy]`: where the policies are and what counts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::reader::{Section, defaults};

/// Which roles count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RoleSource {
    /// Carried ones and the files'.
    #[default]
    Union,
    /// The files' only.
    Files,
    /// Carried ones only.
    Token,
}

/// `[policy]`
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The folder of the model and the rows.
    pub directory: PathBuf,
    /// Which roles count.
    pub roles: RoleSource,
    /// Whether a model that allows without a matching row is served.
    pub allow_by_default: bool,
    /// token of the request definition -> one of sub, dom, obj, act, env
    pub bind: BTreeMap<String, String>,
}

impl Default for Policy {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Policy {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self {
            directory: s.path("directory", "../policies", "The folder of `model.conf` and the policy files."),
            roles: s.choice(
                "roles",
                &[
                    ("union", RoleSource::Union),
                    ("files", RoleSource::Files),
                    ("token", RoleSource::Token),
                ],
                &[],
                "Which roles count: those of the token and of the files, of the files only, of the token only.",
            ),
            allow_by_default: s.boolean(
                "allow_by_default",
                false,
                "Serve a model whose effect allows without a matching row.",
            ),
            bind: s.texts(
                "bind",
                "Other names of request tokens: name = `sub`, `dom`, `obj`, `act` or `env`.",
                |_, text| {
                    if matches!(text, "sub" | "dom" | "obj" | "act" | "env") {
                        Ok(())
                    } else {
                        Err(format!("`{text}` is not known here; known: sub, dom, obj, act, env"))
                    }
                },
            ),
        }
    }
}
