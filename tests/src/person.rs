//! People: what they sign up with, and the mail they get.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use totp_rs::{Builder, Secret, Totp};

use crate::control::Control;
use crate::http::{Ask, Reply};
use crate::plane::Plane;
use crate::wait::eventually;

/// Everybody comes from an address of their own, as in life: log-ins are limited by it.
static ADDRESSES: AtomicU32 = AtomicU32::new(0);

/// Where people live: a control plane, and the directory that their mail ends in.
#[derive(Debug, Clone)]
pub struct People {
    plane: Arc<Plane>,
    mails: PathBuf,
}

/// Somebody with an address and a password.
#[derive(Debug, Clone)]
pub struct Person {
    people: People,
    /// Where they are reached.
    pub email: String,
    /// What they are called.
    pub name: String,
    /// What they log in with.
    pub password: String,
    /// Where they come from.
    pub from: IpAddr,
}

/// A mail as it arrived.
#[derive(Debug, Clone)]
pub struct Mail {
    /// All of it.
    pub text: String,
}

/// What shows the codes of a second factor.
#[derive(Debug)]
pub struct Authenticator(Totp);

impl Authenticator {
    /// One that was told a secret, in base32.
    pub fn new(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret).expect("a secret in base32");
        let totp = Builder::new().with_secret(secret).build();
        Self(totp.expect("a secret of the right length"))
    }

    /// The code that it shows now, or will show so many steps later.
    pub fn code(&self, steps_later: u64) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.expect("it is after 1970").as_secs();
        self.0.generate(now + 30 * steps_later).to_string()
    }
}

impl People {
    /// Those of `plane`, whose mail is in files in `mails`.
    pub fn new(plane: Arc<Plane>, mails: impl Into<PathBuf>) -> Self {
        Self {
            plane,
            mails: mails.into(),
        }
    }

    /// Somebody who has not signed up yet.
    pub fn stranger(&self, email: &str) -> Person {
        let number = ADDRESSES.fetch_add(1, Ordering::Relaxed);
        let [_, b, c, d] = (number + 2).to_be_bytes();
        Person {
            people: self.clone(),
            email: email.to_owned(),
            name: format!("Jane Doe the {number}th"),
            password: format!("the password of {number}"),
            from: IpAddr::V4(Ipv4Addr::new(127, b, c, d)),
        }
    }

    /// Somebody who has signed up, verified the address, and not logged in yet.
    pub async fn verified(&self, email: &str) -> Person {
        let person = self.stranger(email);
        person.sign_up().await.expect(201);
        let token = self.mail_to(email, 0).await.token();
        person.verify(&token).await.expect(200);
        person
    }

    /// The mails to an address so far, oldest first.
    pub fn mails_to(&self, email: &str) -> Vec<Mail> {
        let entries = std::fs::read_dir(&self.mails);
        let mut files: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|it| it.path())
            .filter(|it| {
                it.file_name()
                    .is_none_or(|it| it.as_encoded_bytes()[0] != b'.')
            })
            .collect();
        files.sort();
        let to = format!("To: {email}");
        files
            .iter()
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .map(|text| Mail {
                text: text.replace("\r\n", "\n"),
            })
            .filter(|mail| mail.head().lines().any(|line| line == to))
            .collect()
    }

    /// Waits for the mail number `number`, from 0, to an address.
    pub async fn mail_to(&self, email: &str, number: usize) -> Mail {
        let what = format!("mail {number} to {email}");
        eventually(&what, Duration::from_secs(15), async || {
            let mails = self.mails_to(email);
            let count = mails.len();
            let mail = mails.into_iter().nth(number);
            mail.with_context(|| format!("there are {count}"))
        })
        .await
    }

    /// Calls without a token, from nobody's address.
    pub fn anybody(&self) -> Control {
        Control::new(self.plane.clone(), "").stranger()
    }

    /// Calls with a token.
    pub fn with_token(&self, token: &str) -> Control {
        Control::new(self.plane.clone(), token)
    }
}

impl Person {
    /// `POST /accounts`
    pub async fn sign_up(&self) -> Reply {
        let body = json!({ "email": self.email, "password": self.password, "name": self.name });
        self.post("/v1/accounts", body).await
    }

    /// `POST /accounts/verify`
    pub async fn verify(&self, token: &str) -> Reply {
        self.post("/v1/accounts/verify", json!({ "token": token }))
            .await
    }

    /// `POST /accounts/password/forgot`
    pub async fn forgot(&self) -> Reply {
        let body = json!({ "email": self.email });
        self.post("/v1/accounts/password/forgot", body).await
    }

    /// `POST /accounts/password/reset`
    pub async fn reset(&self, token: &str, password: &str) -> Reply {
        let body = json!({ "token": token, "password": password });
        self.post("/v1/accounts/password/reset", body).await
    }

    /// `POST /sessions`
    pub async fn try_log_in(&self) -> Reply {
        self.log_in_with(json!({})).await
    }

    /// `POST /sessions` with more in the body.
    pub async fn log_in_with(&self, more: Value) -> Reply {
        let mut body = json!({ "email": self.email, "password": self.password });
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        self.post("/v1/sessions", body).await
    }

    /// Logs in and calls with the session from then on.
    pub async fn log_in(&self) -> Control {
        let reply = self.try_log_in().await.expect(201);
        let token = reply.json()["token"].as_str().expect("a token").to_owned();
        self.people.with_token(&token)
    }

    /// The same person with another password.
    pub fn with_password(&self, password: &str) -> Self {
        Self {
            password: password.to_owned(),
            ..self.clone()
        }
    }

    /// The same person under another spelling of the address.
    pub fn with_email(&self, email: &str) -> Self {
        Self {
            email: email.to_owned(),
            ..self.clone()
        }
    }

    /// The same person from somewhere else.
    pub fn elsewhere(&self) -> Self {
        Self {
            from: self.people.stranger("").from,
            ..self.clone()
        }
    }

    /// Posts from the person's own address, without a token.
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Ask::new("POST", path).json(&body))
            .await
            .expect("the control plane answers")
    }

    /// Sends from the person's own address.
    pub async fn send(&self, ask: Ask) -> Result<Reply> {
        ask.from(self.from)
            .send(self.people.plane.address("control"))
            .await
    }
}

impl Mail {
    /// Everything before the text.
    pub fn head(&self) -> &str {
        self.text.split("\n\n").next().unwrap_or_default()
    }

    /// The token in the mail's link, if it has one.
    pub fn find_token(&self) -> Option<String> {
        let (_, rest) = self.text.split_once("#token=")?;
        let is_end = |it: char| !it.is_ascii_alphanumeric();
        Some(rest[..rest.find(is_end).unwrap_or(rest.len())].to_owned())
    }

    /// The token in the mail's link.
    pub fn token(&self) -> String {
        self.find_token()
            .unwrap_or_else(|| panic!("the mail has no link: {}", self.text))
    }
}
