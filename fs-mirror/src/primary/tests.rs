//! Both servers of a module in one process: two mounts, one link over loopback.

mod load;

use std::process::Command;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::replication::testing::compare::assert_equal;
use crate::replication::testing::slow::SlowPlace;
use crate::replication::testing::{TestCopy, eventually, hello, links};
use crate::replication::wire::{HelloReply, Message, Start};
use crate::{Secondary, SecondaryEvent};

/// A primary, a copy that may follow it, and what the primary has told.
struct Pair {
    primary: Option<Primary>,
    secondary: Option<Secondary>,
    gate: Arc<Gate>,
    events: mpsc::Receiver<PrimaryEvent>,
    ours: TestCopy,
    theirs: TestCopy,
    session: u64,
    acknowledges_on_receipt: bool,
}

/// Says why when this machine cannot mount.
fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && std::fs::metadata("/dev/fuse").is_ok();
    if !can {
        println!("skipped: mounting needs root and /dev/fuse");
    }
    can
}

impl Pair {
    /// A primary at epoch 1 over what `fill` puts into the directory; nobody follows yet.
    fn new(counts_peer: bool, fill: &str) -> Option<Pair> {
        Pair::of(TestCopy::new(), TestCopy::new(), counts_peer, fill)
    }

    fn of(ours: TestCopy, theirs: TestCopy, counts_peer: bool, fill: &str) -> Option<Pair> {
        if !can_mount() {
            return None;
        }
        sh_in(&ours, fill);
        let (gate, (told, events)) = (Arc::new(Gate::open_forever()), mpsc::channel());
        let sink = Box::new(move |event| drop(told.send(event)));
        let options = PrimaryOptions::default();
        let copy = Arc::clone(&ours.copy);
        let primary = Primary::start(
            copy,
            Epoch(1),
            counts_peer,
            Arc::clone(&gate),
            sink,
            options,
        )
        .unwrap();
        let (primary, secondary) = (Some(primary), None);
        Some(Pair {
            primary,
            secondary,
            gate,
            events,
            ours,
            theirs,
            session: 0,
            acknowledges_on_receipt: false,
        })
    }

    fn primary(&self) -> &Primary {
        self.primary.as_ref().unwrap()
    }

    /// Begins a session; returns its number.
    fn attach(&mut self, in_sync: bool) -> u64 {
        if self.secondary.is_none() {
            let sink = Box::new(|event| {
                if let SecondaryEvent::LocalDiskFailed { .. } = event {
                    panic!("{event:?}");
                }
            });
            let secondary = Secondary::start(Arc::clone(&self.theirs.copy), sink).unwrap();
            secondary.acknowledge_on_receipt(self.acknowledges_on_receipt.then_some(Epoch(1)));
            self.secondary = Some(secondary);
        }
        // What a first session makes durable is not part of how fast a living secondary answers.
        self.theirs.copy.persist_epoch(Epoch(1)).unwrap();
        self.session += 1;
        let (dialled, accepted) = links();
        let mut hello = hello(1, self.session);
        hello.start = if in_sync {
            Start::Identical
        } else {
            Start::Compare
        };
        let secondary = self.secondary.as_ref().unwrap();
        thread::scope(|scope| {
            let accepting = scope.spawn(|| {
                let mut accepted = accepted;
                let hello = accepted.read_hello(Duration::from_secs(5)).unwrap();
                secondary.accept(accepted, &hello, None)
            });
            self.primary().attach(dialled, hello).unwrap();
            accepting.join().unwrap().unwrap();
        });
        self.session
    }

    /// What the primary tells next. On a busy machine any link is quiet for a moment, which is no failure.
    fn next_event(&self) -> PrimaryEvent {
        loop {
            match self.events.recv_timeout(Duration::from_secs(60)).unwrap() {
                PrimaryEvent::LinkQuiet { .. } => {}
                event => return event,
            }
        }
    }

