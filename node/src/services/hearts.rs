//! What the times in `<heart>` of a module come to.

use std::time::Duration;

use consensus::liveness::Timing;
use consensus::state::ServerId;
use module::Heart;

use super::cluster::profile_of;
use crate::member::Member;

/// What is said where a lease was lowered: openraft's times are fixed when a daemon starts, and follow the profile.
const SHARED: &str = "; every other module on them shares it; where the lost server led the log as well, the takeover waits for an election, whose times follow the cluster's lease";

/// How soon the module asks its servers to count as lost, as the cluster keeps it.
pub(super) fn asked_ms(heart: &Heart) -> Option<u32> {
    let ms = |timeout: Duration| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    heart.timeout.map(ms)
}

/// The leases in force on `servers` once the module is installed there, when it asks for times of its own.
pub(super) fn notice(member: &Member, heart: &Heart, servers: &[ServerId]) -> Option<String> {
    let state = member.state();
    let of_server = |server: &ServerId| Lessee {
        name: state.name_of(*server),
        others_ask_ms: state.heart_timeout_ms(*server),
    };
    let lessees: Vec<Lessee> = servers.iter().map(of_server).collect();
    leases_in_force(heart, member.profile(), &lessees)
}

/// A server, and what the modules that it already has ask for.
struct Lessee {
    name: String,
    others_ask_ms: Option<u32>,
}

fn leases_in_force(heart: &Heart, profile: Timing, lessees: &[Lessee]) -> Option<String> {
    if !heart.has_times {
        return None;
    }
    let asked = asked_ms(heart);
    let lease_of = |ms| profile.lowered_to(ms).lease_ns;
    let in_force = |lessee: &Lessee| {
        let others = lessee.others_ask_ms;
        let lease_ns = lease_of([asked, others].into_iter().flatten().min());
        let whence = if lease_ns == profile.lease_ns {
            format!(
                "the cluster's{}",
                profile_of(Duration::from_nanos(lease_ns))
            )
        } else if lease_ns == lease_of(others) {
            "another module asks for it".to_owned()
        } else {
            "this <heart> asks for it".to_owned()
        };
        let lease = Duration::from_nanos(lease_ns);
        (format!("{} {lease:?}, {whence}", lessee.name), lease_ns)
    };
    let leases: Vec<(String, u64)> = lessees.iter().map(in_force).collect();
    let is_lowered = leases.iter().any(|(_, ns)| *ns < profile.lease_ns);
    let shown: Vec<String> = leases.into_iter().map(|(text, _)| text).collect();
    let asks = heart.timeout.map_or_else(
        || "no timeout for every LAN".to_owned(),
        |timeout| format!("timeout {timeout:?}"),
    );
    Some(format!(
        "<heart>: {asks}; a server counts as lost when its lease has run out: {}{}",
        shown.join("; "),
        if is_lowered { SHARED } else { "" }
    ))
}

#[cfg(test)]
mod tests {
    use module::Configuration;

    use super::*;

    #[test]
    fn times_of_a_module_are_told_the_leases_in_force() {
        let notice = |heart, profile_ms, others_ask_ms| {
            let (configuration, _) = Configuration::parse(&format!(
                r#"<safe><service mode="mirror">{heart}<rfs><replicated dir="/srv/a"/></rfs></service></safe>"#
            ))
            .unwrap();
            let lessees =
                [("s1", others_ask_ms), ("s2", None)].map(|(name, others_ask_ms)| Lessee {
                    name: name.to_owned(),
                    others_ask_ms,
                });
            leases_in_force(&configuration.heart, Timing::new(profile_ms), &lessees)
        };
        assert_eq!(notice("<heart/>", 1500, Some(500)), None);
        let prefix = "a server counts as lost when its lease has run out:";
        let cases = [
            (
                r#"<heart timeout="30s"/>"#,
                (10_000, None),
                format!(
                    "timeout 30s; {prefix} s1 10s, the cluster's (profile wide); s2 10s, the cluster's (profile wide)"
                ),
            ),
            (
                r#"<heart><heartbeat name="a" pulse="100"/></heart>"#,
                (500, None),
                format!(
                    "no timeout for every LAN; {prefix} s1 500ms, the cluster's (profile fast); s2 500ms, the cluster's (profile fast)"
                ),
            ),
            (
                r#"<heart timeout="1s"/>"#,
                (1500, Some(600)),
                format!(
                    "timeout 1s; {prefix} s1 600ms, another module asks for it; s2 1s, this <heart> asks for it{SHARED}"
                ),
            ),
            (
                r#"<heart timeout="100"/>"#,
                (1500, Some(2000)),
                format!(
                    "timeout 100ms; {prefix} s1 500ms, this <heart> asks for it; s2 500ms, this <heart> asks for it{SHARED}"
                ),
            ),
        ];
        for (heart, (profile_ms, others), expected) in cases {
            let said = notice(heart, profile_ms, others);
            assert_eq!(said, Some(format!("<heart>: {expected}")), "{heart}");
        }
    }
}
