use super::*;

fn open(directory: &Path, state: &Path) -> Result<Arc<Copy>, OpenError> {
    let (directory, state_dir) = (directory.to_owned(), state.to_owned());
    Copy::open(CopyConfig {
        module: "test".into(),
        directory,
        run_dir: state_dir.clone(),
        state_dir,
    })
}

#[test]
fn only_a_directory_below_the_root_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (data, state) = (dir.path().join("data"), dir.path().join("state"));
    assert!(matches!(open(&data, &state), Err(OpenError::Missing(_))));
    std::fs::write(&data, "").unwrap();
    assert!(matches!(
        open(&data, &state),
        Err(OpenError::NotADirectory(_))
    ));
    std::fs::remove_file(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    assert!(matches!(
        open(&data, &data.join("state")),
        Err(OpenError::StateInside { .. })
    ));
    assert!(matches!(
        open(Path::new("/"), &state),
        Err(OpenError::RootDirectory)
    ));
    assert!(matches!(
        open(Path::new("/proc/.."), &state),
        Err(OpenError::RootDirectory)
    ));
    assert!(matches!(
        open(Path::new("data"), &state),
        Err(OpenError::Relative(_))
    ));
    let copy = open(&data, &state).unwrap();
    assert_eq!(copy.epoch(), Epoch(0));
    copy.persist_epoch(Epoch(3)).unwrap();
    drop(copy);
    assert_eq!(open(&data, &state).unwrap().epoch(), Epoch(3));
}

/// Goal: a copy whose disk failed stays doubted over a restart of the daemon, syncs nothing until its comparison begins, and is trusted
/// again after one in which nothing failed.
#[test]
fn regression_a_doubt_outlives_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (data, state) = (dir.path().join("data"), dir.path().join("state"));
    std::fs::create_dir(&data).unwrap();
    let copy = open(&data, &state).unwrap();
    assert!(!copy.is_doubted());
    copy.note_disk_failure(Errno::NOSPC);
    assert_eq!(copy.sync(), Err(Errno::NOSPC));
    drop(copy);
    let copy = open(&data, &state).unwrap();
    copy.set_whole();
    assert!(copy.is_doubted(), "no comparison has begun");
    assert_eq!(copy.sync(), Err(Errno::IO));
    copy.begin_rewriting();
    copy.sync().unwrap();
    copy.set_whole();
    drop(copy);
    assert!(!open(&data, &state).unwrap().is_doubted());
}
