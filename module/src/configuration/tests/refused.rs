//! The table of refused configurations: text and exact message.

use crate::configuration::Configuration;

/// Puts `inner` where sections stand; column 1 of line 2 is its start.
fn service(inner: &str) -> String {
    format!(
        "<safe><service mode=\"mirror\">\n{inner}\n<rfs><replicated dir=\"/srv/a\"/></rfs></service></safe>"
    )
}

fn rfs(inner: &str) -> String {
    format!("<safe><service mode=\"mirror\">\n{inner}</service></safe>")
}

fn replicated(dir: &str) -> String {
    rfs(&format!("<rfs><replicated dir=\"{dir}\"/></rfs>"))
}

fn address(addr: &str) -> String {
    vip(&format!(
        "<interface><real_interface>\n<virtual_addr addr=\"{addr}\"/></real_interface></interface>"
    ))
}

fn vip(inner: &str) -> String {
    service(&format!(
        "<vip><interface_list>{inner}</interface_list></vip>"
    ))
}

fn check(cases: &[(String, &str)]) {
    for (text, expected) in cases {
        match Configuration::parse(text) {
            Ok(_) => panic!("must be refused with {expected:?}:\n{text}"),
            Err(error) => assert_eq!(error.to_string(), *expected, "for\n{text}"),
        }
    }
}

#[test]
fn what_is_not_xml() {
    check(&[
        (
            String::new(),
            "line 1, column 1: the file holds no element, expected <safe>",
        ),
        (
            " \n <!-- x -->".into(),
            "line 2, column 12: the file holds no element, expected <safe>",
        ),
        (
            "hello".into(),
            "line 1, column 1: the file holds no element, expected <safe>",
        ),
        (
            "<safe>\n  <service mode=\"mirror\">\n</safe>".into(),
            "line 3, column 1: not well-formed XML: ill-formed document: expected `</service>`, but `</safe>` was found",
        ),
        (
            "<safe>\n<service>".into(),
            "line 2, column 1: not well-formed XML: <service> is not closed",
        ),
        (
            "<safe>\n<service mode=\"mirror".into(),
            "line 2, column 1: not well-formed XML: syntax error: attribute value not closed: `\"` not found before end of input",
        ),
        (
            "<safe>\n<service mode=mirror/></safe>".into(),
            "line 2, column 15: not well-formed XML: attribute value without quotes: write name=\"value\"",
        ),
        (
            "<safe>\n<service mode/></safe>".into(),
            "line 2, column 14: not well-formed XML: attribute without a value: write name=\"value\"",
        ),
        (
            "<safe>\n<service mode=\"mirror\" mode=\"farm\"/></safe>".into(),
            "line 2, column 24: not well-formed XML: attribute is given twice",
        ),
        (
            "<safe>\n<service mode=\"<\"/></safe>".into(),
            "line 2, column 10: not well-formed XML: \"<\" within an attribute value: write &lt;",
        ),
        (
            "<safe/>\n<safe/>".into(),
            "line 2, column 1: not well-formed XML: content after the root element",
        ),
        (
            "<safe/>\n  more".into(),
            "line 2, column 3: not well-formed XML: content after the root element",
        ),
        (
            "<safe>\u{1}</safe>".into(),
            "line 1, column 7: not well-formed XML: control character U+0001",
        ),
        (
            " <?xml version=\"1.0\"?><safe/>".into(),
            "line 1, column 2: not well-formed XML: the XML declaration must stand at the start of the file",
        ),
        (
            "<safe><!-- never closed".into(),
            "line 1, column 7: not well-formed XML: syntax error: comment not closed: `-->` not found before end of input",
        ),
    ]);
}

