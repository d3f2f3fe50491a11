#![doc = include_str!("../README.md")]

pub mod command;
pub mod config;
pub mod demo;
pub mod embedded;
pub mod identity;
pub mod inspect;
pub mod keys;
pub mod private;
pub mod probe;
pub mod shutdown;
pub mod socket;
pub mod sqlite;
pub mod telemetry;
pub mod wire;
