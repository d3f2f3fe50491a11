#![doc = include_str!("../README.md")]

pub mod address;
pub mod admin;
pub mod authz;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod follow;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gather;
pub mod limit;
pub mod metrics;
pub mod pipeline;
pub mod reach;
pub mod rejection;
pub mod resolve;
pub mod server;
pub mod table;
#[cfg(test)]
mod testing;
pub mod upstream;

pub use config::{Bounds, CertificateFiles, Config, UpstreamConfig};
pub use server::{Error, Running, start};
