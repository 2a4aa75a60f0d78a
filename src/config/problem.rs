//! A mistake and where it is; where a value came from. Made by everything in this module, printed by the commands.

use std::fmt;
use std::path::PathBuf;

/// One mistake, with its place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// The file; for a value from the environment, the name of the variable.
    pub file: PathBuf,
    /// From 1; 0 when the mistake has no line (a variable, a file that cannot be read).
    pub line: u32,
    /// What is wrong and what to do; never holds a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Problem {}

/// Where an effective value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file and its line, from 1.
    File(PathBuf, u32),
    /// An environment variable.
    Env(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(file, line) => write!(f, "{}:{line}", file.display()),
            Self::Env(name) => write!(f, "env {name}"),
        }
    }
}
