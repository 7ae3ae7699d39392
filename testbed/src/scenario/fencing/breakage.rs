//! Ways to break the rungs of the ladder on a real server, softest first, and to mend them.

use crate::cluster::{MODULE, package};
use crate::lab::Lab;
use crate::scenario::Arena;
use crate::wait;
use anyhow::{Context as _, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

/// A command in a server ends within this time.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// What was broken shows, and what was mended works, within this time.
const SOON: Duration = Duration::from_secs(30);

/// The softest rung that still works; all before it are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rung {
    /// Addresses are not removed: their lifetime in the kernel runs out.
    AddressLifetime,
    /// The stop script ignores signals, forks and never ends, too: the cgroup is killed.
    Cgroup,
    /// A disk hangs: the stop script does not even start, a process of the module cannot be killed, and another one has left the
    /// cgroup and goes on writing, too: the mount is aborted.
    Mount,
    /// The mount is not where it was, too: the watchdog resets the machine.
    Watchdog,
}

/// Ignores being told to end, forks, and never ends.
const STOP: &str = r#"#!/bin/bash
trap '' TERM HUP INT
touch "$SAFEUSERVAR/defied"
while :; do
    bash -c 'trap "" TERM HUP INT; sleep 1000' defiant &
    sleep 0.05
done
"#;

/// Writes to the mount outside of the module's cgroup, as long as nobody stops it, and notes when a write was acknowledged (boot
/// time in seconds) and what went wrong. `$1`: the directory, `$2`: where to note, `$3`: the module.
const ESCAPED: &str = r#"
group=$(awk '$3 == "cgroup2" { print $2 }' /proc/self/mounts | tail -n 1)
echo $$ >"$(echo "$group"/sidekick-*/"$3")/cgroup.procs" || exit 1
echo $$ >"$group/cgroup.procs" || exit 1
exec 3>>"$1/escaped" || exit 1
while [ ! -e "$2.stop" ]; do
    if echo x >&3; then
        read -r up _ </proc/uptime
        echo "$up" >>"$2"
    fi
    sleep 0.02
done 2>>"$2.errors"
"#;

/// Becomes a process of the module that waits for a disk and cannot be killed. `$1`: a file on that disk, `$2`: the module.
const STUCK: &str = r#"
group=$(awk '$3 == "cgroup2" { print $2 }' /proc/self/mounts | tail -n 1)
echo $$ >"$(echo "$group"/sidekick-*/"$2")/cgroup.procs" || exit 1
exec dd if=/dev/zero of="$1" bs=4k count=1 status=none
"#;

/// What is broken on one server.
pub(super) struct Breakage {
    server: String,
    rung: Rung,
    stop_script: Option<(PathBuf, Vec<u8>)>,
    disk: Option<PathBuf>,
    escaped: Option<(Child, PathBuf)>,
    stuck: Option<Child>,
}

impl Breakage {
    /// Breaks everything softer than `rung` on `server`, which leads, as far as that is possible before it is cut off.
    pub(super) fn of(arena: &Arena, server: &str, rung: Rung) -> anyhow::Result<Breakage> {
        let mut breakage = Breakage {
            server: server.to_owned(),
            rung,
            stop_script: None,
            disk: None,
            escaped: None,
            stuck: None,
        };
        arena.lab().keep_addresses(server, true)?;
        if rung == Rung::Cgroup {
            breakage.replace_stop_script(arena.lab())?;
        }
        if rung >= Rung::Mount {
            breakage.let_one_escape(arena.lab())?;
            breakage.hang_disk(arena.lab())?;
        }
        Ok(breakage)
    }

    /// What can be broken only at the moment of the cut.
    pub(super) fn complete(&self, lab: &Lab) -> anyhow::Result<()> {
        if self.rung < Rung::Watchdog {
            return Ok(());
        }
        let data = lab.data_path().display().to_string();
        self.shell(
            lab,
            &format!("mkdir -p {data}.moved && mount --move {data} {data}.moved"),
        )
    }

    /// Each broken rung was tried, and was broken.
    pub(super) fn verify_tried(&self, lab: &Lab, log: &str) -> anyhow::Result<()> {
        let mut said = vec!["could not remove the virtual address"];
        match self.rung {
            Rung::AddressLifetime => {}
            Rung::Cgroup => ensure!(
                scripts(lab, &self.server).join("defied").exists(),
                "the stop script was not run"
            ),
            Rung::Mount => said.extend([
                "stop_prim force neither starts nor ends",
                "processes of the module survive",
            ]),
            Rung::Watchdog => said.extend([
                "stop_prim force neither starts nor ends",
                "processes of the module survive, and its mount cannot be aborted",
                "the watchdog resets this server",
            ]),
        }
        for text in said {
            ensure!(
                log.contains(text),
                "the log of {} does not say {text:?}",
                self.server
            );
        }
        Ok(())
    }