    fn wait_resynced(&self) -> (u64, u64) {
        match self.next_event() {
            PrimaryEvent::Resynced {
                bytes_total,
                bytes_sent,
                ..
            } => (bytes_total, bytes_sent),
            other => panic!("instead of a resync: {other:?}"),
        }
    }

    /// Waits for the end of the session.
    fn wait_lost(&self) {
        let lost = self.next_event();
        let is_it =
            matches!(&lost, PrimaryEvent::SessionLost { session, .. } if *session == self.session);
        assert!(
            is_it,
            "instead of the end of session {}: {lost:?}",
            self.session
        );
    }

    fn sh(&self, script: &str) {
        sh_in(&self.ours, script);
    }

    /// Stops both sides in order and compares the bare directories.
    fn finish_equal(mut self) {
        let primary = self.primary.take().unwrap();
        primary.drain(Duration::from_secs(20)).unwrap();
        primary.stop(Unmount::Clean).unwrap();
        self.secondary.take().unwrap().stop().unwrap();
        assert_equal(&self.ours.path(), &self.theirs.path());
    }
}

fn sh_in(copy: &TestCopy, script: &str) {
    let output = Command::new("bash")
        .args(["-euxc", script])
        .current_dir(copy.path())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}\n{out}{err}", output.status);
}

const TREE: &str = r#"
    mkdir -p a/b/c d/e; seq 200000 > a/big; truncate -s 5M a/sparse; printf end >> a/sparse
    for i in $(seq 100); do echo $i > d/e/f$i; done; ln a/big d/hard; ln -s a/big s; mkfifo a/b/pipe; mknod n c 1 3
    printf 'odd' > "$(printf 'odd\n \xff')"; chown 5:6 d d/e/f7; chmod 4755 d/e/f8; chmod 2775 d; touch -d @77 d/e/f9 a/b
"#;

const CHANGES: &str = r#"
    mkdir x; for i in $(seq 50); do echo $i > x/f$i; done; mv x/f1 x/f2; rm x/f3; mv x y; echo more >> y/f4
    ln y/f4 y/g4; rm y/f4; mkdir y/sub; mv y/f5 y/sub/; rmdir "$(mkdir -p t && echo t)"; truncate -s 100000 y/f6
    dd if=/dev/urandom of=y/data bs=64k count=20 status=none; dd if=/dev/zero of=y/data bs=4k seek=3 count=2 conv=notrunc status=none
    fallocate -l 300000 y/alloc; fallocate -p -o 8192 -l 65536 y/data; chmod 711 y; chown 9:9 y/g4; touch -d @5 y/f7 y
    ln -s nowhere y/l; mkfifo y/p; mv y/l y/l2; cp -a y z; rm -r y/sub
"#;

#[test]
fn a_tree_is_copied_and_follows() {
    let Some(mut pair) = Pair::new(false, TREE) else {
        return;
    };
    pair.attach(false);
    let (total, sent) = pair.wait_resynced();
    assert!(total > 6_000_000 && sent > 1_280_000, "{total} {sent}");
    pair.sh(CHANGES);
    let progress = pair.primary().progress();
    assert_eq!((progress.bytes_done, progress.bytes_sent), (total, sent));
    pair.finish_equal();
}

#[test]
fn changes_while_the_tree_is_compared() {
    let Some(mut pair) = Pair::new(false, TREE) else {
        return;
    };
    sh_in(&pair.theirs, TREE);
    // The copy differs: other content, names that must go, other kinds.
    sh_in(
        &pair.theirs,
        "echo x >> a/big; rm -r d/e; echo > d/e; mkdir n2 && echo > n2/f; rm s; mkdir -p s/u/v; chmod 700 a; touch extra",
    );
    pair.attach(false);
    pair.sh(CHANGES);
    pair.sh("mv a/b d/e/moved; mv d/e renamed; ln a/big renamed/third; rm a/big d/hard; mkdir d/new; mv renamed/f9 d/new/; rm -r renamed/moved");
    pair.wait_resynced();
    pair.sh("echo after > after; cat after >> d/new/f9");
    pair.finish_equal();
}