#[test]
fn what_xml_allows_and_we_do_not() {
    check(&[
        (
            "<!DOCTYPE safe [<!ENTITY a \"b\">]>\n<safe/>".into(),
            "line 1, column 1: DOCTYPE and entity declarations are refused: a configuration is self-contained",
        ),
        (
            "<?xml version=\"1.0\"?>\n<!DOCTYPE safe SYSTEM \"file:///etc/passwd\"><safe/>".into(),
            "line 2, column 1: DOCTYPE and entity declarations are refused: a configuration is self-contained",
        ),
        (
            "<?php x ?><safe/>".into(),
            "line 1, column 1: processing instruction is refused: remove it",
        ),
        (
            "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><safe/>".into(),
            "line 1, column 1: encoding \"ISO-8859-1\" is not supported: save the file as UTF-8",
        ),
        (
            "<safe xmlns=\"&xxe;\"/>".into(),
            "line 1, column 7: unknown entity in a value; allowed: &lt; &gt; &amp; &apos; &quot; and numbers such as &#65;",
        ),
        (
            format!("<safe>{}</safe>", "<a>".repeat(20)),
            "line 1, column 52: the depth of elements exceeds the limit of 16",
        ),
        (
            format!("<safe>{}</safe>", "<a/>".repeat(10_001)),
            "line 1, column 40003: the number of elements exceeds the limit of 10000",
        ),
        (
            format!("<safe xmlns=\"{}\"/>", "a".repeat(9000)),
            "line 1, column 7: the length of a value in bytes exceeds the limit of 8192",
        ),
        (
            format!("<safe>{}</safe>", " ".repeat(1024 * 1024)),
            "line 1, column 1: the file exceeds the limit of 1048576 bytes",
        ),
        (
            "<farm/>".into(),
            "line 1, column 1: root element is <farm>, expected <safe>",
        ),
        (
            "<safe>\nhello</safe>".into(),
            "line 2, column 1: unexpected text \"hello\" within <safe>",
        ),
        (
            service("<heart>&lol;</heart>"),
            "line 2, column 8: unexpected text \"&lol;\" within <heart>",
        ),
        (
            service("<user>\n<![CDATA[x]]></user>"),
            "line 3, column 1: unexpected text \"x\" within <user>",
        ),
    ]);
}

#[test]
fn unknown_words_are_named_with_the_nearest() {
    check(&[
        (
            "<safe>\n <servise mode=\"mirror\"/></safe>".into(),
            "line 2, column 2: unknown element <servise> within <safe>; allowed: macro, service; did you mean \"service\"?",
        ),
        (
            "<safe>\n</safe>".into(),
            "line 1, column 1: <safe> needs an element <service>",
        ),
        (
            "<safe><service mode=\"mirror\"/>\n<service mode=\"mirror\"/></safe>".into(),
            "line 2, column 1: <service> stands twice within <safe>; the first one is in line 1",
        ),
        (
            "<safe>\n<service/></safe>".into(),
            "line 2, column 1: <service> needs the attribute \"mode\"",
        ),
        (
            "<safe>\n<service mode=\"miror\"/></safe>".into(),
            "line 2, column 10: mode=\"miror\" of <service>; allowed: mirror, farm, light; did you mean \"mirror\"?",
        ),
        (
            "<safe>\n<service mod=\"mirror\"/></safe>".into(),
            "line 2, column 10: unknown attribute \"mod\" of <service>; allowed: mode, boot, boot_delay, failover, defaultprim, maxloop, loop_interval, automatic_reboot; did you mean \"mode\"?",
        ),
        (
            service("<hearth/>"),
            "line 2, column 1: unknown element <hearth> within <service>; allowed: heart, vip, rfs, user; did you mean \"heart\"?",
        ),
        (
            service("<banana/>"),
            "line 2, column 1: unknown element <banana> within <service>; allowed: heart, vip, rfs, user",
        ),
        (
            service("<heart><heartbeat nam=\"a\"/></heart>"),
            "line 2, column 19: unknown attribute \"nam\" of <heartbeat>; allowed: name, ident, pulse, timeout; did you mean \"name\"?",
        ),
        (
            service("<user><var name=\"A\" value=\"1\"><x/></var></user>"),
            "line 2, column 31: unknown element <x> within <var>; nothing may stand there",
        ),
        (
            service("<user loging=\"userlog\"/>"),
            "line 2, column 7: unknown attribute \"loging\" of <user>; allowed: nicestoptimeout, forcestoptimeout, starttimeout, logging, userlogsize; did you mean \"logging\"?",
        ),
        (
            service("<user logging=\"yes\"/>"),
            "line 2, column 7: logging=\"yes\" of <user>; allowed: userlog, none",
        ),
        (
            service("<user xmlns:\u{1b}=\"1\"/>"),
            "line 2, column 13: not well-formed XML: control character U+001B",
        ),
        (
            service("<rfs/>"),
            "line 3, column 1: <rfs> stands twice within <service>; the first one is in line 2",
        ),
    ]);
}

