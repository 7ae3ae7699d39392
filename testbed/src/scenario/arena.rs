//! A mirrored cluster under load, watched by every oracle: what scenarios and the demo happen in.

use super::figures::Figures;
use crate::cluster::package::Acknowledgement;
use crate::cluster::profile::Profile;
use crate::cluster::{Cluster, MODULE, observe, package};
use crate::lab::{Cut, Direction, Lab, Topology, topology};
use crate::oracle::explanation;
use crate::oracle::leaks::{self, Holdings};
use crate::oracle::recorder::{Load, Recorder, Report};
use crate::oracle::roles::{self, Roles};
use crate::oracle::starvation::Starvation;
use crate::oracle::tree;
use crate::oracle::wire::Wire;
use crate::oracle::{Application, Target};
use crate::wait;
use anyhow::{Context as _, ensure};
use api::v1::{self, ModuleState};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

/// What the client does unless a run says otherwise.
const FULL_LOAD: Load = Load {
    writers: 4,
    rest: Duration::ZERO,
};
/// Acknowledged writes before a fault (P12).
const LOAD_BEFORE: u64 = 50;
/// Acknowledged writes after a fault (P12).
const LOAD_AFTER: u64 = 20;
/// Time for the minimum load.
const LOAD_DEADLINE: Duration = Duration::from_secs(60);
/// PRIM and SECOND again within this time after a fault ended (P7).
pub(super) const CONVERGE_DEADLINE: Duration = Duration::from_secs(90);
/// Two copies at rest are equal within this time.
const EQUAL_DEADLINE: Duration = Duration::from_secs(60);
/// Lines of each daemon's log that a failure shows.
const LOG_LINES: usize = 60;

/// The place where scenarios happen.
pub struct Arena {
    // Oracles before the cluster: they end first, while there is still something to look at.
    recorder: Option<Recorder>,
    wire: Option<Wire>,
    roles: Option<Roles>,
    starvation: Option<Starvation>,
    cluster: Cluster,
    application: Application,
    /// How hard the client writes.
    pub load: Load,
    /// How long the fault lasts, where the operator may say so and did.
    pub length: Option<Duration>,
    profile: Profile,
    /// What the module's `<heart>` shall ask for.
    pub heart: Option<&'static str>,
    holdings: Option<[Holdings; 2]>,
    /// How far each daemon's log was read.
    logs_read: Mutex<BTreeMap<String, u64>>,
    /// Every event ever seen, by its number: the cluster keeps only the newest.
    events: Mutex<BTreeMap<u64, v1::EventReply>>,
    /// Random source of the scenarios; its seed is printed.
    pub random: StdRng,
}

impl Arena {
    /// A formed cluster: two servers and a witness, no module.
    ///
    /// # Errors
    /// The lab or the cluster could not be made. The daemons' logs are in the text.
    pub fn formed(application: Application, seed: u64) -> anyhow::Result<Arena> {
        Arena::formed_with(Topology::mirror(), application, seed, Profile::default())
    }

    /// As `formed`, of other members and with another lease.
    ///
    /// # Errors
    /// As `formed`.
    pub fn formed_with(
        topology: Topology,
        application: Application,
        seed: u64,
        profile: Profile,
    ) -> anyhow::Result<Arena> {
        let lab = Lab::up(topology)?;
        let logs: Vec<_> = lab.servers().iter().map(|s| s.log().to_owned()).collect();
        let cluster = Cluster::form_with(lab, profile).with_context(|| {
            // The lab is gone with the error, and its logs with it.
            logs.iter().map(|path| tail(path)).collect::<String>()
        })?;
        Ok(Arena {
            recorder: None,
            wire: None,
            roles: None,
            starvation: None,
            cluster,
            application,
            load: FULL_LOAD,
            length: None,
            profile,
            heart: None,
            holdings: None,
            logs_read: Mutex::default(),
            events: Mutex::default(),
            random: StdRng::seed_from_u64(seed),
        })
    }

    /// When writes of the module are answered; before it is started.
    pub fn set_acknowledgement(&mut self, given: Acknowledgement) {
        self.cluster.set_acknowledgement(given);
    }

