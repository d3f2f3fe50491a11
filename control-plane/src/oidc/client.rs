//! The HTTP client for providers: deadlines, small answers, no redirects, and no plain text
//! except to this machine.

use std::pin::Pin;
use std::time::Duration;

use axum::http::Uri;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use tokio::time::timeout;

/// How long a provider may take over an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Keys and documents of providers are some kilobytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Clones share its connections.
#[derive(Clone)]
pub(super) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// Why a provider was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates of this system cannot be read.
    #[error("the certificates that this system trusts cannot be read")]
    Certificates(#[source] std::io::Error),
    /// Only https leaves this machine.
    #[error("a provider that is not on this machine is asked over https only")]
    PlainText,
    /// It cannot be reached.
    #[error("the provider cannot be reached")]
    Connect(#[source] hyper_util::client::legacy::Error),
    /// The answer did not arrive whole, or is far too large.
    #[error("the answer of the provider cannot be read")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did not come in time.
    #[error("the provider did not answer in time")]
    Late,
}

// === impl Http ===

impl Http {
    pub(super) fn new() -> Result<Self, Error> {
        let provider = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(Error::Certificates)?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, Error> {
        if !is_safe(request.uri()) {
            return Err(Error::PlainText);
        }
        let request = request.map(|body| Full::new(Bytes::from(body)));
        let answer = async {
            let answer = self.0.request(request).await.map_err(Error::Connect)?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(Error::Answer)?.to_bytes().to_vec();
            Ok(HttpResponse::from_parts(parts, body))
        };
        timeout(ANSWER_WAIT, answer)
            .await
            .unwrap_or(Err(Error::Late))
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Error>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        let http = self.clone();
        Box::pin(async move { http.send(request).await })
    }
}

/// Codes and secrets go to providers: in plain text only inside this machine.
pub(super) fn is_safe(uri: &Uri) -> bool {
    let is_here = matches!(
        uri.host(),
        Some("localhost" | "127.0.0.1" | "[::1]" | "::1")
    );
    uri.scheme_str() == Some("https") || uri.scheme_str() == Some("http") && is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_on_this_machine() {
        for (uri, expected) in [
            ("https://id.example.com/token", true),
            ("http://127.0.0.1:4000/token", true),
            ("http://localhost/token", true),
            ("http://[::1]:4000/token", true),
            ("http://id.example.com/token", false),
            ("http://localhost.example.com/token", false),
            ("http://127.0.0.1.example.com/token", false),
        ] {
            assert_eq!(is_safe(&uri.parse().unwrap()), expected, "{uri}");
        }
    }
}
