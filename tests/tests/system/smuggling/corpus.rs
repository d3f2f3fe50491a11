//! The cases, by class. Each is a trick of its own; together they are what a stranger
//! tries first.

mod chunks;
mod codings;
mod connection;
mod credentials;
mod folding;
mod hosts;
mod lengths;
mod line_ends;
mod names;
mod paths;
mod pipelining;
mod request_line;

use super::case::{Case, Setting};

/// All of them.
pub fn cases(at: &Setting) -> Vec<Case> {
    [
        lengths::cases,
        codings::cases,
        chunks::cases,
        line_ends::cases,
        folding::cases,
        request_line::cases,
        hosts::cases,
        names::cases,
        connection::cases,
        credentials::cases,
        paths::cases,
        pipelining::cases,
    ]
    .iter()
    .flat_map(|cases| cases(at))
    .collect()
}