#[test]
fn a_copy_that_comes_back_gets_what_differs() {
    let Some(mut pair) = Pair::new(false, TREE) else {
        return;
    };
    pair.attach(false);
    pair.wait_resynced();
    pair.secondary.take().unwrap().stop().unwrap();
    pair.wait_lost();
    pair.sh(CHANGES);
    pair.sh("printf X | dd of=a/big bs=1 seek=400000 conv=notrunc status=none");
    pair.attach(false);
    let (total, sent) = pair.wait_resynced();
    assert!(sent < total / 2, "{sent} of {total} sent");
    pair.finish_equal();
}

#[test]
fn identical_copies_follow_without_a_comparison() {
    let Some(mut pair) = Pair::new(true, TREE) else {
        return;
    };
    let archive = format!("cp -a {}/. .", pair.ours.path().display());
    // Below the mount, which answers nothing that changes before the peer is attached.
    sh_in(&pair.theirs, &archive);
    pair.attach(true);
    pair.sh(CHANGES);
    pair.sh("echo x >> d/e/f1; rm d/hard; echo y >> a/big; mv a/b/c d/c; chmod 700 d/e; ln d/e/f2 a/b/f2; rm d/e/f2; echo z >> a/b/f2");
    pair.finish_equal();
}

/// Goal: a peer that lost its memory is not named in sync by what it acknowledged before. Nothing is on its way to it, so without
/// something new to acknowledge the hold would succeed at once.
#[test]
fn regression_what_a_peer_acknowledged_before_proves_nothing() {
    let Some(pair) = Pair::new(true, "echo 1 >file") else {
        return;
    };
    let (dialled, mut silent_peer) = links();
    let mut hello = hello(1, 1);
    hello.start = Start::Identical;
    thread::scope(|scope| {
        scope.spawn(|| {
            let hello = silent_peer.read_hello(Duration::from_secs(5)).unwrap();
            let accepted = Message::HelloReply(HelloReply::Accepted);
            silent_peer.send_message(hello.epoch, &accepted).unwrap();
        });
        pair.primary().attach(dialled, hello).unwrap();
    });
    let replicator = &pair.primary().replicator;
    replicator.wait_idle(Duration::ZERO).unwrap();
    let patience = Duration::from_millis(50);
    let held = pair.primary().hold_for_addition(patience);
    assert_eq!(held.unwrap_err(), WaitError::TimedOut { waited: patience });
}

/// Goal: with acknowledgement on receipt a drain and an addition still wait until the secondary has applied everything. Method: its disk
/// stands still; the application is answered all the same.
#[test]
fn a_drain_means_applied_whatever_was_acknowledged() {
    let Some(place) = SlowPlace::new() else {
        return;
    };
    let Some(mut pair) = Pair::of(TestCopy::new(), place.copy(), true, "true") else {
        return;
    };
    pair.acknowledges_on_receipt = true;
    pair.attach(true);
    pair.sh("echo 1 > f");
    pair.primary().drain(Duration::from_secs(20)).unwrap();
    place.stand_still();
    pair.sh("chmod 600 f");
    let patience = Duration::from_millis(100);
    let held = pair.primary().hold_for_addition(patience);
    assert_eq!(held.unwrap_err(), WaitError::TimedOut { waited: patience });
    let drained = pair.primary().drain(patience).unwrap_err();
    assert!(matches!(drained, DrainError::Secondary(_)), "{drained}");
    place.go_on();
    pair.finish_equal();
}

