//! What the pure core must be given: the time, and things nobody had before.

use std::time::{SystemTime, UNIX_EPOCH};

use events::event::SecretMade;
use schemas::{Credential, Environment, SecretId, Timestamp};

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
