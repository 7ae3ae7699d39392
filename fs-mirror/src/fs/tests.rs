//! The file system without a mount: what is shipped for which request, and in which order.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::CopyConfig;
use crate::replication::shipping::Verdict;

/// A request nobody waits for.
struct Nobody;

impl Completion for Nobody {
    fn finish(self, _verdict: Verdict) {}
}

/// Writes down what is shipped.
#[derive(Default)]
struct Recorder {
    session: AtomicU64,
    binds_on_use: AtomicBool,
    shipped: Mutex<Vec<String>>,
    abandoned: Mutex<Vec<&'static str>>,
}

impl Shipping<Nobody> for Recorder {
    fn session(&self) -> u64 {
        self.session.load(Ordering::Relaxed)
    }

    fn binds_on_use(&self) -> bool {
        self.binds_on_use.load(Ordering::Relaxed)
    }

    fn reserve(&self, _bytes: usize) {}

    fn ship(&self, session: u64, change: &Change<'_>) -> Ticket {
        assert_eq!(session, self.session.load(Ordering::Relaxed));
        let mut shipped = self.shipped.lock();
        shipped.push(describe(change));
        Ticket::Shipped {
            session,
            seq: shipped.len() as u64,
        }
    }

    fn abandon(&self, _session: u64, reason: &'static str) {
        self.abandoned.lock().push(reason);
    }

    fn complete(&self, _ticket: Ticket, completion: Nobody) {
        completion.finish(Verdict::Acknowledged);
    }

    fn flush(&self) {}
}

/// The facts that matter here, short enough to read in a test.
fn describe(change: &Change<'_>) -> String {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    match *change {
        Change::Create {
            parent, name, file, ..
        } => format!("create {} in {}: {}", text(name), parent.0, file.0),
        Change::Link { file, parent, name } => {
            format!("link {} as {} in {}", file.0, text(name), parent.0)
        }
        Change::Unlink { parent, name } => format!("unlink {} in {}", text(name), parent.0),
        Change::Rmdir { parent, name } => format!("rmdir {} in {}", text(name), parent.0),
        Change::Rename {
            parent,
            name,
            new_parent,
            new_name,
            flags,
        } => {
            format!(
                "rename {} in {} to {} in {} ({flags})",
                text(name),
                parent.0,
                text(new_name),
                new_parent.0
            )
        }
        Change::Write { file, offset, data } => {
            format!("write {} at {offset}: {}", file.0, text(data))
        }
        Change::SetAttributes { file, change } => {
            let names = [
                ("mode", change.mode.is_some()),
                ("uid", change.uid.is_some()),
                ("gid", change.gid.is_some()),
                ("size", change.size.is_some()),
                ("atime", change.atime.is_some()),
                ("mtime", change.mtime.is_some()),
            ];
            let set: Vec<_> = names
                .iter()
                .filter(|(_, is_set)| *is_set)
                .map(|(name, _)| *name)
                .collect();
            format!("set {}: {}", file.0, set.join(" "))
        }
        Change::SetXattr { file, name, .. } => format!("xattr {} of {}", text(name), file.0),
        Change::RemoveXattr { file, name } => format!("no xattr {} of {}", text(name), file.0),
        Change::Allocate {
            file,
            mode,
            offset,
            length,
        } => format!("allocate {} {mode} {offset}+{length}", file.0),
        Change::Sync { file, data_only } => format!("sync {} {data_only}", file.0),
        Change::Forget { file } => format!("forget {}", file.0),
        Change::Bind { parent, name, file } => {
            format!("bind {} in {}: {}", text(name), parent.0, file.0)
        }
        Change::DirectoryBegin { directory, .. } => format!("begin {}", directory.0),
        Change::Entry {
            parent, name, file, ..
        } => format!("entry {} in {}: {}", text(name), parent.0, file.0),
        Change::DirectoryEnd { directory, .. } => format!("end {}", directory.0),
        Change::BlockDigest {
            file,
            offset,
            length,
            ..
        } => format!("digest {} {offset}+{length}", file.0),
        Change::Barrier => "barrier".to_owned(),
    }
}

