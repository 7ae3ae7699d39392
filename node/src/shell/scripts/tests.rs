//! Scripts against the real kernel, in cgroups of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A module in a temporary folder, with a cgroup that is killed at the end.
struct Module {
    folder: tempfile::TempDir,
    scripts: Scripts,
}

impl Module {
    /// `None` where cgroups cannot be used; the test is then skipped and says so.
    fn new(log_bytes_max: u64) -> Option<Module> {
        let folder = tempfile::tempdir().unwrap();
        let root = match Cgroup::of_root(folder.path()) {
            Ok(root) => root,
            Err(error) => {
                println!("skipped: {error}");
                return None;
            }
        };
        let package = folder.path().join("package");
        fs::create_dir_all(package.join("bin")).unwrap();
        let environment = ScriptEnvironment {
            module: "shop".to_owned(),
            installation: folder.path().to_owned(),
            programs: "/opt/sidekick/bin".into(),
            package,
            state: folder.path().join("var"),
            module_state: folder.path().join("var/shop"),
            directory: Some("/srv/shop".into()),
            variables: BTreeMap::from([
                ("PORT".to_owned(), "5432".to_owned()),
                ("SAFEMODULE".to_owned(), "not this".to_owned()),
            ]),
        };
        let scripts = Scripts::new(root.child("shop").unwrap(), environment, log_bytes_max);
        Some(Module { folder, scripts })
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.folder.path().join("package/bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    async fn run(&self, name: &str, arguments: &[&str], deadline: Duration) -> (Outcome, String) {
        let run = self.scripts.run(name, arguments, deadline).await.unwrap();
        let text = run.log.map(|log| fs::read_to_string(log).unwrap());
        (run.outcome, text.unwrap_or_default())
    }

    fn members(&self) -> Vec<i32> {
        self.scripts.cgroup().members().unwrap()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let root = Cgroup::of_root(self.folder.path()).unwrap();
        root.kill_blocking(Duration::from_secs(5)).unwrap();
    }
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < LONG, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn script_sees_arguments_and_a_clean_environment_and_its_output_is_kept() {
    let Some(module) = Module::new(LOG_BYTES_MAX) else {
        return;
    };
    module.script(
        "start_prim",
        "echo \"$@\"; pwd; env | sort; echo wrong >&2; exit 3",
    );
    let (outcome, text) = module
        .run("start_prim", &["STOP", "PRIM", "start"], LONG)
        .await;
    let Outcome::Exited { status } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(status.code(), Some(3));
    let folder = module.folder.path().display();
    for line in [
        "STOP PRIM start".to_owned(),
        format!("{folder}/package"),
        format!("SAFE={folder}"),
        "SAFEMODULE=shop".to_owned(),
        "SAFEBIN=/opt/sidekick/bin".to_owned(),
        format!("SAFEUSERBIN={folder}/package/bin"),
        format!("SAFEVAR={folder}/var"),
        format!("SAFEUSERVAR={folder}/var/shop"),
        "SK_MODULE=shop".to_owned(),
        "SK_BIN=/opt/sidekick/bin".to_owned(),
        "SK_DIRECTORY=/srv/shop".to_owned(),
        "PORT=5432".to_owned(),
        "wrong".to_owned(),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} in:\n{text}"
        );
    }
    assert!(!text.contains("HOME=") && !text.contains("CARGO"), "{text}");
    assert!(
        text.contains("PATH=/opt/sidekick/bin:/usr/local/sbin"),
        "{text}"
    );
}

#[tokio::test]
async fn missing_script_is_no_error_and_bad_names_are() {
    let Some(module) = Module::new(LOG_BYTES_MAX) else {
        return;
    };
    let (outcome, _) = module.run("transition", &[], LONG).await;
    assert_eq!(outcome, Outcome::Missing);
    assert!(outcome.is_success());
    for name in ["", "../start", "a/b", "a b", "."] {
        let refused = module.scripts.run(name, &[], LONG).await;
        assert!(
            matches!(refused, Err(ScriptError::BadName { .. })),
            "{name}"
        );
    }
}

