//! The maps of what is revoked, by the kind of name.
//!
//! Used by the view alone. A new kind of [`Revoked`] is one more map and a line in each method.

use ahash::HashMap;

use super::Credential;
use crate::model::{Clock, Timestamp};
use crate::store::{RevocationEntry, Revoked};

/// Both only grow: an older entry never undoes a newer one.
#[derive(Clone, Copy)]
struct Term {
    not_before: Timestamp,
    until: Timestamp,
}

type Names = HashMap<Box<str>, Term>;
/// Makes a name what it names.
type Kind = fn(String) -> Revoked;

/// Everything that is revoked.
#[derive(Default)]
pub(super) struct Known {
    tokens: Names,
    sessions: Names,
    subjects: Names,
    clients: Names,
    keys: Names,
    certificates: Names,
}

impl Known {
    /// Adds the entry, or extends what is known of its name.
    pub(super) fn add(&mut self, entry: &RevocationEntry) {
        let (names, name) = match &entry.what {
            Revoked::Token(name) => (&mut self.tokens, name),
            Revoked::Session(name) => (&mut self.sessions, name),
            Revoked::Subject(name) => (&mut self.subjects, name),
            Revoked::Client(name) => (&mut self.clients, name),
            Revoked::Key(name) => (&mut self.keys, name),
            Revoked::Certificate(name) => (&mut self.certificates, name),
        };
        let new = Term { not_before: entry.not_before, until: entry.until };
        let term = names.entry(name.as_str().into()).or_insert(new);
        term.not_before = term.not_before.max(new.not_before);
        term.until = term.until.max(new.until);
    }

    /// True when something that the credential is known by is revoked. Subjects and clients: what was issued at or
    /// before the revocation; everything else altogether.
    pub(super) fn revokes(&self, credential: &Credential<'_>, clock: &dyn Clock) -> bool {
        let find = |names: &Names, name: Option<&str>| {
            if names.is_empty() {
                return None;
            }
            names.get(name?).filter(|term| clock.now() < term.until).copied()
        };
        let whole = |names: &Names, name: Option<&str>| find(names, name).is_some();
        let before = |names: &Names, name: Option<&str>| {
            find(names, name).is_some_and(|term| credential.issued <= term.not_before)
        };
        whole(&self.tokens, credential.jti)
            || whole(&self.sessions, credential.sid)
            || before(&self.subjects, credential.subject)
            || before(&self.clients, credential.client)
            || whole(&self.keys, credential.kid)
            || whole(&self.certificates, credential.certificate)
    }

    /// Forgets what no longer matters.
    pub(super) fn forget(&mut self, now: Timestamp) {
        for names in [
            &mut self.tokens,
            &mut self.sessions,
            &mut self.subjects,
            &mut self.clients,
            &mut self.keys,
            &mut self.certificates,
        ] {
            names.retain(|_, term| now < term.until);
        }
    }

    /// What still matters, as entries of the log.
    pub(super) fn entries(&self, now: Timestamp) -> Vec<RevocationEntry> {
        let kinds: [(&Names, Kind); 6] = [
            (&self.tokens, Revoked::Token),
            (&self.sessions, Revoked::Session),
            (&self.subjects, Revoked::Subject),
            (&self.clients, Revoked::Client),
            (&self.keys, Revoked::Key),
            (&self.certificates, Revoked::Certificate),
        ];
        let mut entries = Vec::new();
        for (names, kind) in kinds {
            for (name, term) in names.iter().filter(|(_, term)| now < term.until) {
                let what = kind(name.to_string());
                entries.push(RevocationEntry { what, not_before: term.not_before, until: term.until });
            }
        }
        entries
    }
}