struct Fixture {
    fs: Fs<Nobody>,
    recorder: Arc<Recorder>,
    gate: Arc<Gate>,
    directory: tempfile::TempDir,
}

const ME: Caller = Caller { uid: 0, gid: 0 };

impl Fixture {
    fn new(access: Access) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let state_dir = directory.path().join("state");
        let copy = Copy::open(CopyConfig {
            module: "test".into(),
            directory: data,
            run_dir: state_dir.clone(),
            state_dir,
        })
        .unwrap();
        let (recorder, gate) = (
            Arc::new(Recorder::default()),
            Arc::new(Gate::open_forever()),
        );
        let shipping: Arc<dyn Shipping<Nobody>> = Arc::clone(&recorder) as _;
        let on_fault = Box::new(|fault| panic!("{fault:?}"));
        let fs = Fs::new(&copy, access, Arc::clone(&gate), shipping, on_fault).unwrap();
        Fixture {
            fs,
            recorder,
            gate,
            directory,
        }
    }

    /// A resync begins, and nothing is listed yet but the root when `lists_root`.
    fn begin(&self, lists_root: bool) {
        self.recorder.session.store(7, Ordering::Relaxed);
        let root = self.fs.begin_resync(7);
        if lists_root {
            self.fs.list(&root, 7);
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    fn node(&self, path: &str) -> NodeId {
        path.split('/').fold(NodeId::ROOT, |parent, name| {
            self.fs.lookup(parent, name.as_bytes()).unwrap().node
        })
    }

    fn new_object<'a>(&self, parent: NodeId, name: &'a str, mode: u32) -> NewObject<'a> {
        NewObject {
            parent,
            name: name.as_bytes(),
            mode,
            umask: 0o022,
            caller: ME,
        }
    }

    fn create(&self, parent: NodeId, name: &str) -> (NodeId, HandleId) {
        let flags = OFlags::RDWR.bits();
        let (attributes, handle) = self
            .fs
            .create(self.new_object(parent, name, 0o644), flags)
            .unwrap()
            .value;
        (attributes.node, handle)
    }

    fn write(&self, handle: HandleId, data: &str) -> Ticket {
        let writing = Writing {
            offset: 0,
            data: data.as_bytes(),
            clears_privileges: false,
        };
        self.fs.write(handle, writing).unwrap().ticket
    }

    fn rename(&self, parent: NodeId, name: &str, new_parent: NodeId, new_name: &str) {
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        let _changed = self
            .fs
            .rename(Renaming {
                parent,
                name,
                new_parent,
                new_name,
                flags: 0,
            })
            .unwrap();
    }

    /// What was shipped since the last call.
    fn shipped(&self) -> Vec<String> {
        assert!(self.recorder.abandoned.lock().is_empty());
        std::mem::take(&mut self.recorder.shipped.lock())
    }
}

#[test]
fn without_a_session_nothing_is_shipped() {
    let fixture = Fixture::new(Access::ReadWrite);
    let (_, handle) = fixture.create(NodeId::ROOT, "f");
    assert_eq!(fixture.write(handle, "x"), Ticket::NotShipped);
    fixture.fs.release(handle);
    fixture.fs.sweep_times();
    assert!(fixture.shipped().is_empty());
}

