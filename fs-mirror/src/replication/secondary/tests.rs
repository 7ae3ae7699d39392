//! The secondary against a real directory, driven by the replicator over a real link.

mod aside;
mod hostile;
mod receipt;
mod trees;

use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use super::*;
use crate::Gate;
use crate::replication::replicator::{AttachError, Replicator};
use crate::replication::shipping::Shipping as _;
use crate::replication::testing::primary::Primary;
use crate::replication::testing::{PATIENCE, Request, TestCopy, hello, links, links_through};
use crate::replication::wire::{Hello, Start};

/// A primary's directory and a copy of it, in one session.
struct Mirror {
    source: tempfile::TempDir,
    copy: TestCopy,
    primary: Primary,
    replicator: Arc<Replicator<Request>>,
    session: ApplySession,
    ended: mpsc::Receiver<EndCause>,
    is_lost: Arc<AtomicBool>,
}

impl Mirror {
    fn of_empty_trees() -> Mirror {
        let (source, copy) = (tempfile::tempdir().unwrap(), TestCopy::new());
        // Equal in everything: the time of the top is shipped only when something in it changes.
        let made = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(77);
        for top in [source.path().to_owned(), copy.path()] {
            let top = std::fs::File::open(top).unwrap();
            top.set_modified(made).unwrap();
        }
        Mirror::over(source, copy)
    }

    fn over(source: tempfile::TempDir, copy: TestCopy) -> Mirror {
        Mirror::with(source, copy, Options::default())
    }

    /// The copy was left behind by a force.
    fn diverged(source: tempfile::TempDir, copy: TestCopy, since: Epoch) -> Mirror {
        let options = Options {
            diverged_since: Some(since),
            ..Options::default()
        };
        Mirror::with(source, copy, options)
    }

    fn with(source: tempfile::TempDir, copy: TestCopy, options: Options) -> Mirror {
        let gate = Arc::new(Gate::open_forever());
        let replicator =
            Arc::new(Replicator::start(Epoch(3), false, gate, Box::new(|_| {})).unwrap());
        let mut primary = Primary::alone(source.path().to_owned());
        let is_lost = Arc::default();
        let (session, ended) = connect(
            links_through(&is_lost),
            &replicator,
            &copy,
            &hello(3, 1),
            &primary,
            options,
        )
        .unwrap();
        primary.attach(replicator.clone());
        Mirror {
            source,
            copy,
            primary,
            replicator,
            session,
            ended,
            is_lost,
        }
    }

    /// From now on nothing gets through, either way, and nobody is told.
    fn lose_link(&mut self) {
        self.is_lost.store(true, Ordering::Release);
        self.is_lost = Arc::default();
    }

    /// The session goes on over another link.
    fn resume(&self) {
        let (client, mut server) = links_through(&self.is_lost);
        let session = &self.session;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let hello = server.read_hello(PATIENCE).unwrap();
                let Start::Resume { received } = hello.start else {
                    panic!("{hello:?} does not resume");
                };
                session.resume(server, hello.epoch, received).unwrap();
            });
            self.replicator.resume(client, hello(3, 1)).unwrap();
        });
    }

    /// Ends the session on both sides; the trees are left.
    fn end(self) -> (tempfile::TempDir, TestCopy) {
        self.session.finish();
        while self.replicator.session() != 0 {
            std::thread::yield_now();
        }
        (self.source, self.copy)
    }

    fn assert_equal(&self) {
        self.replicator.wait_idle(PATIENCE).unwrap();
        crate::replication::testing::compare::assert_equal(self.source.path(), &self.copy.path());
    }
}

type Connected = (ApplySession, mpsc::Receiver<EndCause>);

fn connect(
    (client, mut server): (Link, Link),
    replicator: &Replicator<Request>,
    copy: &TestCopy,
    hello: &Hello,
    primary: &Primary,
    options: Options,
) -> Result<Connected, AttachError> {
    let (told, ended) = mpsc::channel();
    let copy = copy.copy.clone();
    let accepting = std::thread::spawn(move || {
        let hello = server.read_hello(PATIENCE).unwrap();
        let on_end = Box::new(move |cause| drop(told.send(cause)));
        ApplySession::accept(copy, server, &hello, options, on_end)
    });
    let attached = replicator.attach(client, hello, primary.answers.clone());
    let accepted = accepting.join().unwrap();
    attached.map(|()| (accepted.unwrap(), ended))
}
