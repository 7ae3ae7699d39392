//! Goal: every bad input is a clear error at the right place, every good one means what it says.
//! Method: tables of texts with the exact message, and random input that must never panic.

use super::{AckMode, Configuration, Mode, VirtualAddress};
use proptest::prelude::*;
use std::path::PathBuf;
use std::time::Duration;

mod refused;

const FULL: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<!-- a database -->
<safe>
  <macro name="VIP" value="10.1.0.100"/>
  <macro name="DIR" value="/srv/pg"/>
  <service mode="mirror" boot="auto" defaultprim="alone" failover="on" maxloop="3" loop_interval="24">
    <heart pulse="700" timeout="30s">
      <heartbeat name="default"/>
      <heartbeat name="private" ident="flow"/>
    </heart>
    <vip tcpreset="off">
      <interface_list>
        <interface check="on" arpreroute="on" name="eth0">
          <real_interface>
            <virtual_addr addr="%VIP%" where="one_side_alias" check="on"/>
            <virtual_addr addr="fd00::100"/>
          </real_interface>
        </interface>
      </interface_list>
    </vip>
    <rfs async="second" mountoversuffix="_For_SafeKit_Replication" packetsize="8388608" nbrei="3" acl="off">
      <replicated dir="%DIR%/" mode="read_only"/>
    </rfs>
    <user nicestoptimeout="2m" forcestoptimeout="15" logging="userlog">
      <var name="PORT" value="5432"/>
      <var name="DATA" value="%DIR%/data 100% &lt;&#65;"/>
    </user>
  </service>
</safe>
"#;

#[test]
fn a_full_configuration_means_what_it_says() {
    let (configuration, notices) = Configuration::parse(FULL).unwrap();
    assert_eq!(configuration.mode, Mode::Mirror);
    assert!(configuration.service.failover);
    assert_eq!(configuration.heart.timeout, Some(Duration::from_secs(30)));
    assert!(configuration.heart.has_times);
    let lans: Vec<_> = configuration
        .heart
        .heartbeats
        .iter()
        .map(|beat| (beat.lan.as_str(), beat.is_flow))
        .collect();
    assert_eq!(lans, [("default", false), ("private", true)]);
    let interface = Some("eth0".to_owned());
    assert_eq!(
        configuration.virtual_addresses,
        [
            VirtualAddress {
                addr: "10.1.0.100".parse().unwrap(),
                interface: interface.clone()
            },
            VirtualAddress {
                addr: "fd00::100".parse().unwrap(),
                interface
            },
        ]
    );
    assert_eq!(configuration.rfs.directories, [PathBuf::from("/srv/pg")]);
    assert_eq!(configuration.rfs.ack, AckMode::Receipt);
    let user = configuration.user.unwrap();
    assert_eq!(user.nice_stop_timeout, Duration::from_secs(120));
    assert_eq!(user.force_stop_timeout, Duration::from_secs(15));
    assert_eq!(user.start_timeout, Duration::from_secs(300));
    assert!(user.logging);
    assert_eq!(user.variables["PORT"], "5432");
    assert_eq!(user.variables["DATA"], "/srv/pg/data 100% <A");
    let told: Vec<String> = notices.iter().map(ToString::to_string).collect();
    let expected = [
        "line 6, column 72: maxloop of <service> has no effect: it counts the actions of checkers, which come in a later version",
        "line 6, column 84: loop_interval of <service> has no effect: it counts the actions of checkers, which come in a later version",
        "line 7, column 12: pulse of <heart> has no effect: heartbeats are sent six times in a lease, and every 150ms at least",
        "line 7, column 24: timeout of <heart> lowers the lease of the module's servers where it is shorter than that of the cluster, to 500ms at the least; skcli module install says which lease is in force",
        "line 9, column 7: replication uses the first LAN that works; \"flow\" is only a name for now",
        "line 11, column 10: tcpreset of <vip> has no effect: connections end with the address; no reset is sent yet",
        "line 13, column 20: check of <interface> has no effect: checkers come in a later version",
        "line 13, column 31: arpreroute of <interface> has no effect: the new owner announces an address at once and a few times after, never for ever",
        "line 15, column 63: check of <virtual_addr> has no effect: checkers come in a later version",
        "line 21, column 25: mountoversuffix of <rfs> has no effect: the directory itself is mounted over, nothing is renamed",
        "line 21, column 68: packetsize of <rfs> has no effect: Sidekick chooses sizes and parallelism itself",
        "line 21, column 89: nbrei of <rfs> has no effect: Sidekick chooses sizes and parallelism itself",
        "line 21, column 99: acl of <rfs> has no effect: access control lists are always replicated",
    ];
    assert_eq!(told, expected);
}

