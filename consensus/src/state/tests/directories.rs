//! Which directories can be replicated, and which overlap.

use crate::state::directories::{checked, overlap};

#[test]
fn directories_overlap_by_parts_of_the_path() {
    let cases = [
        ("/srv/a", "/srv/a", true),
        ("/srv/a", "/srv/a/b", true),
        ("/srv/a/b", "/srv/a", true),
        ("/srv/a", "/srv/ab", false),
        ("/srv/a", "/srv/b", false),
        ("/a", "/b/a", false),
        ("/srv", "/srv/x/y/z", true),
    ];
    for (a, b, expected) in cases {
        assert_eq!(overlap(a, b), expected, "{a} and {b}");
    }
}

#[test]
fn only_plain_absolute_directories_can_be_replicated() {
    let cases = [
        ("/srv/db", "/srv/db"),
        ("/srv/db/", "/srv/db"),
        ("/srv/a b\u{e9}", "/srv/a b\u{e9}"),
        ("srv/db", "it does not begin with /"),
        ("", "it does not begin with /"),
        ("/", "the whole system cannot be a replicated directory"),
        ("//", "the whole system cannot be a replicated directory"),
        ("/./", "the whole system cannot be a replicated directory"),
        ("/..", "the whole system cannot be a replicated directory"),
        (
            "/srv/../etc",
            "it contains an empty part, . or ..; write the path as it is",
        ),
        (
            "/srv//db",
            "it contains an empty part, . or ..; write the path as it is",
        ),
        (
            "/srv/db//",
            "it contains an empty part, . or ..; write the path as it is",
        ),
        (
            "/srv/./db",
            "it contains an empty part, . or ..; write the path as it is",
        ),
        ("/srv/\0", "it contains a NUL byte"),
    ];
    for (given, expected) in cases {
        match checked(&[given.to_owned()]) {
            Ok(kept) => assert_eq!(kept, [expected]),
            Err(refused) => assert_eq!(
                refused.to_string(),
                format!("the directory {given:?} cannot be replicated: {expected}")
            ),
        }
    }
    let long = format!("/{}", "a".repeat(4095));
    assert!(
        checked(&[long])
            .unwrap_err()
            .to_string()
            .ends_with("it is longer than 4095 bytes")
    );
    assert!(checked(&[]).is_err());
    assert!(checked(&vec!["/a".to_owned(); 65]).is_err());
}

#[test]
fn directories_of_one_module_do_not_overlap() {
    let refused = checked(&["/srv/a".to_owned(), "/srv/a/b/".to_owned()]).unwrap_err();
    let text = "the directory \"/srv/a/b\" overlaps \"/srv/a\" of the same module: a file must not be replicated twice";
    assert_eq!(refused.to_string(), text);
}
