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
mod faults;
mod forward_auth;
mod invitations;
mod keys;
mod log;
mod members;
mod people;
mod proof;
mod proxy;
mod region;
mod scene;
mod secret;
mod servers;
mod story;
mod workspaces;
mod teams;
