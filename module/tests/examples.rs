//! Goal: the example modules stay installable. Method: fill their placeholders as the lab does, pack, look.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use module::{AckMode, Package};
use std::fs;
use std::path::{Path, PathBuf};

const PLACEHOLDERS: [(&str, &str); 4] = [
    ("@DIR@", "/srv/data"),
    ("@VIP@", "10.1.0.100"),
    ("@VIP6@", "fd00:1::100"),
    ("@TESTBED@", "/bin/testbed"),
];

/// A copy of an example with its placeholders filled.
fn filled(name: &str, place: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testbed/modules")
        .join(name);
    let to = place.join(name);
    for part in ["conf", "bin"] {
        fs::create_dir_all(to.join(part)).unwrap();
        for entry in fs::read_dir(from.join(part)).unwrap() {
            let entry = entry.unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            let text = PLACEHOLDERS
                .iter()
                .fold(text, |text, (word, value)| text.replace(word, value));
            fs::write(to.join(part).join(entry.file_name()), text).unwrap();
        }
    }
    to
}

#[test]
fn the_examples_are_good_packages() {
    let place = tempfile::tempdir().unwrap();
    for name in ["postgresql", "ledger"] {
        let bytes = Package::pack(&filled(name, place.path())).unwrap();
        let package = Package::read(&bytes).unwrap();
        let configuration = package.configuration();
        assert_eq!(configuration.rfs.ack, AckMode::Disk, "{name}");
        assert_eq!(
            configuration.rfs.directories,
            [PathBuf::from("/srv/data")],
            "{name}"
        );
        assert!(!configuration.addresses().is_empty(), "{name}");
        let scripts: Vec<&str> = package.scripts().collect();
        assert_eq!(
            scripts,
            ["common", "poststop", "prestart", "start_prim", "stop_prim"],
            "{name}"
        );
        assert_eq!(
            package.notices(),
            [],
            "{name}: an example has nothing without effect"
        );
    }
}
