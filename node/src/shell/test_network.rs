//! Networks for tests: each thread of a test may live in a network namespace of its own, which the
//! kernel takes away with the thread. Nothing has a name, nothing is left behind.
#![expect(
    unsafe_code,
    reason = "moving a thread to another namespace is unsafe in rustix"
)]

use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

/// Runs `test` in a thread with an empty network of its own (loopback up), and passes its panic on.
/// Where namespaces cannot be made the test is skipped and says so.
pub(crate) fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        if enter_new_network() {
            test();
        }
    };
    let outcome = std::thread::spawn(body).join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Another host: a thread that sits in its own network until it is dropped.
pub(crate) struct Host {
    leave: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Host {
    pub(crate) fn new() -> Host {
        let (leave, left) = channel::<()>();
        let (ready, is_ready) = channel();
        let thread = std::thread::spawn(move || {
            assert!(enter_new_network());
            ready.send(gettid().as_raw_nonzero().get()).unwrap();
            // Ends when the other side is dropped.
            let _ = left.recv();
        });
        Host {
            leave: Some(leave),
            thread: Some(thread),
            tid: is_ready.recv().unwrap(),
        }
    }

    /// Moves an interface of this thread's network to the host.
    pub(crate) fn take(&self, interface: &str) {
        run(&format!("ip link set {interface} netns {}", self.tid));
    }

    /// Runs a command in the host's network.
    pub(crate) fn run(&self, command: &str) {
        run(&self.inside(command));
    }

    /// What a command prints in the host's network.
    pub(crate) fn output(&self, command: &str) -> String {
        output(&self.inside(command))
    }

    fn inside(&self, command: &str) -> String {
        format!("nsenter --net=/proc/{}/ns/net {command}", self.tid)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.leave.take());
        let _ = self.thread.take().unwrap().join();
    }
}

/// Runs a command in the network of the calling thread.
pub(crate) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap();
    let status = Command::new(program).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// What a command prints.
pub(crate) fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap();
    let output = Command::new(program).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn enter_new_network() -> bool {
    // SAFETY: only the network of the calling thread changes; no memory or descriptor is shared
    // differently afterwards.
    if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
        println!("skipped: no network namespaces here: {error}");
        return false;
    }
    run("ip link set lo up");
    true
}
