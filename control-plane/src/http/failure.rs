//! From a refusal or an error to what the client reads: the one table.

use axum::response::{IntoResponse, Response};
use events::Refusal;
use events::refusal::{FieldCode, FieldRefusal};
use http_body_util::Full;
use schemas::api::SelfServiceRule;
use schemas::problem::{Code, FieldError, MEDIA_TYPE, Problem};

use crate::account::password::Busy;
use crate::account::{erase, log_in, sign_up};
use crate::attempts::TooMany;
use crate::chain::Chain;
use crate::{execute, purge, store, totp};

/// The longest name of a field that is said back.
const NAME_SHOWN_CHARS_MAX: usize = 32;

/// What the client is told. What the operator reads is logged where the failure is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    /// Seconds after which trying again may help.
    retry_after: Option<u64>,
    /// How many things stand in the way, where that is said.
    count: Option<u64>,
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            count: None,
        }
    }

    /// One refused field.
    pub(crate) fn field(name: &str, expected: &str) -> Self {
        Self::fields(vec![FieldError::new(
            name,
            Code::Validation.as_str(),
            format!("expected {expected}"),
        )])
    }

    /// Refused fields. Where all are refused for the same special reason, that reason is
    /// the code of the whole.
    pub(crate) fn fields(mut errors: Vec<FieldError>) -> Self {
        for error in &mut errors {
            error.field = shown_name(&error.field);
        }
        let shared = [
            Code::NotAvailable,
            Code::NameLooksLikeSecret,
            Code::HostNotAllowed,
        ]
        .into_iter()
        .find(|code| errors.iter().all(|it| it.code == code.as_str()));
        // Of several rules of a team's policy, the first is the code of the whole.
        let policy = [Code::SelfServiceExpiry, Code::SelfServiceLimit];
        let of_policy = |it: &FieldError| policy.iter().any(|code| it.code == code.as_str());
        let shared = shared.or_else(|| {
            let first = errors.first().filter(|_| errors.iter().all(of_policy))?;
            policy.into_iter().find(|code| first.code == code.as_str())
        });
        let names: Vec<&str> = errors.iter().map(|it| it.field.as_str()).collect();
        Self {
            code: shared.unwrap_or(Code::Validation),
            detail: format!("not right: {}", names.join(", ")),
            errors,
            retry_after: None,
            count: None,
        }
    }

    pub(super) fn code(&self) -> Code {
        self.code
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    pub(super) fn to_response(&self, request_id: &str) -> Response {
        let mut problem = Problem::new(
            self.code.as_str(),
            self.code.title(),
            self.code.status(),
            self.detail.clone(),
            request_id,
        );
        problem.errors.clone_from(&self.errors);
        problem.count = self.count;
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::builder()
            .status(self.code.status())
            .header("content-type", MEDIA_TYPE);
        match self.code {
            Code::Unauthenticated | Code::TotpRequired => {
                response = response.header("www-authenticate", "Bearer");
            }
            Code::Unavailable | Code::OutcomeUnknown => {
                response = response.header("retry-after", "1");
            }
            _ => {}
        }
        if let Some(seconds) = self.retry_after {
            response = response.header("retry-after", seconds);
        }
        response
            .body(axum::body::Body::new(Full::from(body)))
            .unwrap_or_else(|_| axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

/// A field's name as it may be said back. All of ours are short; a long one is somebody
/// else's text, and may be a secret in the wrong place.
fn shown_name(field: &str) -> String {
    let parts = field.split('.').map(|part| {
        if part.chars().count() <= NAME_SHOWN_CHARS_MAX {
            part
        } else {
            "…"
        }
    });
    parts.collect::<Vec<_>>().join(".")
}

/// The failure travels as an extension until the outermost layer, which knows the
/// request's id, writes it out.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() = axum::http::StatusCode::from_u16(self.code.status())
            .unwrap_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Fields(fields) => Self::fields(fields.into_iter().map(to_error).collect()),
            Refusal::NotFound(what) => Self::not_found(what),
            Refusal::Exists(_) => Self::new(Code::InUse, detail),
            Refusal::NameTaken(_) => Self::new(Code::NameTaken, detail),
            Refusal::InUse(_) => Self::new(Code::InUse, detail),
            Refusal::KeyRevoked => Self::new(Code::KeyRevoked, detail),
            Refusal::KeyHasHistory => Self::new(Code::KeyHasHistory, detail),
            Refusal::KeyActive => Self::new(Code::PurgeUnproven, detail),
            Refusal::RotationInProgress => Self::new(
                Code::RotationInProgress,
                "two secrets are live; wait until the older one has ended, or rotate with \
                 overlap_seconds 0",
            ),
            Refusal::SelfService(SelfServiceRule::Disabled) => Self::new(
                Code::SelfServiceDisabled,
                "developers of this team may not make or rotate keys by themselves",
            ),
            Refusal::SelfService(SelfServiceRule::MaxKeys) => Self::new(
                Code::SelfServiceMaxKeys,
                "you have as many live keys in this team as its policy allows; revoke one first",
            ),
            Refusal::SelfService(rule) => Self::new(self_service_code(rule), detail),
            Refusal::TeamHasKeys => Self::new(
                Code::TeamHasKeys,
                "revoke, purge or transfer the keys of the team first",
            ),
            Refusal::Forbidden(_) => Self::new(Code::Forbidden, detail),
            Refusal::LastOwner => Self::new(Code::LastOwner, detail),
            Refusal::MemberOwnsKeys { count } => Self {
                count: Some(count),
                ..Self::new(Code::MemberOwnsKeys, detail)
            },
            // Handlers end the first of them before they ask again.
            Refusal::TooManyKeys { .. } => Self::new(
                Code::Unavailable,
                "the member makes keys faster than they can be ended; try again",
            ),
            Refusal::LastOperator => Self::new(Code::InUse, detail),
            Refusal::VersionMismatch { .. } => Self::new(Code::PreconditionFailed, detail),
        }
    }
}

