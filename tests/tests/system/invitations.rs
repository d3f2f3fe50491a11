//! Asking people in: links, whom they are for, and how often they work.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::World;

use crate::members::{join, team};

fn accept(token: &str) -> Value {
    json!({ "token": token })
}

#[tokio::test]
async fn a_link_is_in_the_mail_and_nowhere_else_and_works_once_for_its_address() {
    let world = World::start("link").await;
    let owner = &world.owner;
    let people = world.people();
    let guest = people.verified("guest@example.com").await;
    let stranger = people.verified("stranger@example.com").await;
    let guest_control = guest.log_in().await;

    let made = owner
        .post(
            "/invitations",
            json!({ "email": "Guest@Example.com", "role": "developer" }),
        )
        .await
        .expect(201);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert!(made.json()["expires_at"].is_string());
    assert_eq!(made.json()["propagation"]["level"], "applied");
    let token = people.mail_to("Guest@example.com", 0).await.token();
    let listed = owner.get("/invitations").await.expect(200);
    assert_eq!(listed.json()["data"][0]["email"], "Guest@example.com");
    assert_eq!(listed.json()["data"][0]["expired"], false);
    let events = owner.get("/events").await.expect(200);
    for answer in [&made.text(), &listed.text(), &events.text()] {
        assert!(!answer.contains(&token), "{answer}");
    }
    // The log never learns who was asked in.
    assert!(!events.text().to_lowercase().contains("guest@example.com"));
    owner
        .post(
            "/invitations",
            json!({ "email": "guest@example.com", "role": "admin" }),
        )
        .await
        .refused(409, "in_use");

    let forged = format!("{}x", &token[..token.len() - 1]);
    for dead in ["", "x", &forged, &"a".repeat(10_000)] {
        let refused = guest_control
            .post("/invitations/accept", accept(dead))
            .await;
        refused.refused_fields("validation", &["token"]);
    }
    let stranger = stranger.log_in().await;
    stranger
        .post("/invitations/accept", accept(&token))
        .await
        .refused(403, "forbidden");
    let unverified = people.stranger("guest2@example.com");
    unverified.sign_up().await.expect(201);
    let unverified = unverified.log_in().await;
    unverified
        .post("/invitations/accept", accept(&token))
        .await
        .refused(403, "email_not_verified");
    owner
        .stranger()
        .post("/invitations/accept", accept(&token))
        .await
        .refused(401, "unauthenticated");

    let uses = (0..8).map(|_| guest_control.post("/invitations/accept", accept(&token)));
    let replies = join_all(uses).await;
    let (done, dead): (Vec<_>, Vec<_>) = replies.into_iter().partition(|it| it.status == 200);
    assert_eq!(done.len(), 1, "exactly one use succeeds");
    assert_eq!(done[0].json()["role"], "developer");
    for reply in dead {
        reply.refused_fields("validation", &["token"]);
    }
    guest_control.get("/api-keys").await.expect(200);
    let listed = owner.get("/invitations").await.expect(200).json();
    assert_eq!(listed["data"], json!([]));
    owner
        .post(&format!("/invitations/{id}/reissue"), json!({}))
        .await
        .refused(404, "not_found");
    owner
        .post(
            "/invitations",
            json!({ "email": "guest@example.com", "role": "admin" }),
        )
        .await
        .refused(409, "in_use");
}

#[tokio::test]
async fn a_new_link_ends_the_old_one_and_taking_it_back_ends_both() {
    let world = World::start("reissue").await;
    let owner = &world.owner;
    let people = world.people();
    let guest = people.verified("again@example.com").await.log_in().await;
    let body = json!({ "email": "again@example.com", "role": "viewer" });
    let made = owner.post("/invitations", body.clone()).await.expect(201);
    let path = format!("/invitations/{}", made.json()["id"].as_str().unwrap());
    let first = people.mail_to("again@example.com", 1).await.token();
    let again = owner
        .post(&format!("{path}/reissue"), json!({}))
        .await
        .expect(200);
    assert_eq!(again.json()["id"], made.json()["id"]);
    assert!(again.json()["expires_at"].as_str() >= made.json()["expires_at"].as_str());
    let second = people.mail_to("again@example.com", 2).await.token();
    assert_ne!(first, second);
    guest
        .post("/invitations/accept", accept(&first))
        .await
        .refused_fields("validation", &["token"]);

    owner.delete(&path).await.expect(204);
    owner.delete(&path).await.refused(404, "not_found");
    guest
        .post("/invitations/accept", accept(&second))
        .await
        .refused_fields("validation", &["token"]);

    owner.post("/invitations", body).await.expect(201);
    let third = people.mail_to("again@example.com", 3).await.token();
    let came = guest
        .post("/invitations/accept?wait=applied", accept(&third))
        .await
        .expect(200);
    assert_eq!(came.json()["propagation"]["level"], "applied");
}

#[tokio::test]
async fn a_repeated_request_invites_once() {
    let world = World::start("repeat").await;
    let owner = &world.owner;
    let people = world.people();
    people.verified("once@example.com").await;
    let invite = || {
        let ask = tests::Ask::new("POST", "/v1/invitations")
            .json(&json!({ "email": "once@example.com", "role": "viewer" }))
            .header("idempotency-key", "the-same");
        owner.send(ask)
    };
    let first = invite().await.expect(201);
    let second = invite().await.expect(201);
    assert_eq!(second.must("idempotent-replayed"), "true");
    assert_eq!(first.json()["id"], second.json()["id"]);
    people.mail_to("once@example.com", 1).await;
    assert_eq!(people.mails_to("once@example.com").len(), 2);
}

