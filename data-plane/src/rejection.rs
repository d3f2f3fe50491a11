//! The proxy's "no": the one table from code to status, text and headers.
//!
//! Stages return a [`Rejection`] and know nothing of status codes; [`answer`] is the last
//! step. Every code stands here once, with who can do something about it.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use schemas::entry::ErrorProfile;
use schemas::problem::{MEDIA_TYPE, Problem};

use crate::limit::{Scope, Span, Standing};

/// The header that carries a refusal's code.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("x-throttleproxy-error");

/// Why a request was not served.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// What programs branch on.
    pub code: Code,
    /// What was wrong this time. It may not hold a secret, a hash or anything of another
    /// workspace.
    pub detail: Cow<'static, str>,
    /// Whole seconds after which trying again can help.
    pub retry_after_s: Option<u64>,
    /// The limit that was reached.
    pub limit: Option<(Scope, Span)>,
    /// Whether waiting can help, for limits.
    pub retryable: Option<bool>,
    /// The connection's framing can no longer be trusted.
    pub close: bool,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $text:expr, $title:literal;)*) => {
        /// Every code of the proxy.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All codes, for metrics, documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that goes with the code.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The text that clients show; `None` where it says what is wrong.
            const fn text(self) -> Option<&'static str> {
                match self { $(Self::$name => $text,)* }
            }

            /// The code's meaning in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// No key in the request. The caller sends one.
    MissingKey = "missing_key", 401, Some("Invalid API Key"), "No key was presented";
    /// Not one of our keys. The caller checks it.
    InvalidKey = "invalid_key", 401, Some("Invalid API Key"), "The key is not known";
    /// The key, its secret, owner, team or workspace is switched off. Its owner acts.
    InactiveKey = "inactive_key", 401, Some("Inactive API Key"), "The key is switched off";
    /// The key is past its end. Its owner extends or replaces it.
    ExpiredKey = "expired_key", 401, Some("Expired API Key"), "The key has expired";
    /// Too many failed keys from this address. Wait.
    IpBlocked = "ip_blocked", 403, Some("IP temporarily blocked"), "Too many failed keys from this address";
    /// The workspace has not approved this destination. An admin adds it.
    TargetNotAllowed = "target_not_allowed", 403, Some("Target not allowed"), "The destination is not approved";
    /// The destination's address is not public. The operator may allow it.
    UnsafeTarget = "unsafe_target", 403, Some("Target not allowed"), "The destination's address is not allowed";
    /// The destination cannot be read. The caller mends the request.
    BadTarget = "bad_target", 400, None, "The destination cannot be read";
    /// Two different keys. The caller sends one.
    AmbiguousCredentials = "ambiguous_credentials", 400, None, "More than one key was presented";
    /// The request is not one that can be passed on.
    BadRequest = "bad_request", 400, None, "The request cannot be read";
    /// No target of this name. The caller checks it, or an admin adds it.
    UnknownTarget = "unknown_target", 404, Some("Unknown target"), "There is no target of this name";
    /// A rate is used up. Wait.
    RateLimited = "rate_limited", 429, None, "A rate limit is reached";
    /// A rate of the workspace's plan is used up. Wait, or change the plan.
    PlanRateLimited = "plan_rate_limited", 429, None, "A rate limit of the plan is reached";
    /// The body is larger than the cap.
    RequestTooLarge = "request_too_large", 413, Some("request too large"), "The request body is too large";
    /// The body came too slowly.
    RequestTimeout = "request_timeout", 408, Some("request timeout"), "The request body came too slowly";
    /// More headers than the cap. The caller sends fewer.
    HeaderTooLarge = "header_too_large", 431, Some("header too large"), "The request has too many headers";
    /// The answer is larger than the cap.
    ResponseTooLarge = "response_too_large", 502, Some("response too large"), "The upstream's answer is too large";
    /// No connection, or no answer that is HTTP. Whoever runs the upstream acts.
    UpstreamUnreachable = "upstream_unreachable", 502, Some("upstream unreachable"), "The upstream cannot be reached";
    /// No answer in time. Whoever runs the upstream acts.
    UpstreamTimeout = "upstream_timeout", 504, Some("upstream timeout"), "The upstream did not answer in time";
    /// What the proxy knows is not enough to decide. Its operator acts; try again.
    Stale = "stale", 503, Some("stale"), "The proxy cannot decide now";
    /// More work than the proxy takes on. Try again.
    Overloaded = "overloaded", 503, Some("overloaded"), "The proxy is overloaded";
}

