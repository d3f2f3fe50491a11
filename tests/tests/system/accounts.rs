//! People: how they come in, prove who they are, and go.

mod erasure;
mod limits;
mod mail;
mod provider;
mod second_factor;
mod sessions;
mod sign_up;

use serde_json::{Value, json};
use tests::wait::eventually;
use tests::{Control, Person, World};

/// The owner whom `bootstrap` made, with a password and a session.
async fn bootstrapped_owner(world: &World) -> Person {
    let url = world.bootstrap["set_password_url"].as_str().unwrap();
    let (_, token) = url.split_once("#token=").unwrap();
    let owner = world.people().stranger("owner@example.com");
    owner.reset(token, &owner.password).await.expect(200);
    owner
}

/// Makes a workspace and returns its id; the session works in it from then on if it worked
/// in none.
async fn workspace(control: &Control, name: &str) -> String {
    let made = control.post("/workspaces", json!({ "name": name })).await;
    made.expect(201).json()["id"].as_str().unwrap().to_owned()
}

/// The answer without what differs from one call to the next.
fn same(reply: &tests::Reply) -> (u16, Value) {
    let mut body = reply.json();
    if let Some(members) = body.as_object_mut() {
        members.remove("request_id");
    }
    (reply.status, body)
}

/// Waits until nothing is left to send.
async fn all_mail_is_sent(world: &World) {
    let within = std::time::Duration::from_secs(15);
    eventually("the outbox is empty", within, async || {
        let left = world.database.query("SELECT COUNT(*) FROM outbox").await;
        anyhow::ensure!(left.trim() == "0", "{left} mails wait");
        Ok(())
    })
    .await;
}