#[tokio::test]
async fn script_that_is_not_executable_says_so() {
    let Some(module) = Module::new(LOG_BYTES_MAX) else {
        return;
    };
    let path = module.folder.path().join("package/bin/start_prim");
    fs::write(path, "#!/bin/sh\n").unwrap();
    let refused = module.scripts.run("start_prim", &[], LONG).await;
    assert!(
        matches!(refused, Err(ScriptError::Start { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn background_child_is_not_waited_for_stays_in_the_cgroup_and_dies_with_it() {
    // The child ignores TERM, forks twice, changes its session and closes nothing.
    let Some(module) = Module::new(LOG_BYTES_MAX) else {
        return;
    };
    module.script(
        "start_prim",
        "trap '' TERM HUP INT\n(setsid sh -c \"trap '' TERM HUP INT; (while :; do sleep 1; done) & wait\" &) &\nexit 0",
    );
    let start = Instant::now();
    let (outcome, _) = module.run("start_prim", &[], LONG).await;
    assert!(outcome.is_success());
    assert!(start.elapsed() < Duration::from_secs(5), "did not wait");
    eventually("child in the cgroup", async || module.members().len() >= 2).await;
    module
        .scripts
        .cgroup()
        .kill(Duration::from_secs(5))
        .await
        .unwrap();
    assert!(!module.scripts.cgroup().path().exists());
    assert_eq!(module.members(), Vec::<i32>::new());
}

#[tokio::test]
async fn deadline_kills_the_run_and_spares_what_ran_before() {
    let Some(module) = Module::new(LOG_BYTES_MAX) else {
        return;
    };
    module.script("start_prim", "(while :; do sleep 1; done) & exit 0");
    module.script(
        "stop_prim",
        "trap '' TERM; (while :; do sleep 1; done) & while :; do sleep 1; done",
    );
    let (outcome, _) = module.run("start_prim", &[], LONG).await;
    assert!(outcome.is_success());
    let application = module.members()[0];
    let start = Instant::now();
    let (outcome, _) = module
        .run("stop_prim", &[], Duration::from_millis(300))
        .await;
    assert_eq!(outcome, Outcome::TimedOut);
    assert!(!outcome.is_success());
    assert!(start.elapsed() < Duration::from_secs(5));
    let left = module.members();
    assert!(left.contains(&application), "{left:?}");
    assert!(left.len() <= 2, "the application and its sleep: {left:?}");
}

#[tokio::test]
async fn dropped_run_is_killed_with_the_module() {
    let Some(module) = Module::new(LOG_BYTES_MAX) else {
        return;
    };
    module.script("stop_prim", "while :; do sleep 1; done");
    let run = module.scripts.run("stop_prim", &[], LONG);
    assert!(timeout(Duration::from_millis(200), run).await.is_err());
    module
        .scripts
        .cgroup()
        .kill(Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(module.members(), Vec::<i32>::new());
}

#[tokio::test]
async fn output_is_limited_also_after_the_script_has_ended() {
    let Some(module) = Module::new(10_000) else {
        return;
    };
    module.script(
        "start_prim",
        "echo begin; (i=0; while :; do i=$((i+1)); echo line $i; done) & exit 0",
    );
    let run = module.scripts.run("start_prim", &[], LONG).await.unwrap();
    let log = run.log.unwrap();
    eventually("cut", async || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("bytes cut here"))
    })
    .await;
    module
        .scripts
        .cgroup()
        .kill(Duration::from_secs(5))
        .await
        .unwrap();
    eventually("small", async || {
        fs::metadata(&log).unwrap().len() <= 10_000
    })
    .await;
    assert!(fs::read_to_string(&log).unwrap().starts_with("begin\n"));
}

#[tokio::test]
async fn module_starts_again_after_it_was_killed() {
    let Some(module) = Module::new(LOG_BYTES_MAX) else {
        return;
    };
    module.script("start_prim", "(while :; do sleep 1; done) & exit 0");
    for _ in 0..3 {
        let cgroup = module.scripts.cgroup();
        cgroup.kill(Duration::from_secs(5)).await.unwrap();
        let (outcome, _) = module.run("start_prim", &[], LONG).await;
        assert!(outcome.is_success());
        assert!(!module.members().is_empty());
    }
}

#[tokio::test]
async fn leftovers_of_a_former_daemon_are_killed_with_its_root() {
    let Some(module) = Module::new(LOG_BYTES_MAX) else {
        return;
    };
    module.script("start_prim", "(while :; do sleep 1; done) & exit 0");
    module.run("start_prim", &[], LONG).await;
    assert!(!module.members().is_empty());
    let root = Cgroup::of_root(module.folder.path()).unwrap();
    root.kill(Duration::from_secs(5)).await.unwrap();
    assert!(module.members().is_empty());
}
