//! Envoy's messages and ours: a `CheckRequest` is a request to be judged, a verdict is a
//! `CheckResponse`. Plain functions from one to the other.
//!
//! | of the original | stands in |
//! |---|---|
//! | method, path and query | `method`, `path` |
//! | key | the headers: `header_map` where Envoy sends them raw (`encode_raw_headers`), otherwise `headers` |
//! | destination | the context extension `x-throttleproxy-target`, which only Envoy's operator can set; left out: the header of that name; left out: `scheme` (`https` where it is empty) and `host` |
//! | client's address | `source` |
//!
//! In `headers`, Envoy joins repeated headers with commas. They are taken apart again
//! where it matters, so that two different keys are still noticed.

use std::net::IpAddr;

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{
    Address, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValue,
    HeaderValueOption, HttpResponse, HttpStatus, OkHttpResponse,
};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::google::rpc;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use tonic::Code as GrpcCode;

use crate::pipeline::REQUEST_ID;
use crate::pipeline::authenticate::is_query_key;
use crate::pipeline::headers::{TARGET, X_API_KEY};
use crate::pipeline::verify::{KEY_ID, Original, WORKSPACE_ID};
use crate::rejection::{Code, Rejection};

/// What Envoy asks.
#[derive(Debug)]
pub(super) struct Question {
    /// The client, as Envoy knows it.
    pub(super) client: Option<IpAddr>,
    /// The request that it holds.
    pub(super) original: Result<Original, Rejection>,
    /// What it has to take out of it.
    pub(super) removed: Removed,
}

/// What no upstream may see.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Removed {
    headers: Vec<String>,
    parameters: Vec<String>,
}

/// Reads a question.
pub(super) fn read(check: CheckRequest) -> Question {
    let attributes = check.attributes.unwrap_or_default();
    let client = client(&attributes);
    let target = attributes.context_extensions.get(TARGET.as_str());
    let Some(http) = attributes.request.and_then(|request| request.http) else {
        return Question {
            client,
            original: Err(Rejection::new(
                Code::BadRequest,
                "The check holds no HTTP request.",
            )),
            removed: Removed::default(),
        };
    };
    Question {
        client,
        original: original(&http, target.map(String::as_bytes)),
        removed: Removed::of(&http),
    }
}

/// Writes the verdict. Without a clear yes, Envoy refuses.
pub(super) fn write(answer: Response<Bytes>, removed: Removed) -> CheckResponse {
    let (head, body) = answer.into_parts();
    let (grpc_code, response) = if head.status == StatusCode::OK {
        let of_key = [KEY_ID, WORKSPACE_ID];
        let answer = OkHttpResponse {
            headers: options(&head.headers, |name| of_key.contains(name)),
            headers_to_remove: removed.headers,
            // The upstream's own answer keeps its own request id.
            response_headers_to_add: options(&head.headers, |name| {
                !of_key.contains(name) && *name != REQUEST_ID
            }),
            query_parameters_to_remove: removed.parameters,
            ..OkHttpResponse::default()
        };
        (GrpcCode::Ok, HttpResponse::OkResponse(answer))
    } else {
        let answer = DeniedHttpResponse {
            status: Some(HttpStatus {
                code: i32::from(head.status.as_u16()),
            }),
            headers: options(&head.headers, |name| *name != CONTENT_LENGTH),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        (grpc_code(head.status), HttpResponse::DeniedResponse(answer))
    };
    CheckResponse {
        status: Some(rpc::Status {
            code: i32::from(grpc_code),
            ..rpc::Status::default()
        }),
        http_response: Some(response),
        ..CheckResponse::default()
    }
}

// === impl Removed ===

impl Removed {
    fn of(http: &HttpRequest) -> Self {
        let set_anew = [KEY_ID, WORKSPACE_ID];
        let raw = http.header_map.iter().flat_map(|map| &map.headers);
        let mut headers: Vec<String> = raw
            .map(|header| &header.key)
            .chain(http.headers.keys())
            .map(|name| name.to_ascii_lowercase())
            // Envoy removes after it sets.
            .filter(|name| is_ours(name) && !set_anew.iter().any(|it| *it == **name))
            // Those that Envoy may have been told not to show us.
            .chain(CREDENTIALS.map(str::to_owned))
            .collect();
        headers.sort_unstable();
        headers.dedup();
        let query = http.path.split_once('?').map_or("", |(_, query)| query);
        let mut parameters: Vec<String> = query
            .split('&')
            .map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
            .filter(|name| is_query_key(name))
            .map(str::to_owned)
            .collect();
        parameters.sort_unstable();
        parameters.dedup();
        Self {
            headers,
            parameters,
        }
    }
}

/// Where clients carry what is between them and us.
const CREDENTIALS: [&str; 4] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
];

