//! Tokens signed with a node's own key: what only the node itself could make, with everything else in them wrong.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use portcullis::config::SigningAlgorithm;
use portcullis::keys::{KeyRing, Sealer};
use portcullis::model::{SharedClock, SystemClock};
use serde_json::Value;

use super::Node;

/// The node's signing keys, read from a copy of its data.
pub struct Signer {
    ring: Arc<KeyRing>,
    _copy: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Signer {
    /// Stops the node, copies what it keeps, and starts it again.
    pub fn of(node: &mut Node) -> Self {
        assert_eq!(node.stop(), 0);
        let copy = tempfile::tempdir().expect("a directory");
        copy_files(&node.directory().join("data"), copy.path());
        node.start_again();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let clock: SharedClock = Arc::new(SystemClock);
        let ring = runtime.block_on(async {
            let store =
                portcullis::store::embedded::open(copy.path(), Arc::clone(&clock)).expect("the store");
            let sealer = Sealer::open(copy.path()).expect("the master key");
            let ttl = Duration::from_secs(300);
            KeyRing::open(store.records, sealer, SigningAlgorithm::Es256, ttl, clock).await.expect("the ring")
        });
        Self { ring, _copy: copy, _runtime: runtime }
    }

    /// A JWT with the right signature.
    pub fn sign(&self, typ: &str, claims: &Value) -> String {
        self.ring.sign(typ, claims).expect("signed")
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

/// A part of a JWT, decoded.
pub fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).expect("a part");
    serde_json::from_slice(&BASE64URL.decode(part).expect("base64url")).expect("JSON")
}
