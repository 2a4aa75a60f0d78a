//! The place of a policy row.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The policy row that decided: its file, relative to the policy directory, and its line, from 1.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleRef {
    /// For example `policy.csv` or `nodes/gate-1/extra.csv`.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}
