//! What an application may do to a tree, at random.

use proptest::prelude::*;

/// One operation of an application. Numbers choose among what exists, so that every operation can do something.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Make {
        parent: usize,
        name: u8,
        kind: u8,
        mode: u32,
    },
    Write {
        file: usize,
        offset: u64,
        length: usize,
        byte: u8,
    },
    Truncate {
        file: usize,
        size: u64,
    },
    PunchHole {
        file: usize,
        offset: u64,
        length: u64,
    },
    Mode {
        object: usize,
        mode: u32,
    },
    Owner {
        object: usize,
        uid: u32,
        gid: u32,
    },
    Mtime {
        object: usize,
        seconds: i64,
        nanoseconds: u32,
    },
    SetXattr {
        object: usize,
        name: u8,
        value: Vec<u8>,
    },
    RemoveXattr {
        object: usize,
        name: u8,
    },
    Link {
        file: usize,
        parent: usize,
        name: u8,
    },
    Remove {
        object: usize,
    },
    Rename {
        object: usize,
        parent: usize,
        name: u8,
        flags: u32,
    },
    Sync {
        object: usize,
    },
}

pub(crate) fn ops(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Op>> {
    let (index, name, mode) = (0usize..64, 0u8..6, 0..0o10000u32);
    let op = prop_oneof![
        6 => (index.clone(), name.clone(), 0u8..7, mode.clone())
            .prop_map(|(parent, name, kind, mode)| Op::Make { parent, name, kind, mode }),
        5 => (index.clone(), 0..40_000u64, 0..20_000usize, any::<u8>())
            .prop_map(|(file, offset, length, byte)| Op::Write { file, offset, length, byte }),
        2 => (index.clone(), 0..50_000u64).prop_map(|(file, size)| Op::Truncate { file, size }),
        1 => (index.clone(), 0..30_000u64, 1..9_000u64)
            .prop_map(|(file, offset, length)| Op::PunchHole { file, offset, length }),
        1 => (index.clone(), mode).prop_map(|(object, mode)| Op::Mode { object, mode }),
        1 => (index.clone(), 0..3u32, 0..3u32).prop_map(|(object, uid, gid)| Op::Owner { object, uid, gid }),
        1 => (index.clone(), 0..2_000_000_000i64, 0..1_000_000_000u32)
            .prop_map(|(object, seconds, nanoseconds)| Op::Mtime { object, seconds, nanoseconds }),
        1 => (index.clone(), 0u8..3, proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(object, name, value)| Op::SetXattr { object, name, value }),
        1 => (index.clone(), 0u8..3).prop_map(|(object, name)| Op::RemoveXattr { object, name }),
        2 => (index.clone(), index.clone(), name.clone())
            .prop_map(|(file, parent, name)| Op::Link { file, parent, name }),
        2 => index.clone().prop_map(|object| Op::Remove { object }),
        3 => (index.clone(), index.clone(), name, 0..3u32)
            .prop_map(|(object, parent, name, flags)| Op::Rename { object, parent, name, flags }),
        1 => index.prop_map(|object| Op::Sync { object }),
    ];
    proptest::collection::vec(op, count)
}
