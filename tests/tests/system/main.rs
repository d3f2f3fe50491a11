//! The system from outside, in one binary: its tests share the servers that are slow to
//! start.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests: a failure there is the message"
)]

mod accounts;
mod architecture;
mod bad_input;
mod boundary;
mod config;
mod demo;
mod faults;
mod forward_auth;
mod forwarding;
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
mod self_service;
mod servers;
mod service_accounts;
mod signed;
mod smuggling;
mod story;
mod teams;
mod workspaces;
