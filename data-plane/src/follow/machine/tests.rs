//! The machine against a model of a region: any order, any loss, any repetition.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::entry::SecretStatus;

use super::*;
use crate::testing::{change, heartbeat, revision, secret};

/// What a table holds of each secret: its status and revision.
type Fold = BTreeMap<u64, (SecretStatus, Position)>;

/// A region as it would be in Redis, and the log behind it.
struct Region {
    frames: Vec<Frame>,
    epoch: u64,
    /// How far the region has been written; the log may be further.
    written: Position,
    /// The feed holds frames that lead above this.
    feed_from: Position,
    is_wiped: bool,
}

/// A proxy: the machine, its table, and what it has asked for.
struct Proxy {
    machine: Machine,
    table: Fold,
    asked: Vec<Action>,
    now_ms: u64,
    /// The machine is told that no frame ever has a hole before it.
    is_blind: bool,
    /// The table was found to differ from its digest.
    mismatches: u32,
    /// What the region said; somebody may say it again.
    beats: Vec<Heartbeat>,
}

/// What may happen next.
#[derive(Debug, Clone)]
enum Event {
    /// The log and the region get another event.
    Write { secret: u64, status: u8 },
    /// Some frame of the past arrives: late, repeated, out of order or in order.
    Frame(usize),
    /// A heartbeat of now arrives.
    Heartbeat,
    /// A heartbeat of the past arrives: it was late, or recorded.
    Replay(usize),
    /// The newest frame arrives without its changes.
    Hollow,
    /// Something that was asked for is answered.
    Answer(usize),
    /// Something that was asked for fails.
    Fail(usize),
    /// The feed forgets its past.
    Trim,
    /// The region is built anew.
    NewEpoch,
    /// The region loses everything, and is written again up to some place.
    Wipe(u64),
    /// The region is written up to the log's head again.
    Recover,
    /// Time passes.
    Wait(u64),
    /// The subscription says that it lost something.
    Lost,
}

const STATUSES: [SecretStatus; 3] = [
    SecretStatus::Active,
    SecretStatus::Inactive,
    SecretStatus::Revoked,
];

fn lineage() -> LineageId {
    LineageId::from_u128(1)
}

impl Region {
    fn new() -> Self {
        Self {
            frames: Vec::new(),
            epoch: 1,
            written: 0,
            feed_from: 0,
            is_wiped: false,
        }
    }

    fn head(&self) -> Position {
        self.frames.len() as Position
    }

    fn write(&mut self, n: u64, status: SecretStatus) {
        let to = self.head() + 1;
        let mut entry = secret(n, status);
        entry.revision = revision(to);
        // Revoked is absorbing in the log, too.
        let was = self.fold(to - 1).get(&n).map(|&(status, _)| status);
        if was == Some(SecretStatus::Revoked) {
            entry.status = SecretStatus::Revoked;
        }
        self.frames.push(Frame {
            lineage: lineage(),
            generation: 1,
            epoch: self.epoch,
            from: to - 1,
            to,
            changes: Some(vec![change(n, entry)]),
            as_of_ms: 0,
        });
        if !self.is_wiped && self.written == to - 1 {
            self.written = to;
        }
    }

    /// The table at a position.
    fn fold(&self, through: Position) -> Fold {
        let mut fold = Fold::new();
        for frame in self.frames.iter().filter(|it| it.to <= through) {
            merge(&mut fold, frame.changes.as_deref().unwrap_or_default());
        }
        fold
    }

    fn meta(&self) -> Option<Meta> {
        (!self.is_wiped).then(|| Meta {
            lineage: lineage(),
            generation: 1,
            epoch: self.epoch,
            fence: 1,
            position: self.written,
            chain_hash: String::new(),
            as_of_ms: 0,
            count: 0,
            root: root(&self.fold(self.written)),
        })
    }

    fn feed(&self, epoch: u64, after: Position) -> Vec<Frame> {
        let held = |frame: &&Frame| {
            !self.is_wiped
                && epoch == self.epoch
                && frame.to > after.max(self.feed_from)
                && frame.to <= self.written
        };
        self.frames
            .iter()
            .filter(held)
            .map(|frame| Frame {
                epoch: self.epoch,
                ..frame.clone()
            })
            .take(5)
            .collect()
    }
}

/// The digest of a table. Its form is not this test's business, only that it tells tables
/// apart.
fn root(fold: &Fold) -> Digest {
    let names: Vec<String> = fold.keys().map(ToString::to_string).collect();
    let revisions = fold.values().map(|&(_, rev)| revision(rev));
    schemas::digest::of_policies(names.iter().map(String::as_str).zip(revisions))
}