#[test]
fn the_life_of_a_file() {
    let fixture = Fixture::new(Access::ReadWrite);
    fixture.begin(true);
    let (node, handle) = fixture.create(NodeId::ROOT, "f");
    assert_eq!(
        fixture.write(handle, "one"),
        Ticket::Shipped { session: 7, seq: 4 }
    );
    fixture.write(handle, "two");
    let _synced = fixture.fs.sync(handle, true).unwrap();
    let set = SetAttributes {
        mode: Some(0o600),
        ..SetAttributes::default()
    };
    let _set = fixture.fs.set_attributes(node, None, set, ME).unwrap();
    let cut = SetAttributes {
        size: Some(1),
        ..SetAttributes::default()
    };
    let _set = fixture
        .fs
        .set_attributes(node, Some(handle), cut, ME)
        .unwrap();
    let _linked = fixture.fs.link(node, NodeId::ROOT, b"g").unwrap();
    let _gone = fixture.fs.unlink(NodeId::ROOT, b"f").unwrap();
    let _gone = fixture.fs.unlink(NodeId::ROOT, b"g").unwrap();
    fixture.write(handle, "open");
    fixture.fs.release(handle);
    fixture.fs.forget(node, 2);
    let expected = [
        "begin 1",
        "end 1",
        "create f in 1: 2",
        "write 2 at 0: one",
        "write 2 at 0: two",
        "sync 2 true",
        "set 2: mode",
        "set 2: mode size mtime",
        "link 2 as g in 1",
        "unlink f in 1",
        "unlink g in 1",
        "write 2 at 0: open",
        "set 2: mtime",
        "forget 2",
    ];
    assert_eq!(fixture.shipped(), expected);
    fixture.fs.sweep_times();
    assert_eq!(fixture.shipped(), ["set 1: mtime"]);
    assert_eq!((fixture.fs.open_count(), fixture.fs.inode_count()), (0, 0));
}

#[test]
fn what_is_not_listed_is_not_shipped() {
    let fixture = Fixture::new(Access::ReadWrite);
    std::fs::create_dir(fixture.path().join("d")).unwrap();
    std::fs::write(fixture.path().join("d/f"), "x").unwrap();
    fixture.begin(true);
    assert_eq!(fixture.shipped(), ["begin 1", "entry d in 1: 2", "end 1"]);
    // The directory itself is known, what is in it is not.
    let directory = fixture.node("d");
    let (_, handle) = fixture.create(directory, "new");
    fixture.write(handle, "x");
    let _gone = fixture.fs.unlink(directory, b"f").unwrap();
    assert!(fixture.shipped().is_empty());
    let set = SetAttributes {
        mode: Some(0o700),
        ..SetAttributes::default()
    };
    let _set = fixture.fs.set_attributes(directory, None, set, ME).unwrap();
    assert_eq!(fixture.shipped(), ["set 2: mode"]);
    for found in fixture.fs.take_found() {
        fixture.fs.list(&found.inode, 7);
    }
    fixture.write(handle, "y");
    assert_eq!(
        fixture.shipped(),
        ["begin 2", "entry new in 2: 3", "end 2", "write 3 at 0: y"]
    );
}

#[test]
fn a_name_that_moves_into_an_unlisted_directory_has_it_listed_first() {
    let fixture = Fixture::new(Access::ReadWrite);
    std::fs::create_dir_all(fixture.path().join("a/b")).unwrap();
    fixture.begin(true);
    fixture.create(NodeId::ROOT, "f");
    fixture.shipped();
    let deep = fixture.node("a/b");
    fixture.rename(NodeId::ROOT, "f", deep, "g");
    let shipped = fixture.shipped();
    assert_eq!(shipped[0], "begin 2", "{shipped:?}");
    assert_eq!(
        shipped[1..],
        [
            "entry b in 2: 4",
            "end 2",
            "begin 4",
            "end 4",
            "rename f in 1 to g in 4 (0)"
        ]
    );
}

#[test]
fn removing_a_directory_that_is_not_listed_lists_it_first() {
    let fixture = Fixture::new(Access::ReadWrite);
    std::fs::create_dir(fixture.path().join("d")).unwrap();
    fixture.begin(true);
    fixture.shipped();
    let directory = fixture.node("d");
    let _gone = fixture.fs.remove_directory(NodeId::ROOT, b"d").unwrap();
    assert_eq!(fixture.shipped(), ["begin 2", "end 2", "rmdir d in 1"]);
    for found in fixture.fs.take_found() {
        fixture.fs.release_found(&found.inode);
    }
    fixture.fs.forget(directory, 1);
    assert_eq!(fixture.shipped(), ["forget 2"]);
}