    /// A mirrored module under load, with all oracles watching.
    ///
    /// # Errors
    /// As `formed`, or the module does not come up.
    pub fn start_module(&mut self) -> anyhow::Result<()> {
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (topology::virtual_v4(), topology::virtual_v6())
        else {
            unreachable!("the topology has one virtual address of each kind")
        };
        self.wire = Some(Wire::start(&self.lab().switch_network()?, v4, v6)?);
        self.roles = Some(Roles::start(MODULE, self.cluster.server_roots()));
        let disk = self.lab().site().directory();
        self.starvation = Some(Starvation::start(disk).context("start the meter")?);
        let first = self
            .cluster
            .server_names()
            .into_iter()
            .next()
            .context("a lab without servers")?;
        let package = package::write(self.lab(), self.application)?;
        if let Some(heart) = self.heart {
            package::ask_heart(&package, heart)?;
        }
        self.cluster.install_package(&package, &first)?;
        self.start_load()?;
        self.holdings = Some(self.holdings_by_role()?);
        Ok(())
    }

    /// Starts the client.
    ///
    /// # Errors
    /// The application does not answer.
    pub fn start_load(&mut self) -> anyhow::Result<()> {
        let target = Target::behind_virtual_address(self.application);
        let (network, log) = (
            self.lab().client_network()?,
            self.lab().site().directory().join("acknowledged"),
        );
        // The application may still be starting behind its address.
        let recorder = wait::until("the application", LOAD_DEADLINE, || {
            let network = network.try_clone().map_err(|e| format!("{e:#}"))?;
            Recorder::start(network, target, self.load, log.clone()).map_err(|e| format!("{e:#}"))
        })?;
        recorder.wait_load(LOAD_BEFORE, LOAD_DEADLINE)?;
        self.recorder = Some(recorder);
        Ok(())
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The lab below the cluster.
    pub fn lab(&self) -> &Lab {
        self.cluster.lab()
    }

    /// The lab below the cluster, for faults.
    pub fn lab_mut(&mut self) -> &mut Lab {
        self.cluster.lab_mut()
    }

    /// Which application runs in the module.
    pub fn application(&self) -> Application {
        self.application
    }

    /// The lease of the cluster.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Between takeover and service the address may wait so long.
    pub fn address_wait_ms(&self) -> f64 {
        let profile = match self.heart {
            Some(_) => Profile::Fast,
            None => self.profile,
        };
        profile.address_wait_ms()
    }

    /// How long the machine stood still at most, since the last question or the start of the module.
    pub fn stood_still(&self) -> Duration {
        let meter = self.starvation.as_ref();
        meter.map_or(Duration::ZERO, Starvation::take)
    }

    /// Ends every fault that a round that failed left behind: links heal, frozen daemons go on, and everything runs.
    ///
    /// # Errors
    /// A server does not start.
    pub fn mend(&mut self) -> anyhow::Result<()> {
        self.lab_mut().mend()
    }

    /// The client.
    ///
    /// # Errors
    /// The module was not started.
    pub fn recorder(&self) -> anyhow::Result<&Recorder> {
        self.recorder.as_ref().context("no client runs")
    }

    /// Stops the client and judges all it was promised.
    ///
    /// # Errors
    /// The rows cannot be read back.
    pub fn finish_recorder(&mut self) -> anyhow::Result<Report> {
        self.recorder.take().context("no client runs")?.finish()
    }

    /// The present primary, when both servers agree and all is mirrored.
    ///
    /// # Errors
    /// It is not mirrored.
    pub fn primary(&self) -> anyhow::Result<String> {
        self.cluster.wait_mirrored(CONVERGE_DEADLINE)
    }

    /// Mirrored and under load: how every round begins. Answers the primary.
    ///
    /// # Errors
    /// Not in time.
    pub fn ready(&self) -> anyhow::Result<String> {
        self.recorder()?.wait_load(LOAD_BEFORE, LOAD_DEADLINE)?;
        self.wait_settled(wait::boot_ns(), CONVERGE_DEADLINE)
    }

    /// Mirrored, and not only still called so: a fault that just ended may have broken the stream, and until the primary has
    /// dropped its peer both servers say PRIM and SECOND. A row that is asked for after the fault is acknowledged by both copies
    /// or after the drop, so what is said after that counts. Answers the primary.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait_settled(&self, since_ns: u64, deadline: Duration) -> anyhow::Result<String> {
        self.recorder()?.wait_served(since_ns, deadline)?;
        self.cluster.wait_mirrored(deadline)
    }

