use super::*;

/// Directories and files, with their sizes, in one directory.
type Listing = (Vec<FileId>, Vec<(FileId, u64)>);

/// Carries out a plan against a secondary that differs in some blocks and answers after `lag` steps.
struct Run {
    plan: Plan,
    /// Content of the tree: directories with their directories and files.
    tree: HashMap<FileId, Listing>,
    differing: HashSet<(FileId, u64)>,
    lag: usize,
    seq: u64,
    answers: VecDeque<(u64, Option<Block>)>,
    over: Vec<FileId>,
    listed: Vec<FileId>,
    compared: Vec<Block>,
    sent: Vec<Block>,
}

impl Run {
    fn new(lag: usize) -> Run {
        let mut plan = Plan::default();
        plan.on_directory(FileId::ROOT);
        Run {
            plan,
            tree: HashMap::new(),
            differing: HashSet::new(),
            lag,
            seq: 0,
            answers: VecDeque::new(),
            over: vec![],
            listed: vec![],
            compared: vec![],
            sent: vec![],
        }
    }

    fn answer_one(&mut self) -> bool {
        let Some((seq, needed)) = self.answers.pop_front() else {
            return false;
        };
        if let Some(block) = needed {
            self.plan.on_needed(block.file, block.offset);
        }
        self.plan.on_acknowledged(seq);
        true
    }

    fn finish(&mut self) {
        for _ in 0..1_000_000 {
            assert!(self.plan.digests_out <= DIGESTS_OUT_MAX);
            assert!(self.plan.content_out < CONTENT_OUT_BYTES_MAX + BLOCK_BYTES);
            self.over.extend(self.plan.take_over());
            match self.plan.next() {
                Step::List(directory) => {
                    self.listed.push(directory);
                    let (directories, files) =
                        self.tree.get(&directory).cloned().unwrap_or_default();
                    directories
                        .into_iter()
                        .for_each(|directory| self.plan.on_directory(directory));
                    files
                        .into_iter()
                        .for_each(|(file, size)| self.plan.on_file(file, size));
                    self.plan.on_listed(directory);
                }
                Step::Compare(block) => {
                    self.compared.push(block);
                    self.seq += 1;
                    self.plan.on_compared(block, self.seq);
                    let is_differing = self.differing.contains(&(block.file, block.offset));
                    self.answers
                        .push_back((self.seq, is_differing.then_some(block)));
                }
                Step::Send(block) => {
                    self.sent.push(block);
                    self.seq += 1;
                    self.plan.on_sent(block, Some((self.seq, block.length)));
                    self.answers.push_back((self.seq, None));
                }
                Step::Wait => assert!(self.answer_one(), "waits for nothing: {:?}", self.plan),
                Step::Finish => return,
            }
            while self.answers.len() > self.lag {
                self.answer_one();
            }
        }
        panic!("does not end: {:?}", self.plan);
    }
}

#[test]
fn everything_is_listed_and_compared_once_and_what_differs_is_sent() {
    for lag in [0, 1, 7, 1000] {
        let mut run = Run::new(lag);
        let file = |n: u64| (FileId(100 + n), n * 50_000);
        run.tree.insert(
            FileId::ROOT,
            (vec![FileId(2), FileId(3)], (1..20).map(file).collect()),
        );
        run.tree.insert(
            FileId(3),
            (
                vec![],
                vec![(FileId(200), 64 * BLOCK_BYTES), (FileId(201), 1)],
            ),
        );
        run.differing = (0..64)
            .filter(|n| n % 3 == 0)
            .map(|n| (FileId(200), n * BLOCK_BYTES))
            .collect();
        run.differing.insert((FileId(201), 0));
        run.finish();
        assert_eq!(run.listed.len(), 3);
        let total: u64 = (1..20).map(|n| n * 50_000).sum::<u64>() + 64 * BLOCK_BYTES + 1;
        let sent = 22 * BLOCK_BYTES + 1;
        assert_eq!(
            run.plan.bytes(),
            Bytes {
                total,
                done: total,
                sent
            },
            "lag {lag}"
        );
        assert_eq!(
            run.compared
                .iter()
                .map(|block| u64::from(block.length))
                .sum::<u64>(),
            total
        );
        assert_eq!(run.sent.len(), 23);
        // Everything that was held is given back, once.
        run.over.sort();
        let all: Vec<_> = [1, 2, 3]
            .into_iter()
            .chain(101..120)
            .chain(200..202)
            .map(FileId)
            .collect();
        assert_eq!(run.over, all, "lag {lag}");
    }
}

#[test]
fn a_file_that_vanishes_counts_as_done() {
    let mut plan = Plan::default();
    plan.on_file(FileId(5), 3 * BLOCK_BYTES);
    let Step::Compare(first) = plan.next() else {
        panic!("nothing to compare")
    };
    plan.on_compared(first, 1);
    let Step::Compare(second) = plan.next() else {
        panic!("nothing to compare")
    };
    plan.on_file_ended(second);
    assert_eq!(plan.next(), Step::Wait);
    plan.on_needed(first.file, first.offset);
    assert_eq!(plan.next(), Step::Wait);
    plan.on_acknowledged(1);
    assert_eq!(plan.next(), Step::Send(first));
    plan.on_sent(first, None);
    assert_eq!(plan.next(), Step::Finish);
    assert_eq!(plan.take_over(), [FileId(5)]);
    assert_eq!(
        plan.bytes(),
        Bytes {
            total: 3 * BLOCK_BYTES,
            done: 3 * BLOCK_BYTES,
            sent: 0
        }
    );
}

#[test]
fn answers_nobody_asked_for_change_nothing() {
    let mut plan = Plan::default();
    plan.on_acknowledged(77);
    plan.on_needed(FileId(9), 0);
    assert_eq!(plan.next(), Step::Finish);
}

#[test]
fn listing_waits_while_too_many_files_are_held() {
    let mut plan = Plan::default();
    plan.on_directory(FileId(2));
    for n in 0..FILES_HELD_MAX as u64 {
        plan.on_file(FileId(10 + n), 1);
    }
    let Step::Compare(block) = plan.next() else {
        panic!("lists with every place taken")
    };
    plan.on_compared(block, 1);
    assert_eq!(plan.next(), Step::List(FileId(2)));
}