/// Whether a header, however an upstream may read its name, is a credential or one of
/// ours. What tells of hops is Envoy's own business.
fn is_ours(name: &str) -> bool {
    let read = name.replace('_', "-");
    CREDENTIALS.contains(&read.as_str()) || read.starts_with("x-throttleproxy-")
}

fn original(http: &HttpRequest, target: Option<&[u8]>) -> Result<Original, Rejection> {
    let headers = headers(http)?;
    let names_target = headers.contains_key(TARGET);
    let original = Original::told(http.method.as_bytes(), http.path.as_bytes(), headers)?
        .with_stripped_query();
    match target {
        Some(target) => original.at_target(target),
        None if names_target => Ok(original),
        None => {
            let scheme = match http.scheme.as_bytes() {
                b"" => b"https",
                scheme => scheme,
            };
            original.at_origin(scheme, http.host.as_bytes())
        }
    }
}

/// The headers that the stages look at.
fn headers(http: &HttpRequest) -> Result<HeaderMap, Rejection> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &[u8]| {
        let looked_at = [X_API_KEY, AUTHORIZATION, TARGET];
        let Some(name) = looked_at
            .into_iter()
            .find(|it| name.eq_ignore_ascii_case(it.as_str()))
        else {
            return Ok(());
        };
        let unreadable = || {
            Rejection::new(
                Code::BadRequest,
                format!("The header {name} cannot be read."),
            )
        };
        let value = http::HeaderValue::from_bytes(value).map_err(|_| unreadable())?;
        headers
            .try_append(&name, value)
            .map(drop)
            .map_err(|_| unreadable())
    };
    let raw = http.header_map.as_ref().map(|map| map.headers.as_slice());
    for header in raw.unwrap_or_default() {
        let value = match header.raw_value.as_slice() {
            [] => header.value.as_bytes(),
            raw => raw,
        };
        add(&header.key, value)?;
    }
    for (name, joined) in &http.headers {
        for value in apart(name, joined) {
            add(name, value.as_bytes())?;
        }
    }
    Ok(headers)
}

/// The values that Envoy may have joined with commas. No key of ours holds one; but the
/// parameters of other schemes of `authorization` are lists of `name=value`, so there a
/// comma parts two values only where another scheme and a space follow.
fn apart<'v>(name: &str, joined: &'v str) -> Vec<&'v str> {
    if name.eq_ignore_ascii_case(X_API_KEY.as_str()) {
        return joined.split(',').map(str::trim).collect();
    }
    if !name.eq_ignore_ascii_case(AUTHORIZATION.as_str()) {
        return vec![joined];
    }
    let mut values = Vec::new();
    let mut rest = joined;
    let mut from = 0;
    while let Some(comma) = rest[from..].find(',').map(|at| from + at) {
        let next = rest[comma + 1..].trim_start();
        if begins_with_scheme(next) {
            values.push(rest[..comma].trim());
            rest = next;
            from = 0;
        } else {
            from = comma + 1;
        }
    }
    values.push(rest.trim());
    values
}

/// Whether credentials begin here: a scheme, a space (RFC 9110, 11.4).
fn begins_with_scheme(text: &str) -> bool {
    text.split_once(' ')
        .is_some_and(|(scheme, _)| !scheme.is_empty() && !scheme.contains(['=', ',', '"']))
}

fn client(attributes: &AttributeContext) -> Option<IpAddr> {
    let address = attributes.source.as_ref()?.address.as_ref()?;
    match address.address.as_ref()? {
        Address::SocketAddress(socket) => {
            Some(socket.address.parse::<IpAddr>().ok()?.to_canonical())
        }
        _ => None,
    }
}

/// Headers of an answer, for Envoy to set whatever stood there before.
fn options(headers: &HeaderMap, picks: impl Fn(&HeaderName) -> bool) -> Vec<HeaderValueOption> {
    headers
        .iter()
        .filter(|(name, _)| picks(name))
        .map(|(name, value)| HeaderValueOption {
            header: Some(HeaderValue {
                key: name.as_str().to_owned(),
                value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
                ..HeaderValue::default()
            }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..HeaderValueOption::default()
        })
        .collect()
}

/// What gRPC calls the status. Envoy only asks whether it is OK.
fn grpc_code(status: StatusCode) -> GrpcCode {
    match status.as_u16() {
        400 => GrpcCode::InvalidArgument,
        401 => GrpcCode::Unauthenticated,
        404 => GrpcCode::NotFound,
        429 => GrpcCode::ResourceExhausted,
        503 => GrpcCode::Unavailable,
        _ => GrpcCode::PermissionDenied,
    }
}

#[cfg(test)]
mod tests;