    /// Waits until `server` has applied that it is the primary, and answers the milliseconds between the cut and the
    /// proposal that made it so. All servers of a lab share one wall clock.
    ///
    /// # Errors
    /// Not within the deadline.
    pub fn wait_takeover(
        &self,
        server: &str,
        cut: impl Into<Cut>,
        deadline: Duration,
    ) -> anyhow::Result<f64> {
        let cut = cut.into();
        let unix_ms_of = |ns| wait::unix_ms() as f64 - ms_since(ns);
        let (asked_unix_ms, done_unix_ms) = (unix_ms_of(cut.asked_ns), unix_ms_of(cut.done_ns));
        let said = [
            format!("{server} took over"),
            format!("{server} is primary"),
        ];
        let at = wait::until(&format!("takeover by {server}"), deadline, || {
            let events = self
                .cluster
                .events_of(server)
                .map_err(|e| format!("{e:#}"))?;
            let is_takeover = |event: &&v1::EventReply| {
                event.module == MODULE
                    && event.at_unix_ms as f64 >= asked_unix_ms.floor()
                    && said.iter().any(|text| event.text.contains(text))
            };
            match events.iter().find(is_takeover) {
                Some(event) => Ok(event.at_unix_ms as f64),
                None => Err(events.last().map_or_else(String::new, |e| e.text.clone())),
            }
        })?;
        Ok(at - done_unix_ms)
    }

    /// Waits until the client is served again; answers the milliseconds since `cut_ns`.
    ///
    /// # Errors
    /// Not within the deadline.
    pub fn wait_served(&self, cut_ns: u64, deadline: Duration) -> anyhow::Result<f64> {
        let served = self.recorder()?.wait_served(cut_ns, deadline)?;
        Ok((served - cut_ns) as f64 / 1e6)
    }

    /// Waits until `server` claims the virtual address and a row asked for after that is acknowledged; answers the
    /// milliseconds since the cut. Answers that were on their way from the former owner do not count.
    ///
    /// # Errors
    /// Not within the deadline.
    pub fn wait_served_by(
        &self,
        server: &str,
        cut: impl Into<Cut>,
        deadline: Duration,
    ) -> anyhow::Result<f64> {
        let cut = cut.into();
        let host = self.lab().server(server)?.node().host;
        let wire = self.wire.as_ref().context("nobody watches the wire")?;
        let claimed = wait::until(
            &format!("{server} at the virtual address"),
            deadline,
            || {
                wire.first_claim(host, cut.asked_ns)
                    .ok_or_else(|| format!("{:?}", wire.tenures()))
            },
        )?;
        // A row asked for before the claim and answered after it was answered by the new owner as well.
        let recorder = self.recorder()?;
        let served = wait::until("an acknowledged write", deadline, || {
            recorder
                .first_answered_after(claimed)
                .ok_or_else(|| recorder.last_error())
        })?;
        Ok(served.saturating_sub(cut.done_ns) as f64 / 1e6)
    }