/// Goal: what somebody outside the application changes after the drain is applied on the secondary when the primary has stopped, or the
/// stop says that it may not be. Whoever uses the directory to the end does not change that.
#[test]
fn what_is_changed_after_the_drain_is_applied_before_the_end() {
    for (is_slow, is_used) in [(false, false), (true, false), (false, true), (true, true)] {
        let Some(place) = SlowPlace::new() else {
            return;
        };
        let Some(mut pair) = Pair::of(TestCopy::new(), place.copy(), true, "true") else {
            return;
        };
        pair.acknowledges_on_receipt = true;
        pair.attach(true);
        pair.primary().drain(Duration::from_secs(20)).unwrap();
        if is_slow {
            place.stand_still();
        }
        pair.sh("mkdir late");
        let user = is_used.then(|| std::fs::File::open(pair.ours.path()).unwrap());
        let stopped = pair.primary().stop(Unmount::Clean);
        drop(user);
        let is_told = matches!(stopped, Err(StopError::NotDrained(_)));
        assert_eq!(is_told, is_slow, "{stopped:?}");
        assert_eq!(stopped.is_err(), is_slow || is_used, "{stopped:?}");
        assert_eq!(pair.primary().is_confirmed(), !is_slow);
        place.go_on();
        pair.secondary.take().unwrap().stop().unwrap();
        assert_equal(&pair.ours.path(), &pair.theirs.path());
    }
}

/// Goal: a stop after which nothing was changed asks the secondary nothing more, and needs it no more.
#[test]
fn a_drained_primary_ends_at_once() {
    for is_secondary_gone in [false, true] {
        let Some(mut pair) = Pair::new(true, "true") else {
            return;
        };
        pair.attach(true);
        pair.sh("mkdir d && seq 10000 > d/f && cp d/f g && rm d/f");
        // What the kernel says of files that were closed or removed may come late.
        eventually("every file is closed", || {
            pair.primary().fs.open_count() == 0
        });
        pair.primary().drain(Duration::from_secs(20)).unwrap();
        let last = pair.primary().replicator.last_change();
        if is_secondary_gone {
            pair.secondary.take().unwrap().stop().unwrap();
            pair.wait_lost();
        }
        pair.primary().stop(Unmount::Clean).unwrap();
        assert!(pair.primary().is_confirmed());
        assert_eq!(pair.primary().replicator.last_change(), last);
    }
}

/// Goal: only the secondary can say that it has everything. Method: it is not counted, or was never there, or the end was not in order.
#[test]
fn an_end_without_the_secondary_confirms_nothing() {
    for (counts_peer, how) in [
        (false, Unmount::Clean),
        (true, Unmount::Clean),
        (true, Unmount::Abort),
    ] {
        let Some(pair) = Pair::new(counts_peer, "true") else {
            return;
        };
        pair.primary().drain(Duration::from_secs(20)).unwrap();
        pair.primary().stop(how).unwrap();
        assert!(!pair.primary().is_confirmed());
    }
}

/// Goal: what a session confirmed says nothing of the next one, also when that has shipped as much.
#[test]
fn regression_a_drain_of_a_former_session_does_not_count() {
    let Some(mut pair) = Pair::new(false, "true") else {
        return;
    };
    pair.attach(false);
    pair.wait_resynced();
    pair.primary().drain(Duration::from_secs(20)).unwrap();
    let shipped = pair.primary().replicator.last_change();
    pair.secondary.take().unwrap().stop().unwrap();
    pair.wait_lost();
    pair.attach(false);
    pair.wait_resynced();
    let _held = pair
        .primary()
        .hold_for_addition(Duration::from_secs(20))
        .unwrap();
    let (Ticket::Shipped { seq: before, .. }, Ticket::Shipped { seq: now, .. }) =
        (shipped, pair.primary().replicator.last_change())
    else {
        panic!("nothing was shipped");
    };
    assert_eq!(now, before, "both sessions have shipped as much");
    pair.primary().stop(Unmount::Clean).unwrap();
    assert!(pair.primary().is_confirmed());
    let barrier = Ticket::Shipped {
        session: 2,
        seq: now + 1,
    };
    assert_eq!(pair.primary().replicator.last_change(), barrier);
}

