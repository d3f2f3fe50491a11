//! `/sessions/oidc/{provider}`: signing in at an OpenID Connect provider.
//!
//! A browser is sent on with a cookie session to the public address; whoever does not ask
//! for HTML is answered like `POST /sessions`. An account with a second factor gets a
//! ticket instead, for `POST /sessions` (or `/login`) with `{ticket, totp}`: a browser finds
//! it in the fragment.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use schemas::problem::Code;
use serde_json::json;
use tokio::time::Instant;

use super::asked::Asked;
use super::failure::Failure;
use super::identity::cookie;
use super::sessions::set_cookie;
use super::{App, answer, me};
use crate::account::log_in::Origin;
use crate::account::sign_in::{self, SignedIn};
use crate::attempts::{Kind, peer};
use crate::oidc::{self, Provider};
use crate::{session, view};

/// What a browser keeps between start and callback.
const COOKIE: &str = "throttleproxy_oidc";

const COOKIE_SECONDS: u32 = 600;

pub(super) async fn start(Path(name): Path<String>, asked: Asked) -> Result<Response, Failure> {
    let mut asked = asked;
    let app = asked.app.clone();
    let provider = find(&app, &name)?;
    asked.finish_params()?;
    take(&asked)?;
    let started = provider.start().await?;
    let mut response = see_other(&started.url)?;
    set_oidc_cookie(&app, &mut response, &name, &started.cookie, COOKIE_SECONDS);
    Ok(response)
}

pub(super) async fn callback(Path(name): Path<String>, asked: Asked) -> Result<Response, Failure> {
    let mut asked = asked;
    let app = asked.app.clone();
    let provider = find(&app, &name)?;
    take(&asked)?;
    let state = asked.params.text("state").unwrap_or_default();
    // Providers add parameters of their own, so what is left is not looked at.
    let Some(code) = asked.params.text("code") else {
        return Err(Failure::new(
            Code::Unauthenticated,
            "the provider did not sign anybody in",
        ));
    };
    let kept = cookie(&asked.headers, COOKIE);
    let signed = provider.finish(&state, code, kept).await?;

    let is_browser = asked.header("accept").contains("text/html");
    let origin = Origin {
        peer: asked.peer,
        agent: asked.agent(),
        is_cookie: is_browser,
    };
    let accounts = app.accounts();
    let instance = view::workspace::instance(app.store()).await?;
    let sign_up = instance.settings.sign_up.unwrap_or(accounts.sign_up);
    let signed_in = accounts.sign_in(&signed, sign_up, origin).await?;
    let mut response = match signed_in {
        SignedIn::In(logged_in) if is_browser => {
            let mut response = see_other(app.public_url())?;
            set_cookie(
                &app,
                &mut response,
                &logged_in.token,
                session::LASTS_MS / 1_000,
            );
            response
        }
        SignedIn::In(logged_in) => {
            let mut body = me::logged_in(&app, &logged_in).await?;
            body["token"] = logged_in.token.into();
            answer::json_response(StatusCode::CREATED, &body)?
        }
        SignedIn::CodeNeeded { ticket } if is_browser => {
            see_other(&format!("{}/#ticket={ticket}", app.public_url()))?
        }
        SignedIn::CodeNeeded { ticket } => answer::ok(&json!({ "ticket": ticket }))?,
    };
    // Used up, whatever the browser thinks of its age.
    set_oidc_cookie(&app, &mut response, &name, "", 0);
    Ok(response)
}

fn find<'a>(app: &'a App, name: &str) -> Result<&'a Provider, Failure> {
    let provider = app.providers().find(name);
    provider.ok_or_else(|| Failure::not_found("provider"))
}

fn take(asked: &Asked) -> Result<(), Failure> {
    let attempts = &asked.app.accounts().attempts;
    Ok(attempts.take(Kind::LinkFrom, &peer(asked.peer), Instant::now())?)
}

fn see_other(url: &str) -> Result<Response, Failure> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let location = HeaderValue::try_from(url)
        .map_err(|_| Failure::new(Code::Unavailable, "the provider's address cannot be used"))?;
    response.headers_mut().insert("location", location);
    response
        .headers_mut()
        .insert("cache-control", HeaderValue::from_static("no-store"));
    Ok(response)
}

fn set_oidc_cookie(app: &App, response: &mut Response, name: &str, value: &str, seconds: u32) {
    let secure = if app.is_behind_tls() { "; Secure" } else { "" };
    let path = oidc::path(name);
    let text =
        format!("{COOKIE}={value}; Path={path}; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().append("set-cookie", value);
    }
}

impl From<oidc::Error> for Failure {
    fn from(error: oidc::Error) -> Self {
        match error {
            oidc::Error::Away(cause) => {
                tracing::warn!(cause, "a provider cannot be asked");
                Self::new(Code::Unavailable, "the provider cannot be asked; try again")
            }
            oidc::Error::Foreign => Self::new(
                Code::Unauthenticated,
                "this answer belongs to no sign-in that this browser started",
            ),
            oidc::Error::Refused(cause) => {
                tracing::info!(cause, "a provider signed nobody in");
                Self::new(
                    Code::Unauthenticated,
                    "the provider did not sign anybody in",
                )
            }
            oidc::Error::Unverified => Self::new(
                Code::EmailNotVerified,
                "the provider has not verified the e-mail address",
            ),
        }
    }
}

impl From<sign_in::Error> for Failure {
    fn from(error: sign_in::Error) -> Self {
        match error {
            sign_in::Error::NotInvited => Self::new(
                Code::Forbidden,
                "nobody may sign up here without an invitation",
            ),
            sign_in::Error::Suspended => Self::new(
                Code::Unauthenticated,
                "the e-mail address, the password or the code is not right",
            ),
            sign_in::Error::Address => Self::new(
                Code::Unauthenticated,
                "the provider's e-mail address cannot be used",
            ),
            sign_in::Error::Store(error) => error.into(),
        }
    }
}