#[test]
fn what_comes_later_is_refused_by_name() {
    check(&[
        (
            "<safe>\n<service mode=\"farm\"><farm/></service></safe>".into(),
            "line 2, column 10: not yet: mode=\"farm\" of <service> (farm modules come in a later version)",
        ),
        (
            "<safe>\n<service mode=\"light\"/></safe>".into(),
            "line 2, column 10: not yet: mode=\"light\" of <service> (light modules come in a later version)",
        ),
        (
            service("<farm/>"),
            "line 2, column 1: not yet: <farm> (farm modules come in a later version)",
        ),
        (
            service("<errd/>"),
            "line 2, column 1: not yet: <errd> (process checkers come in a later version)",
        ),
        (
            service("<check/>"),
            "line 2, column 1: not yet: <check> (checkers come in a later version)",
        ),
        (
            service("<failover><![CDATA[x]]></failover>"),
            "line 2, column 1: not yet: <failover> (failover rules come in a later version)",
        ),
        (
            service("<vhost/>"),
            "line 2, column 1: not yet: <vhost> (virtual host names come in a later version)",
        ),
        (
            "<safe>\n<service mode=\"mirror\" failover=\"off\"/></safe>".into(),
            "line 2, column 24: not yet: failover=\"off\" of <service> (the secondary always takes over; stop it where it must not)",
        ),
        (
            "<safe>\n<service mode=\"mirror\" defaultprim=\"s1\"/></safe>".into(),
            "line 2, column 24: not yet: defaultprim=\"s1\" of <service> (only \"alone\": the primary stays where it is until skcli module swap)",
        ),
        (
            "<safe>\n<service mode=\"mirror\" automatic_reboot=\"on\"/></safe>".into(),
            "line 2, column 24: not yet: automatic_reboot=\"on\" of <service> (Sidekick does not reboot servers)",
        ),
        (
            service("<vip><loadbalancing_list/></vip>"),
            "line 2, column 6: not yet: <loadbalancing_list> (load sharing belongs to farm modules, which come in a later version)",
        ),
        (
            rfs("<rfs reiallowedbw=\"1000\"/>"),
            "line 2, column 6: not yet: reiallowedbw=\"1000\" of <rfs> (a limit on the bandwidth of reintegration comes in a later version)",
        ),
        (
            rfs("<rfs><replicated dir=\"/srv/a\"><notreplicated path=\"x\"/></replicated></rfs>"),
            "line 2, column 31: not yet: <notreplicated> (everything below the directory is replicated)",
        ),
        (
            rfs("<rfs><replicated dir=\"/srv/a\"/>\n<replicated dir=\"/srv/b\"/></rfs>"),
            "line 3, column 13: not yet: a second <replicated dir=\"/srv/b\"> (one directory per module for now: put the others below it)",
        ),
    ]);
}

