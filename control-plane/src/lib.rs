#![doc = include_str!("../README.md")]

pub mod account;
pub mod attempts;
pub mod audit;
pub mod bootstrap;
mod chain;
pub mod demo;
mod denied;
pub mod execute;
pub mod fleet;
pub mod fresh;
pub mod http;
pub mod invitation;
pub mod mail;
pub mod oidc;
pub mod plane;
pub mod projector;
pub mod propagation;
pub mod purge;
pub mod region;
pub mod replay;
pub mod session;
pub mod store;
pub mod token;
pub mod totp;
pub mod view;

pub use events::command::OwnPlaces;
pub use plane::{Config, Plane};
