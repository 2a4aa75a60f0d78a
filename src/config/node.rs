//! `[node]`: the name, folder and threads of this node.

use std::path::PathBuf;

use super::reader::{Section, defaults};
use super::values::plain_name;

/// `[node]`
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique in the cluster; by default the host's name.
    pub name: String,
    /// The write-ahead log, the embedded store and the sealed keys.
    pub data_dir: PathBuf,
    /// Threads that serve requests; 0: one for each core.
    pub workers: usize,
}

impl Default for Node {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Node {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        let name = s.optional(
            "name",
            "text",
            "The node's name, unique in the cluster; by default the host's name.",
            plain_name,
        );
        let name = name.unwrap_or_else(host_name);
        s.effective("name", &format!("{name:?}"));
        Self {
            name,
            data_dir: s.path(
                "data_dir",
                "data",
                "The folder of the write-ahead log, the embedded store and the sealed keys.",
            ),
            workers: s.number(
                "workers",
                (0, "0"),
                (0, 1024),
                "Threads that serve requests; 0: one for each core.",
            ),
        }
    }
}

fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    plain_name(&name).unwrap_or_else(|_| "gate".to_owned())
}
