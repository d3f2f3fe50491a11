//! What the pure core must be given: the time, and things nobody had before.

use std::time::{SystemTime, UNIX_EPOCH};

use events::event::SecretMade;
use schemas::{Credential, Environment, SecretId, Timestamp};
use sha2::{Digest as _, Sha256};

/// The time now.
pub fn now() -> Timestamp {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
}

/// A new id of any kind: `fresh::id(KeyId::from_parts)`.
pub fn id<T>(from_parts: impl FnOnce(u64, u128) -> T) -> T {
    from_parts(now().unix_ms().unsigned_abs(), rand::random())
}

/// A new secret text for whoever may show it: the prefix and 43 base62 characters, 256 bits.
pub fn token(prefix: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = String::from(prefix);
    while text.len() < prefix.len() + 43 {
        let byte: u8 = rand::random();
        if byte < 248 {
            text.push(char::from(DIGITS[usize::from(byte % 62)]));
        }
    }
    text
}

/// What is stored of such a text: with 256 bits of randomness it needs no salt.
pub fn token_hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// A new key string, and what the log may know of it.
pub fn secret(environment: Environment) -> (Credential, SecretMade) {
    let credential = Credential::generate(environment, rand::random);
    let made = SecretMade {
        id: id(SecretId::from_parts),
        hash: credential.hash(),
        prefix: credential.prefix().to_owned(),
        last4: credential.last4().to_owned(),
    };
    (credential, made)
}
