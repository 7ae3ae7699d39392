//! Whether fencing has succeeded, from what each rung did (R8).
//!
//! The first rung cannot fail: a fenced gate answers every request of the module with an error. The next ones are tried in any
//! case; whether the last one is needed is decided here.

/// What became of the rungs that can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rungs {
    /// No virtual address of the module is on this server.
    pub addresses_gone: bool,
    /// No process of the module lives.
    pub processes_gone: bool,
    /// The mount is detached and its connection ended.
    pub mount_gone: bool,
}

/// What follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing of the former role is left.
    Fenced,
    /// Harmless: what survives has neither files nor address. Said, and nothing more.
    Harmless(&'static str),
    /// Nothing softer is left than to have this machine reset.
    Reset(&'static str),
}

/// Judges a fencing.
pub fn judge(rungs: Rungs) -> Verdict {
    match rungs {
        Rungs {
            addresses_gone: true,
            processes_gone: true,
            mount_gone: true,
        } => Verdict::Fenced,
        Rungs {
            addresses_gone: true,
            processes_gone: false,
            mount_gone: true,
        } => {
            Verdict::Harmless("processes of the module survive, without its files and its address")
        }
        Rungs {
            addresses_gone: true,
            processes_gone: true,
            mount_gone: false,
        } => Verdict::Harmless(
            "the mount cannot be taken off, but nobody uses it and it answers nothing",
        ),
        Rungs {
            addresses_gone: true,
            processes_gone: false,
            mount_gone: false,
        } => Verdict::Reset("processes of the module survive, and its mount cannot be aborted"),
        Rungs {
            addresses_gone: false,
            processes_gone: true | false,
            mount_gone: true | false,
        } => Verdict::Reset("the virtual address is still on this server, where another may lead"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_is_reset_only_when_no_softer_step_worked() {
        // Addresses, processes, mount: gone or not; F fenced, h harmless, R reset.
        let table = [
            ([true, true, true], 'F'),
            ([true, false, true], 'h'),
            ([true, true, false], 'h'),
            ([true, false, false], 'R'),
            ([false, true, true], 'R'),
            ([false, true, false], 'R'),
            ([false, false, true], 'R'),
            ([false, false, false], 'R'),
        ];
        for ([addresses_gone, processes_gone, mount_gone], expected) in table {
            let rungs = Rungs {
                addresses_gone,
                processes_gone,
                mount_gone,
            };
            let letter = match judge(rungs) {
                Verdict::Fenced => 'F',
                Verdict::Harmless(_) => 'h',
                Verdict::Reset(_) => 'R',
            };
            assert_eq!(letter, expected, "{rungs:?}");
        }
    }
}
