//! The follower's mind: what each message means and what to do next. No IO, no clock.
//!
//! ```text
//! Boot ──meta──▶ Snapshot ──loaded──▶ Follow ◀──caught up── Gap
//!                                      │  ▲                 ▲ │
//!                                      │  └───── a word ────┼─┤ feed does not reach back,
//!                                      ├─────── hole ───────┘ │ or the epoch changed
//!                                      └── 2 s of silence ─▶ Stale, Resync
//! ```
//!
//! At position p a frame is applied iff `from ≤ p < to`, of the same lineage, generation
//! and epoch. `to ≤ p` is old news. All else is a gap: lost, repeated, reordered and
//! dropped messages all look the same, and the feed fills them all.
//!
//! Within one boot the place (generation, position) never goes back. A region that is
//! behind it (wiped and being rebuilt, or an older copy) is not taken over until it has
//! caught up; the table goes on serving.
//!
//! Everything that comes in here was signed ([`trust`](super::trust)), but it may be old: a
//! recorded message says nothing that would be believed twice. Positions only count upwards,
//! and a message is a word only if it tells of a position or a time beyond every earlier one.
//!
//! **Anti-entropy.** A heartbeat carries the digest of the region's table at its position. A
//! table that is at exactly this place is compared with it, and one that differs is
//! compared bucket by bucket with the region (Resync), which reads only what differs.

use schemas::digest::Digest;
use schemas::entry::Change;
use schemas::fleet::{FollowerState, RenewalAnswer};
use schemas::stream::{Frame, Heartbeat, Meta};
use schemas::{LineageId, Position};

use super::status::{Miss, Place};

/// Without a word for this long the table is stale, in milliseconds.
pub const SILENCE_MS: u64 = 2_000;
/// How often the region's meta is read: messages are the doorbell, meta is the truth.
const META_EVERY_MS: u64 = 1_000;
/// How often it is read while there is no table, or the region is behind it.
const META_EAGER_MS: u64 = 200;
/// How soon after a difference the table is compared again.
const COMPARE_AGAIN_MS: u64 = 5_000;
/// How long after a failed read of the feed it is read again.
const FEED_RETRY_MS: u64 = 100;

/// What the region says, once it is believed.
#[derive(Debug, Clone)]
pub enum Notice {
    /// Entries changed.
    Frame(Frame),
    /// How far the region is.
    Heartbeat(Heartbeat),
    /// Some messages were lost, or may have been.
    Lost,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A notice came.
    Notice(Notice),
    /// Meta was read; `asked_at` is the position when it was asked for.
    Meta {
        /// From [`Action::ReadMeta`].
        asked_at: Position,
        /// What it said; `None` is an empty region.
        meta: Option<Meta>,
    },
    /// Meta could not be read.
    MetaFailed,
    /// The feed was read.
    Feed {
        /// From [`Action::ReadFeed`].
        epoch: u64,
        /// Frames in order.
        frames: Vec<Frame>,
        /// Whether there may be more right behind them.
        more: bool,
    },
    /// The feed could not be read.
    FeedFailed,
    /// A snapshot was read whole and is merged into the table.
    Snapshot {
        /// From [`Action::ReadSnapshot`].
        meta: Meta,
        /// The table may hold entries up to here: the region went on while it was read.
        through: Position,
    },
    /// A snapshot could not be read whole. Whatever was merged of it does no harm.
    SnapshotFailed,
    /// The control plane answered a renewal of this boot.
    Answer(RenewalAnswer),
    /// The table is not what [`Action::Compare`] said it should be.
    Mismatch,
    /// Time passed.
    Tick,
}

/// What to do now, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read meta.
    ReadMeta {
        /// To be handed back.
        asked_at: Position,
    },
    /// Read the feed above a position.
    ReadFeed {
        /// The build of the table.
        epoch: u64,
        /// The position.
        after: Position,
    },
    /// Read the whole table and merge it.
    ReadSnapshot {
        /// What the region said before it is read.
        meta: Meta,
    },
    /// Merge changes into the table.
    Apply(Vec<Change>),
    /// Compare the table with the digest that it should have; a difference comes back as
    /// [`Input::Mismatch`].
    Compare(Digest),
    /// Report at once: the position changed.
    RenewNow,
    /// Tell the operator: the region contradicts what this proxy knows.
    Alarm(&'static str),
}