#[tokio::test]
async fn everybody_invites_as_far_as_their_role_reaches() {
    let world = World::start("reach").await;
    let owner = &world.owner;
    let ours = team(owner, "Ours").await;
    let theirs = team(owner, "Theirs").await;
    let admin = join(
        &world,
        owner,
        "admin@example.com",
        json!({ "role": "admin" }),
    )
    .await;
    let team_admin = join(
        &world,
        owner,
        "lead@example.com",
        json!({ "team_id": ours, "team_role": "team_admin" }),
    )
    .await;
    let founder = world.people().verified("founder@example.com").await;
    let founder = founder.log_in().await;
    founder
        .post("/workspaces", json!({ "name": "Elsewhere" }))
        .await
        .expect(201);
    let foreign = team(&founder, "Foreign").await;

    let mut number = 0;
    let mut body = |more: Value| {
        number += 1;
        let mut body = json!({ "email": format!("guest{number}@example.com") });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    for role in ["owner", "admin", "billing"] {
        admin
            .control
            .post("/invitations", body(json!({ "role": role })))
            .await
            .refused(403, "forbidden");
    }
    for role in ["developer", "viewer", "auditor", "member"] {
        admin
            .control
            .post("/invitations", body(json!({ "role": role })))
            .await
            .expect(201);
    }
    let lead = &team_admin.control;
    for more in [
        json!({ "team_id": ours, "role": "developer" }),
        json!({ "role": "member" }),
        json!({ "team_id": theirs }),
    ] {
        let refused = lead.post("/invitations", body(more)).await;
        refused.refused(403, "forbidden");
    }
    for control in [lead, &admin.control, owner] {
        for id in [foreign.as_str(), "team_01JD3ZK8Q6N4V6M2W0T5R7X9YB", "x"] {
            let refused = control.post("/invitations", body(json!({ "team_id": id })));
            refused.await.refused(404, "not_found");
        }
    }
    for (more, field) in [
        (json!({ "role": "root" }), "role"),
        (json!({ "role": 7 }), "role"),
        (json!({}), "role"),
        (
            json!({ "team_id": ours, "team_role": "owner" }),
            "team_role",
        ),
        (
            json!({ "role": "viewer", "team_role": "team_viewer" }),
            "team_role",
        ),
        (
            json!({ "role": "viewer", "email": "a@b.example\r\nBcc: c@d.example" }),
            "email",
        ),
        (json!({ "role": "viewer", "email": "nobody" }), "email"),
    ] {
        let refused = owner.post("/invitations", body(more)).await;
        refused.refused_fields("validation", &[field]);
    }

    // Into the own team, as a plain member; and the lead sees and manages that one only.
    let email = "invited@example.com";
    let came = join(
        &world,
        lead,
        email,
        json!({ "team_id": ours, "team_role": "team_viewer" }),
    );
    let came = came.await;
    let me = came.control.get("/me").await.expect(200).json();
    assert_eq!(me["role"], "member", "{me}");
    assert_eq!(me["teams"][0]["id"], ours.as_str(), "{me}");
    assert_eq!(me["teams"][0]["role"], "team_viewer", "{me}");
    let open = lead
        .post("/invitations", body(json!({ "team_id": ours })))
        .await
        .expect(201)
        .json();
    let listed = lead.get("/invitations").await.expect(200).json();
    let rows = listed["data"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{listed}");
    assert_eq!(rows[0]["id"], open["id"]);
    assert_eq!(rows[0]["team_role"], "team_developer");
    let all = owner.get("/invitations").await.expect(200).json();
    assert_eq!(all["data"].as_array().unwrap().len(), 5);
    for row in all["data"].as_array().unwrap() {
        if row["id"] != open["id"] {
            let path = format!("/invitations/{}", row["id"].as_str().unwrap());
            lead.delete(&path).await.refused(403, "forbidden");
            founder.delete(&path).await.refused(404, "not_found");
        }
    }
    // A member of the workspace is asked into a second team and stays what they are.
    let token = {
        let more = json!({ "email": email, "team_id": theirs, "team_role": "team_admin" });
        owner.post("/invitations", more).await.expect(201);
        world.people().mail_to(email, 2).await.token()
    };
    came.control
        .post("/invitations/accept", accept(&token))
        .await
        .expect(200);
    let me = came.control.get("/me").await.expect(200).json();
    assert_eq!(me["role"], "member", "{me}");
    assert_eq!(me["teams"].as_array().unwrap().len(), 2, "{me}");
}

/// An invitation rests on whoever made it.
#[tokio::test]
async fn the_invitations_of_somebody_who_went_are_dead() {
    let world = World::start("rest").await;
    let owner = &world.owner;
    let people = world.people();
    let admin = join(
        &world,
        owner,
        "admin@example.com",
        json!({ "role": "admin" }),
    )
    .await;
    let guest = people.verified("guest@example.com").await.log_in().await;
    let made = admin
        .control
        .post(
            "/invitations",
            json!({ "email": "guest@example.com", "role": "developer" }),
        )
        .await
        .expect(201)
        .json();
    let token = people.mail_to("guest@example.com", 1).await.token();
    owner.delete(&admin.path("")).await.expect(204);
    guest
        .post("/invitations/accept", accept(&token))
        .await
        .refused_fields("validation", &["token"]);
    let path = format!("/invitations/{}/reissue", made["id"].as_str().unwrap());
    owner.post(&path, json!({})).await.expect(200);
    let token = people.mail_to("guest@example.com", 2).await.token();
    guest
        .post("/invitations/accept", accept(&token))
        .await
        .expect(200);
}
