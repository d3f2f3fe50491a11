//! Signing in at an OpenID Connect provider (authorization code flow with PKCE).
//!
//! ```text
//! start     ─▶ the provider's page, and a cookie: state, nonce, PKCE verifier
//! callback  ◀─ a code and the state; the code is exchanged for an id token
//! ```
//!
//! What must fit together lives in the browser's cookie and nowhere here: whoever starts a
//! thousand sign-ins costs no memory, and a callback that another browser started finds no
//! cookie. The cookie is readable by no script and ends after ten minutes.
//!
//! An account is known by provider and subject. Who comes for the first time is linked by
//! e-mail address, and only by one that the provider has verified.

mod client;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreProviderMetadata};
use openidconnect::{
    AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointMaybeSet, EndpointNotSet,
    EndpointSet, IssuerUrl, LocalizedClaim, Nonce, OAuth2TokenResponse as _, PkceCodeChallenge,
    PkceCodeVerifier, RedirectUrl, Scope, TokenResponse as _, UserInfoClaims,
};
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use client::Error as OpenError;

use client::Http;

/// How long what a provider says of itself is believed. Its keys are part of it, and
/// providers change them.
const METADATA_LASTS: Duration = Duration::from_secs(10 * 60);

/// The most characters of a name that is taken over.
const NAME_CHARS_MAX: usize = 255;

/// How a provider is reached, and who we are there.
#[derive(Clone)]
pub struct Settings {
    /// What it is called in addresses and in the database.
    pub name: String,
    /// The issuer, exactly as the provider writes it.
    pub issuer: String,
    /// Who we are there.
    pub client_id: String,
    /// What proves that.
    pub client_secret: String,
}

/// The providers; clones share them.
#[derive(Clone)]
pub struct Providers(Arc<Vec<Provider>>);

/// A provider.
pub struct Provider {
    settings: Settings,
    http: Http,
    redirect_url: String,
    metadata: Mutex<Option<(Instant, CoreProviderMetadata)>>,
}

/// A sign-in that has been started.
pub struct Started {
    /// Where the browser goes.
    pub url: String,
    /// What the browser keeps.
    pub cookie: String,
}

/// Who the provider says it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// The provider's name.
    pub provider: String,
    /// Who it is there; never another's.
    pub subject: String,
    /// The address, which the provider has verified.
    pub email: String,
    /// What they are called.
    pub name: Option<String>,
}

/// Why nobody is signed in. No message holds what the provider sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The provider cannot be reached, or says what cannot be read.
    #[error("the provider cannot be asked: {0}")]
    Away(String),
    /// The callback does not belong to a sign-in that this browser started.
    #[error("the answer does not belong to a sign-in of this browser")]
    Foreign,
    /// The provider did not sign anybody in, or not so that it can be verified.
    #[error("the provider did not sign anybody in: {0}")]
    Refused(String),
    /// The provider has not verified the address.
    #[error("the provider has not verified the e-mail address")]
    Unverified,
}

/// A client whose provider has told where to go.
type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

// === impl Providers ===

impl Providers {
    pub(crate) fn new(settings: Vec<Settings>, public_url: &str) -> Result<Self, OpenError> {
        let http = Http::new()?;
        let providers = settings.into_iter().map(|settings| Provider {
            redirect_url: format!("{public_url}{}/callback", path(&settings.name)),
            http: http.clone(),
            metadata: Mutex::new(None),
            settings,
        });
        Ok(Self(Arc::new(providers.collect())))
    }

    /// The provider with this name.
    pub fn find(&self, name: &str) -> Option<&Provider> {
        self.0.iter().find(|it| it.settings.name == name)
    }
}

/// Whether `[[oidc]] issuer` can be this: codes and secrets go there.
pub fn is_issuer(text: &str) -> bool {
    text.parse().is_ok_and(|uri| client::is_safe(&uri))
}

/// The path under which a provider's sign-ins stand; its cookie is sent there only.
pub fn path(name: &str) -> String {
    format!("/v1/sessions/oidc/{name}")
}

// === impl Provider ===

