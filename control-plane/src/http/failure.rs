//! From a refusal or an error to what the client reads: the one table.

use axum::response::{IntoResponse, Response};
use events::Refusal;
use events::refusal::{FieldCode, FieldRefusal};
use http_body_util::Full;
use schemas::api::SelfServiceRule;
use schemas::problem::{Code, FieldError, MEDIA_TYPE, Problem};

use crate::chain::Chain;
use crate::{execute, purge, store};

/// The longest name of a field that is said back.
const NAME_SHOWN_CHARS_MAX: usize = 32;

/// What the client is told. What the operator reads is logged where the failure is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
        }
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
            Code::SelfServiceExpiry,
            Code::SelfServiceLimit,
        ]
        .into_iter()
        .find(|code| errors.iter().all(|it| it.code == code.as_str()));
        let names: Vec<&str> = errors.iter().map(|it| it.field.as_str()).collect();
        Self {
            code: shared.unwrap_or(Code::Validation),
            detail: format!("not right: {}", names.join(", ")),
            errors,
        }
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
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::builder()
            .status(self.code.status())
            .header("content-type", MEDIA_TYPE);
        match self.code {
            Code::Unauthenticated => response = response.header("www-authenticate", "Bearer"),
            Code::Unavailable | Code::OutcomeUnknown => {
                response = response.header("retry-after", "1");
            }
            _ => {}
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
