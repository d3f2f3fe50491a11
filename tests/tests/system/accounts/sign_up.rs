//! Signing up, verifying an address, forgotten passwords, and every wrong link.

use futures_util::future::join_all;
use serde_json::json;
use tests::plane::command;
use tests::{Ask, People, Plane, World};

use super::{all_mail_is_sent, bootstrapped_owner, same, workspace};

/// The whole way in, on whatever database is behind these people.
async fn come_in(people: &People) {
    let jane = people.stranger("jane@example.com");
    let reply = jane.sign_up().await.expect(201);
    assert_eq!(reply.json(), json!({ "status": "verification_sent" }));
    let mail = people.mail_to(&jane.email, 0).await;

    // Before the address is verified: in, and no further.
    let session = jane.log_in().await;
    let me = session.get("/me").await.expect(200).json();
    assert_eq!(me["account"]["email"], "jane@example.com");
    assert_eq!(me["account"]["name"], jane.name.as_str());
    assert_eq!(me["account"]["email_verified"], false);
    assert_eq!(me["workspace_id"], json!(null));
    assert_eq!(me["role"], json!(null));
    assert_eq!((&me["permissions"], &me["teams"]), (&json!([]), &json!([])));
    for (method, path) in [
        ("GET", "/v1/workspace"),
        ("GET", "/v1/api-keys"),
        ("POST", "/v1/workspaces"),
        ("POST", "/v1/me/totp"),
        ("POST", "/v1/control-tokens"),
    ] {
        let ask = Ask::new(method, path).json(&json!({}));
        session.send(ask).await.refused(403, "email_not_verified");
    }
    // A new link makes the old one dead.
    session
        .post("/accounts/verify/resend", json!({}))
        .await
        .expect(200);
    let newer = people.mail_to(&jane.email, 1).await;
    let dead = jane.verify(&mail.token()).await;
    dead.refused_fields("validation", &["token"]);
    jane.verify(&newer.token()).await.expect(200);
    let used = jane.verify(&newer.token()).await;
    used.refused_fields("validation", &["token"]);

    // The session that was there goes on, and has no workspace until one is made.
    session.get("/workspace").await.refused(403, "forbidden");
    let id = workspace(&session, "Jane's").await;
    let me = session.get("/me").await.expect(200).json();
    assert_eq!(me["workspace_id"], id.as_str());
    assert_eq!(me["role"], "owner");
    assert!(me["permissions"].as_array().unwrap().len() > 10, "{me}");

    // A forgotten password; the reset logs out everywhere.
    jane.forgot().await.expect(200);
    let token = people.mail_to(&jane.email, 2).await.token();
    let changed = jane.with_password("another password of jane");
    jane.reset(&token, "short")
        .await
        .refused_fields("validation", &["password"]);
    jane.reset(&token, &changed.password).await.expect(200);
    session.get("/me").await.refused(401, "unauthenticated");
    jane.try_log_in().await.refused(401, "unauthenticated");
    let reply = changed.try_log_in().await.expect(201).json();
    assert_eq!(reply["workspace_id"], id.as_str());
    assert_eq!(reply["workspaces"][0]["id"], id.as_str());
    assert_eq!(reply["workspaces"][0]["role"], "owner");
    jane.reset(&token, "once more with this")
        .await
        .refused_fields("validation", &["token"]);
}

#[tokio::test]
async fn somebody_comes_in_on_postgres() {
    let world = World::start("come-in").await;
    come_in(&world.people()).await;
}

