//! Goal: what a person reads before a change is what would happen, and every risk is named. Method: states made by the real
//! `apply`, changed by it, and compared.

use consensus::state::{AckMode, ClusterInfo, Incarnation, MemberKind, NewMember, PackageHash};

use super::*;

const S1: ServerId = ServerId(1);
const S2: ServerId = ServerId(2);

struct Story {
    state: ClusterState,
    index: u64,
}

impl Story {
    /// Two servers, a witness, and a mirrored module whose primary is s1.
    fn mirrored() -> Story {
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

    fn apply(&mut self, command: Command) {
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

    fn want(&mut self, server: ServerId, wanted: Wanted) {
        self.apply(Command::SetWanted {
            module: "db".parse().expect("a name"),
            server,
            wanted,
        });
    }

    fn record(&self) -> &MirrorRecord {
        self.state.modules.values().next().expect("a module")
    }

    fn risks_of(&self, command: Command) -> Vec<String> {
        let mut after = Story {
            state: self.state.clone(),
            index: self.index,
        };
        after.apply(command);
        risks(&self.state, &after.state)
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

#[test]
fn stopping_the_primary_shows_that_the_other_takes_over() {
    let story = Story::mirrored();
    let risks = story.risks_of(Command::SetWanted {
        module: story.record().name.clone(),
        server: S1,
        wanted: Wanted::Stopped,
    });
    assert_eq!(
        risks,
        ["db stops on s1 and starts on s2: clients wait as long as that takes"]
    );
}

#[test]
fn stopping_the_secondary_leaves_one_copy() {
    let mut story = Story::mirrored();
    let risks = story.risks_of(Command::SetWanted {
        module: story.record().name.clone(),
        server: S2,
        wanted: Wanted::Stopped,
    });
    assert_eq!(
        risks,
        ["only the copy of db on s1 gets new writes: while it is lost, db waits for it"]
    );
    // Then the primary as well: nobody is left.
    story.want(S2, Wanted::Stopped);
    let risks = story.risks_of(Command::SetWanted {
        module: story.record().name.clone(),
        server: S1,
        wanted: Wanted::Stopped,
    });
    assert_eq!(
        risks,
        ["db stops on s1 and runs nowhere until it is started again"]
    );
}

#[test]
fn a_force_says_what_is_given_up_and_that_the_other_lives() {
    let mut story = Story::mirrored();
    story.want(S2, Wanted::Stopped);
    let risks = story.risks_of(Command::Force {
        module: story.record().name.clone(),
        epoch: story.record().epoch,
        server: S2,
        reason: "drill".to_owned(),
    });
    assert_eq!(risks.len(), 3, "{risks:?}");
    assert!(
        risks[1].contains("every write that db acknowledged on s1 since event #"),
        "{risks:?}"
    );
    assert!(
        risks[2].contains("s1 counts as up and serves db"),
        "{risks:?}"
    );
}

#[test]
fn changing_nothing_risks_nothing() {
    let story = Story::mirrored();
    assert_eq!(risks(&story.state, &story.state), Vec::<String>::new());
    assert!(next(&story.state, story.record()).is_none());
}
