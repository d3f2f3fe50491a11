//! Erasing an account: the person goes, the log stays whole and shows an id.

use serde_json::json;
use tests::World;

use super::workspace;

#[tokio::test]
async fn an_erased_account_leaves_an_id_and_a_log_that_verifies() {
    let world = World::start("erasure").await;
    let people = world.people();
    let jane = people.verified("jane.canary@example.com").await;
    let session = jane.log_in().await;
    let id = session.get("/me").await.json()["account"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let alone = workspace(&session, "Alone").await;
    let key = session.key("jane's").await;

    // The last owner of a workspace stays.
    let reply = session.delete("/accounts/me").await;
    reply.refused(409, "last_owner");
    let joe = people.verified("joe@example.com").await;
    let invitation = json!({ "email": "joe@example.com", "role": "owner" });
    session.post("/invitations", invitation).await.expect(201);
    let token = people.mail_to("joe@example.com", 1).await.token();
    let heir = joe.log_in().await;
    let accepted = heir
        .post("/invitations/accept", json!({ "token": token }))
        .await;
    assert!([200, 201].contains(&accepted.status), "{accepted:?}");
    let me = heir.get("/me").await.json();
    assert_eq!(me["workspace_id"], alone.as_str(), "{me}");

    for wrong in [
        "?keys=keep",
        "?keys=transfer",
        "?to=sa_x",
        "?keys=revoke&to=x",
        "?wait=applied",
    ] {
        let reply = session.delete(&format!("/accounts/me{wrong}")).await;
        assert!([404, 422].contains(&reply.status), "{wrong}: {reply:?}");
    }
    let unknown = "/accounts/me?keys=transfer&to=sa_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    session.delete(unknown).await.refused(404, "not_found");
    world
        .owner
        .delete("/accounts/me")
        .await
        .refused(403, "forbidden");

    jane.forgot().await.expect(200);
    let link = people.mail_to(&jane.email, 1).await.token();
    // Her own keys stand in the way until she says what becomes of them.
    let owner = json!({ "type": "user", "id": id });
    let own = json!({ "name": "her own", "owner": owner });
    let own = session.key_with(own).await;
    let refused = session.delete("/accounts/me").await;
    let refused = refused.refused(409, "member_owns_keys");
    assert_eq!(refused["count"], 1, "{refused}");
    session.delete("/accounts/me?keys=revoke").await.expect(204);
    let status = heir.get(&own.path("")).await.expect(200).json();
    assert_eq!(status["status"], "revoked", "{status}");
    world.all_refuse(&own.secret, "inactive_key").await;
    session.get("/me").await.refused(401, "unauthenticated");
    jane.try_log_in().await.refused(401, "unauthenticated");
    let dead = jane.reset(&link, "a new password").await;
    dead.refused_fields("validation", &["token"]);

    // What she did is still told, as done by an id that nobody has.
    let history = heir.get(&key.path("/history")).await.expect(200).json();
    assert!(history.to_string().contains(&id), "{history}");
    let shown = heir.get(&key.path("")).await.expect(200).json();
    assert_eq!(shown["created_by"], json!({ "type": "user", "id": id }));
    let verified = world.json(["audit", "verify", "--json"]).await;
    assert_eq!(verified["ok"], true, "{verified}");
    let replayed = world
        .command(["replay", "--json"])
        .run()
        .await
        .unwrap()
        .success();
    assert!(replayed.contains(&key.id));
    let dump = world.database.dump().await;
    assert!(dump.contains(&id), "the dump is not of this log");
    for part in ["jane.canary", jane.name.as_str()] {
        assert!(!dump.contains(part), "the database still holds {part}");
    }

    // The address is free again, for an account of its own.
    let next = people.stranger("jane.canary@example.com");
    next.sign_up().await.expect(201);
    let me = next.log_in().await.get("/me").await.json();
    assert_ne!(me["account"]["id"], id.as_str());
}

#[tokio::test]
async fn who_is_nowhere_a_member_goes_at_once_and_the_last_operator_stays() {
    let world = World::start("leaving").await;
    let jane = world.people().verified("jane@example.com").await;
    let head = world.database.query("SELECT position FROM head").await;
    jane.log_in().await.delete("/accounts/me").await.expect(204);
    jane.try_log_in().await.refused(401, "unauthenticated");
    let after = world.database.query("SELECT position FROM head").await;
    assert_eq!(head, after, "nothing happened in the log");

    let owner = super::bootstrapped_owner(&world).await.log_in().await;
    let reply = owner.delete("/accounts/me").await;
    assert_eq!(reply.status, 409, "{reply:?}");
}