    /// All members are up in everybody's eyes, and one of them leads.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait_members(&self) -> anyhow::Result<()> {
        wait::until("all members up", CONVERGE_DEADLINE, || {
            self.cluster.leader().map_err(|e| format!("{e:#}"))?;
            for server in self.lab().servers() {
                let state = self.cluster.cluster_state(server.name());
                let state = state.map_err(|e| format!("{e:#}"))?;
                if let Some(down) = state.members.iter().find(|member| member.is_down) {
                    return Err(format!("{} is down", down.name));
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Powers a server on, starts its daemon, and waits until all is mirrored again; notes time and bytes of the
    /// reintegration.
    ///
    /// # Errors
    /// It does not converge.
    pub fn bring_back(&mut self, server: &str, figures: &mut Figures) -> anyhow::Result<()> {
        let began = wait::boot_ns();
        self.lab_mut().power_on(server)?;
        self.lab_mut().start_daemon(server)?;
        self.converge(server, began, figures)
    }

    /// Waits until all is mirrored again; notes time and bytes of `server`'s reintegration since `began_ns`.
    ///
    /// # Errors
    /// It does not converge.
    pub fn converge(
        &self,
        server: &str,
        began_ns: u64,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        self.wait_settled(began_ns, CONVERGE_DEADLINE)?;
        figures.set("reintegration_ms", ms_since(began_ns));
        let own = wait::answer("a server's own state", || self.cluster.own_state(server))?;
        figures.set("reintegrated_bytes", own.resync_bytes_sent as f64);
        Ok(())
    }

    /// Asks every oracle after a round: nothing lost, load on both sides of the fault, one owner of the address, roles
    /// explained, nothing left behind.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn audit(&self) -> anyhow::Result<Report> {
        self.audit_since(0)
    }

    /// As `audit`; of the rows, only those that were acknowledged since a boot time are read back.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn audit_since(&self, since_ns: u64) -> anyhow::Result<Report> {
        let recorder = self.recorder()?;
        recorder.wait_load(LOAD_AFTER, LOAD_DEADLINE)?;
        let report = recorder.audit_since(since_ns)?;
        ensure!(
            report.lost.is_empty(),
            "{} acknowledged rows are lost, the first is {}",
            report.lost.len(),
            report.lost.first().copied().unwrap_or(0)
        );
        self.verify_roles()?;
        self.verify_explanation()?;
        self.verify_leaks()?;
        Ok(report)
    }

    /// Every event since the start of the module, the ones the cluster has forgotten included.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn all_events(&self) -> anyhow::Result<Vec<v1::EventReply>> {
        let now = self.cluster.events()?;
        let mut seen = self.events.lock();
        seen.extend(now.into_iter().map(|event| (event.id, event)));
        Ok(seen.values().cloned().collect())
    }

    /// P2, P4, P10.
    fn verify_roles(&self) -> anyhow::Result<()> {
        let events = self.all_events()?;
        if let (Some(roles), Some(wire)) = (&self.roles, &self.wire) {
            roles.verify()?;
            let hosts: Vec<u8> = roles::primaries(MODULE, &events)
                .iter()
                .filter_map(|name| Some(self.lab().server(name).ok()?.node().host))
                .collect();
            wire.verify(&hosts)?;
        }
        roles::verify_causes(MODULE, &events)
    }

    /// An operator who asks the primary why the roles are as they are is told.
    fn verify_explanation(&self) -> anyhow::Result<()> {
        let skcli = self.cluster.skcli(&self.primary()?)?;
        let explain = ["module", "explain", "-m", MODULE];
        explanation::verify(&skcli.run(&explain)?, &skcli.json(&explain)?)
    }

    /// No daemon panicked since the last look into its log.
    ///
    /// # Errors
    /// The lines of the panic.
    pub fn verify_logs(&self) -> anyhow::Result<()> {
        let mut read = self.logs_read.lock();
        for server in self.lab().servers() {
            let log = std::fs::read(server.log())?;
            let from = read.entry(server.name().to_owned()).or_default();
            let new = log.get(usize::try_from(*from)?..).unwrap_or_default();
            let text = String::from_utf8_lossy(new);
            *from = u64::try_from(log.len())?;
            if let Some(line) = text.lines().find(|line| line.contains("panicked at")) {
                anyhow::bail!("the daemon of {} panicked: {line}", server.name());
            }
        }
        Ok(())
    }

    /// One LAN between the members loses every frame, both ways; the client still reaches all of them. Returns boot time of
    /// the cut.
    ///
    /// # Errors
    /// The filter of the switch refused.
    pub fn lose_lan(&self, lan: usize) -> anyhow::Result<u64> {
        let names: Vec<&str> = self.lab().servers().iter().map(|s| s.name()).collect();
        let pairs = names.iter().flat_map(|from| {
            let others = names.iter().filter(move |to| *to != from);
            others.map(move |to| Direction { from, to })
        });
        self.lab().cut_all(&pairs.collect::<Vec<_>>(), &[lan])
    }

    /// P11: in the same role a server holds what the first one in that role held.
    fn verify_leaks(&self) -> anyhow::Result<()> {
        let Some([primary, secondary]) = &self.holdings else {
            return Ok(());
        };
        // A stop script that just ended may still be on its way out.
        Ok(wait::until(
            "a clean server",
            Duration::from_secs(10),
            || {
                let [primary_now, secondary_now] =
                    self.holdings_by_role().map_err(|e| format!("{e:#}"))?;
                leaks::verify_same(primary, &primary_now).map_err(|e| format!("primary: {e:#}"))?;
                leaks::verify_same(secondary, &secondary_now)
                    .map_err(|e| format!("secondary: {e:#}"))
            },
        )?)
    }

    fn holdings_by_role(&self) -> anyhow::Result<[Holdings; 2]> {
        let primary = self.primary()?;
        let secondary = self.cluster.other(&primary)?;
        Ok([
            leaks::holdings(self.lab(), &primary)?,
            leaks::holdings(self.lab(), &secondary)?,
        ])
    }

    /// Both copies are equal, seen from below the mounts (P3). The client must have stopped.
    ///
    /// # Errors
    /// The differences.
    pub fn verify_trees(&self) -> anyhow::Result<tree::Differences> {
        let names = self.cluster.server_names();
        let [a, b] = &names[..] else {
            anyhow::bail!("a mirror has two servers, not {}", names.len())
        };
        let below = |name: &str| self.lab().data_below(name).join("app");
        tree::wait_equal(&below(a), &below(b), EQUAL_DEADLINE)
    }

    /// A command inside the primary, in the replicated directory.
    ///
    /// # Errors
    /// It fails, or takes longer than its deadline.
    pub fn run_on_mount(&self, script: &str, deadline: Duration) -> anyhow::Result<String> {
        let primary = self.primary()?;
        let directory = crate::cluster::package::replicated_directory(self.lab());
        let script = format!("set -eu; cd {}; {script}", directory.display());
        let done = self
            .lab()
            .exec(&primary, &["sh", "-c", &script], deadline)?;
        ensure!(done.is_success(), "{script}: {}", done.summary());
        Ok(done.stdout)
    }

    /// One server's own state of the module.
    ///
    /// # Errors
    /// It does not answer.
    pub fn state_of(&self, server: &str) -> anyhow::Result<ModuleState> {
        Ok(self.cluster.own_state(server)?.state())
    }

    /// Everything that helps to understand a failure.
    pub fn evidence(&self) -> String {
        let mut text = String::new();
        for server in self.lab().servers() {
            text += &tail(server.log());
        }
        for server in self.lab().servers() {
            let name = server.name();
            let said = match self.cluster.cluster_state(name) {
                Ok(state) => cluster_summary(&state),
                Err(error) => format!("{error:#}"),
            };
            let _infallible = writeln!(text, "--- cluster as {name} sees it: {said}");
        }
        for name in self.cluster.server_names() {
            let state = self
                .cluster
                .module_state(&name)
                .map_or_else(|e| format!("{e:#}"), |s| observe::summary(&s));
            let _infallible = writeln!(text, "--- module as {name} sees it: {state}");
        }
        match self.cluster.events() {
            Ok(events) => {
                text.push_str("--- events\n");
                for event in events {
                    let _infallible = writeln!(
                        text,
                        "{} {} {} (by {}; {}; cause {})",
                        event.id,
                        event.at_unix_ms,
                        event.text,
                        event.author,
                        event.evidence,
                        event.cause
                    );
                }
            }
            Err(error) => {
                let _infallible = writeln!(text, "--- no events: {error:#}");
            }
        }
        if let Some(wire) = &self.wire {
            let _infallible = writeln!(text, "--- owners on the wire: {:?}", wire.tenures());
        }
        text
    }
}

fn cluster_summary(state: &v1::ClusterStateReply) -> String {
    let members: Vec<String> = state
        .members
        .iter()
        .map(|member| {
            let heard: Vec<String> = member
                .lans
                .iter()
                .map(|lan| match lan.heard_age_ms {
                    u64::MAX => "never".to_owned(),
                    age => format!("{age} ms"),
                })
                .collect();
            let down = if member.is_down { " DOWN" } else { "" };
            format!("{}{down} heard {}", member.name, heard.join("/"))
        })
        .collect();
    format!(
        "leader {} term {} applied {} quorum {} lease {} ms; {}",
        state.leader,
        state.term,
        state.applied_index,
        state.has_quorum,
        state.lease_remaining_ms,
        members.join(", ")
    )
}

fn tail(path: &std::path::Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    format!("--- {}\n{}\n", path.display(), lines[from..].join("\n"))
}

/// Milliseconds between a boot time and now.
pub(crate) fn ms_since(ns: u64) -> f64 {
    wait::boot_ns().saturating_sub(ns) as f64 / 1e6
}

/// Lets a fault last until `duration` has passed since a boot time.
pub(crate) fn hold(since_ns: u64, duration: Duration) {
    let passed = Duration::from_nanos(wait::boot_ns().saturating_sub(since_ns));
    std::thread::sleep(duration.saturating_sub(passed));
}
