//! How often somebody may try: log-ins, mails, links and codes, by peer address and by what
//! they name.
//!
//! Counted in memory, by each control plane for itself: whoever is let through twice by two
//! control planes still guesses at a hopeless pace, and no database is asked by somebody who
//! floods. Over a rolling minute, exactly: the instants of the last attempts are kept. What
//! was refused does not count, so that a door never stays shut because somebody leans on it.
//!
//! Nothing here knows whether an address has an account; names are hashed before they are
//! kept. Memory is bounded: see [`NAMES_MAX`].

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// What is counted over.
const WINDOW: Duration = Duration::from_secs(60);

/// The most names of a kind that are counted at the same time, some 20 MiB of them. Whoever
/// names more within a minute makes some be forgotten early.
const NAMES_MAX: usize = 50_000;

/// The least time between two searches for names whose window has passed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What is counted. Each kind has its own memory, so that none can push out another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Log-ins of a peer address.
    LogInFrom,
    /// Log-ins with an e-mail address.
    LogInAs,
    /// Sign-ups and requests for a mail by a peer address.
    MailFrom,
    /// Mails to an e-mail address.
    MailTo,
    /// Uses of links by a peer address.
    LinkFrom,
    /// Codes of a second factor that an account is asked for while it is logged in.
    CodeOf,
    /// What a caller tried and may not, as far as it is recorded.
    Denied,
}

/// Too many attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts")]
pub struct TooMany {
    /// Until one more is let through.
    pub retry_after: Duration,
}

/// The attempts of the last minute.
#[derive(Debug, Default)]
pub struct Attempts {
    kinds: [Mutex<Counts>; Kind::ALL.len()],
}

#[derive(Debug, Default)]
struct Counts {
    by_name: HashMap<Name, VecDeque<Instant>>,
    swept_at: Option<Instant>,
}

/// Half a SHA-256: nobody finds two names with the same one.
type Name = [u8; 16];

// === impl Kind ===

impl Kind {
    const ALL: [Self; 7] = [
        Self::LogInFrom,
        Self::LogInAs,
        Self::MailFrom,
        Self::MailTo,
        Self::LinkFrom,
        Self::CodeOf,
        Self::Denied,
    ];

    /// Attempts in a minute.
    pub const fn max(self) -> usize {
        match self {
            Self::LogInFrom => 20,
            Self::MailFrom | Self::LinkFrom => 60,
            Self::LogInAs | Self::MailTo | Self::CodeOf | Self::Denied => 10,
        }
    }
}

// === impl Attempts ===

impl Attempts {
    /// Counts an attempt, or says when the next one may be made.
    ///
    /// # Errors
    /// [`TooMany`]; the attempt does not count then.
    pub fn take(&self, kind: Kind, name: &str, now: Instant) -> Result<(), TooMany> {
        let mut counts = self.counts(kind);
        counts.make_room(now);
        let times = counts.by_name.entry(hashed(name)).or_default();
        forget_old(times, now);
        if let Some(too_many) = over(times, kind.max(), now) {
            return Err(too_many);
        }
        times.push_back(now);
        Ok(())
    }

    /// What [`take`](Self::take) would say, without counting.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn look(&self, kind: Kind, name: &str, now: Instant) -> Result<(), TooMany> {
        let mut counts = self.counts(kind);
        let Some(times) = counts.by_name.get_mut(&hashed(name)) else {
            return Ok(());
        };
        forget_old(times, now);
        over(times, kind.max(), now).map_or(Ok(()), Err)
    }

    fn counts(&self, kind: Kind) -> MutexGuard<'_, Counts> {
        // Counts are whole after every statement.
        self.kinds[kind as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn make_room(&mut self, now: Instant) {
        if self.by_name.len() < NAMES_MAX {
            return;
        }
        if self.swept_at.is_none_or(|at| now >= at + SWEEP_EVERY) {
            self.swept_at = Some(now);
            self.by_name.retain(|_, times| {
                forget_old(times, now);
                !times.is_empty()
            });
        }
        if self.by_name.len() >= NAMES_MAX
            && let Some(name) = self.by_name.keys().next().copied()
        {
            self.by_name.remove(&name);
        }
    }
}

/// A peer as it is counted: an IPv6 network of one customer is one peer.
pub fn peer(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

fn forget_old(times: &mut VecDeque<Instant>, now: Instant) {
    while times.front().is_some_and(|at| *at + WINDOW <= now) {
        times.pop_front();
    }
}

fn over(times: &VecDeque<Instant>, max: usize, now: Instant) -> Option<TooMany> {
    let oldest = times.front().filter(|_| times.len() >= max)?;
    Some(TooMany {
        retry_after: (*oldest + WINDOW).saturating_duration_since(now),
    })
}

fn hashed(name: &str) -> Name {
    let hash: [u8; 32] = Sha256::digest(name).into();
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_minute_rolls_and_what_is_refused_does_not_count() {
        let attempts = Attempts::default();
        let start = Instant::now();
        let take = |seconds| attempts.take(Kind::LogInAs, "jane", after(start, seconds));
        for second in 0..10 {
            assert_eq!(take(second), Ok(()));
        }
        for second in 10..60 {
            let retry_after = Duration::from_secs(60 - second);
            assert_eq!(take(second), Err(TooMany { retry_after }));
        }
        assert_eq!(take(60), Ok(()));
        assert!(take(60).is_err());
        assert_eq!(take(61), Ok(()));
    }

    #[test]
    fn others_and_other_kinds_go_on() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for _ in 0..Kind::LogInFrom.max() {
            attempts.take(Kind::LogInFrom, "192.0.2.1", now).unwrap();
        }
        assert!(attempts.take(Kind::LogInFrom, "192.0.2.1", now).is_err());
        assert!(attempts.look(Kind::LogInFrom, "192.0.2.1", now).is_err());
        assert!(attempts.take(Kind::LogInFrom, "192.0.2.2", now).is_ok());
        assert!(attempts.take(Kind::MailFrom, "192.0.2.1", now).is_ok());
    }

    #[test]
    fn looking_does_not_count() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(attempts.look(Kind::CodeOf, "a", now), Ok(()));
        }
        assert_eq!(attempts.take(Kind::CodeOf, "a", now), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for name in 0..NAMES_MAX + 100 {
            attempts
                .take(Kind::LogInFrom, &name.to_string(), now)
                .unwrap();
        }
        assert_eq!(attempts.counts(Kind::LogInFrom).by_name.len(), NAMES_MAX);
        attempts
            .take(Kind::LogInFrom, "later", after(now, 60))
            .unwrap();
        assert_eq!(attempts.counts(Kind::LogInFrom).by_name.len(), 1);
    }

    #[test]
    fn a_customers_network_is_one_peer() {
        for (one, other, are_same) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            let peers = [one, other].map(|it| peer(it.parse().unwrap()));
            assert_eq!(peers[0] == peers[1], are_same, "{one} and {other}");
        }
    }
}
