//! The system from outside, in one binary: its tests share the servers that are slow to
//! start.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests: a failure there is the message"
)]

mod architecture;
mod bad_input;
mod config;
mod demo;
mod keys;
mod log;
mod proof;
mod proxy;
mod region;
mod secret;
mod servers;
mod signed;
mod story;