    /// What the escaped process wrote was acknowledged last at this boot time; `None` when there is no such process. Every later
    /// attempt has failed.
    pub(super) fn last_escaped_ns(&self) -> anyhow::Result<Option<u64>> {
        let Some((_, notes)) = &self.escaped else {
            return Ok(None);
        };
        let errors = fs::read_to_string(notes.with_extension("errors"))?;
        ensure!(
            errors.contains("write error"),
            "no write of the escaped process failed: {errors}"
        );
        let text = fs::read_to_string(notes)?;
        let last = text
            .lines()
            .last()
            .context("nothing was ever acknowledged")?;
        let seconds: f64 = last.parse()?;
        // The clock of the notes has hundredths of a second.
        Ok(Some(((seconds + 0.01) * 1e9) as u64))
    }

    /// The disk answers again; what waited for it dies. A machine that is reset needs no more.
    pub(super) fn thaw(&mut self, lab: &Lab) -> anyhow::Result<()> {
        if let Some((mut escaped, notes)) = self.escaped.take() {
            fs::write(notes.with_extension("stop"), "")?;
            ensure!(
                wait::end_of(&mut escaped, SOON)?.is_some(),
                "the escaped process does not end"
            );
        }
        if let Some(disk) = &self.disk {
            self.shell(lab, &format!("fsfreeze -u {}", disk.display()))?;
        }
        if let Some(mut stuck) = self.stuck.take() {
            ensure!(
                wait::end_of(&mut stuck, SOON)?.is_some(),
                "the process that waited for the disk does not end"
            );
        }
        Ok(())
    }

    /// All is as it was before.
    pub(super) fn mend(&mut self, lab: &Lab) -> anyhow::Result<()> {
        self.thaw(lab)?;
        lab.keep_addresses(&self.server, false)?;
        if let Some((path, text)) = self.stop_script.take() {
            replace(&path, &text)?;
        }
        if let Some(disk) = self.disk.take() {
            let umount = format!("umount {}", disk.display());
            // The script that could not start is on its way out.
            wait::until("the disk is not used any more", SOON, || {
                self.shell(lab, &umount).map_err(|e| format!("{e:#}"))
            })?;
        }
        Ok(())
    }

    fn replace_stop_script(&mut self, lab: &Lab) -> anyhow::Result<()> {
        let module = module_directory(lab, &self.server);
        for entry in fs::read_dir(&module)? {
            let path = entry?.path().join("bin/stop_prim");
            if path.exists() {
                self.stop_script = Some((path.clone(), fs::read(&path)?));
                return replace(&path, STOP.as_bytes());
            }
        }
        anyhow::bail!("no stop script below {}", module.display())
    }

    /// A disk of its own where the output of scripts goes, which answers nothing any more, and a process that waits for it.
    fn hang_disk(&mut self, lab: &Lab) -> anyhow::Result<()> {
        let disk = scripts(lab, &self.server);
        let image = lab.root(&self.server).join("hanging.img");
        let (disk_text, image) = (disk.display(), image.display());
        self.shell(
            lab,
            &format!(
                "truncate -s 32M {image} && mkfs.ext4 -qF {image} && mount -o loop {image} {disk_text} && rm {image} && \
                 fsfreeze -f {disk_text}"
            ),
        )?;
        let file = disk.join("stuck").display().to_string();
        let stuck = lab
            .command(&self.server, &["bash", "-c", STUCK, "stuck", &file, MODULE])?
            .spawn()?;
        self.disk = Some(disk);
        self.stuck = Some(stuck);
        let listed = ["ps", "-e", "-o", "stat=,args="];
        wait::until("a process that cannot be killed", SOON, || {
            let done = lab
                .exec(&self.server, &listed, COMMAND_DEADLINE)
                .map_err(|e| e.to_string())?;
            let is_stuck = |line: &str| line.starts_with('D') && line.contains(&file);
            if done.stdout.lines().any(is_stuck) {
                Ok(())
            } else {
                Err(done.stdout)
            }
        })?;
        Ok(())
    }

    fn let_one_escape(&mut self, lab: &Lab) -> anyhow::Result<()> {
        let directory = package::replicated_directory(lab).display().to_string();
        let notes = lab.root(&self.server).join("escaped");
        for old in [notes.clone(), notes.with_extension("stop")] {
            if old.exists() {
                fs::remove_file(old)?;
            }
        }
        let text = notes.display().to_string();
        let command = ["bash", "-c", ESCAPED, "escaped", &directory, &text, MODULE];
        let child = lab.command(&self.server, &command)?.spawn()?;
        self.escaped = Some((child, notes.clone()));
        wait::until(
            "a write of the escaped process",
            SOON,
            || match fs::read_to_string(&notes) {
                Ok(text) if text.contains('\n') => Ok(()),
                Ok(text) => Err(text),
                Err(error) => Err(error.to_string()),
            },
        )?;
        Ok(())
    }

    fn shell(&self, lab: &Lab, script: &str) -> anyhow::Result<()> {
        let done = lab.exec(&self.server, &["sh", "-c", script], COMMAND_DEADLINE)?;
        ensure!(done.is_success(), "{script}: {}", done.summary());
        Ok(())
    }
}

/// A file that is being executed is not written to: it gets a successor.
fn replace(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(fresh, path)?)
}

fn module_directory(lab: &Lab, server: &str) -> PathBuf {
    lab.root(server)
        .join("var/lib/sidekick/modules")
        .join(MODULE)
}

fn scripts(lab: &Lab, server: &str) -> PathBuf {
    module_directory(lab, server).join("scripts")
}
