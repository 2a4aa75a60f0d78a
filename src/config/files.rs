//! Files that settings name: that they are there, hold what they should, and are nobody else's to read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::reader::Context;

/// What a file must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileKind {
    /// At least one certificate, PEM.
    Certificates,
    /// A private key, PEM, for its owner only.
    Key,
    /// Anything, not empty.
    Content,
    /// A set of public keys, JSON (RFC 7517).
    KeySet,
    /// A secret; whether it can be read is known already.
    Secret,
}

/// Checks every file that was named.
pub(super) fn check(context: &mut Context) {
    for (key, path, kind) in context.files.clone() {
        if kind == FileKind::Secret {
            // Secrets that are mounted into a container are readable by everyone in it.
            match readers(&path) {
                Ok(Readers::Owner) | Err(_) => {}
                Ok(others) => context.warning(&key, others.said_of(&path)),
            }
        } else if let Err(message) = check_one(&path, kind) {
            context.problem(&key, message);
        }
    }
}

fn check_one(path: &Path, kind: FileKind) -> Result<(), String> {
    let shown = path.display();
    let content = fs::read(path).map_err(|error| unreadable(path, &error))?;
    if content.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    match kind {
        FileKind::Certificates => match CertificateDer::pem_slice_iter(&content).next() {
            Some(Ok(_)) => Ok(()),
            _ => Err(format!("{shown} holds no certificate in PEM form")),
        },
        FileKind::Key => match PrivateKeyDer::from_pem_slice(&content) {
            Ok(_) => match readers(path)? {
                Readers::Owner => Ok(()),
                others => Err(others.said_of(path)),
            },
            Err(_) => Err(format!("{shown} holds no private key in PEM form")),
        },
        FileKind::KeySet => {
            let set: Option<serde_json::Value> = serde_json::from_slice(&content).ok();
            let keys =
                set.as_ref().and_then(|set| set.get("keys")?.as_array()).filter(|keys| !keys.is_empty());
            match keys
                .map(|keys| keys.iter().all(|key| key.get("kid").is_some_and(serde_json::Value::is_string)))
            {
                Some(true) => Ok(()),
                Some(false) => Err(format!("{shown} has a key without `kid`: no token could name it")),
                None => Err(format!(
                    "{shown} is no key set: JSON with a list `keys` that is not empty (RFC 7517)"
                )),
            }
        }
        FileKind::Content | FileKind::Secret => Ok(()),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("{shown} does not exist"),
        std::io::ErrorKind::PermissionDenied => format!("{shown} cannot be read by this user"),
        _ => format!("{shown} cannot be read: {error}"),
    }
}

/// Who may read a file, besides the administrator; with the file's mode.
#[derive(Clone, Copy)]
enum Readers {
    Owner,
    Group(u32),
    Everyone(u32),
}

impl Readers {
    /// What is wrong with that, and what to do.
    fn said_of(self, path: &Path) -> String {
        let (whom, mode) = match self {
            Self::Owner => return String::new(),
            Self::Group(mode) => ("its group", mode),
            Self::Everyone(mode) => ("everyone", mode),
        };
        let shown = path.display();
        format!("{shown} is readable by {whom} ({mode:04o}); chmod 600 {shown}")
    }
}

fn readers(path: &Path) -> Result<Readers, String> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    let mode = metadata.permissions().mode() & 0o7777;
    Ok(match (mode & 0o007, mode & 0o070) {
        (0, 0) => Readers::Owner,
        (0, _) => Readers::Group(mode),
        _ => Readers::Everyone(mode),
    })
}

/// The text of a file with a secret, without the end of its last line.
pub(super) fn read_secret(path: &Path) -> Result<String, String> {
    let mut text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