#[test]
fn nothing_is_acknowledged_after_the_fence() {
    let Some(pair) = Pair::new(false, "echo 1 > f") else {
        return;
    };
    pair.sh("echo 2 > f");
    let path = pair.ours.path();
    pair.gate.close();
    let waiting = thread::spawn({
        let path = path.clone();
        move || std::fs::write(path.join("f"), "3")
    });
    pair.primary().fence();
    let refused = waiting.join().unwrap().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(5));
    assert_eq!(
        std::fs::read(path.join("f")).unwrap_err().raw_os_error(),
        Some(5)
    );
    pair.primary().stop(Unmount::Abort).unwrap();
    assert_eq!(std::fs::read_to_string(path.join("f")).unwrap(), "2\n");
}

#[test]
fn processes_in_the_directory_are_cut_off_when_they_do_not_leave() {
    let Some(pair) = Pair::new(false, "echo 1 > f") else {
        return;
    };
    let held = std::fs::File::open(pair.ours.path().join("f")).unwrap();
    let error = pair.primary().stop(Unmount::Clean).unwrap_err();
    let is_busy = matches!(error, StopError::Unmount(UnmountError::Busy(_)));
    assert!(is_busy, "{error:?}");
    assert!(std::io::Read::read(&mut &held, &mut [0; 10]).is_err());
    drop(held);
    eventually("the mount is gone", || {
        std::fs::read_to_string(pair.ours.path().join("f")).is_ok()
    });
}

/// More than the usual few for a soak: `SEEDS=100`.
fn seeds() -> u64 {
    std::env::var("SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(3)
}

#[test]
fn a_resync_under_load_ends_with_equal_copies() {
    for seed in 0..seeds() {
        let Some(mut pair) = Pair::of(TestCopy::in_memory(), TestCopy::in_memory(), false, TREE)
        else {
            return;
        };
        let load = load::Load::start(&pair.ours.path(), 4, seed);
        // Something to compare that was there before, and something that is stale.
        eventually("the tree has grown", || load.count() > 500);
        if seed % 2 == 1 {
            sh_in(
                &pair.theirs,
                &format!("{TREE} mkdir -p d0/d1 d2; echo x > d0/f1; echo y > d2/f2; mkdir d1"),
            );
        }
        pair.attach(false);
        let (total, sent) = pair.wait_resynced();
        assert_eq!(pair.primary().progress().bytes_done, total);
        assert!(sent <= total, "{sent} of {total} sent");
        let before = load.count();
        eventually("the load goes on", || load.count() > before + 500);
        load.stop();
        pair.finish_equal();
    }
}

#[test]
fn identical_copies_stay_equal_under_load() {
    stay_equal_under_load(false);
}

#[test]
fn copies_acknowledged_on_receipt_are_equal_after_the_load() {
    stay_equal_under_load(true);
}

fn stay_equal_under_load(acknowledges_on_receipt: bool) {
    for seed in 0..seeds() {
        let (ours, theirs) = (TestCopy::in_memory(), TestCopy::in_memory());
        let load = load::Load::start(&ours.path(), 2, seed);
        eventually("the tree has grown", || load.count() > 1000);
        load.stop();
        sh_in(&theirs, &format!("cp -a {}/. .", ours.path().display()));
        let Some(mut pair) = Pair::of(ours, theirs, true, "true") else {
            return;
        };
        let load = load::Load::start(&pair.ours.path(), 4, seed + 500);
        pair.acknowledges_on_receipt = acknowledges_on_receipt;
        pair.attach(true);
        eventually("the load goes on", || load.count() > 3000);
        load.stop();
        pair.finish_equal();
    }
}

/// Goal: a stop does not wait for a comparison that an attempt under way begins while it ends (its thread would be ended by nobody).
#[test]
fn regression_no_session_begins_after_a_stop() {
    let Some(pair) = Pair::new(false, "") else {
        return;
    };
    pair.primary().stop(Unmount::Clean).unwrap();
    let (dialled, _accepted) = links();
    let refused = pair.primary().attach(dialled, hello(1, 1));
    assert!(matches!(refused, Err(AttachError::Fenced)), "{refused:?}");
}
