#![doc = include_str!("../README.md")]

pub mod access;
pub mod aggregate;
pub mod catalog;
pub mod codec;
pub mod command;
pub mod denied;
pub mod event;
pub mod instance;
pub mod key;
pub mod project;
pub mod refusal;
pub mod self_service;
pub mod service_account;
pub mod target;
pub mod team;
pub mod text;
pub mod workspace;

pub use aggregate::{Aggregate, decide, evolve};
pub use command::Command;
pub use event::{Event, Recorded, Stream};
pub use refusal::Refusal;
pub use text::SecretLook;
