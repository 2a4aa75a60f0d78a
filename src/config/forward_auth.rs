//! `[forward_auth]`: who may ask for verdicts.

use std::net::IpAddr;

use ipnet::IpNet;

use super::reader::Section;
use super::values::network;

/// `[forward_auth]`
#[derive(Clone, Debug, Default)]
pub struct ForwardAuth {
    /// Direct peers that may ask; empty: nobody.
    pub callers: Vec<IpNet>,
}

impl ForwardAuth {
    /// True when `peer` may ask for verdicts.
    pub fn answers(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.callers.iter().any(|network| network.contains(&peer))
    }

    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self {
            callers: s.list(
                "callers",
                "list of networks",
                &[],
                "The direct TCP peers that may ask for verdicts; others get 404. /0 is refused.",
                network,
            ),
        }
    }
}
