//! Calls to the control API with a token.

use std::sync::Arc;

use anyhow::Result;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::http::{Ask, Reply};
use crate::plane::Plane;

/// A caller of the control API.
#[derive(Debug, Clone)]
pub struct Control {
    plane: Arc<Plane>,
    token: Option<String>,
}

/// A key as it was made: its id and its secret.
#[derive(Debug, Clone)]
pub struct Key {
    /// The key's id.
    pub id: String,
    /// The newest secret.
    pub secret: String,
    /// The whole answer that held the secret.
    pub body: Value,
    /// The position of the change.
    pub position: u64,
}

impl Control {
    /// Calls `plane` with `token`.
    pub fn new(plane: Arc<Plane>, token: impl Into<String>) -> Self {
        Self {
            plane,
            token: Some(token.into()),
        }
    }

    /// The same place, without a token.
    pub fn stranger(&self) -> Self {
        Self {
            plane: self.plane.clone(),
            token: None,
        }
    }

    /// The same place, with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            plane: self.plane.clone(),
            token: Some(token.to_owned()),
        }
    }

    /// Sends a request, with the token unless it brings an `authorization` of its own;
    /// the path is below `/v1`.
    pub async fn try_send(&self, mut ask: Ask) -> Result<Reply> {
        if let Some(token) = &self.token
            && !ask.has("authorization")
        {
            ask = ask.header("authorization", format!("Bearer {token}"));
        }
        ask.send(self.plane.address("control")).await
    }

    /// Sends a request and returns as soon as the head of the answer is there.
    pub async fn open(&self, mut ask: Ask) -> Result<Response<Incoming>> {
        if let Some(token) = &self.token {
            ask = ask.header("authorization", format!("Bearer {token}"));
        }
        ask.open(self.plane.address("control")).await
    }

    /// As [`Control::try_send`], where the control plane has to be there.
    pub async fn send(&self, ask: Ask) -> Reply {
        self.try_send(ask).await.expect("the control plane answers")
    }

    /// `GET /v1<path>`
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Ask::get(format!("/v1{path}"))).await
    }

    /// `POST /v1<path>`
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Ask::new("POST", format!("/v1{path}")).json(&body))
            .await
    }

    /// `PATCH /v1<path>`
    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.send(Ask::new("PATCH", format!("/v1{path}")).json(&body))
            .await
    }

    /// `DELETE /v1<path>`
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Ask::new("DELETE", format!("/v1{path}"))).await
    }

    /// Makes a key with a name and nothing else.
    pub async fn key(&self, name: &str) -> Key {
        self.key_with(json!({ "name": name })).await
    }

    /// Makes a key.
    pub async fn key_with(&self, body: Value) -> Key {
        Key::of(self.post("/api-keys", body).await.expect(201))
    }

    /// Makes a target that leads to an upstream on the loopback, and waits until every
    /// live proxy knows it.
    pub async fn target(&self, name: &str, port: u16, more: Value) -> Value {
        let mut body = json!({
            "name": name, "host": "127.0.0.1", "scheme": "http", "port": port,
        });
        merge(&mut body, more);
        self.post("/targets?wait=applied", body)
            .await
            .expect(201)
            .json()
    }

    /// All keys, whatever their state, by id.
    pub async fn all_keys(&self) -> Vec<Value> {
        let mut keys = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self
                .get(&format!("/api-keys?status=all&limit=500{cursor}"))
                .await
                .expect(200)
                .json();
            keys.extend(page["data"].as_array().expect("a page").clone());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        keys.sort_by_key(|key| key["id"].as_str().map(str::to_owned));
        keys
    }
}

impl Key {
    /// The key in the answer to the call that made a secret.
    pub fn of(reply: Reply) -> Self {
        let body = reply.json();
        let text = |member: &str| {
            body[member]
                .as_str()
                .unwrap_or_else(|| panic!("{}: no {member} in {body}", reply.asked))
                .to_owned()
        };
        Self {
            id: text("id"),
            secret: text("secret"),
            position: reply.position(),
            body,
        }
    }

    /// `/api-keys/<id><rest>`
    pub fn path(&self, rest: &str) -> String {
        format!("/api-keys/{}{rest}", self.id)
    }
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}