#[test]
fn replicated_directories() {
    let path = |dir: &str, expected: &str| {
        let message =
            format!("line 2, column 18: dir=\"{dir}\" of <replicated>: expected {expected}");
        (replicated(dir), message)
    };
    let cases = [
        path(
            "/",
            "a directory below /: the root of a server cannot be replicated",
        ),
        path("", "an absolute path such as /srv/data"),
        path("srv/a", "an absolute path such as /srv/data"),
        path("@DIR@", "an absolute path such as /srv/data"),
        path(
            "/srv/../etc",
            "a path without empty parts, \".\" and \"..\"",
        ),
        path("/srv/./a", "a path without empty parts, \".\" and \"..\""),
        path("//srv", "a path without empty parts, \".\" and \"..\""),
        path("//", "a path without empty parts, \".\" and \"..\""),
        path("/proc/self", "a directory of a disk, not of the kernel"),
        path("/dev", "a directory of a disk, not of the kernel"),
        path("/usr", "a directory that the system does not run from"),
        path("/var/lib", "a directory that the system does not run from"),
    ];
    let cases: Vec<(String, &str)> = cases
        .iter()
        .map(|(text, expected)| (text.clone(), expected.as_str()))
        .collect();
    check(&cases);
    check(&[
        (
            rfs("<rfs/>"),
            "line 2, column 1: <rfs> needs an element <replicated>",
        ),
        (
            rfs(""),
            "line 1, column 7: <service> needs an element <rfs>",
        ),
        (
            rfs("<rfs><replicated/></rfs>"),
            "line 2, column 6: <replicated> needs the attribute \"dir\"",
        ),
        (
            rfs("<rfs async=\"sync\"><replicated dir=\"/srv/a\"/></rfs>"),
            "line 2, column 6: async=\"sync\" of <rfs>; allowed: none, second",
        ),
        (
            rfs("<rfs><replicated dir=\"/srv/a\"/>\n<replicated dir=\"/srv/a/b/\"/></rfs>"),
            "line 3, column 13: directory /srv/a/b overlaps /srv/a, line 2: a file would be replicated twice",
        ),
        (
            rfs("<rfs><replicated dir=\"/srv/a\" mode=\"rw\"/></rfs>"),
            "line 2, column 31: mode=\"rw\" of <replicated>; allowed: read_only",
        ),
        (
            rfs("<rfs packetsize=\"big\"><replicated dir=\"/srv/a\"/></rfs>"),
            "line 2, column 6: packetsize=\"big\" of <rfs>: expected a whole number from 0 to 4294967295",
        ),
        (
            rfs("<rfs acl=\"yes\"><replicated dir=\"/srv/a\"/></rfs>"),
            "line 2, column 6: acl=\"yes\" of <rfs>; allowed: on, off",
        ),
    ]);
}

#[test]
fn virtual_addresses() {
    let bad = |addr: &str, expected: &str| {
        (
            address(addr),
            format!("line 3, column 15: addr=\"{addr}\" of <virtual_addr>: expected {expected}"),
        )
    };
    let literal = "an IPv4 or IPv6 address (names are not resolved)";
    let owned = "an address that one server can own";
    let cases = [
        bad("db.example.org", literal),
        bad("@VIP@", literal),
        bad("10.0.0.256", literal),
        bad("10.0.0.1/24", literal),
        bad("", literal),
        bad("127.0.0.1", owned),
        bad("0.0.0.0", owned),
        bad("224.0.0.18", owned),
        bad("255.255.255.255", owned),
        bad("::1", owned),
        bad("fe80::1", "a global or unique local IPv6 address"),
    ];
    let cases: Vec<(String, &str)> = cases
        .iter()
        .map(|(text, expected)| (text.clone(), expected.as_str()))
        .collect();
    check(&cases);
    check(&[
        (
            vip(
                "<interface><real_interface><virtual_addr addr=\"10.0.0.9\"/>\n<virtual_addr addr=\"10.0.0.9\"/></real_interface></interface>",
            ),
            "line 3, column 15: virtual address \"10.0.0.9\" is used twice; the first one is in line 2",
        ),
        (
            vip("\n<interface name=\"a/b\"/>"),
            "line 3, column 12: name=\"a/b\" of <interface>: expected the name of a network interface, at most 15 characters",
        ),
        (
            vip("\n<interface name=\"sixteencharacter\"/>"),
            "line 3, column 12: name=\"sixteencharacter\" of <interface>: expected the name of a network interface, at most 15 characters",
        ),
        (
            vip("\n<interface><virtual_interface/></interface>"),
            "line 3, column 12: not yet: <virtual_interface> (load sharing belongs to farm modules, which come in a later version)",
        ),
        (
            vip("\n<interface check=\"1\"/>"),
            "line 3, column 12: check=\"1\" of <interface>; allowed: on, off",
        ),
    ]);
}

