//! What `up --demo` adds to a process: an upstream on loopback that says what it
//! received, and a file that remembers the key and the token in clear text.
//!
//! A later start keeps what the first one made. The log knows the owner, the target and
//! the key, but not their secrets: without the file the key cannot be shown again, so a
//! new one is made and the old one revoked.

pub mod echo;
pub mod file;
