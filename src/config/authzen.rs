//! `[authzen]`: the decision API for other programs.

use super::reader::Section;

/// `[authzen]`
#[derive(Clone, Debug, Default)]
pub struct Authzen {
    /// The endpoints below `/access/v1` and their configuration document exist.
    pub enabled: bool,
}

impl Authzen {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self {
            enabled: s.boolean(
                "enabled",
                false,
                "Answer at `/access/v1` (AuthZEN 1.0); a caller brings a client's token with the scope `authzen`.",
            ),
        }
    }
}