#[test]
fn hearts_scripts_and_macros() {
    let begin = "<safe><macro name=\"DIR\" value=\"/srv\"/>\n";
    check(&[
        (
            service("<heart><heartbeat/></heart>"),
            "line 2, column 8: <heartbeat> needs the attribute \"name\"",
        ),
        (
            service("<heart><heartbeat name=\"a\"/>\n<heartbeat name=\"b\" ident=\"a\"/></heart>"),
            "line 3, column 1: heartbeat ident \"a\" is used twice; the first one is in line 2",
        ),
        (
            service("<heart><heartbeat name=\"10.0.0.1\"/></heart>"),
            "line 2, column 19: not yet: name=\"10.0.0.1\" of <heartbeat> (name a LAN, not an address)",
        ),
        (
            service("<heart pulse=\"100us\"/>"),
            "line 2, column 8: pulse=\"100us\" of <heart>: expected a duration that does not round to 0ms",
        ),
        (
            service("<heart pulse=\"1s\" timeout=\"500\"/>"),
            "line 2, column 19: timeout=\"500\" of <heart>: expected a timeout longer than the pulse",
        ),
        (
            service("<heart port=\"0\"/>"),
            "line 2, column 8: port=\"0\" of <heart>: expected a whole number from 1 to 65535",
        ),
        (
            service("<user nicestoptimeout=\"soon\"/>"),
            "line 2, column 7: nicestoptimeout=\"soon\" of <user>: expected a duration, a number with unit d, h, m, s, ms or us (without: s)",
        ),
        (
            service("<user nicestoptimeout=\"0\"/>"),
            "line 2, column 7: nicestoptimeout=\"0\" of <user>: expected a duration above zero, a number with unit d, h, m, s, ms or us (without: s)",
        ),
        (
            service("<user><var name=\"A B\" value=\"1\"/></user>"),
            "line 2, column 12: name=\"A B\" of <var>: expected a name of letters, digits and _, not starting with a digit",
        ),
        (
            service("<user><var name=\"SAFEVAR\" value=\"1\"/></user>"),
            "line 2, column 12: name=\"SAFEVAR\" of <var>: expected a name that does not start with SAFE or SK_, which Sidekick sets itself",
        ),
        (
            service("<user><var name=\"A\" value=\"1\"/>\n<var name=\"A\" value=\"2\"/></user>"),
            "line 3, column 6: variable \"A\" is used twice; the first one is in line 2",
        ),
        (
            service("<user><var name=\"A\"/></user>"),
            "line 2, column 7: <var> needs the attribute \"value\"",
        ),
        (
            replicated("%DIR%/a"),
            "line 2, column 18: macro %DIR% is not defined",
        ),
        (
            format!(
                "{begin}<service mode=\"mirror\"><rfs><replicated dir=\"%DIRR%/a\"/></rfs></service></safe>"
            ),
            "line 2, column 41: macro %DIRR% is not defined; did you mean \"DIR\"?",
        ),
        (
            format!("{begin}<macro name=\"DIR\" value=\"\"/></safe>"),
            "line 2, column 8: macro \"DIR\" is used twice; the first one is in line 1",
        ),
        (
            format!("{begin}<macro name=\"1\" value=\"\"/></safe>"),
            "line 2, column 8: name=\"1\" of <macro>: expected a name of letters, digits and _, not starting with a digit",
        ),
        (
            format!("{begin}<macro value=\"\"/></safe>"),
            "line 2, column 1: <macro> needs the attribute \"name\"",
        ),
    ]);
}

#[test]
fn macros_cannot_grow_without_bound() {
    let mut text = format!("<safe><macro name=\"M0\" value=\"{}\"/>", "a".repeat(100));
    for level in 1..8 {
        let use_ten = format!("%M{}%", level - 1).repeat(10);
        text.push_str(&format!("\n<macro name=\"M{level}\" value=\"{use_ten}\"/>"));
    }
    text.push_str("</safe>");
    check(&[(
        text,
        "line 3, column 18: the value with its macros expanded exceeds the limit of 8192 bytes",
    )]);
}
