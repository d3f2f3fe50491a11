#![doc = include_str!("../README.md")]
#![allow(
    clippy::print_stderr,
    reason = "a failed test shows the logs of its planes"
)]

pub mod control;
pub mod dns;
pub mod frames;
pub mod http;
pub mod link;
pub mod person;
pub mod plane;
pub mod process;
pub mod proxy;
pub mod secure;
pub mod server;
pub mod traffic;
pub mod upstream;
pub mod wait;
pub mod watch;
pub mod wire;
pub mod world;

pub use control::{Control, Key};
pub use dns::Dns;
pub use http::{Ask, Reply};
pub use link::Link;
pub use person::{People, Person};
pub use plane::Plane;
pub use traffic::Traffic;
pub use upstream::Upstream;
pub use world::World;
