//! What is a name and what is not.

use crate::state::*;

#[test]
fn names_are_words_of_letters_digits_and_dashes() {
    for good in [
        "a",
        "db",
        "db-1",
        "db_1",
        "a23456789012345678901234567890ab",
    ] {
        assert_eq!(good.parse::<ModuleName>().unwrap().as_str(), good);
    }
    let refused = [
        ("", "a name has at least one character"),
        ("1db", "\"1db\" does not begin with a letter from a to z"),
        ("-db", "\"-db\" does not begin with a letter from a to z"),
        ("Db", "\"Db\" does not begin with a letter from a to z"),
        (
            "d b",
            "\"d b\" contains ' '; allowed are a to z, 0 to 9 and '_' '-'",
        ),
        (
            "d/b",
            "\"d/b\" contains '/'; allowed are a to z, 0 to 9 and '_' '-'",
        ),
        (
            "dé",
            "\"dé\" contains 'é'; allowed are a to z, 0 to 9 and '_' '-'",
        ),
        (
            "a23456789012345678901234567890abc",
            "\"a23456789012345678901234567890ab\" has 33 characters, a name has at most 32",
        ),
    ];
    for (bad, text) in refused {
        assert_eq!(bad.parse::<ModuleName>().unwrap_err().to_string(), text);
    }
    assert!(
        "a_b".parse::<MemberName>().is_err(),
        "a member's name is a host name"
    );
}

#[test]
fn names_are_checked_when_they_are_decoded() {
    let encoded = postcard::to_stdvec("../etc").unwrap();
    assert!(postcard::from_bytes::<ModuleName>(&encoded).is_err());
}

#[test]
fn package_hashes_are_64_hexadecimal_digits() {
    let mut hash = PackageHash([0xab; 32]);
    hash.0[0] = 1;
    assert_eq!(hash.to_string().parse::<PackageHash>().unwrap(), hash);
    for bad in [
        "",
        "ab",
        &"g".repeat(64),
        &"a".repeat(65),
        &"é".repeat(32),
        &"+1".repeat(32),
    ] {
        assert!(bad.parse::<PackageHash>().is_err(), "{bad}");
    }
}