#[test]
fn a_file_whose_last_listed_name_goes_is_found_anew_under_another() {
    let fixture = Fixture::new(Access::ReadWrite);
    std::fs::create_dir(fixture.path().join("d")).unwrap();
    std::fs::write(fixture.path().join("f"), "x").unwrap();
    std::fs::hard_link(fixture.path().join("f"), fixture.path().join("d/g")).unwrap();
    fixture.begin(true);
    fixture.shipped();
    let node = fixture.node("f");
    let handle = fixture.fs.open(node, OFlags::RDWR.bits()).unwrap();
    let _gone = fixture.fs.unlink(NodeId::ROOT, b"f").unwrap();
    fixture.write(handle, "y");
    let shipped = fixture.shipped();
    assert_eq!(shipped[0], "unlink f in 1");
    assert!(
        shipped[1].starts_with("forget ") && shipped.len() == 2,
        "{shipped:?}"
    );
    for found in fixture.fs.take_found() {
        fixture.fs.list(&found.inode, 7);
    }
    fixture.write(handle, "z");
    let shipped = fixture.shipped();
    assert_eq!(shipped.last().unwrap(), "write 4 at 0: z", "{shipped:?}");
}

#[test]
fn objects_are_bound_on_first_use_in_a_session_that_began_in_sync() {
    let fixture = Fixture::new(Access::ReadWrite);
    std::fs::create_dir_all(fixture.path().join("a/b")).unwrap();
    std::fs::write(fixture.path().join("a/b/f"), "x").unwrap();
    fixture.recorder.binds_on_use.store(true, Ordering::Relaxed);
    fixture.recorder.session.store(7, Ordering::Relaxed);
    let node = fixture.node("a/b/f");
    // The name it was found by is not the one it has when it is used.
    fixture.rename(fixture.node("a"), "b", NodeId::ROOT, "c");
    let handle = fixture.fs.open(node, OFlags::RDWR.bits()).unwrap();
    fixture.write(handle, "y");
    fixture.write(handle, "z");
    let expected = [
        "bind a in 1: 2",
        "rename b in 2 to c in 1 (0)",
        "bind c in 1: 3",
        "bind f in 3: 4",
        "write 4 at 0: y",
        "write 4 at 0: z",
    ];
    assert_eq!(fixture.shipped(), expected);
}

#[test]
fn a_binding_outlives_the_use_of_an_object_but_not_the_session() {
    let fixture = Fixture::new(Access::ReadWrite);
    fixture.begin(true);
    let (node, handle) = fixture.create(NodeId::ROOT, "f");
    fixture.fs.release(handle);
    fixture.fs.forget(node, 1);
    assert_eq!(fixture.fs.inode_count(), 0);
    let write = || {
        let handle = fixture
            .fs
            .open(fixture.node("f"), OFlags::RDWR.bits())
            .unwrap();
        fixture.write(handle, "x")
    };
    assert!(matches!(write(), Ticket::Shipped { .. }));
    fixture.recorder.session.store(8, Ordering::Relaxed);
    fixture.fs.begin_resync(8);
    assert_eq!(write(), Ticket::NotShipped);
}

#[test]
fn a_write_by_another_user_takes_setuid_away_on_both_copies() {
    let fixture = Fixture::new(Access::ReadWrite);
    fixture.begin(true);
    let (node, handle) = fixture.create(NodeId::ROOT, "f");
    let set = SetAttributes {
        mode: Some(0o6755),
        ..SetAttributes::default()
    };
    let _set = fixture.fs.set_attributes(node, None, set, ME).unwrap();
    fixture.shipped();
    for data in ["x", "y"] {
        let writing = Writing {
            offset: 0,
            data: data.as_bytes(),
            clears_privileges: true,
        };
        let _written = fixture.fs.write(handle, writing).unwrap();
    }
    assert_eq!(
        fixture.shipped(),
        ["set 2: mode", "write 2 at 0: x", "write 2 at 0: y"]
    );
    assert_eq!(
        fixture.fs.attributes(node).unwrap().stat.st_mode & 0o7777,
        0o755
    );
}

