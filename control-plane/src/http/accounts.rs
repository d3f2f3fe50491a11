//! `/accounts`: signing up, verifying an address, setting a forgotten password.
//!
//! These are open to everybody, and say the same whether an address is known or not.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tokio::time::Instant;

use super::answer;
use super::asked::{Asked, Own};
use super::failure::Failure;
use super::fields::Fields;
use super::identity::Identity;
use super::sessions;
use crate::account::address::{self, Address};
use crate::account::erase::{self, KeysOfAccount};
use crate::account::password::{self, Password};
use crate::account::sign_up::Wanted;
use crate::attempts::{Kind, peer};
use crate::mail::Letter;
use crate::view;

const NAME_CHARS_MAX: usize = 255;

pub(super) async fn create(asked: Asked) -> Result<Response, Failure> {
    let mut asked = asked;
    asked.finish_params()?;
    let mut fields = asked.required_fields()?;
    let address = address_field(&mut fields);
    let password = password_field(&mut fields);
    let name = name_field(&mut fields);
    fields.finish()?;
    let (Some(address), Some(password)) = (address, password) else {
        return Err(Failure::field("email", address::EXPECTED));
    };
    take(&asked, Kind::MailFrom)?;
    let accounts = asked.app.accounts();
    let instance = view::workspace::instance(asked.app.store()).await?;
    let sign_up = instance.settings.sign_up.unwrap_or(accounts.sign_up);
    let wanted = Wanted {
        address,
        password,
        name,
    };
    accounts.sign_up(&wanted, sign_up).await?;
    answer::json_response(
        StatusCode::CREATED,
        &json!({ "status": "verification_sent" }),
    )
}

pub(super) async fn verify(asked: Asked) -> Result<Response, Failure> {
    let mut asked = asked;
    asked.finish_params()?;
    let mut fields = asked.required_fields()?;
    let token = fields.required_text("token");
    fields.finish()?;
    take(&asked, Kind::LinkFrom)?;
    let caller = Identity::look(&asked.app, &asked.headers).await?;
    let caller = caller.map(|it| it.account_id);
    asked.app.accounts().verify(&token, caller).await?;
    answer::ok(&json!({ "status": "verified" }))
}

/// With a session for the account's own address, without one for the address in the body.
pub(super) async fn resend(asked: Asked) -> Result<Response, Failure> {
    let mut asked = asked;
    asked.finish_params()?;
    let caller = Identity::look(&asked.app, &asked.headers).await?;
    let mut fields = asked.fields()?;
    let address = match caller {
        Some(caller) if fields.is_empty() => {
            let account = crate::account::get(asked.app.store(), caller.account_id).await?;
            account.map(|it| it.address)
        }
        _ => address_field(&mut fields),
    };
    fields.finish()?;
    ask(&asked, Letter::Verify, address).await?;
    answer::ok(&json!({ "status": "verification_sent" }))
}

pub(super) async fn forgot(asked: Asked) -> Result<Response, Failure> {
    let mut asked = asked;
    asked.finish_params()?;
    let mut fields = asked.required_fields()?;
    let address = address_field(&mut fields);
    fields.finish()?;
    ask(&asked, Letter::Reset, address).await?;
    answer::ok(&json!({ "status": "reset_sent" }))
}

pub(super) async fn reset(asked: Asked) -> Result<Response, Failure> {
    let mut asked = asked;
    asked.finish_params()?;
    let mut fields = asked.required_fields()?;
    let token = fields.required_text("token");
    let password = password_field(&mut fields);
    fields.finish()?;
    take(&asked, Kind::LinkFrom)?;
    let Some(password) = password else {
        return Err(Failure::field("password", password::EXPECTED));
    };
    let caller = Identity::look(&asked.app, &asked.headers).await?;
    let caller = caller.map(|it| it.account_id);
    let accounts = asked.app.accounts();
    accounts.reset(&token, &password, caller).await?;
    answer::ok(&json!({ "status": "password_set" }))
}

/// Erases the caller's own account.
pub(super) async fn erase(own: Own) -> Result<Response, Failure> {
    let mut own = own;
    own.require_verified()?;
    let account_id = own.identity.session()?.account_id;
    let keys = own.asked.params.text("keys");
    let to = own.asked.params.text("to");
    let keys = match (keys.as_deref(), to) {
        (None, None) => KeysOfAccount::None,
        (Some("revoke"), None) => KeysOfAccount::Revoke,
        (Some("transfer"), Some(to)) => match to.parse() {
            Ok(to) => KeysOfAccount::Transfer(to),
            Err(_) => return Err(Failure::not_found("service account")),
        },
        (Some("transfer"), None) => {
            own.asked
                .params
                .refuse("to", "expected the id of a service account");
            KeysOfAccount::None
        }
        (None | Some("revoke"), Some(_)) => {
            own.asked.params.refuse("to", "only with keys=transfer");
            KeysOfAccount::None
        }
        (Some(_), _) => {
            own.asked
                .params
                .refuse("keys", "expected revoke or transfer");
            KeysOfAccount::None
        }
    };
    own.asked.finish_params()?;
    own.asked.fields()?.finish()?;
    let app = &own.asked.app;
    let request_id = Some(own.asked.request_id.clone());
    erase::erase(app.store(), app.execute(), account_id, keys, request_id).await?;
    let mut response = sessions::no_content();
    sessions::set_cookie(app, &mut response, "", 0);
    Ok(response)
}

/// The address in `email`; what is none is named as wrong.
pub(super) fn address_field(fields: &mut Fields) -> Option<Address> {
    let text = fields.required_as::<String>("email", "a text, required")?;
    let address = Address::parse(&text);
    if address.is_none() {
        fields.refuse("email", address::EXPECTED);
    }
    address
}

fn password_field(fields: &mut Fields) -> Option<Password> {
    let text = fields.required_as::<String>("password", "a text, required")?;
    let password = Password::parse(&text);
    if password.is_none() {
        fields.refuse("password", password::EXPECTED);
    }
    password
}

fn name_field(fields: &mut Fields) -> Option<String> {
    const EXPECTED: &str = "null or 1 to 255 characters, no control characters";
    let name: String = fields.optional("name", EXPECTED)??;
    let name = name.trim();
    let chars = name.chars().count();
    if !(1..=NAME_CHARS_MAX).contains(&chars) || name.chars().any(char::is_control) {
        fields.refuse("name", EXPECTED);
    }
    Some(name.to_owned())
}

fn take(asked: &Asked, kind: Kind) -> Result<(), Failure> {
    let attempts = &asked.app.accounts().attempts;
    Ok(attempts.take(kind, &peer(asked.peer), Instant::now())?)
}

async fn ask(asked: &Asked, letter: Letter, address: Option<Address>) -> Result<(), Failure> {
    let Some(address) = address else {
        return Err(Failure::field("email", address::EXPECTED));
    };
    take(asked, Kind::MailFrom)?;
    Ok(asked.app.accounts().ask(letter, &address).await?)
}