impl Provider {
    /// Starts a sign-in.
    ///
    /// # Errors
    /// [`Error::Away`].
    pub async fn start(&self) -> Result<Started, Error> {
        let client = self.client().await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state, nonce) = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                CsrfToken::new_random,
                Nonce::new_random,
            )
            .add_scope(Scope::new("email".to_owned()))
            .add_scope(Scope::new("profile".to_owned()))
            .set_pkce_challenge(challenge)
            .url();
        Ok(Started {
            url: url.into(),
            // Each part is base64url, which has no point.
            cookie: format!(
                "{}.{}.{}",
                state.secret(),
                nonce.secret(),
                verifier.secret()
            ),
        })
    }

    /// Finds out who came back. `state` and `code` are what the provider sent along,
    /// `cookie` is what the browser kept.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn finish(
        &self,
        state: &str,
        code: String,
        cookie: Option<&str>,
    ) -> Result<Signed, Error> {
        let mut parts = cookie.unwrap_or_default().splitn(3, '.');
        let (Some(kept), Some(nonce), Some(verifier)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Foreign);
        };
        let is_own: bool = kept.as_bytes().ct_eq(state.as_bytes()).into();
        if !is_own || kept.is_empty() {
            return Err(Error::Foreign);
        }
        let client = self.client().await?;
        let token = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|_| Error::Away("it has no token endpoint".to_owned()))?
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()))
            .request_async(&self.http)
            .await
            .map_err(|error| Error::Refused(said(&error)))?;
        let id_token = token
            .id_token()
            .ok_or_else(|| Error::Refused("it gave no id token".to_owned()))?;
        let claims = id_token
            .claims(&client.id_token_verifier(), &Nonce::new(nonce.to_owned()))
            .map_err(|error| Error::Refused(error.to_string()))?;

        let subject = claims.subject().clone();
        let mut email = claims.email().map(|it| it.to_string());
        let mut is_verified = claims.email_verified();
        let mut name = claims.name().and_then(plain);
        // Many providers tell more at another address than in the token.
        if email.is_none()
            && let Ok(request) =
                client.user_info(token.access_token().clone(), Some(subject.clone()))
        {
            let told: UserInfoClaims<_, _> = request
                .request_async(&self.http)
                .await
                .map_err(|error| Error::Refused(said(&error)))?;
            let told: openidconnect::core::CoreUserInfoClaims = told;
            email = told.email().map(|it| it.to_string());
            is_verified = told.email_verified();
            name = name.or_else(|| told.name().and_then(plain));
        }
        match email {
            Some(email) if is_verified == Some(true) => Ok(Signed {
                provider: self.settings.name.clone(),
                subject: subject.to_string(),
                email,
                name,
            }),
            _ => Err(Error::Unverified),
        }
    }

    async fn client(&self) -> Result<Client, Error> {
        let metadata = self.metadata().await?;
        let redirect = RedirectUrl::new(self.redirect_url.clone())
            .map_err(|_| Error::Away("[control] public_url is no address".to_owned()))?;
        let client = CoreClient::from_provider_metadata(
            metadata,
            ClientId::new(self.settings.client_id.clone()),
            Some(ClientSecret::new(self.settings.client_secret.clone())),
        );
        Ok(client.set_redirect_uri(redirect))
    }

    /// What the provider says of itself (discovery), from memory if it is fresh.
    async fn metadata(&self) -> Result<CoreProviderMetadata, Error> {
        let mut known = self.metadata.lock().await;
        if let Some((at, metadata)) = known.as_ref()
            && at.elapsed() < METADATA_LASTS
        {
            return Ok(metadata.clone());
        }
        let issuer = IssuerUrl::new(self.settings.issuer.clone())
            .map_err(|_| Error::Away("[[oidc]] issuer is no address".to_owned()))?;
        let metadata = CoreProviderMetadata::discover_async(issuer, &self.http)
            .await
            .map_err(|error| Error::Away(error.to_string()))?;
        *known = Some((Instant::now(), metadata.clone()));
        Ok(metadata)
    }
}

/// The name that is for no language in particular.
fn plain(name: &LocalizedClaim<openidconnect::EndUserName>) -> Option<String> {
    let name: String = name
        .get(None)?
        .chars()
        .filter(|it| !it.is_control())
        .collect();
    let name: String = name.trim().chars().take(NAME_CHARS_MAX).collect();
    (!name.is_empty()).then_some(name)
}

/// What kind of failure it was; the words of a provider may name a person.
fn said<E: std::error::Error>(error: &E) -> String {
    let text = error.to_string();
    text.split(':').next().unwrap_or_default().to_owned()
}
