//! What needs no process; `scripts` has the tests with processes.

use super::*;

#[test]
fn hierarchy_is_found_beside_an_older_one_and_alone() {
    let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
    assert_eq!(hierarchy(hybrid), Some("/sys/fs/cgroup/unified".into()));
    let alone = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
    assert_eq!(hierarchy(alone), Some("/sys/fs/cgroup".into()));
    let old = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
    assert_eq!(hierarchy(old), None);
    let odd = "cgroup2 /my\\040cgroups cgroup2 rw 0 0\n";
    assert_eq!(hierarchy(odd), Some("/my cgroups".into()));
}

#[test]
fn names_stay_below_their_parent() {
    let parent = Cgroup {
        path: "/nowhere".into(),
    };
    for name in ["", ".", "..", "a/b", "cgroup.procs", "a b", "\0"] {
        let refused = parent.child(name);
        assert!(
            matches!(refused, Err(CgroupError::BadName { .. })),
            "{name:?}"
        );
    }
}

#[test]
fn cgroup_that_does_not_exist_is_empty_and_removed() {
    let gone = Cgroup {
        path: "/sys/fs/cgroup/sidekick-not-there".into(),
    };
    assert!(gone.is_empty().unwrap());
    gone.kill_blocking(Duration::ZERO).unwrap();
}