fn merge(fold: &mut Fold, changes: &[Change]) {
    for change in changes {
        if let Change::Secret { secret, .. } = change {
            let n = secret.key_id.to_u128() as u64;
            let new = (secret.status, secret.revision.rev);
            let held = fold.entry(n).or_insert(new);
            if new.1 > held.1 && !held.0.is_absorbing() {
                *held = new;
            }
        }
    }
}

impl Proxy {
    fn new(is_blind: bool) -> Self {
        let mut proxy = Self {
            machine: Machine::new(),
            table: Fold::new(),
            asked: Vec::new(),
            now_ms: 0,
            is_blind,
            mismatches: 0,
            beats: Vec::new(),
        };
        proxy.step(Input::Tick);
        proxy
    }

    fn step(&mut self, input: Input) {
        for action in self.machine.step(input, self.now_ms) {
            match action {
                Action::Apply(changes) => merge(&mut self.table, &changes),
                Action::Compare(expected) => {
                    if root(&self.table) != expected {
                        self.mismatches += 1;
                        self.step(Input::Mismatch);
                    }
                }
                Action::RenewNow | Action::Alarm(_) => {}
                read => self.asked.push(read),
            }
        }
    }

    fn hear(&mut self, mut frame: Frame) {
        if self.is_blind {
            frame.from = 0;
        }
        self.step(Input::Notice(Notice::Frame(frame)));
    }

    fn beat(&mut self, region: &Region) {
        let Some(meta) = region.meta() else { return };
        let beat = Heartbeat {
            as_of_ms: self.beats.len() as i64,
            root: meta.root,
            ..heartbeat(region.epoch, region.written)
        };
        self.beats.push(beat.clone());
        self.step(Input::Notice(Notice::Heartbeat(beat)));
    }

    /// Makes the table what the region holds: its word is taken up to where it is, and only
    /// what is off for good stays so.
    fn load(&mut self, region: &Region, meta: &Meta) {
        let fold = region.fold(region.written);
        self.table.retain(|n, &mut (status, rev)| {
            fold.contains_key(n) || status.is_absorbing() || rev > meta.position
        });
        for (n, entry) in fold {
            let held = self.table.entry(n).or_insert(entry);
            if held.1 <= region.written && !held.0.is_absorbing() {
                *held = entry;
            }
        }
    }

    fn answer(&mut self, at: usize, region: &Region) {
        if self.asked.is_empty() {
            return;
        }
        let input = match self.asked.remove(at % self.asked.len()) {
            Action::ReadMeta { asked_at } => Input::Meta {
                asked_at,
                meta: region.meta(),
            },
            Action::ReadFeed { epoch, after } => {
                let frames = region.feed(epoch, after);
                Input::Feed {
                    epoch,
                    more: frames.len() >= 5,
                    frames,
                }
            }
            Action::ReadSnapshot { meta } => {
                // Read while the region goes on, so it may hold what is newer than meta.
                let is_whole = region
                    .meta()
                    .is_some_and(|now| now.epoch == meta.epoch && now.position >= meta.position);
                if is_whole {
                    self.load(region, &meta);
                    let through = region.written;
                    Input::Snapshot { meta, through }
                } else {
                    Input::SnapshotFailed
                }
            }
            other => unreachable!("{other:?} is carried out at once"),
        };
        self.step(input);
    }

    fn fail(&mut self, at: usize) {
        if self.asked.is_empty() {
            return;
        }
        let input = match self.asked.remove(at % self.asked.len()) {
            Action::ReadMeta { .. } => Input::MetaFailed,
            Action::ReadFeed { .. } => Input::FeedFailed,
            _ => Input::SnapshotFailed,
        };
        self.step(input);
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1_u64..5, 0_u8..3).prop_map(|(secret, status)| Event::Write { secret, status }),
        6 => any::<usize>().prop_map(Event::Frame),
        3 => Just(Event::Heartbeat),
        1 => any::<usize>().prop_map(Event::Replay),
        1 => Just(Event::Hollow),
        8 => any::<usize>().prop_map(Event::Answer),
        1 => any::<usize>().prop_map(Event::Fail),
        1 => Just(Event::Trim),
        1 => Just(Event::NewEpoch),
        1 => any::<u64>().prop_map(Event::Wipe),
        1 => Just(Event::Recover),
        2 => (1_u64..1_500).prop_map(Event::Wait),
        1 => Just(Event::Lost),
    ]
}

