//! How soon modules ask their servers to count as lost (R7).

use super::ClusterState;
use super::ids::ServerId;

impl ClusterState {
    /// The shortest time that a module with a copy on `server` asks for, in milliseconds.
    #[must_use]
    pub fn heart_timeout_ms(&self, server: ServerId) -> Option<u32> {
        self.modules
            .values()
            .filter(|record| record.servers.contains(&server))
            .filter_map(|record| record.heart_timeout_ms)
            .min()
    }

    /// To be called after every entry that was accepted.
    pub(super) fn note_hearts(&mut self) {
        for record in self.modules.values() {
            let Some(asked) = record.heart_timeout_ms else {
                continue;
            };
            for server in record.hosts() {
                let shortest = self.shortest_hearts.entry(server).or_insert(asked);
                *shortest = asked.min(*shortest);
            }
        }
    }
}
