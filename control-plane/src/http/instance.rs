//! `/instance`: what holds for everybody, for operators only.

use axum::http::StatusCode;
use axum::response::Response;
use events::command::InstanceCommand;
use events::instance::Instance;
use events::{Aggregate, Command};
use schemas::problem::Code;
use serde_json::{Value, json};

use super::answer;
use super::call::Call;
use super::failure::Failure;
use crate::view;

pub(super) async fn show(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.caller.permit_operator()?;
    call.finish_params()?;
    let instance = view::workspace::instance(call.app.store()).await?;
    answer::resource(&shown(&instance), instance.version)
}

pub(super) async fn patch(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    call.caller.permit_operator()?;
    let wait = call.wait(false);
    call.finish_params()?;
    let mut fields = call.fields()?;
    if fields.is_empty() {
        return Err(Failure::new(
            Code::Validation,
            "the body changes nothing: name a setting",
        ));
    }
    let command = InstanceCommand::Patch {
        global_limits: fields.limits("global_limits"),
        error_profile: fields.optional("error_profile", "standard, compact or null"),
        sign_up: fields.optional("sign_up", "open, invite or null"),
    };
    fields.finish()?;
    let outcome = call.execute(Command::Instance(command)).await?;
    let Aggregate::Instance(instance) = &outcome.aggregate else {
        return Err(Failure::not_found("instance"));
    };
    let body = shown(instance);
    answer::change(&call, &outcome, wait, StatusCode::OK, Some(body)).await
}

fn shown(instance: &Instance) -> Value {
    json!({
        "global_limits": instance.settings.global_limits,
        "error_profile": instance.settings.error_profile,
        "sign_up": instance.settings.sign_up,
        "version": instance.version,
    })
}