/// Runs a history; an error tells what did not hold.
fn run(events: &[Event], is_blind: bool) -> Result<(), String> {
    let mut region = Region::new();
    let mut proxy = Proxy::new(is_blind);
    let mut last = (proxy.machine.place(), proxy.machine.is_ready());
    for event in events {
        match event {
            Event::Write { secret, status } => {
                region.write(*secret, STATUSES[usize::from(*status)]);
            }
            Event::Frame(at) if !region.frames.is_empty() => {
                let frame = region.frames[at % region.frames.len()].clone();
                proxy.hear(frame);
            }
            Event::Heartbeat => proxy.beat(&region),
            Event::Replay(at) if !proxy.beats.is_empty() => {
                let beat = proxy.beats[at % proxy.beats.len()].clone();
                proxy.step(Input::Notice(Notice::Heartbeat(beat)));
            }
            Event::Hollow => {
                if let Some(frame) = region.frames.last() {
                    let changes = None;
                    proxy.hear(Frame {
                        changes,
                        ..frame.clone()
                    });
                }
            }
            Event::Answer(at) => proxy.answer(*at, &region),
            Event::Fail(at) => proxy.fail(*at),
            Event::Trim => region.feed_from = region.written,
            Event::NewEpoch => {
                region.epoch += 1;
                region.feed_from = region.written;
            }
            Event::Wipe(to) => {
                region.is_wiped = to % 3 == 0;
                region.written = to % (region.written + 1);
                region.feed_from = 0;
            }
            Event::Recover => {
                region.is_wiped = false;
                region.written = region.head();
            }
            Event::Wait(ms) => {
                proxy.now_ms += ms;
                proxy.step(Input::Tick);
            }
            Event::Lost => proxy.step(Input::Notice(Notice::Lost)),
            Event::Frame(_) | Event::Replay(_) => {}
        }
        check(&region, &proxy, &mut last)?;
    }

    finish(&mut region, &mut proxy, |region, proxy| {
        check(region, proxy, &mut last)
    })?;
    if proxy.mismatches > 0 {
        return Err("a table that was right was taken for wrong".to_owned());
    }
    Ok(())
}

/// In the end the region is whole, and everything that is asked for is answered.
fn finish(
    region: &mut Region,
    proxy: &mut Proxy,
    mut check: impl FnMut(&Region, &Proxy) -> Result<(), String>,
) -> Result<(), String> {
    region.is_wiped = false;
    region.written = region.head();
    proxy.step(Input::Answer(RenewalAnswer {
        boot_id: schemas::BootId::from_u128(1),
        counter: 1,
        lineage: lineage(),
        generation: 1,
        head: region.head(),
        now_ms: 0,
    }));
    for round in 0..200 {
        proxy.now_ms += 100;
        proxy.step(Input::Tick);
        if round % 10 == 0 {
            proxy.beat(region);
        }
        for _ in 0..4 {
            proxy.answer(0, region);
        }
        check(region, proxy)?;
    }
    let place = proxy.machine.place();
    if place.position != region.head() || place.epoch != region.epoch {
        return Err(format!("ended at {place:?}, the log at {}", region.head()));
    }
    if proxy.machine.state() != FollowerState::Follow || !proxy.machine.is_ready() {
        return Err(format!("ended in {:?}", proxy.machine.state()));
    }
    if proxy.table != region.fold(region.head()) {
        return Err(format!("ended with {:?}", proxy.table));
    }
    Ok(())
}

