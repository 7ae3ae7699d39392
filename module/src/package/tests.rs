//! Goal: a package is what it says or it is refused, and nothing is ever written outside its directory.
//! Method: archives built byte by byte or by a writer that we then damage.

use super::{EntryProblem, Package, PackageError};
use proptest::prelude::*;
use std::io::{Cursor, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

const CONFIGURATION: &str =
    r#"<safe><service mode="mirror"><rfs><replicated dir="/srv/a"/></rfs><user/></service></safe>"#;

fn options() -> SimpleFileOptions {
    SimpleFileOptions::DEFAULT
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::DEFAULT)
}

/// An archive of a good package and `extra` files.
fn archive(extra: &[(&str, SimpleFileOptions, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let good: [(&str, SimpleFileOptions, &[u8]); 3] = [
        ("conf/userconfig.xml", options(), CONFIGURATION.as_bytes()),
        ("bin/start_prim", options(), b"#!/bin/sh\n"),
        ("bin/stop_prim", options(), b"#!/bin/sh\n"),
    ];
    for (name, options, content) in good.iter().chain(extra) {
        writer.start_file(*name, *options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn with_entry(name: &str) -> Vec<u8> {
    archive(&[(name, options(), b"x")])
}

/// Replaces all occurrences of one byte string by another of the same length.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> = (0..=bytes.len() - from.len())
        .filter(|at| bytes[*at..].starts_with(from))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
}

fn problem(bytes: &[u8]) -> EntryProblem {
    match Package::read(bytes) {
        Err(PackageError::Entry { problem, .. }) => problem,
        other => panic!("expected a refused entry, got {other:?}"),
    }
}

#[test]
fn names_that_are_refused() {
    let long = format!("bin/{}", "a".repeat(256));
    let deep = format!("bin/{}a", "d/".repeat(8));
    let very_long = format!("bin/{}a", format!("{}/", "d".repeat(200)).repeat(3));
    let cases: Vec<(&str, EntryProblem)> = vec![
        ("../evil", EntryProblem::NameLeadsOut),
        ("bin/../../evil", EntryProblem::NameLeadsOut),
        ("/etc/passwd", EntryProblem::NameLeadsOut),
        ("bin//x", EntryProblem::NameLeadsOut),
        ("./bin/x", EntryProblem::NameLeadsOut),
        ("bin/a\\b", EntryProblem::NameCharacters),
        ("C:\\evil", EntryProblem::NameCharacters),
        ("bin/a\nb", EntryProblem::NameCharacters),
        ("bin/a\0b", EntryProblem::NameCharacters),
        ("evil", EntryProblem::OutsideAllowed),
        ("C:/evil", EntryProblem::OutsideAllowed),
        ("BIN/x", EntryProblem::OutsideAllowed),
        ("lib/x", EntryProblem::OutsideAllowed),
        (&long, EntryProblem::NameTooLong),
        (&very_long, EntryProblem::NameTooLong),
        (&deep, EntryProblem::NameTooDeep),
        ("bin/START_PRIM", EntryProblem::Duplicate),
        ("bin/start_prim/x", EntryProblem::FileAndDirectory),
    ];
    for (name, expected) in cases {
        // The writer tidies some names, so a harmless one of the same length is written and then replaced.
        let harmless = format!("bin/{}", "q".repeat(name.len().saturating_sub(4)));
        let mut bytes = with_entry(&harmless);
        if harmless.len() == name.len() {
            replace(&mut bytes, harmless.as_bytes(), name.as_bytes());
        } else {
            bytes = with_entry(name);
        }
        assert_eq!(problem(&bytes), expected, "{name:?}");
    }
    let mut bytes = with_entry("bin/qq");
    replace(&mut bytes, b"bin/qq", b"bin/\xff\xfe");
    assert_eq!(problem(&bytes), EntryProblem::NameNotUtf8);
    let mut bytes = with_entry("bin/start_priq");
    replace(&mut bytes, b"bin/start_priq", b"bin/start_prim");
    assert_eq!(problem(&bytes), EntryProblem::Duplicate);
}

/// The upper half of "external attributes" in the central directory is the Unix mode.
fn with_mode(mode: u32) -> Vec<u8> {
    let mut bytes = archive(&[("bin/qq", options().unix_permissions(0o123), b"x")]);
    let from = ((0o100_000_u32 | 0o123) << 16).to_le_bytes();
    replace(&mut bytes, &from, &(mode << 16).to_le_bytes());
    bytes
}

#[test]
fn kinds_and_bits_that_are_refused() {
    let cases = [
        (0o120_777, EntryProblem::Kind("a symbolic link")),
        (0o060_600, EntryProblem::Kind("a device")),
        (0o020_600, EntryProblem::Kind("a device")),
        (0o010_600, EntryProblem::Kind("a pipe")),
        (0o140_600, EntryProblem::Kind("a socket")),
        (0o150_600, EntryProblem::Kind("something unknown")),
        (0o104_755, EntryProblem::SpecialBits),
        (0o102_755, EntryProblem::SpecialBits),
        (0o101_755, EntryProblem::SpecialBits),
        (0o040_755, EntryProblem::FileAndDirectory),
    ];
    for (mode, expected) in cases {
        assert_eq!(problem(&with_mode(mode)), expected, "mode {mode:o}");
    }
    assert!(Package::read(&with_mode(0o100_777)).is_ok());
}

#[test]
fn sizes_and_damage_that_are_refused() {
    let text = |bytes: &[u8]| Package::read(bytes).unwrap_err().to_string();
    assert!(text(b"").starts_with("not a readable .safe package (zip): "));
    assert!(text(b"<safe/>").starts_with("not a readable .safe package (zip): "));
    assert_eq!(
        text(&vec![0; super::PACKAGE_BYTES_MAX + 1]),
        "the package exceeds the limit of 16777216 bytes"
    );
    let bomb = archive(&[("web/bomb", options(), &vec![0; 4 * 1024 * 1024])]);
    assert_eq!(
        text(&bomb),
        "the compression of an entry exceeds the limit of 200 to 1"
    );
    let many: Vec<String> = (0..2000).map(|index| format!("web/{index}")).collect();
    let many: Vec<(&str, SimpleFileOptions, &[u8])> = many
        .iter()
        .map(|name| (name.as_str(), options(), b"".as_slice()))
        .collect();
    assert_eq!(
        text(&archive(&many)),
        "the number of entries exceeds the limit of 2000"
    );
    let mut prefixed = b"#!/bin/sh\n".to_vec();
    prefixed.extend(archive(&[]));
    assert_eq!(
        text(&prefixed),
        "not a .safe package: the zip file does not start at the first byte"
    );
    let mut damaged = archive(&[(
        "bin/x",
        options().compression_method(CompressionMethod::Stored),
        b"0123456789",
    )]);
    replace(&mut damaged, b"0123456789", b"9876543210");
    assert!(
        text(&damaged).starts_with("entry \"bin/x\": it cannot be unpacked: "),
        "{}",
        text(&damaged)
    );
    let whole = archive(&[]);
    assert!(text(&whole[..whole.len() - 30]).starts_with("not a readable .safe package"));
}

#[test]
fn an_encrypted_entry_is_refused() {
    let mut bytes = archive(&[]);
    // Bit 0 of the flags, two bytes behind the version in the central directory.
    let places: Vec<usize> = (0..bytes.len() - 4)
        .filter(|at| bytes[*at..].starts_with(b"PK\x01\x02"))
        .collect();
    bytes[places[0] + 8] |= 1;
    assert_eq!(problem(&bytes), EntryProblem::Encrypted);
}

#[test]
fn what_a_package_must_hold() {
    let build = |files: &[(&str, &str)]| {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            writer.start_file(*name, options()).unwrap();
            writer.write_all(content.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    };
    let text = |files: &[(&str, &str)]| Package::read(&build(files)).unwrap_err().to_string();
    assert_eq!(
        text(&[("bin/x", "")]),
        "the package has no conf/userconfig.xml"
    );
    assert_eq!(
        text(&[("conf/userconfig.xml", "<safe>\n<x/></safe>")]),
        "conf/userconfig.xml: line 2, column 1: unknown element <x> within <safe>; allowed: macro, service"
    );
    assert_eq!(
        text(&[
            ("conf/userconfig.xml", CONFIGURATION),
            ("bin/stop_prim", "")
        ]),
        "the package has no bin/start_prim, which <user> needs"
    );
    // The obsolete file of old packages is accepted and not written.
    let old = [
        ("conf/userconfig.xml", CONFIGURATION),
        ("bin/start_prim", ""),
        ("bin/stop_prim", ""),
        ("manifest.xml", "<a/>"),
    ];
    let package = Package::read(&build(&old)).unwrap();
    assert_eq!(
        package.scripts().collect::<Vec<_>>(),
        ["start_prim", "stop_prim"]
    );
    let place = tempfile::tempdir().unwrap();
    package.extract(&place.path().join("p")).unwrap();
    assert!(!place.path().join("p/manifest.xml").exists());
}

/// A module directory with one executable and one odd mode, which must not matter.
fn directory(place: &Path) {
    for (name, content) in [
        ("conf/userconfig.xml", CONFIGURATION),
        ("bin/start_prim", "#!/bin/sh\necho start\n"),
        ("bin/stop_prim", "#!/bin/sh\necho stop\n"),
        ("bin/lib/common", "x=1\n"),
        ("web/index.html", "<p>hello</p>"),
    ] {
        let path = place.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    std::fs::set_permissions(
        place.join("bin/stop_prim"),
        PermissionsExt::from_mode(0o4755),
    )
    .unwrap();
}

#[test]
fn a_directory_packs_to_the_same_bytes_and_comes_back() {
    let (one, two, target) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    directory(one.path());
    directory(two.path());
    std::fs::set_permissions(
        two.path().join("bin/stop_prim"),
        PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let bytes = Package::pack(one.path()).unwrap();
    assert_eq!(
        bytes,
        Package::pack(two.path()).unwrap(),
        "bytes depend on names and content alone"
    );
    let package = Package::read(&bytes).unwrap();
    assert_eq!(package.hash(), *blake3::hash(&bytes).as_bytes());
    let into = target.path().join("module");
    package.extract(&into).unwrap();
    let mode = |name: &str| into.join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!(
        std::fs::read_to_string(into.join("bin/lib/common")).unwrap(),
        "x=1\n"
    );
    assert_eq!(
        std::fs::read_to_string(into.join("web/index.html")).unwrap(),
        "<p>hello</p>"
    );
    assert_eq!(
        (mode("bin/stop_prim"), mode("bin/lib/common")),
        (0o700, 0o700)
    );
    assert_eq!(
        (mode("conf/userconfig.xml"), mode("conf"), mode("")),
        (0o600, 0o700, 0o700)
    );
    assert_eq!(
        std::fs::read_dir(target.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
    let again = package.extract(&into).unwrap_err();
    assert_eq!(
        again.to_string(),
        format!("{} exists already", into.display())
    );
}

#[test]
fn extraction_does_not_follow_what_stands_at_its_place() {
    let package = Package::read(&archive(&[])).unwrap();
    let place = tempfile::tempdir().unwrap();
    let elsewhere = place.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, place.path().join("p")).unwrap();
    assert!(matches!(
        package.extract(&place.path().join("p")),
        Err(PackageError::Exists { .. })
    ));
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    let missing = package.extract(&place.path().join("no/p")).unwrap_err();
    assert!(
        matches!(missing, PackageError::Io { action: "open", .. }),
        "{missing}"
    );
}

#[test]
fn packing_refuses_what_does_not_belong() {
    let refuse = |add: &dyn Fn(&Path)| {
        let place = tempfile::tempdir().unwrap();
        directory(place.path());
        add(place.path());
        let error = Package::pack(place.path()).unwrap_err().to_string();
        error.replace(&place.path().display().to_string(), "DIR")
    };
    assert_eq!(
        refuse(&|place| symlink("/etc/passwd", place.join("conf/link")).unwrap()),
        "DIR/conf/link: only regular files and directories are allowed, this is a symbolic link"
    );
    assert_eq!(
        refuse(&|place| std::fs::write(place.join("notes.txt"), "").unwrap()),
        "DIR/notes.txt: only conf/, bin/ and web/ belong into a package"
    );
    assert_eq!(
        refuse(&|place| std::fs::remove_file(place.join("conf/userconfig.xml")).unwrap()),
        "the package has no conf/userconfig.xml"
    );
    assert_eq!(
        refuse(&|place| std::fs::write(place.join("conf/userconfig.xml"), "<safe>").unwrap()),
        "conf/userconfig.xml: line 1, column 1: not well-formed XML: <safe> is not closed"
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Package::read(&bytes);
    }

    #[test]
    fn a_damaged_package_never_panics(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = archive(&[]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(package) = Package::read(&bytes) {
            let place = tempfile::tempdir().unwrap();
            package.extract(&place.path().join("p")).unwrap();
        }
    }
}