/// The follower's mind.
#[derive(Debug)]
pub struct Machine {
    state: FollowerState,
    place: Place,
    loaded: bool,
    answered: bool,
    ready: bool,
    /// The furthest (generation, position) that the region spoke of.
    heard: (u32, Position),
    /// What the first renewal answer said of the log's head.
    goal: (u32, Position),
    /// When the region was last heard.
    word_ms: u64,
    meta_due_ms: u64,
    reading_meta: bool,
    /// The position that the feed must lead to, while it is read.
    reading_feed: Option<Position>,
    feed_due_ms: u64,
    reading_snapshot: bool,
    /// The live table must be compared with the whole region.
    resync_due: bool,
    /// The region is behind this table, or of another history.
    behind: bool,
    /// When the newest message was made, by the clock of who made it.
    newest_as_of_ms: i64,
    compare_due_ms: u64,
    /// The time of the step being taken.
    now_ms: u64,
}

// === impl Machine ===

impl Machine {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self {
            state: FollowerState::Boot,
            place: Place::default(),
            loaded: false,
            answered: false,
            ready: false,
            heard: (0, 0),
            goal: (0, 0),
            word_ms: 0,
            meta_due_ms: 0,
            reading_meta: false,
            reading_feed: None,
            feed_due_ms: 0,
            reading_snapshot: false,
            resync_due: false,
            behind: false,
            newest_as_of_ms: i64::MIN,
            compare_due_ms: 0,
            now_ms: 0,
        }
    }

    /// The state.
    pub fn state(&self) -> FollowerState {
        self.state
    }

    /// Where the table stands, once all actions so far are carried out.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether requests may be admitted. Once true, it stays.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// When the region was last heard, on the clock of the inputs.
    pub fn word_ms(&self) -> u64 {
        self.word_ms
    }

    /// What a miss means.
    pub fn miss(&self) -> Miss {
        if !self.loaded || self.behind {
            Miss::CannotTell
        } else if self.state == FollowerState::Follow {
            Miss::IsFinal
        } else {
            Miss::AskRegion
        }
    }

    /// Takes in what happened at `now_ms` (steady clock) and says what to do.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.now_ms = now_ms;
        match input {
            Input::Notice(Notice::Frame(frame)) => self.frame(frame, &mut actions),
            Input::Notice(Notice::Heartbeat(beat)) => self.heartbeat(&beat, &mut actions),
            Input::Notice(Notice::Lost) => self.read_meta(&mut actions),
            Input::Meta { asked_at, meta } => {
                self.reading_meta = false;
                self.meta(asked_at, meta, &mut actions);
                let eager = !self.loaded || self.behind || self.resync_due;
                self.meta_due_ms = now_ms + if eager { META_EAGER_MS } else { META_EVERY_MS };
            }
            Input::MetaFailed => {
                self.reading_meta = false;
                self.meta_due_ms = now_ms + META_EAGER_MS;
            }
            Input::Feed {
                epoch,
                frames,
                more,
            } => self.feed(epoch, frames, more, &mut actions),
            Input::FeedFailed => {
                self.reading_feed = None;
                self.feed_due_ms = now_ms + FEED_RETRY_MS;
            }
            Input::Snapshot { meta, through } => self.snapshot(meta, through, &mut actions),
            Input::SnapshotFailed => {
                self.reading_snapshot = false;
                self.resync_due = self.loaded;
                self.settle(&mut actions);
            }
            Input::Answer(answer) => self.answer(&answer, &mut actions),
            Input::Mismatch => {
                self.compare_due_ms = now_ms + COMPARE_AGAIN_MS;
                self.resync(&mut actions);
            }
            Input::Tick => self.tick(&mut actions),
        }
        self.ready |=
            self.loaded && self.answered && self.at() >= self.goal && self.at() >= self.heard;
        actions
    }

    fn frame(&mut self, frame: Frame, actions: &mut Vec<Action>) {
        if !self.is_of_this_region(frame.lineage, frame.generation, actions) {
            return;
        }
        self.is_news(frame.as_of_ms, frame.generation, frame.to);
        if !self.loaded || frame.to <= self.place.position {
            return;
        }
        if frame.generation != self.place.generation || frame.epoch != self.place.epoch {
            self.read_meta(actions);
            return;
        }
        match frame.changes {
            Some(changes) if frame.from <= self.place.position => {
                self.advance(changes, frame.to, actions);
            }
            // Something before it is missing, or it was too large to carry its changes.
            _ => {}
        }
        self.settle(actions);
    }

    fn heartbeat(&mut self, beat: &Heartbeat, actions: &mut Vec<Action>) {
        if !self.is_of_this_region(beat.lineage, beat.generation, actions) {
            return;
        }
        if !self.is_news(beat.as_of_ms, beat.generation, beat.to) {
            // It is late, or somebody recorded it and sends it again.
            return;
        }
        if !self.loaded {
            return;
        }
        if beat.generation != self.place.generation || beat.epoch != self.place.epoch {
            self.read_meta(actions);
        }
        // A heartbeat below our position says nothing: it may simply be late. Only meta,
        // asked for at a known position, can show that the region is behind.
        self.settle(actions);
        self.compare((beat.generation, beat.epoch, beat.to), beat.root, actions);
    }

    fn meta(&mut self, asked_at: Position, meta: Option<Meta>, actions: &mut Vec<Action>) {
        let Some(meta) = meta else {
            self.fall_behind(actions);
            return;
        };
        if self.reading_snapshot {
            self.word_ms = self.now_ms;
            return;
        }
        if !self.is_of_this_region(meta.lineage, meta.generation, actions) {
            self.fall_behind(actions);
            return;
        }
        self.word_ms = self.now_ms;
        self.hear(meta.generation, meta.position);
        if !self.loaded || meta.generation > self.place.generation {
            self.read_snapshot(meta, actions);
        } else if meta.position < asked_at {
            self.fall_behind(actions);
        } else {
            self.behind = false;
            if meta.epoch == self.place.epoch && !self.resync_due {
                self.settle(actions);
                let at = (meta.generation, meta.epoch, meta.position);
                self.compare(at, meta.root, actions);
            } else if meta.position >= self.place.position {
                self.read_snapshot(meta, actions);
            } else {
                // The answer is older than a frame that came meanwhile; ask again.
                self.resync_due = true;
                self.settle(actions);
            }
        }
    }

    fn feed(&mut self, epoch: u64, frames: Vec<Frame>, more: bool, actions: &mut Vec<Action>) {
        let goal = self.reading_feed.take().unwrap_or_default();
        self.word_ms = self.now_ms;
        if epoch != self.place.epoch {
            self.settle(actions);
            return;
        }
        let began_at = self.place.position;
        for frame in frames {
            if frame.to <= self.place.position {
                continue;
            }
            let is_ours = Some(frame.lineage) == self.place.lineage
                && frame.generation == self.place.generation
                && frame.epoch == self.place.epoch;
            match frame.changes {
                Some(changes) if is_ours && frame.from <= self.place.position => {
                    self.advance(changes, frame.to, actions);
                }
                // The feed does not reach back far enough, or cannot be read.
                _ => {
                    self.resync(actions);
                    return;
                }
            }
        }
        let stands_still = self.place.position == began_at && !more;
        if stands_still {
            self.feed_due_ms = self.now_ms + FEED_RETRY_MS;
        }
        if stands_still && self.place.position < goal {
            // The region said that it is further, and its feed does not lead there.
            self.resync(actions);
        } else {
            self.settle(actions);
        }
    }

    fn snapshot(&mut self, meta: Meta, through: Position, actions: &mut Vec<Action>) {
        self.reading_snapshot = false;
        self.resync_due = false;
        self.behind = false;
        self.word_ms = self.now_ms;
        let is_newer = !self.loaded || (meta.generation, meta.position) >= self.at();
        self.place = Place {
            lineage: Some(meta.lineage),
            generation: meta.generation,
            epoch: meta.epoch,
            // Frames may have carried the table further while the snapshot was read.
            position: if is_newer {
                meta.position
            } else {
                self.place.position
            },
        };
        self.loaded = true;
        self.hear(meta.generation, through);
        actions.push(Action::RenewNow);
        // What changed while the snapshot was read stands in the feed.
        self.read_meta(actions);
        self.settle(actions);
    }

    fn answer(&mut self, answer: &RenewalAnswer, actions: &mut Vec<Action>) {
        if self.loaded && answer.generation < self.place.generation {
            actions.push(Action::Alarm(
                "the control plane is of an older generation than the table",
            ));
            return;
        }
        if !self.answered {
            self.answered = true;
            self.goal = (answer.generation, answer.head);
        }
        if self.loaded && answer.generation > self.place.generation {
            self.read_meta(actions);
        }
    }

    fn tick(&mut self, actions: &mut Vec<Action>) {
        if self.now_ms >= self.meta_due_ms {
            self.read_meta(actions);
        }
        if self.loaded && self.now_ms.saturating_sub(self.word_ms) > SILENCE_MS {
            self.state = FollowerState::Stale;
        }
        if self.state == FollowerState::Gap {
            self.read_feed(actions);
        }
    }

    /// Whether a message is of the history that this table follows, or a newer one.
    fn is_of_this_region(
        &self,
        lineage: LineageId,
        generation: u32,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(mine) = self.place.lineage else {
            return true;
        };
        let alarm = if generation < self.place.generation {
            "the region is of an older generation than the table"
        } else if generation == self.place.generation && lineage != mine {
            "the region is of another lineage than the table"
        } else {
            return true;
        };
        actions.push(Action::Alarm(alarm));
        false
    }

    fn at(&self) -> (u32, Position) {
        (self.place.generation, self.place.position)
    }

    /// Has the table compared with the digest of a place, if it is at that place and holds
    /// nothing newer.
    fn compare(&mut self, at: (u32, u64, Position), root: Digest, actions: &mut Vec<Action>) {
        let here = (self.place.generation, self.place.epoch, self.place.position);
        let is_here = here == at && self.state == FollowerState::Follow;
        if is_here && self.now_ms >= self.compare_due_ms {
            actions.push(Action::Compare(root));
        }
    }

    /// Whether a message says anything that was not known: then it is a word of the region.
    fn is_news(&mut self, as_of_ms: i64, generation: u32, to: Position) -> bool {
        let before = (self.heard, self.newest_as_of_ms);
        self.hear(generation, to);
        self.newest_as_of_ms = self.newest_as_of_ms.max(as_of_ms);
        let is_news = (self.heard, self.newest_as_of_ms) != before;
        if is_news {
            self.word_ms = self.now_ms;
        }
        is_news
    }

    fn hear(&mut self, generation: u32, position: Position) {
        self.heard = self.heard.max((generation, position));
    }

    fn advance(&mut self, changes: Vec<Change>, to: Position, actions: &mut Vec<Action>) {
        if !changes.is_empty() {
            actions.push(Action::Apply(changes));
        }
        self.place.position = to;
        if actions.last() != Some(&Action::RenewNow) {
            actions.push(Action::RenewNow);
        }
    }

    /// Takes the state that fits after a word from the region.
    fn settle(&mut self, actions: &mut Vec<Action>) {
        self.state = if !self.loaded {
            if self.reading_snapshot {
                FollowerState::Snapshot
            } else {
                FollowerState::Boot
            }
        } else if self.reading_snapshot || self.resync_due || self.behind {
            FollowerState::Resync
        } else if self.heard > self.at() {
            FollowerState::Gap
        } else {
            FollowerState::Follow
        };
        if self.state == FollowerState::Gap {
            self.read_feed(actions);
        }
    }

    fn resync(&mut self, actions: &mut Vec<Action>) {
        self.resync_due = true;
        self.read_meta(actions);
        self.settle(actions);
    }

    /// The region is not as far as this table: empty, wiped and being rebuilt, an older
    /// copy, or another history.
    fn fall_behind(&mut self, actions: &mut Vec<Action>) {
        if self.loaded {
            self.behind = true;
            self.resync_due = true;
            if self.state != FollowerState::Stale {
                self.settle(actions);
            }
        }
    }

    fn read_meta(&mut self, actions: &mut Vec<Action>) {
        if !self.reading_meta {
            self.reading_meta = true;
            actions.push(Action::ReadMeta {
                asked_at: self.place.position,
            });
        }
    }

    fn read_feed(&mut self, actions: &mut Vec<Action>) {
        if self.reading_feed.is_none() && self.now_ms >= self.feed_due_ms {
            let goal = if self.heard.0 == self.place.generation {
                self.heard.1
            } else {
                self.place.position
            };
            self.reading_feed = Some(goal);
            actions.push(Action::ReadFeed {
                epoch: self.place.epoch,
                after: self.place.position,
            });
        }
    }

    fn read_snapshot(&mut self, meta: Meta, actions: &mut Vec<Action>) {
        if !self.reading_snapshot {
            self.reading_snapshot = true;
            actions.push(Action::ReadSnapshot { meta });
            self.settle(actions);
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