/// A field that the domain refused, as the client reads it.
pub(super) fn to_error(refusal: FieldRefusal) -> FieldError {
    FieldError::new(
        refusal.field,
        field_code(refusal.code).as_str(),
        refusal.detail,
    )
}

fn field_code(code: FieldCode) -> Code {
    match code {
        FieldCode::Invalid => Code::Validation,
        FieldCode::LooksLikeSecret => Code::NameLooksLikeSecret,
        FieldCode::HostNotAllowed => Code::HostNotAllowed,
        FieldCode::NotAvailable => Code::NotAvailable,
        FieldCode::SelfService(rule) => self_service_code(rule),
    }
}

fn self_service_code(rule: SelfServiceRule) -> Code {
    match rule {
        SelfServiceRule::Disabled => Code::SelfServiceDisabled,
        SelfServiceRule::MaxKeys => Code::SelfServiceMaxKeys,
        SelfServiceRule::Expiry => Code::SelfServiceExpiry,
        SelfServiceRule::Limit => Code::SelfServiceLimit,
    }
}

impl From<execute::Error> for Failure {
    fn from(error: execute::Error) -> Self {
        match error {
            execute::Error::Refused(refusal) => refusal.into(),
            execute::Error::IdempotencyConflict => Self::new(
                Code::IdempotencyConflict,
                "this Idempotency-Key was used with another body; use a new one",
            ),
            execute::Error::TooLarge(_) | execute::Error::EntryTooLarge(_) => {
                Self::new(Code::Validation, "the change is too large for the log")
            }
            execute::Error::Unavailable(_) => {
                Self::new(Code::Unavailable, "the change was not made; try again")
            }
            execute::Error::OutcomeUnknown => Self::new(
                Code::OutcomeUnknown,
                "the change may or may not have been made; read the resource, or repeat the \
                 request with the same Idempotency-Key",
            ),
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        tracing::error!(
            error = %Chain(&error),
            "a request was not served"
        );
        Self::new(Code::Unavailable, "the store cannot be read; try again")
    }
}

impl From<TooMany> for Failure {
    fn from(too_many: TooMany) -> Self {
        // Whole seconds, never 0: the caller would come back too early.
        let seconds = too_many.retry_after.as_secs() + 1;
        Self {
            retry_after: Some(seconds),
            ..Self::new(
                Code::TooManyAttempts,
                format!("too many attempts; try again in {seconds} s"),
            )
        }
    }
}

impl From<Busy> for Failure {
    fn from(_: Busy) -> Self {
        Self::new(
            Code::Unavailable,
            "too many passwords are being checked; try again",
        )
    }
}

impl From<log_in::Error> for Failure {
    fn from(error: log_in::Error) -> Self {
        match error {
            log_in::Error::Wrong => Self::new(
                Code::Unauthenticated,
                "the e-mail address, the password or the code is not right",
            ),
            log_in::Error::CodeNeeded => {
                Self::new(Code::TotpRequired, "send the code as `totp`, too")
            }
            log_in::Error::TooMany(error) => error.into(),
            log_in::Error::Busy(error) => error.into(),
            log_in::Error::Store(error) => error.into(),
        }
    }
}

impl From<sign_up::Error> for Failure {
    fn from(error: sign_up::Error) -> Self {
        match error {
            sign_up::Error::DeadToken => Self::field("token", "the token of a link that works"),
            sign_up::Error::ForeignToken => {
                Self::new(Code::Forbidden, "the link is for another account")
            }
            sign_up::Error::Busy(error) => error.into(),
            sign_up::Error::Store(error) => error.into(),
        }
    }
}

impl From<erase::Error> for Failure {
    fn from(error: erase::Error) -> Self {
        match error {
            erase::Error::NoServiceAccount => Self::not_found("service account"),
            erase::Error::Execute(error) => error.into(),
            erase::Error::Store(error) => error.into(),
        }
    }
}

impl From<totp::Error> for Failure {
    fn from(error: totp::Error) -> Self {
        match error {
            totp::Error::InForce => Self::new(
                Code::InUse,
                "a second factor is in force; remove it first, with a code",
            ),
            totp::Error::WrongCode => Self::field("code", "the current code, not used before"),
            totp::Error::Store(error) => error.into(),
        }
    }
}

impl From<purge::Error> for Failure {
    fn from(error: purge::Error) -> Self {
        match error {
            purge::Error::Execute(error) => error.into(),
            purge::Error::Store(error) => error.into(),
            purge::Error::Unproven { missing } => Self::new(
                Code::PurgeUnproven,
                format!(
                    "not every proxy has reported in time that the key was never used; the key \
                     stays inactive; missing: {}",
                    missing.join(", ")
                ),
            ),
        }
    }
}