// === impl Code ===

impl Code {
    /// The place of the code in [`Code::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

// === impl Rejection ===

impl Rejection {
    /// A refusal with what was wrong this time.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            retry_after_s: None,
            limit: None,
            retryable: None,
            close: false,
        }
    }

    /// The proxy does not know enough to decide; never the caller's fault.
    pub fn stale(detail: &'static str) -> Self {
        Self::new(Code::Stale, detail).retry_after(1)
    }

    /// A limit that is used up.
    pub fn limit(refused: &Standing) -> Self {
        let code = match refused.scope {
            Scope::Workspace => Code::PlanRateLimited,
            _ => Code::RateLimited,
        };
        let retryable = refused.is_retryable();
        let detail = format!(
            "{} requests per {} are allowed for this {}.",
            refused.limit,
            match refused.span {
                Span::Second => "second",
                Span::Minute => "minute",
            },
            match refused.scope {
                Scope::Global => "instance",
                scope => scope.as_str(),
            },
        );
        Self {
            limit: Some((refused.scope, refused.span)),
            retryable: Some(retryable),
            retry_after_s: retryable.then(|| refused.reset_seconds()),
            ..Self::new(code, detail)
        }
    }

    /// Says when to try again, in whole seconds, at least 1.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds.max(1));
        self
    }

    /// Closes the connection after the answer.
    #[must_use]
    pub fn and_close(mut self) -> Self {
        self.close = true;
        self
    }

    /// The text that clients show.
    fn text(&self) -> Cow<'_, str> {
        if let Some(text) = self.code.text() {
            return text.into();
        }
        match (self.code, self.limit) {
            (Code::PlanRateLimited, Some((_, Span::Second))) => {
                "exceeded the per-second rate limit on your subscription".into()
            }
            (Code::PlanRateLimited, Some((_, Span::Minute))) => {
                "exceeded the per-minute rate limit on your subscription".into()
            }
            (Code::RateLimited, Some((_, span))) => {
                format!("Rate limit exceeded: {}", span.as_str()).into()
            }
            _ => self.detail.as_ref().into(),
        }
    }
}

/// The answer that a refusal becomes.
pub fn answer(rejection: &Rejection, profile: ErrorProfile, request_id: &str) -> Response<Bytes> {
    let code = rejection.code;
    let text = rejection.text();
    let (media_type, body) = match profile {
        ErrorProfile::Compact => {
            let text = serde_json::Value::from(&*text);
            ("application/json", format!("{{\"error\": {text}}}"))
        }
        ErrorProfile::Standard => {
            let mut problem = Problem::new(
                code.as_str(),
                code.title(),
                code.status(),
                rejection.detail.as_ref(),
                request_id,
            );
            problem.error = Some(text.into_owned());
            problem.scope = rejection.limit.map(|(scope, _)| scope.as_str().to_owned());
            problem.window = rejection.limit.map(|(_, span)| span.as_str().to_owned());
            problem.retryable = rejection.retryable;
            let body = serde_json::to_string(&problem)
                .expect("a problem is strings and numbers, which are always JSON");
            (MEDIA_TYPE, body)
        }
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() =
        StatusCode::from_u16(code.status()).expect("the table holds statuses of HTTP");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(ERROR_HEADER, HeaderValue::from_static(code.as_str()));
    if matches!(code, Code::MissingKey | Code::InvalidKey) {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = rejection.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if rejection.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests;
