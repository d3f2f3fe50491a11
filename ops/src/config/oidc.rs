//! `[[oidc]]`: OpenID Connect providers at which people may sign in.

use serde::Serialize;

use super::Error;
use super::source::Values;

/// A provider.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Oidc {
    /// 1 to 32 of `a-z`, `0-9` and `-`; part of the address where a sign-in starts. It
    /// also names the provider in the database, so a provider keeps its name.
    pub name: String,
    /// The issuer, exactly as the provider writes it.
    pub issuer: String,
    /// Who we are at the provider.
    pub client_id: String,
    /// What proves that.
    pub client_secret: String,
}

/// All providers.
pub(super) fn read_all(values: &Values) -> Result<Vec<Oidc>, Error> {
    let entries = values.list_of_tables("oidc");
    let mut providers = Vec::<Oidc>::with_capacity(entries.len());
    for entry in &entries {
        let provider = read(entry)?;
        if providers.iter().any(|other| other.name == provider.name) {
            return Err(Error::SameProvider {
                origin: entry.origin_of("oidc.name"),
                name: provider.name,
            });
        }
        providers.push(provider);
    }
    Ok(providers)
}

fn read(values: &Values) -> Result<Oidc, Error> {
    let name = values.parsed("oidc.name", NAME, |text| {
        schemas::name::is_region(text).then(|| text.to_owned())
    })?;
    let issuer = values.parsed("oidc.issuer", ISSUER, |text| {
        control_plane::oidc::is_issuer(text).then(|| text.to_owned())
    })?;
    let client_id = values.parsed("oidc.client_id", CLIENT_ID, |text| {
        (!text.is_empty()).then(|| text.to_owned())
    })?;
    let client_secret =
        values.secret("oidc.client_secret", CLIENT_SECRET, |text| !text.is_empty())?;
    let required = |value: Option<String>, key: &'static str, expected| {
        value.ok_or_else(|| Error::Wrong {
            origin: values.origin_of(key),
            key: key.to_owned(),
            expected,
            found: "left out".to_owned(),
        })
    };
    Ok(Oidc {
        name: required(name, "oidc.name", NAME)?,
        issuer: required(issuer, "oidc.issuer", ISSUER)?,
        client_id: required(client_id, "oidc.client_id", CLIENT_ID)?,
        client_secret: required(client_secret, "oidc.client_secret", CLIENT_SECRET)?,
    })
}

const NAME: &str = "a provider's name: 1 to 32 of a-z, 0-9 and `-`";
const ISSUER: &str = "an https:// address, or an http:// one on this machine";
const CLIENT_ID: &str = "the client id that the provider gave";
const CLIENT_SECRET: &str = "the client secret that the provider gave";
