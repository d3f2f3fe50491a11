//! `/positions/{position}`: how far a change has travelled.

use axum::response::Response;
use schemas::Position;

use super::answer;
use super::call::{Call, Id};
use super::failure::Failure;
use crate::propagation;
use crate::store::log;

pub(super) async fn show(Id(position): Id, call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.finish_params()?;
    let not_found = || Failure::not_found("position");
    let position: Position = position.parse().map_err(|_| not_found())?;
    let head = log::head(call.app.store()).await?;
    if position == 0 || position > head.position {
        return Err(not_found());
    }
    answer::ok(&propagation::measure(call.app.fleet(), position))
}
