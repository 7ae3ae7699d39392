//! Short runs of the scenarios with the ledger. The long ones are for `testbed scenario run NAME --repeat N`.

use testbed::cluster::package::Acknowledgement;
use testbed::cluster::profile::Profile;
use testbed::oracle::Application;
use testbed::scenario::command_line::{RunOptions, perform};
use testbed::scenario::named;

/// One round in a fresh lab, with a seed that is the same every time.
fn one_round(name: &str) {
    run(options(name));
}

fn options(name: &str) -> RunOptions {
    RunOptions {
        name: name.to_owned(),
        repeat: 1,
        seed: Some(1),
        seconds: None,
        minutes: None,
        json: true,
        app: Application::Ledger,
        profile: Profile::Default,
        ack: Acknowledgement::Disk,
        keep: false,
    }
}

/// A round in which the secondary acknowledges what it has received.
fn one_round_on_receipt(name: &str) {
    run(RunOptions {
        ack: Acknowledgement::Receipt,
        ..options(name)
    });
}

fn run(options: RunOptions) {
    if let Some(why) = testbed::cluster::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let outcome = perform(named(&options.name).unwrap(), &options);
    assert!(outcome.failure.is_none(), "{}", outcome.failure.unwrap());
}

/// With a fault that lasts for so many seconds.
fn one_round_for(name: &str, seconds: u64) {
    run(RunOptions {
        seconds: Some(seconds),
        ..options(name)
    });
}

#[test]
fn primary_power_cut() {
    one_round("primary_power_cut");
}

#[test]
fn secondary_power_cut() {
    one_round("secondary_power_cut");
}

#[test]
fn primary_daemon_killed() {
    one_round("primary_daemon_killed");
}

#[test]
fn stale_server_starts_first() {
    one_round("stale_server_starts_first");
}

#[test]
fn removed_while_alone() {
    one_round("removed_while_alone");
}

#[test]
fn swap() {
    one_round("swap");
}

#[test]
fn primary_daemon_frozen() {
    one_round_for("primary_daemon_frozen", 4);
}

#[test]
fn flapping_link() {
    one_round_for("flapping_link", 8);
}

#[test]
fn one_lan_lost() {
    one_round("one_lan_lost");
}

#[test]
fn bad_input() {
    one_round("bad_input");
}

#[test]
fn command_relayed() {
    one_round("command_relayed");
}

#[test]
fn dry_runs() {
    one_round("dry_runs");
}

#[test]
fn primary_isolated() {
    one_round("primary_isolated");
}

#[test]
fn blackout() {
    one_round("blackout");
}

#[test]
fn witness_lost() {
    one_round("witness_lost");
}

#[test]
fn alone_without_quorum() {
    one_round("alone_without_quorum");
}

#[test]
fn addition_open_over_restart() {
    one_round("addition_open_over_restart");
}

#[test]
fn addition_cannot_be_noted() {
    one_round("addition_cannot_be_noted");
}

#[test]
fn force_on_the_wrong_side() {
    one_round("force_on_the_wrong_side");
}

#[test]
fn stop_script_defies() {
    one_round("stop_script_defies");
}

#[test]
fn fence_address_stays() {
    one_round("fence_address_stays");
}

#[test]
fn fence_stop_script_hangs() {
    one_round("fence_stop_script_hangs");
}

#[test]
fn fence_processes_survive() {
    one_round("fence_processes_survive");
}

#[test]
fn fence_all_rungs_broken() {
    one_round("fence_all_rungs_broken");
}

#[test]
fn watchdog_silent() {
    one_round("watchdog_silent");
}

#[test]
fn reinstalled_at_once() {
    one_round("reinstalled_at_once");
}

#[test]
fn primary_power_cut_with_a_fast_lease() {
    run(RunOptions {
        profile: Profile::Fast,
        ..options("primary_power_cut")
    });
}

#[test]
fn heart_timeout() {
    one_round("heart_timeout");
}

#[test]
fn primary_power_cut_on_receipt() {
    one_round_on_receipt("primary_power_cut");
}

#[test]
fn secondary_power_cut_on_receipt() {
    one_round_on_receipt("secondary_power_cut");
}

#[test]
fn swap_on_receipt() {
    one_round_on_receipt("swap");
}

#[test]
fn members_come_and_go() {
    one_round("members_come_and_go");
}

#[test]
fn server_replaced() {
    one_round("server_replaced");
}

#[test]
fn old_disks() {
    one_round("old_disks");
}

#[test]
fn old_disk_of_secondary() {
    one_round("old_disk_of_secondary");
}

#[test]
fn old_disk_of_primary() {
    one_round("old_disk_of_primary");
}

#[test]
fn unfit_disk_of_secondary() {
    one_round("unfit_disk_of_secondary");
}

#[test]
fn failed_disk_of_primary() {
    one_round("failed_disk_of_primary");
}

#[test]
fn failed_disk_of_secondary() {
    one_round("failed_disk_of_secondary");
}

#[test]
fn unfit_disk_of_primary() {
    one_round("unfit_disk_of_primary");
}

#[test]
fn unfit_disks() {
    one_round("unfit_disks");
}

#[test]
fn witness_of_two_clusters() {
    one_round("witness_of_two_clusters");
}

#[test]
fn pair_waits_for_its_voter() {
    one_round("pair_waits_for_its_voter");
}

#[test]
fn server_moves() {
    one_round("server_moves");
}

#[test]
fn primary_daemon_paused() {
    one_round("primary_daemon_paused");
}

#[test]
fn primary_daemon_frozen_briefly() {
    one_round("primary_daemon_frozen_briefly");
}

#[test]
fn pair_link_cut() {
    one_round("pair_link_cut");
}

#[test]
fn clock_steps() {
    one_round("clock_steps");
}

#[test]
fn boot_clocks_differ() {
    one_round("boot_clocks_differ");
}

#[test]
fn pair_under_load() {
    one_round("pair_under_load");
}

#[test]
fn seven_members() {
    one_round("seven_members");
}

#[test]
fn pair_starts_anew() {
    one_round("pair_starts_anew");
}

#[test]
fn trees_git_build() {
    one_round("trees_git_build");
}

#[test]
fn trees_tar() {
    one_round("trees_tar");
}

#[test]
fn trees_sqlite() {
    one_round("trees_sqlite");
}

#[test]
fn trees_pgbench() {
    if !Application::Postgresql.is_installed() {
        eprintln!("skipped: PostgreSQL is not installed");
        return;
    }
    run(RunOptions {
        app: Application::Postgresql,
        ..options("trees_pgbench")
    });
}
