//! The history of roles: what each server believed the committed record to be, from the first to the last moment.
//!
//! P4: nobody became primary who was not in the in-sync set before. R1: one epoch is one record, whoever is asked. P10: every
//! change of role has an event with an author and, unless a person asked for it, a cause.

use crate::cluster::observe::Observer;
use anyhow::{bail, ensure};
use api::v1;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two questions to one server.
const ASK_INTERVAL: Duration = Duration::from_millis(25);

/// A module's record at one epoch, by the numbers of the servers: a name may be changed, or go to another server, within an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    /// Who leads.
    primary: Option<u64>,
    /// Whose copies are whole.
    in_sync: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct History {
    records: BTreeMap<u64, Record>,
    contradiction: Option<String>,
}

/// Watches the record of one module on all servers.
#[derive(Debug)]
pub struct Roles {
    history: Arc<Mutex<History>>,
    must_stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Roles {
    /// Starts to watch.
    pub fn start(module: &str, roots: Vec<PathBuf>) -> Roles {
        let history = Arc::new(Mutex::new(History::default()));
        let must_stop = Arc::new(AtomicBool::new(false));
        let threads = roots
            .into_iter()
            .map(|root| {
                let (history, stop) = (Arc::clone(&history), Arc::clone(&must_stop));
                let module = module.to_owned();
                std::thread::spawn(move || watch(&root, &module, &history, &stop))
            })
            .collect();
        Roles {
            history,
            must_stop,
            threads,
        }
    }

    /// One record for one epoch, and no promotion from outside the in-sync set.
    ///
    /// # Errors
    /// Names the two epochs that contradict each other.
    pub fn verify(&self) -> anyhow::Result<()> {
        let history = self.history.lock();
        if let Some(contradiction) = &history.contradiction {
            bail!("{contradiction}");
        }
        verify_promotions(&history.records)
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        self.must_stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a watcher of roles panicked");
            }
        }
    }
}

fn watch(root: &std::path::Path, module: &str, history: &Mutex<History>, stop: &AtomicBool) {
    let Ok(observer) = Observer::new() else {
        return;
    };
    while !stop.load(Ordering::Relaxed) {
        // A server that does not answer believes nothing that could be checked.
        if let Ok(state) = observer.module(root, module) {
            note(&mut history.lock(), &state);
        }
        std::thread::sleep(ASK_INTERVAL);
    }
}

fn note(history: &mut History, state: &v1::ModuleStateReply) {
    let record = Record {
        primary: (state.primary_id != 0).then_some(state.primary_id),
        in_sync: state.in_sync_ids.iter().copied().collect(),
    };
    let known = history
        .records
        .entry(state.epoch)
        .or_insert_with(|| record.clone());
    if *known != record {
        history.contradiction = Some(format!(
            "epoch {} has two records: {known:?} and {record:?}",
            state.epoch
        ));
    }
}

fn verify_promotions(records: &BTreeMap<u64, Record>) -> anyhow::Result<()> {
    for ((old_epoch, old), (epoch, new)) in records.iter().zip(records.iter().skip(1)) {
        // Between two epochs that follow each other nothing can have been missed.
        let promoted = match new.primary {
            Some(promoted) if *epoch == old_epoch + 1 && new.primary != old.primary => promoted,
            Some(_) | None => continue,
        };
        ensure!(
            old.in_sync.contains(&promoted) || old.in_sync.is_empty(),
            "epoch {epoch} promoted server {promoted} from outside the in-sync set {:?} of epoch {old_epoch}",
            old.in_sync
        );
        ensure!(
            new.in_sync.contains(&promoted),
            "epoch {epoch}: server {promoted} leads and is not in sync with itself",
        );
    }
    Ok(())
}

