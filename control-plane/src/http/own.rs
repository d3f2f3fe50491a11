//! Changes that an account makes to the log for itself, before it has a workspace or beside
//! the one that is active.

use schemas::problem::Code;

use super::asked::Own;
use super::call::Wait;
use super::failure::Failure;
use super::{App, Running, conditions};
use crate::execute::{self, Idempotency, Step};

impl Own {
    pub(super) fn app(&self) -> &App {
        &self.asked.app
    }

    /// Refused before the address is verified.
    pub(super) fn require_verified(&self) -> Result<(), Failure> {
        if self.identity.is_verified {
            return Ok(());
        }
        Err(Failure::new(
            Code::EmailNotVerified,
            "verify the e-mail address first: POST /v1/accounts/verify/resend sends the link \
             again",
        ))
    }

    /// Refused before the address is verified, and for tokens that are for their workspace
    /// only.
    pub(super) fn permit_verified(&self) -> Result<(), Failure> {
        self.require_verified()?;
        self.identity.permit_own()
    }

    /// `wait` and `timeout_ms` of a change.
    pub(super) fn wait(&mut self, is_create: bool) -> Wait {
        Wait::read(&mut self.asked.params, is_create)
    }

    /// A request to the log in the account's name.
    pub(super) fn request(&self, steps: Vec<Step>) -> execute::Request {
        execute::Request {
            steps,
            actor: self.identity.actor(),
            request_id: Some(self.asked.request_id.clone()),
            expected_versions: None,
            idempotency: None,
            rows: Vec::new(),
            departures: Vec::new(),
            erases: None,
        }
    }

    /// Carries out a request, honouring `If-Match` for its first step, and
    /// `Idempotency-Key`.
    pub(super) async fn run(&self, request: execute::Request) -> Result<execute::Outcome, Failure> {
        let (idempotency, _running) = self.idempotency()?;
        let request = execute::Request {
            expected_versions: conditions::if_match(&self.asked.headers),
            idempotency,
            ..request
        };
        Ok(self.app().execute().run(request).await?)
    }

    /// What makes a repetition harmless, and the hold on it until the request is answered.
    pub(super) fn idempotency(&self) -> Result<(Option<Idempotency>, Option<Running>), Failure> {
        let asked = &self.asked;
        let scope = format!(
            "{} {} {}",
            self.identity.account_id, asked.method, asked.path
        );
        let found = conditions::idempotency(&asked.method, &asked.headers, &asked.body, scope)?;
        let running = conditions::run_once(&asked.app, found.as_ref())?;
        Ok((found, running))
    }
}
