//! Whether the servers of a module can host it, looked at before anything is committed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::peer::v1::relay_reply::Outcome;
use api::peer::v1::relay_request::Call;
use api::peer::v1::{CheckModuleRequest, CheckedAddress};
use consensus::state::{MemberName, ServerId};
use module::Configuration;

use super::cluster::parse;
use super::reach;
use super::refusal::{Refusal, chain};
use crate::member::Member;
use crate::shell::addresses::{AddressError, PROBE_WAIT, VirtualAddress, find_interface, probe};

/// Asks every one of `servers`, this one first.
///
/// # Errors
/// What is missing, and on which server.
pub(super) async fn check_everywhere(
    member: &Arc<Member>,
    what: &str,
    configuration: &Configuration,
    servers: &[ServerId],
) -> Result<(), Refusal> {
    let request = request_of(configuration);
    if servers.contains(&member.id()) {
        check_here(member, what, &request).await?;
    }
    for server in servers.iter().filter(|server| **server != member.id()) {
        let call = Call::CheckModule(request.clone());
        match reach::ask(member, *server, call, what).await? {
            Outcome::Checked(_) => {}
            Outcome::NotReached(_)
            | Outcome::Refused(_)
            | Outcome::Changed(_)
            | Outcome::Report(_)
            | Outcome::Diverged(_) => {
                return Err(reach::nonsense(what, &member.name_of(*server)));
            }
        }
    }
    Ok(())
}

fn request_of(configuration: &Configuration) -> CheckModuleRequest {
    CheckModuleRequest {
        directories: configuration
            .rfs
            .directories
            .iter()
            .map(|directory| directory.display().to_string())
            .collect(),
        addresses: configuration
            .virtual_addresses
            .iter()
            .map(|each| CheckedAddress {
                ip: each.addr.to_string(),
                interface: each.interface.clone().unwrap_or_default(),
            })
            .collect(),
    }
}

/// A disk that has not answered by then is not fit.
const DISK_DEADLINE: Duration = Duration::from_secs(5);

/// FUSE, the directories and the virtual addresses on this server.
pub(super) async fn check_here(
    member: &Arc<Member>,
    what: &str,
    request: &CheckModuleRequest,
) -> Result<(), Refusal> {
    let name = member.name();
    if !Path::new("/dev/fuse").exists() {
        let why = "this kernel has no FUSE: /dev/fuse is missing";
        return Err(Refusal::not_now(what, why).next(format!("modprobe fuse    (on {name})")));
    }
    let wanted = request
        .addresses
        .iter()
        .map(|each| {
            Ok(VirtualAddress {
                ip: parse::<IpAddr>(what, "virtual address", &each.ip)?,
                interface: (!each.interface.is_empty()).then(|| each.interface.clone()),
            })
        })
        .collect::<Result<Vec<_>, Refusal>>()?;
    check_directories(&name, what, directories_to_look_at(member, request)).await?;
    let probed = tokio::task::spawn_blocking(move || wanted.iter().try_for_each(probe_one)).await;
    match probed {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Refusal::not_now(what, chain(error))),
        Err(error) => Err(Refusal::failed(what, chain(error))),
    }
}

/// A disk that hangs holds a thread of its own, and no other task.
async fn check_directories(
    name: &MemberName,
    what: &str,
    directories: Vec<PathBuf>,
) -> Result<(), Refusal> {
    let look = move || directories.into_iter().find(|each| !each.is_dir());
    let look = tokio::task::spawn_blocking(look);
    match tokio::time::timeout(DISK_DEADLINE, look).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(missing))) => {
            let missing = missing.display();
            let why = format!("{missing} is not a directory on this server");
            Err(Refusal::not_now(what, why).next(format!("mkdir -p {missing}    (on {name})")))
        }
        Ok(Err(error)) => Err(Refusal::failed(what, chain(error))),
        Err(_) => {
            let why = format!("the disk of a directory did not answer on {name} within 5 s");
            Err(Refusal::not_now(what, why).next(format!("ls -d DIRECTORY    (on {name})")))
        }
    }
}

/// Never below a mount of our own, which may be waiting for this daemon; the overlap is refused when committed.
fn directories_to_look_at(member: &Member, request: &CheckModuleRequest) -> Vec<PathBuf> {
    let state = member.state();
    let is_ours = |directory: &Path| {
        let mut ours = state
            .modules
            .values()
            .flat_map(|module| &module.directories);
        ours.any(|mounted| directory.starts_with(mounted))
    };
    let asked = request.directories.iter().map(PathBuf::from);
    asked.filter(|directory| !is_ours(directory)).collect()
}

fn probe_one(wanted: &VirtualAddress) -> Result<(), AddressError> {
    let interface = find_interface(wanted)?;
    probe(&interface, wanted.ip, PROBE_WAIT)
}