#[tokio::test]
async fn somebody_comes_in_on_sqlite() {
    let dir = tests::world::binary_dir().join("come-in-sqlite");
    let data = dir.join("data");
    std::fs::create_dir_all(&dir).unwrap();
    let program = command(["up", "--data-dir", &data.display().to_string()])
        .env("THROTTLEPROXY__CONTROL__LISTEN", "127.0.0.1:0")
        .env("THROTTLEPROXY__DATA__LISTEN", "127.0.0.1:0")
        .env("THROTTLEPROXY__DATA__ADMIN_LISTEN", "127.0.0.1:0")
        .env("THROTTLEPROXY__LOG__FORMAT", "json");
    let plane = Plane::start("up", program, &dir, &["control"]).await;
    come_in(&People::new(plane.into(), data.join("mail"))).await;
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_bootstrapped_owner_sets_a_password_once() {
    let world = World::start("first").await;
    let owner = bootstrapped_owner(&world).await;
    let session = owner.log_in().await;
    let me = session.get("/me").await.expect(200).json();
    assert_eq!(me["account"]["id"], world.bootstrap["account_id"]);
    assert_eq!(me["workspace_id"], world.bootstrap["workspace_id"]);
    assert_eq!(me["role"], "owner");
    session.get("/instance").await.expect(200);
    let url = world.bootstrap["set_password_url"].as_str().unwrap();
    let (_, token) = url.split_once("#token=").unwrap();
    owner
        .reset(token, "another password")
        .await
        .refused_fields("validation", &["token"]);
}

/// Nothing but the mail tells a known address from an unknown one.
#[tokio::test]
async fn known_and_unknown_addresses_are_answered_the_same() {
    let world = World::start("same").await;
    let people = world.people();
    let known = people.verified("known@example.com").await;
    let again = people.stranger("Known@EXAMPLE.com");
    let unknown = people.stranger("unknown@example.com");
    assert_eq!(
        same(&again.sign_up().await),
        same(&people.stranger("new@example.com").sign_up().await)
    );
    assert_eq!(same(&known.forgot().await), same(&unknown.forgot().await));
    let resend = async |email: &str| {
        let body = json!({ "email": email });
        known.post("/v1/accounts/verify/resend", body).await
    };
    assert_eq!(
        same(&resend("known@example.com").await),
        same(&resend("unknown@example.com").await)
    );
    assert_eq!(
        same(&known.with_password("wrong password").try_log_in().await),
        same(&unknown.try_log_in().await)
    );
    // The owner is told, in words and without a link; nothing was changed.
    let told = people.mail_to("known@example.com", 1).await;
    assert!(told.text.contains("has one already"), "{}", told.text);
    assert_eq!(told.find_token(), None);
    all_mail_is_sent(&world).await;
    assert_eq!(people.mails_to("unknown@example.com").len(), 0);
    again.try_log_in().await.refused(401, "unauthenticated");
    known.log_in().await;
}

/// Who signs up with a stranger's address must not get in when its owner verifies it.
#[tokio::test]
async fn a_password_that_two_may_know_ends_with_the_verification() {
    let world = World::start("contested").await;
    let people = world.people();
    let thief = people.stranger("victim@example.com");
    thief.sign_up().await.expect(201);
    people.mail_to(&thief.email, 0).await;
    let stolen = thief.log_in().await;
    let victim = people.stranger("victim@example.com");
    victim.sign_up().await.expect(201);
    let token = people.mail_to(&victim.email, 1).await.token();
    victim.verify(&token).await.expect(200);
    stolen.get("/me").await.refused(401, "unauthenticated");
    thief.try_log_in().await.refused(401, "unauthenticated");
    victim.try_log_in().await.refused(401, "unauthenticated");
    victim.forgot().await.expect(200);
    let token = people.mail_to(&victim.email, 2).await.token();
    victim.reset(&token, &victim.password).await.expect(200);
    victim.log_in().await;
    // The same password twice is the same person, who lost patience.
    let patient = people.stranger("patient@example.com");
    patient.sign_up().await.expect(201);
    people.mail_to(&patient.email, 0).await;
    patient.sign_up().await.expect(201);
    let token = people.mail_to(&patient.email, 1).await.token();
    patient.verify(&token).await.expect(200);
    patient.log_in().await;
}

#[tokio::test]
async fn wrong_links_open_nothing() {
    let world = World::start("links").await;
    let people = world.people();
    let jane = people.stranger("jane@example.com");
    jane.sign_up().await.expect(201);
    let token = people.mail_to(&jane.email, 0).await.token();

    // Somebody else is logged in: the link stays good for its owner.
    let joe = people.verified("joe@example.com").await.log_in().await;
    let body = json!({ "token": token });
    let foreign = joe.post("/accounts/verify", body.clone()).await;
    foreign.refused(403, "forbidden");
    // Of another kind, forged, of another length, and not a text.
    let forged = format!(
        "{}{}",
        &token[..42],
        if token.ends_with('a') { 'b' } else { 'a' }
    );
    for wrong in [forged.as_str(), "", "x", &token[..42], &format!("{token}a")] {
        jane.verify(wrong)
            .await
            .refused_fields("validation", &["token"]);
    }
    jane.reset(&token, "a good password")
        .await
        .refused_fields("validation", &["token"]);
    let number = jane
        .post("/v1/accounts/verify", json!({ "token": 7 }))
        .await;
    number.refused_fields("validation", &["token"]);

    // Of many uses at the same moment exactly one succeeds.
    let uses = join_all((0..10).map(|_| jane.verify(&token))).await;
    let succeeded = uses.iter().filter(|it| it.status == 200).count();
    assert_eq!(succeeded, 1, "{uses:?}");

    jane.forgot().await.expect(200);
    let token = people.mail_to(&jane.email, 1).await.token();
    let passwords: Vec<String> = (0..5).map(|it| format!("new password {it}")).collect();
    let uses = join_all(passwords.iter().map(|it| jane.reset(&token, it))).await;
    let winners: Vec<usize> = (0..5).filter(|it| uses[*it].status == 200).collect();
    assert_eq!(winners.len(), 1, "{uses:?}");
    jane.with_password(&passwords[winners[0]]).log_in().await;

    // Ended by time.
    jane.forgot().await.expect(200);
    let token = people.mail_to(&jane.email, 2).await.token();
    world
        .database
        .query("UPDATE account_links SET expires_at_ms = 1 WHERE purpose = 'reset'")
        .await;
    jane.reset(&token, "a good password")
        .await
        .refused_fields("validation", &["token"]);
}

#[tokio::test]
async fn what_cannot_be_an_account_is_named() {
    let world = World::start("unfit").await;
    let person = world.people().stranger("fit@example.com");
    let long = "x".repeat(10_000);
    for (field, value) in [
        ("email", json!("nonsense")),
        ("email", json!("a@b@c")),
        ("email", json!("jane@example.com\r\nBcc: joe@example.com")),
        ("email", json!("\"jane\r\n\"@example.com")),
        ("email", json!("jane@[127.0.0.1]")),
        ("email", json!(format!("{long}@example.com"))),
        ("email", json!(null)),
        ("email", json!(["jane@example.com"])),
        ("password", json!("x")),
        ("password", json!("")),
        ("password", json!(long)),
        ("password", json!(null)),
        ("name", json!("")),
        ("name", json!("Jane\nDoe")),
        ("name", json!(long)),
        ("name", json!(7)),
        ("role", json!("owner")),
        ("workspace_id", world.bootstrap["workspace_id"].clone()),
    ] {
        let mut body = json!({ "email": "fit@example.com", "password": "good enough" });
        body[field] = value.clone();
        let reply = person.post("/v1/accounts", body).await;
        reply.refused_fields("validation", &[field]);
    }
    let all = json!({ "email": "x", "password": "x", "name": 1, "colour": "red" });
    person
        .post("/v1/accounts", all)
        .await
        .refused_fields("validation", &["email", "password", "name", "colour"]);
    // A password that could not be set is wrong like any other, and said no sooner.
    for password in ["x", &long] {
        let wrong = person.with_password(password).try_log_in().await;
        wrong.refused(401, "unauthenticated");
    }
    for path in ["/v1/accounts?wait=applied", "/v1/sessions?timeout_ms=5"] {
        let body = json!({ "email": "fit@example.com", "password": "good enough" });
        person.post(path, body).await.refused(422, "validation");
    }
    let count = "SELECT COUNT(*) FROM accounts WHERE email LIKE '%fit%'";
    assert_eq!(world.database.query(count).await.trim(), "0");
}

#[tokio::test]
async fn without_an_invitation_nothing_happens_and_nothing_is_said() {
    let world = World::builder("invite")
        .control_config("\n[accounts]\nsign_up = \"invite\"\n")
        .start()
        .await;
    let people = world.people();
    let stranger = people.stranger("stranger@example.com");
    let reply = stranger.sign_up().await.expect(201);
    assert_eq!(reply.json(), json!({ "status": "verification_sent" }));
    world
        .owner
        .post(
            "/invitations",
            json!({ "email": "guest@example.com", "role": "viewer" }),
        )
        .await
        .expect(201);
    let guest = people.stranger("guest@example.com");
    guest.sign_up().await.expect(201);
    all_mail_is_sent(&world).await;
    assert_eq!(people.mails_to("stranger@example.com").len(), 0);
    stranger.try_log_in().await.refused(401, "unauthenticated");
    guest.log_in().await;

    // What an operator sets wins over the file.
    let open = json!({ "sign_up": "open" });
    world.owner.patch("/instance", open).await.expect(200);
    stranger.sign_up().await.expect(201);
    stranger.log_in().await;
}

#[tokio::test]
async fn a_suspended_account_is_refused_like_a_wrong_password() {
    let world = World::start("suspended").await;
    let people = world.people();
    let jane = people.verified("jane@example.com").await;
    let session = jane.log_in().await;
    workspace(&session, "Jane's").await;
    let token = session
        .post("/control-tokens", json!({ "name": "ci" }))
        .await
        .expect(201)
        .json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    jane.forgot().await.expect(200);
    let link = people.mail_to(&jane.email, 1).await.token();
    let wrong = same(&jane.with_password("not the password").try_log_in().await);
    world
        .json([
            "account",
            "suspend",
            "--email",
            "Jane@example.com",
            "--json",
        ])
        .await;
    assert_eq!(same(&jane.try_log_in().await), wrong);
    session.get("/me").await.refused(401, "unauthenticated");
    let by_token = people.with_token(&token);
    by_token.get("/me").await.refused(401, "unauthenticated");
    jane.reset(&link, "a new password")
        .await
        .refused_fields("validation", &["token"]);
    jane.forgot().await.expect(200);
    all_mail_is_sent(&world).await;
    assert_eq!(people.mails_to(&jane.email).len(), 2);

    world
        .json([
            "account",
            "reinstate",
            "--email",
            "jane@example.com",
            "--json",
        ])
        .await;
    jane.log_in().await.get("/workspace").await.expect(200);
    by_token.get("/me").await.expect(200);
    let nobody = world
        .command(["account", "suspend", "--email", "nobody@example.com"])
        .run()
        .await
        .unwrap();
    assert_eq!(nobody.code(), 1, "{nobody:?}");
}
