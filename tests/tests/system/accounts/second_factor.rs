//! Codes of an authenticator beside the password.

use serde_json::json;
use tests::person::Authenticator;
use tests::{Ask, Control, Person, World};

use super::workspace;

async fn remove(control: &Control, code: &str) -> tests::Reply {
    let ask = Ask::new("DELETE", "/v1/me/totp");
    control.send(ask.json(&json!({ "code": code }))).await
}

/// Sets a second factor up and puts it in force.
async fn enrol(session: &Control) -> Authenticator {
    let reply = session.post("/me/totp", json!({})).await.expect(201).json();
    let authenticator = Authenticator::new(reply["secret"].as_str().unwrap());
    let code = authenticator.code(0);
    let enabled = session.post("/me/totp", json!({ "code": code })).await;
    assert_eq!(enabled.expect(200).json(), json!({ "enabled": true }));
    authenticator
}

async fn log_in(person: &Person, code: &str) -> tests::Reply {
    person.log_in_with(json!({ "totp": code })).await
}

#[tokio::test]
async fn a_second_factor_is_set_up_used_and_removed() {
    let world = World::start("factor").await;
    let jane = world.people().verified("jane@example.com").await;
    let session = jane.log_in().await;
    let wrong = session.post("/me/totp", json!({ "code": "123456" })).await;
    wrong.refused_fields("validation", &["code"]);

    let first = session.post("/me/totp", json!({})).await.expect(201).json();
    let url = first["otpauth_url"].as_str().unwrap();
    assert!(url.starts_with("otpauth://totp/ThrottleProxy:"), "{url}");
    assert!(url.contains(first["secret"].as_str().unwrap()), "{url}");
    // Not yet in force.
    jane.log_in().await;
    // Begun anew, the first secret is nothing.
    let abandoned = Authenticator::new(first["secret"].as_str().unwrap());
    let second = session.post("/me/totp", json!({})).await.expect(201).json();
    let stale = session
        .post("/me/totp", json!({ "code": abandoned.code(0) }))
        .await;
    stale.refused_fields("validation", &["code"]);
    let authenticator = Authenticator::new(second["secret"].as_str().unwrap());
    let body = json!({ "code": authenticator.code(0) });
    session.post("/me/totp", body).await.expect(200);
    assert_eq!(session.get("/me").await.json()["account"]["totp"], true);
    session
        .post("/me/totp", json!({}))
        .await
        .refused(409, "in_use");

    jane.try_log_in().await.refused(401, "totp_required");
    // Without the password nobody learns that there is a second factor.
    let wrong = jane.with_password("not the password").try_log_in().await;
    wrong.refused(401, "unauthenticated");
    log_in(&jane, "000000")
        .await
        .refused(401, "unauthenticated");
    let code = authenticator.code(0);
    log_in(&jane, &code).await.expect(201);
    // Once.
    log_in(&jane, &code).await.refused(401, "unauthenticated");
    remove(&session, &code)
        .await
        .refused_fields("validation", &["code"]);
    remove(&session, "")
        .await
        .refused_fields("validation", &["code"]);
    world
        .owner
        .post("/me/totp", json!({}))
        .await
        .refused(403, "forbidden");
    // The code of the next step is within the grace, and was not used.
    remove(&session, &authenticator.code(1)).await.expect(204);
    jane.log_in().await;
}

#[tokio::test]
async fn of_concurrent_uses_of_a_code_one_succeeds() {
    let world = World::start("code-race").await;
    let jane = world.people().verified("jane@example.com").await;
    let authenticator = enrol(&jane.log_in().await).await;
    let code = authenticator.code(0);
    let uses = (0..6).map(|_| log_in(&jane, &code));
    let replies = futures_util::future::join_all(uses).await;
    let succeeded = replies.iter().filter(|it| it.status == 201).count();
    assert_eq!(succeeded, 1, "{replies:?}");
}

/// A guessed-at owner with a second factor comes in from anywhere.
#[tokio::test]
async fn a_right_code_comes_in_past_the_limit_of_the_address() {
    let world = World::start("code-limit").await;
    let jane = world.people().verified("jane@example.com").await;
    let authenticator = enrol(&jane.log_in().await).await;
    for _ in 0..12 {
        let guesser = jane.with_password("a wrong password").elsewhere();
        guesser.try_log_in().await;
    }
    let elsewhere = jane.elsewhere();
    elsewhere
        .try_log_in()
        .await
        .refused(429, "too_many_attempts");
    let wrong = log_in(&elsewhere, "000000").await;
    wrong.refused(429, "too_many_attempts");
    let wrong = elsewhere.with_password("a wrong password");
    let wrong = log_in(&wrong, &authenticator.code(0)).await;
    wrong.refused(429, "too_many_attempts");
    log_in(&elsewhere, &authenticator.code(0)).await.expect(201);
}

#[tokio::test]
async fn a_workspace_can_ask_for_a_second_factor() {
    let world = World::start("require").await;
    let jane = world.people().verified("jane@example.com").await;
    let session = jane.log_in().await;
    workspace(&session, "Careful").await;
    let token = session
        .post("/control-tokens", json!({ "name": "ci" }))
        .await;
    let token = token.expect(201).json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let setting = json!({ "require_totp": true });
    session.patch("/workspace", setting).await.expect(200);
    for caller in [&session, &session.with_token(&token)] {
        caller.get("/workspace").await.refused(403, "forbidden");
        caller.get("/api-keys").await.refused(403, "forbidden");
        caller.get("/me").await.expect(200);
        caller.get("/sessions").await.expect(200);
    }
    let authenticator = enrol(&session).await;
    session.get("/workspace").await.expect(200);
    session
        .with_token(&token)
        .get("/workspace")
        .await
        .expect(200);
    remove(&session, &authenticator.code(1)).await.expect(204);
    session.get("/workspace").await.refused(403, "forbidden");
}
