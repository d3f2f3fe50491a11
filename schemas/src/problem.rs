//! Error bodies of both planes, RFC 9457 problem details, and the codes of the control
//! API. The proxy's own codes live with the proxy.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An error as a client reads it. No text in it may hold a secret, a hash, or anything
/// of another workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `https://throttleproxy.dev/problems/<code>`
    #[serde(rename = "type")]
    pub kind: String,
    /// The code's meaning, always the same.
    pub title: String,
    /// The HTTP status, once more.
    pub status: u16,
    /// What was wrong this time.
    pub detail: String,
    /// What programs branch on.
    pub code: Cow<'static, str>,
    /// What to quote to the operator.
    pub request_id: String,
    /// The short text that a client of the proxy shows; absent in the control API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The fields that were refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The scope of the limit that was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The name of the rate that was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// The name of the quota that was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<String>,
    /// How many things stand in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Whether trying again later can succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
}

impl Problem {
    /// A problem with a code, its title and status, and what was wrong this time.
    pub fn new(
        code: &'static str,
        title: &str,
        status: u16,
        detail: impl Into<String>,
        request_id: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("https://throttleproxy.dev/problems/{code}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            code: Cow::Borrowed(code),
            request_id: request_id.into(),
            error: None,
            errors: Vec::new(),
            scope: None,
            window: None,
            quota: None,
            count: None,
            retryable: None,
        }
    }
}

/// One field of a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// The field, dotted: `limits.rpm`.
    pub field: String,
    /// What programs branch on.
    pub code: Cow<'static, str>,
    /// What would be right.
    pub detail: String,
}

impl FieldError {
    /// A refused field.
    pub fn new(field: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            code: Cow::Borrowed(code),
            detail: detail.into(),
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $title:literal;)*) => {
        /// The codes of the control API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All codes, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that goes with the code.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The code's meaning in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request cannot be read.
    BadRequest = "bad_request", 400, "The request cannot be read";
    /// No valid token.
    Unauthenticated = "unauthenticated", 401, "A valid token is needed";
    /// The password is right, and a code of the second factor is needed.
    TotpRequired = "totp_required", 401, "A code of the second factor is needed";
    /// The account's address is not verified.
    EmailNotVerified = "email_not_verified", 403, "The e-mail address is not verified";
    /// A change from a page does not prove that the page is ours.
    Csrf = "csrf", 403, "The x-csrf-token is missing or wrong";
    /// The caller may not do this.
    Forbidden = "forbidden", 403, "Not permitted";
    /// There is no such thing, or it belongs to another workspace.
    NotFound = "not_found", 404, "Not found";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, "The method is not allowed here";
    /// No representation that the caller accepts.
    NotAcceptable = "not_acceptable", 406, "No such representation";
    /// The first request with this idempotency key is still running.
    IdempotencyRunning = "idempotency_running", 409, "The first request is still running";
    /// The idempotency key was used with another body.
    IdempotencyConflict = "idempotency_conflict", 422, "The idempotency key was used with another body";
    /// Another one has this name.
    NameTaken = "name_taken", 409, "The name is taken";
    /// A workspace has at least one active owner.
    LastOwner = "last_owner", 409, "The last active owner stays";
    /// The key was used, so its history stays.
    KeyHasHistory = "key_has_history", 409, "The key was used";
    /// The key is revoked for good.
    KeyRevoked = "key_revoked", 409, "The key is revoked";
    /// The key already has two live secrets.
    RotationInProgress = "rotation_in_progress", 409, "A rotation is in progress";
    /// The member owns keys, and what becomes of them was not said.
    MemberOwnsKeys = "member_owns_keys", 409, "The member owns keys";
    /// It could not be proved in time that the key was never used.
    PurgeUnproven = "purge_unproven", 409, "It is not proven that the key was never used";
    /// The team still has keys.
    TeamHasKeys = "team_has_keys", 409, "The team still has keys";
    /// Something else still needs it.
    InUse = "in_use", 409, "Still in use";
    /// The resource is not at the version that the request was made for.
    PreconditionFailed = "precondition_failed", 412, "The resource has changed";
    /// The body is larger than the cap.
    BodyTooLarge = "body_too_large", 413, "The body is too large";
    /// The body is not JSON.
    UnsupportedMediaType = "unsupported_media_type", 415, "The body must be JSON";
    /// A field is not right.
    Validation = "validation", 422, "A field is not right";
    /// The text looks like a credential or an address.
    NameLooksLikeSecret = "name_looks_like_secret", 422, "The text looks like a secret";
    /// The host may not be a target.
    HostNotAllowed = "host_not_allowed", 422, "The host may not be a target";
    /// The field's meaning is not enforced yet.
    NotAvailable = "not_available", 422, "Not available yet";
    /// The team's developers may not make keys for themselves.
    SelfServiceDisabled = "self_service_disabled", 403, "Self-service is switched off in this team";
    /// The caller has as many live keys in the team as its policy allows.
    SelfServiceMaxKeys = "self_service_max_keys", 403, "No more keys are allowed in this team";
    /// The team's policy asks for an expiry, or a nearer one.
    SelfServiceExpiry = "self_service_expiry", 422, "The team's policy asks for another expiry";
    /// A limit is above the team's.
    SelfServiceLimit = "self_service_limit", 422, "A limit is above the team's";
    /// Too many attempts.
    TooManyAttempts = "too_many_attempts", 429, "Too many attempts";
    /// The store cannot be reached.
    Unavailable = "unavailable", 503, "Temporarily unavailable";
    /// The change may or may not have been made.
    OutcomeUnknown = "outcome_unknown", 503, "The outcome is not known";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_snake_case_and_differ() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(
                code.as_str()
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            );
            assert!((400..600).contains(&code.status()));
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
        }
    }
}
