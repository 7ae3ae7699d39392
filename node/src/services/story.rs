//! A cluster state made by the real `apply`, for the tests of what people are shown.

use consensus::state::{
    AckMode, ClusterInfo, ClusterState, Command, Incarnation, MemberKind, MirrorRecord, NewMember,
    PackageHash, Proposal, ServerId, Wanted,
};

use super::plan::follow;
use crate::member::unix_ms;

pub(super) const S1: ServerId = ServerId(1);
pub(super) const S2: ServerId = ServerId(2);

pub(super) struct Story {
    pub(super) state: ClusterState,
    pub(super) index: u64,
}

impl Story {
    /// Two servers, a witness, and a mirrored module whose primary is s1.
    pub(super) fn mirrored() -> Story {
        let mut story = Story {
            state: ClusterState::default(),
            index: 0,
        };
        let info = ClusterInfo {
            id: [1; 16],
            name: "test".parse().expect("a name"),
            ca_fingerprint: [2; 32],
            lease_ms: 1500,
        };
        story.apply(Command::InitCluster {
            info,
            first: member(1, "s1", MemberKind::Server),
        });
        for (number, name, kind) in [(2, "s2", MemberKind::Server), (3, "w", MemberKind::Witness)] {
            let token = [number; 32];
            story.apply(Command::CreateToken {
                token,
                witness: kind == MemberKind::Witness,
                expires_at_unix_s: 1 << 40,
            });
            story.apply(Command::AddMember {
                token,
                member: member(number, name, kind),
            });
        }
        story.apply(Command::InstallModule {
            name: "db".parse().expect("a name"),
            servers: [S1, S2],
            package: PackageHash([7; 32]),
            ack: AckMode::Disk,
            directories: vec!["/srv/db".to_owned()],
            addresses: Vec::new(),
            heart_timeout_ms: None,
        });
        story.want(S2, Wanted::Started);
        let claim = Command::ClaimFirst {
            module: "db".parse().expect("a name"),
            epoch: story.record().epoch,
            server: S1,
        };
        story.apply(claim);
        let add = Command::AddSecondary {
            module: "db".parse().expect("a name"),
            epoch: story.record().epoch,
            primary: S1,
            server: S2,
        };
        story.apply(add);
        story
    }

    pub(super) fn apply(&mut self, command: Command) {
        self.index += 1;
        let proposal = Proposal {
            command,
            author: "test".to_owned(),
            evidence: String::new(),
            at_unix_ms: unix_ms(),
        };
        self.state
            .apply(self.index, &proposal)
            .expect("a command that is accepted");
        follow(&mut self.state, self.index);
    }

    pub(super) fn rename(&mut self, server: ServerId, name: &str) {
        let addresses = self.state.members[&server].addresses.clone();
        self.apply(Command::ChangeMember {
            server,
            name: name.parse().expect("a name"),
            addresses,
        });
    }

    pub(super) fn want(&mut self, server: ServerId, wanted: Wanted) {
        self.apply(Command::SetWanted {
            module: "db".parse().expect("a name"),
            server,
            wanted,
        });
    }

    pub(super) fn record(&self) -> &MirrorRecord {
        self.state.modules.values().next().expect("a module")
    }
}

fn member(number: u8, name: &str, kind: MemberKind) -> NewMember {
    NewMember {
        name: name.parse().expect("a name"),
        kind,
        addresses: vec![std::net::SocketAddr::from(([10, 0, 0, number], 9453))],
        certificate: [number; 32],
        incarnation: Incarnation(1),
    }
}
