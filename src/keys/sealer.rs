//! Sealing of secrets at rest with the node's master key (AES-256-GCM, NIST SP 800-38D).
//!
//! Called by `keys` for the ring; whoever keeps another secret in the store takes a [`Sealer`] and a context of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::model::{random_bytes, random_token};

const KEY_LEN: usize = 32;
const FILE: &str = "master.key";

/// Seals and opens. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    key: Arc<LessSafeKey>,
}

impl Sealer {
    /// Reads `<data_dir>/master.key` (32 bytes, mode 0600), made at first use. Of several processes that make it at
    /// once one wins, and all read that one.
    ///
    /// # Errors
    /// When it cannot be read or made, has another length, or others than its owner can read it.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        if !path.try_exists()? {
            fs::create_dir_all(data_dir)?;
            make(data_dir, &path)?;
        }
        let key = read(&path)?;
        Self::with_key(&key)
    }

    /// A sealer with this key.
    fn with_key(key: &[u8; KEY_LEN]) -> io::Result<Self> {
        let unbound = UnboundKey::new(&AES_256_GCM, key)
            .map_err(|_| io::Error::other("the master key is not an AES-256 key"))?;
        Ok(Self { key: Arc::new(LessSafeKey::new(unbound)) })
    }

    /// Nonce (random, 12 bytes), cipher text and tag. `context` is authenticated and must be the same when opening.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Vec<u8> {
        let nonce = random_bytes::<NONCE_LEN>();
        let mut text = plain.to_vec();
        let sealed = self.key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context.as_bytes()),
            &mut text,
        );
        if sealed.is_err() {
            // Only an input beyond the cipher's 64 GiB gets here: what is returned then opens nowhere.
            return Vec::new();
        }
        let mut out = nonce.to_vec();
        out.append(&mut text);
        out
    }

    /// The plain text; `None` when the key, the context or the bytes are not those of the sealing.
    pub fn unseal(&self, context: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut buffer = Zeroizing::new(text.to_vec());
        let length = self.key.open_in_place(nonce, Aad::from(context.as_bytes()), &mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }
}

/// Writes a new key beside its place and links it there, which fails when another process was first.
fn make(data_dir: &Path, path: &Path) -> io::Result<()> {
    let beside = data_dir.join(format!(".{FILE}.{}", random_token::<8>()));
    let key = Zeroizing::new(random_bytes::<KEY_LEN>());
    let written = write(&beside, &key);
    let linked = written.and_then(|()| match fs::hard_link(&beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let removed = fs::remove_file(&beside);
    linked.and(removed)?;
    File::open(data_dir)?.sync_all()
}

fn write(path: &Path, key: &[u8; KEY_LEN]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key)?;
    file.sync_all()
}

fn read(path: &Path) -> io::Result<Zeroizing<[u8; KEY_LEN]>> {
    let mut file = File::open(path)?;
    let data = file.metadata()?;
    if data.permissions().mode() & 0o077 != 0 {
        let text = format!("others can read {}: run `chmod 600 {0}`", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let mut key = Zeroizing::new([0; KEY_LEN]);
    file.read_exact(key.as_mut_slice())?;
    if data.len() != KEY_LEN as u64 {
        let text = format!("{} is not a master key: it must have {KEY_LEN} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = Sealer::open(dir.path()).unwrap().seal("a", b"text");
        let again = Sealer::open(dir.path()).unwrap();
        assert_eq!(again.unseal("a", &sealed).unwrap().as_slice(), b"text");
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_or_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Sealer::open(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Sealer::open(dir.path()).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, [0; 33]).unwrap();
        assert!(Sealer::open(dir.path()).is_err());
    }

    #[test]
    fn another_context_key_or_byte_does_not_open() {
        let sealer = Sealer::with_key(&[7; 32]).unwrap();
        let sealed = sealer.seal("keys", b"secret");
        assert_ne!(sealed, sealer.seal("keys", b"secret"));
        assert!(sealer.unseal("other", &sealed).is_none());
        assert!(Sealer::with_key(&[8; 32]).unwrap().unseal("keys", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer.unseal("keys", &changed).is_none());
            assert!(sealer.unseal("keys", &sealed[..at]).is_none());
        }
    }
}