#[test]
fn blocks_are_compared_as_they_are_now() {
    let fixture = Fixture::new(Access::ReadWrite);
    std::fs::write(fixture.path().join("f"), vec![b'a'; 1000]).unwrap();
    fixture.begin(true);
    fixture.shipped();
    let found = fixture.fs.take_found().remove(0);
    assert_eq!(found.size, 1000);
    let open = fixture.fs.open_for_resync(&found.inode).unwrap();
    let block = |offset| blocks::BlockOf {
        inode: &found.inode,
        file: found.file,
        open: &open,
        offset,
        length: 600,
    };
    let mut buffer = Vec::new();
    let digest =
        |offset, buffer: &mut Vec<u8>| fixture.fs.ship_digest(7, block(offset), buffer).unwrap();
    assert_eq!(
        digest(0, &mut buffer),
        blocks::Outcome::Shipped {
            seq: 1,
            length: 600
        }
    );
    assert_eq!(
        digest(600, &mut buffer),
        blocks::Outcome::Shipped {
            seq: 2,
            length: 400
        }
    );
    assert_eq!(digest(1200, &mut buffer), blocks::Outcome::Nothing);
    let sent = fixture.fs.ship_content(7, block(600), &mut buffer).unwrap();
    assert_eq!(
        sent,
        blocks::Outcome::Shipped {
            seq: 3,
            length: 400
        }
    );
    fixture.fs.ship_barrier(7);
    let shipped = fixture.shipped();
    assert_eq!(shipped[..2], ["digest 2 0+600", "digest 2 600+400"]);
    assert_eq!(shipped[3..], ["set 2: mtime", "barrier"]);
}

#[test]
fn a_secondary_refuses_every_change() {
    let fixture = Fixture::new(Access::ReadOnly);
    std::fs::write(fixture.path().join("f"), "x").unwrap();
    let (fs, node) = (&fixture.fs, fixture.node("f"));
    let handle = fs.open(node, OFlags::RDONLY.bits()).unwrap();
    assert_eq!(fs.open(node, OFlags::RDWR.bits()).unwrap_err(), Errno::ROFS);
    let new = |name| fixture.new_object(NodeId::ROOT, name, 0o644);
    assert_eq!(
        fs.create(new("g"), OFlags::RDWR.bits()).unwrap_err(),
        Errno::ROFS
    );
    assert_eq!(fs.make_directory(new("g")).unwrap_err(), Errno::ROFS);
    assert_eq!(fs.make_link(new("g"), b"f").unwrap_err(), Errno::ROFS);
    assert_eq!(fs.link(node, NodeId::ROOT, b"g").unwrap_err(), Errno::ROFS);
    assert_eq!(fs.unlink(NodeId::ROOT, b"f").unwrap_err(), Errno::ROFS);
    assert_eq!(
        fs.set_xattr(node, b"user.a", b"", 0).unwrap_err(),
        Errno::ROFS
    );
    assert_eq!(fs.sync(handle, true).unwrap_err(), Errno::ROFS);
    let mut buffer = [0; 10];
    assert_eq!(fs.read(handle, 0, &mut buffer), Ok(1));
}

#[test]
fn a_fenced_file_system_answers_nothing() {
    let fixture = Fixture::new(Access::ReadWrite);
    let (node, handle) = fixture.create(NodeId::ROOT, "f");
    fixture.gate.fence();
    assert_eq!(fixture.fs.attributes(node).unwrap_err(), Errno::IO);
    assert_eq!(fixture.fs.read(handle, 0, &mut [0]).unwrap_err(), Errno::IO);
    let writing = Writing {
        offset: 0,
        data: b"x",
        clears_privileges: false,
    };
    assert_eq!(fixture.fs.write(handle, writing).unwrap_err(), Errno::IO);
    assert_eq!(std::fs::read(fixture.path().join("f")).unwrap(), b"");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let fixture = Fixture::new(Access::ReadWrite);
    for name in [&b".."[..], b"a/b", b"", b"."] {
        assert_eq!(
            fixture.fs.lookup(NodeId::ROOT, name).unwrap_err(),
            Errno::INVAL
        );
        assert_eq!(
            fixture.fs.unlink(NodeId::ROOT, name).unwrap_err(),
            Errno::INVAL
        );
    }
    assert_eq!(fixture.fs.attributes(NodeId(77)).unwrap_err(), Errno::STALE);
    assert_eq!(
        fixture.fs.read(HandleId(0), 0, &mut [0]).unwrap_err(),
        Errno::BADF
    );
}
