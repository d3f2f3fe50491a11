//! `/instance`: what holds for everybody, for operators only.

use axum::http::StatusCode;
use axum::response::Response;
use events::command::InstanceCommand;
use events::instance::Instance;
use events::{Aggregate, Command};
use schemas::problem::Code;
use serde_json::{Value, json};

use super::failure::Failure;
use super::operators::Operator;
use super::{App, answer};
use crate::execute::Step;
use crate::view;

pub(super) async fn show(operator: Operator) -> Result<Response, Failure> {
    let Operator(mut own) = operator;
    own.asked.finish_params()?;
    let instance = view::workspace::instance(own.app().store()).await?;
    answer::resource(&shown(own.app(), &instance), instance.version)
}

pub(super) async fn patch(operator: Operator) -> Result<Response, Failure> {
    let Operator(mut own) = operator;
    let wait = own.wait(false);
    own.asked.finish_params()?;
    let mut fields = own.asked.fields()?;
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
    let outcome = own.run(own.request(vec![step(command)])).await?;
    let Aggregate::Instance(instance) = &outcome.aggregate else {
        return Err(Failure::not_found("instance"));
    };
    let body = shown(own.app(), instance);
    answer::change_by(own.app(), &outcome, wait, StatusCode::OK, Some(body)).await
}

/// A command to the installation, which belongs to no workspace.
pub(super) fn step(command: InstanceCommand) -> Step {
    Step {
        command: Command::Instance(command),
        workspace_id: None,
    }
}

fn shown(app: &App, instance: &Instance) -> Value {
    let sign_up = instance.settings.sign_up.unwrap_or(app.accounts().sign_up);
    json!({
        "global_limits": instance.settings.global_limits,
        "error_profile": instance.settings.error_profile,
        "sign_up": sign_up,
        "version": instance.version,
    })
}