/// What holds at every moment.
fn check(region: &Region, proxy: &Proxy, last: &mut (Place, bool)) -> Result<(), String> {
    let (place, ready) = (proxy.machine.place(), proxy.machine.is_ready());
    if place.position < last.0.position {
        return Err(format!("went back from {:?} to {place:?}", last.0));
    }
    if last.1 && !ready {
        return Err("stopped being ready".to_owned());
    }
    *last = (place, ready);
    if place.lineage.is_none() {
        return Ok(());
    }
    // Every event up to the position is in the table; a snapshot may hold more.
    for (n, (status, rev)) in region.fold(place.position) {
        match proxy.table.get(&n) {
            Some(&(_, held)) if held > rev => {}
            Some(&held) if held == (status, rev) => {}
            held => {
                return Err(format!(
                    "at {} secret {n} should be {status:?} of {rev}, and is {held:?}",
                    place.position
                ));
            }
        }
        if status == SecretStatus::Revoked && proxy.table[&n].0 != SecretStatus::Revoked {
            return Err(format!("secret {n} was revoked and is back"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_table_is_the_fold_at_its_position_and_gets_to_the_head(
        events in proptest::collection::vec(event(), 0..120),
    ) {
        run(&events, false).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever became of the table, a heartbeat shows it and it is made right.
    #[test]
    fn a_table_that_went_wrong_is_found_and_made_right(
        events in proptest::collection::vec(event(), 1..80),
        secrets in proptest::collection::btree_map(1_u64..9, 0_u64..99, 0..6),
    ) {
        let mut region = Region::new();
        for event in &events {
            if let Event::Write { secret, status } = event {
                region.write(*secret, STATUSES[usize::from(*status)]);
            }
        }
        let mut proxy = Proxy::new(false);
        finish(&mut region, &mut proxy, |_, _| Ok(())).map_err(TestCaseError::fail)?;
        // A few entries are lost, made up, or of another revision. Two entries of one
        // revision cannot differ: the log has one.
        let head = region.head();
        let mut wrong = proxy.table.clone();
        for (n, rev) in secrets {
            let made_up = (SecretStatus::Active, rev % (head + 1));
            if rev % 3 == 0 || wrong.get(&n).is_some_and(|right| right.1 == made_up.1) {
                wrong.remove(&n);
            } else {
                wrong.insert(n, made_up);
            }
        }
        let differs = root(&wrong) != root(&proxy.table);
        proxy.table = wrong;
        finish(&mut region, &mut proxy, |_, _| Ok(())).map_err(TestCaseError::fail)?;
        prop_assert_eq!(proxy.mismatches > 0, differs);
    }
}

/// The property above would be worth nothing if a follower without gaps passed it.
#[test]
fn a_follower_that_does_not_see_holes_is_found_out() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let events = proptest::collection::vec(event(), 0..120);
    let found = runner.run(&events, |events| {
        run(&events, true).map_err(TestCaseError::fail)
    });
    assert!(found.is_err(), "the broken follower passed");
}

fn loaded_at(position: Position) -> Machine {
    let mut machine = Machine::new();
    machine.step(
        Input::Snapshot {
            meta: meta(1, 1, position),
            through: position,
        },
        0,
    );
    machine
}

fn meta(generation: u32, epoch: u64, position: Position) -> Meta {
    Meta {
        lineage: LineageId::from_u128(u128::from(generation)),
        generation,
        epoch,
        fence: 1,
        position,
        chain_hash: String::new(),
        as_of_ms: 0,
        count: 0,
        root: Digest::EMPTY,
    }
}

#[test]
fn silence_is_stale_and_a_word_ends_it() {
    let mut machine = loaded_at(5);
    machine.step(Input::Tick, SILENCE_MS);
    assert_eq!(machine.state(), FollowerState::Follow);
    machine.step(Input::Tick, SILENCE_MS + 1);
    assert_eq!(machine.state(), FollowerState::Stale);
    assert_eq!(machine.miss(), Miss::AskRegion);
    let beat = Input::Notice(Notice::Heartbeat(heartbeat(1, 5)));
    machine.step(beat.clone(), SILENCE_MS + 2);
    assert_eq!(machine.state(), FollowerState::Follow);
    assert_eq!(machine.miss(), Miss::IsFinal);
    // The same word again is none: anybody can repeat it.
    machine.step(beat, 2 * SILENCE_MS);
    machine.step(Input::Tick, 2 * SILENCE_MS + 3);
    assert_eq!(machine.state(), FollowerState::Stale);
}

#[test]
fn ready_needs_a_table_an_answer_and_the_head_it_named() {
    let answer = |head| {
        Input::Answer(RenewalAnswer {
            boot_id: schemas::BootId::from_u128(1),
            counter: 1,
            lineage: lineage(),
            generation: 1,
            head,
            now_ms: 0,
        })
    };
    let mut machine = loaded_at(5);
    assert!(!machine.is_ready());
    machine.step(answer(7), 0);
    assert!(!machine.is_ready(), "the log is further");
    let frame = Frame {
        lineage: lineage(),
        generation: 1,
        epoch: 1,
        from: 5,
        to: 7,
        changes: Some(Vec::new()),
        as_of_ms: 0,
    };
    machine.step(Input::Notice(Notice::Frame(frame)), 0);
    assert!(machine.is_ready());
    machine.step(answer(100), 0);
    assert!(machine.is_ready(), "once ready, it stays");
}

#[test]
fn an_older_generation_is_alarmed_and_ignored_and_a_newer_one_taken_over() {
    let mut machine = Machine::new();
    machine.step(
        Input::Snapshot {
            meta: meta(2, 1, 50),
            through: 50,
        },
        0,
    );
    let read = |machine: &mut Machine, meta| {
        machine.step(
            Input::Meta {
                asked_at: machine.place().position,
                meta: Some(meta),
            },
            0,
        )
    };
    let actions = read(&mut machine, meta(1, 1, 90));
    assert!(actions.iter().any(|it| matches!(it, Action::Alarm(_))));
    assert_eq!(machine.place().position, 50);
    assert_eq!(machine.miss(), Miss::CannotTell);
    // A restored log may be shorter: its generation counts, not its position.
    let actions = read(&mut machine, meta(3, 1, 20));
    assert!(actions.contains(&Action::ReadSnapshot {
        meta: meta(3, 1, 20)
    }));
    machine.step(
        Input::Snapshot {
            meta: meta(3, 1, 20),
            through: 20,
        },
        0,
    );
    assert_eq!(
        (machine.place().generation, machine.place().position),
        (3, 20)
    );
}