/// Primaries of a module in their order, without repetitions, as the events tell it.
pub fn primaries(module: &str, events: &[v1::EventReply]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for event in events.iter().filter(|event| event.module == module) {
        let told = [" took over", " is primary"]
            .iter()
            .filter_map(|words| event.text.split_once(words))
            .filter_map(|(before, _)| before.rsplit(' ').next())
            .next();
        if let Some(name) = told
            && order.last().is_none_or(|last| last != name)
        {
            order.push(name.to_owned());
        }
    }
    order
}

/// Every change of the epoch of a module is explained (P10).
///
/// # Errors
/// Names the event without author or cause.
pub fn verify_causes(module: &str, events: &[v1::EventReply]) -> anyhow::Result<()> {
    let ids: BTreeSet<u64> = events.iter().map(|event| event.id).collect();
    let oldest = ids.first().copied().unwrap_or(0);
    let mut epoch = None;
    for event in events.iter().filter(|e| e.module == module && e.epoch != 0) {
        if epoch
            .replace(event.epoch)
            .is_none_or(|last| last == event.epoch)
        {
            continue;
        }
        ensure!(
            !event.author.is_empty(),
            "event {} ({}) has no author",
            event.id,
            event.text
        );
        ensure!(
            event.cause != 0 || !event.evidence.is_empty(),
            "event {} ({}) has neither cause nor evidence",
            event.id,
            event.text
        );
        ensure!(
            event.cause == 0 || event.cause < oldest || ids.contains(&event.cause),
            "event {} ({}) names event {} as its cause, which does not exist",
            event.id,
            event.text,
            event.cause
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(primary: u64, in_sync: &[u64]) -> Record {
        Record {
            primary: Some(primary),
            in_sync: in_sync.iter().copied().collect(),
        }
    }

    #[test]
    fn promotion_from_outside_the_in_sync_set_is_found() {
        let fine = BTreeMap::from([
            (1, record(1, &[1])),
            (2, record(1, &[1, 2])),
            (3, record(2, &[2])),
        ]);
        verify_promotions(&fine).expect("s2 was in sync");
        let stale = BTreeMap::from([(1, record(1, &[1])), (2, record(2, &[2]))]);
        let error = verify_promotions(&stale).expect_err("s2 was not in sync");
        assert!(
            error.to_string().contains("outside the in-sync set"),
            "{error}"
        );
    }

    #[test]
    fn primaries_are_read_from_events() {
        let texts = [
            "s1 is primary by an operator's word",
            "s1 goes on alone: the copy on s2 is out of date from now on",
            "s2 took over: s1, which was primary, counts as down",
            "planned switchover: s1 is primary, s2 secondary",
        ];
        let events: Vec<_> = (1..)
            .zip(texts)
            .map(|(id, text)| v1::EventReply {
                id,
                module: "m".to_owned(),
                text: text.to_owned(),
                ..Default::default()
            })
            .collect();
        assert_eq!(primaries("m", &events), ["s1", "s2", "s1"]);
    }

    #[test]
    fn two_records_of_one_epoch_are_found() {
        let mut history = History::default();
        let mut state = v1::ModuleStateReply {
            epoch: 4,
            primary: "s1".to_owned(),
            primary_id: 1,
            ..Default::default()
        };
        note(&mut history, &state);
        state.primary = "renamed".to_owned();
        note(&mut history, &state);
        assert!(history.contradiction.is_none(), "the server is the same");
        state.primary_id = 2;
        note(&mut history, &state);
        assert!(history.contradiction.is_some());
    }

    #[test]
    fn change_of_epoch_without_cause_is_found() {
        let event = |id, epoch, cause| v1::EventReply {
            id,
            epoch,
            cause,
            module: "m".to_owned(),
            author: "s1".to_owned(),
            text: "changed".to_owned(),
            ..Default::default()
        };
        verify_causes("m", &[event(1, 1, 0), event(2, 2, 1)]).expect("explained");
        verify_causes("m", &[event(1, 1, 0), event(2, 2, 0)]).expect_err("no cause");
        verify_causes("m", &[event(1, 1, 0), event(3, 2, 2)]).expect_err("no such cause");
    }
}
