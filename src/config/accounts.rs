//! `[accounts]`: the file with accounts under version control, which `accounts_file` reads.

use std::path::PathBuf;

use super::files::FileKind;
use super::reader::Section;

/// `[accounts]`
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// The accounts file.
    pub file: Option<PathBuf>,
}

impl Accounts {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self {
            file: s.file(
                "file",
                FileKind::Content,
                "Accounts under version control, hashes only, beside those of the store.",
            ),
        }
    }
}
