//! Passwords: which are taken, and how they are kept.
//!
//! A password is hashed with argon2id, 19 MiB, two passes, one lane: what OWASP's password
//! storage cheat sheet asks for at least. Each hash takes a core for tens of milliseconds
//! and its memory, so it runs on threads of its own, few at a time: many who log in at once
//! wait for each other and not for the rest of the API, and cannot use up memory.
//!
//! Whoever asks with an address that nobody has is answered after the same work, see
//! [`Hasher::verify`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use unicode_normalization::UnicodeNormalization;

/// The fewest characters of a password (NIST SP 800-63B, 3.1.1.2).
pub const CHARS_MIN: usize = 8;

/// The most characters of a password. Any would do for the hash, which is of one size; a
/// body that is mostly a password is a mistake.
pub const CHARS_MAX: usize = 1_024;

/// What is right, for whoever sent something else.
pub const EXPECTED: &str = "a text of 8 to 1024 characters";

/// How long a request may wait for its turn to hash.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// A password that may be set. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// What is kept of a password: a PHC string. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hashed(String);

/// Hashes passwords, a bounded number at a time; clones share the bound.
#[derive(Clone)]
pub struct Hasher(Arc<Shared>);

struct Shared {
    turns: Arc<Semaphore>,
    /// The hash of a password that nobody knows, in place of one that does not exist.
    nobody: Hashed,
}

/// Too many hash at the same time, or the hash could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a password could not be hashed in time")]
pub struct Busy;

// === impl Password ===

impl Password {
    /// What somebody typed to log in: not judged, so that the answer is the same for what
    /// never could be a password.
    pub fn typed(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|| Self(String::new()))
    }

    /// A password of the right length; `None` for another. What looks the same is the same:
    /// it is normalised (NFC), since keyboards differ in how they send an accent.
    pub fn parse(text: &str) -> Option<Self> {
        // Normalising first would be work that whoever sends a megabyte chooses.
        if text.chars().nth(CHARS_MAX * 4).is_some() {
            return None;
        }
        let normal: String = text.nfc().collect();
        (CHARS_MIN..=CHARS_MAX)
            .contains(&normal.chars().count())
            .then_some(Self(normal))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

// === impl Hashed ===

impl Hashed {
    /// From a database.
    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    /// For a database.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hashed(…)")
    }
}

// === impl Hasher ===

impl Hasher {
    /// A hasher that uses as many cores as there are, and at least two.
    ///
    /// # Errors
    /// [`Busy`] when the system has no randomness.
    pub fn new() -> Result<Self, Busy> {
        let cores = std::thread::available_parallelism().map_or(2, |it| it.get().max(2));
        let unknown: [u8; 32] = rand::random();
        Ok(Self(Arc::new(Shared {
            turns: Arc::new(Semaphore::new(cores)),
            nobody: hash(&Password(hex::encode(unknown)))?,
        })))
    }

    /// What to keep of a password.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn hash(&self, password: &Password) -> Result<Hashed, Busy> {
        let turn = self.turn().await?;
        let password = password.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            // Held here: a client that goes away does not stop the work.
            let _turn = turn;
            hash(&password)
        });
        hashed.await.unwrap_or(Err(Busy))
    }

    /// Whether the password is the one that was kept. Where none was, the work is the same
    /// and the answer is no, so that the time tells nothing.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn verify(&self, password: &Password, kept: Option<&Hashed>) -> Result<bool, Busy> {
        let turn = self.turn().await?;
        let is_kept = kept.is_some();
        let kept = kept.unwrap_or(&self.0.nobody).clone();
        let password = password.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            is_hash_of(&kept, &password)
        });
        verified.await.map(|it| it && is_kept).map_err(|_| Busy)
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Busy> {
        match timeout(TURN_WAIT, self.0.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Busy),
        }
    }
}

/// The default of the crate is what the module's documentation says; a test holds it.
fn hash(password: &Password) -> Result<Hashed, Busy> {
    Argon2::default()
        .hash_password(password.0.as_bytes())
        .map(|it| Hashed(it.to_string()))
        .map_err(|_| Busy)
}

fn is_hash_of(kept: &Hashed, password: &Password) -> bool {
    PasswordHash::new(&kept.0).is_ok_and(|kept| {
        Argon2::default()
            .verify_password(password.0.as_bytes(), &kept)
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_eight_to_1024_characters() {
        for bad in ["", "x", "1234567", &"x".repeat(1_025), &"x".repeat(10_000)] {
            assert!(Password::parse(bad).is_none(), "{} characters", bad.len());
        }
        for good in ["12345678", "pass word", "пароль12", &"ü".repeat(1_024)] {
            assert!(Password::parse(good).is_some(), "{good}");
        }
    }

    #[tokio::test]
    async fn a_password_is_known_again_however_it_was_typed() {
        let hasher = Hasher::new().unwrap();
        let composed = Password::parse("caf\u{e9}-au-lait").unwrap();
        let decomposed = Password::parse("cafe\u{301}-au-lait").unwrap();
        let kept = hasher.hash(&composed).await.unwrap();
        assert!(kept.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(hasher.verify(&decomposed, Some(&kept)).await, Ok(true));
        let other = Password::parse("tea with milk").unwrap();
        assert_eq!(hasher.verify(&other, Some(&kept)).await, Ok(false));
        assert_eq!(hasher.verify(&other, None).await, Ok(false));
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let password = Password::parse("correct horse").unwrap();
        let shown = format!("{password:?} {:?}", hash(&password).unwrap());
        assert_eq!(shown, "Password(…) Hashed(…)");
    }
}