#[test]
fn the_smallest_configuration_has_safe_defaults() {
    let text =
        r#"<safe><service mode="mirror"><rfs><replicated dir="/srv/a"/></rfs></service></safe>"#;
    let (configuration, notices) = Configuration::parse(text).unwrap();
    assert_eq!(
        configuration.rfs.ack,
        AckMode::Disk,
        "the stronger acknowledgement is the default"
    );
    assert_eq!(configuration.user, None, "without <user> no script runs");
    assert_eq!(configuration.virtual_addresses, []);
    assert!(!configuration.heart.has_times);
    assert_eq!(notices, []);
}

#[test]
fn a_server_counts_as_lost_when_every_lan_has_been_silent_for_its_timeout() {
    let cases = [
        ("<heart/>", None),
        (r#"<heart timeout="500"/>"#, Some(500)),
        (
            r#"<heart timeout="500"><heartbeat name="a"/></heart>"#,
            Some(500),
        ),
        (
            r#"<heart timeout="500"><heartbeat name="a"/><heartbeat name="b" timeout="2s"/></heart>"#,
            Some(2000),
        ),
        (
            r#"<heart timeout="30s"><heartbeat name="a" timeout="600"/><heartbeat name="b" timeout="1s"/></heart>"#,
            Some(1000),
        ),
        (
            r#"<heart><heartbeat name="a" timeout="600"/><heartbeat name="b"/></heart>"#,
            None,
        ),
    ];
    for (heart, expected_ms) in cases {
        let text = format!(
            r#"<safe><service mode="mirror">{heart}<rfs><replicated dir="/srv/a"/></rfs></service></safe>"#
        );
        let (configuration, _) = Configuration::parse(&text).unwrap();
        let expected = expected_ms.map(Duration::from_millis);
        assert_eq!(configuration.heart.timeout, expected, "{heart}");
    }
}

#[test]
fn a_byte_order_mark_and_white_space_are_accepted() {
    let text = "\u{feff}\n<safe >\r\n\t<service mode='mirror'><rfs><replicated dir='/srv/a'></replicated></rfs></service></safe>\n\n";
    assert!(Configuration::parse(text).is_ok());
}

#[test]
fn durations_follow_their_unit() {
    let read = |value: &str| {
        let text = format!(
            "<safe><service mode=\"mirror\"><rfs><replicated dir=\"/srv/a\"/></rfs>\
             <user nicestoptimeout=\"{value}\"/></service></safe>"
        );
        Configuration::parse(&text)
            .map(|(configuration, _)| configuration.user.unwrap().nice_stop_timeout)
    };
    let seconds = |text: &str| read(text).unwrap().as_secs_f64();
    assert_eq!(seconds("7"), 7.0);
    assert_eq!(seconds("7s"), 7.0);
    assert_eq!(seconds("1500ms"), 1.5);
    assert_eq!(
        seconds("500000us"),
        0.5,
        "half a unit rounds up and is kept"
    );
    assert_eq!(seconds("2m"), 120.0);
    assert_eq!(seconds("1h"), 3600.0);
    assert_eq!(seconds("365d"), 31_536_000.0);
    for bad in [
        "",
        "0",
        "0s",
        "400ms",
        "366d",
        "1w",
        "s",
        "-1",
        "1.5s",
        " 1",
        "99999999999999999999",
        "18446744073709551615d",
    ] {
        assert!(read(bad).is_err(), "{bad:?} must be refused");
    }
}

/// Characters that make XML, so that random text gets somewhere.
fn like_xml() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<safe>".to_owned()),
        Just("</safe>".to_owned()),
        Just("<service mode=\"mirror\">".to_owned()),
        Just("<rfs><replicated dir=\"/srv/%A%\"/></rfs>".to_owned()),
        Just("<macro name=\"A\" value=\"%A%\"/>".to_owned()),
        Just("<!-- -->".to_owned()),
        Just("<![CDATA[".to_owned()),
        Just("<!DOCTYPE a [".to_owned()),
        Just("&#x110000;".to_owned()),
        "[<>/=\"'&;%!?a-z\\-\\[\\] \n\u{e9}]{0,12}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn random_text_never_panics(text in any::<String>()) {
        let _ = Configuration::parse(&text);
    }

    #[test]
    fn random_markup_never_panics(text in like_xml()) {
        let _ = Configuration::parse(&text);
    }

    #[test]
    fn a_good_file_with_one_change_never_panics(at in 0..FULL.len(), byte in any::<char>(), length in 0usize..20) {
        let mut text: Vec<char> = FULL.chars().collect();
        let at = at.min(text.len());
        let end = (at + length).min(text.len());
        text.splice(at..end, [byte]);
        let text: String = text.into_iter().collect();
        if let Err(error) = Configuration::parse(&text) {
            let lines = u32::try_from(text.lines().count() + 1).unwrap();
            prop_assert!(error.at.line >= 1 && error.at.line <= lines);
        }
    }
}
