//! Sessions: listed, ended, switched; in a cookie with a second proof.

use serde_json::{Value, json};
use tests::server::oidc::Browser;
use tests::{Ask, Control, World};

use super::workspace;

async fn listed(control: &Control) -> Vec<Value> {
    let page = control.get("/sessions").await.expect(200).json();
    page["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let world = World::start("sessions").await;
    let jane = world.people().verified("jane@example.com").await;
    let joe = world.people().verified("joe@example.com").await;
    let phone = jane.log_in().await;
    let desk = jane.log_in().await;
    let foreign = joe.log_in().await;

    let sessions = listed(&desk).await;
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    let current: Vec<bool> = sessions
        .iter()
        .map(|it| it["current"].as_bool().unwrap())
        .collect();
    assert_eq!(current, [false, true]);
    for session in &sessions {
        for time in ["created_at", "last_used_at", "expires_at"] {
            assert!(session[time].is_string(), "{session}");
        }
        assert_eq!(session["agent"], "other");
        assert!(session.get("token").is_none() && session.get("hash").is_none());
    }
    let page = desk.get("/sessions?limit=1").await.expect(200).json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = desk.get(&format!("/sessions?cursor={cursor}")).await;
    assert_eq!(rest.json()["data"][0]["id"], sessions[1]["id"]);

    let id = sessions[0]["id"].as_str().unwrap();
    let path = format!("/sessions/{id}");
    foreign.delete(&path).await.refused(404, "not_found");
    foreign
        .delete("/sessions/ses_x")
        .await
        .refused(404, "not_found");
    desk.delete(&path).await.expect(204);
    phone.get("/me").await.refused(401, "unauthenticated");
    desk.delete(&path).await.refused(404, "not_found");
    desk.delete("/sessions/current").await.expect(204);
    desk.get("/me").await.refused(401, "unauthenticated");
    foreign.get("/me").await.expect(200);

    // Ended by time: unused for long, and used for too long.
    for column in ["last_used_at_ms", "ends_at_ms"] {
        let session = joe.log_in().await;
        session.get("/me").await.expect(200);
        let sql = format!("UPDATE sessions SET {column} = 1");
        world.database.query(&sql).await;
        session.get("/me").await.refused(401, "unauthenticated");
    }
    // What is stored opens nothing.
    let session = joe.log_in().await;
    let hash = world
        .database
        .query("SELECT hash FROM sessions ORDER BY id DESC LIMIT 1")
        .await;
    let stored = session.with_token(hash.trim());
    stored.get("/me").await.refused(401, "unauthenticated");
    let stored = session.with_token(&format!("tps_{}", hash.trim()));
    stored.get("/me").await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn a_session_switches_among_the_workspaces_of_its_owner() {
    let world = World::start("switch").await;
    let jane = world
        .people()
        .verified("jane@example.com")
        .await
        .log_in()
        .await;
    let joe = world
        .people()
        .verified("joe@example.com")
        .await
        .log_in()
        .await;
    let first = workspace(&jane, "First").await;
    let second = workspace(&jane, "Second").await;
    let foreign = workspace(&joe, "Foreign").await;
    let active = async |control: &Control| {
        let me = control.get("/me").await.expect(200).json();
        me["workspace_id"].as_str().unwrap().to_owned()
    };
    let enter = async |control: &Control, id: &str| {
        let ask = Ask::new("PUT", "/v1/sessions/current/workspace");
        control.send(ask.json(&json!({ "workspace_id": id }))).await
    };
    assert_eq!(active(&jane).await, first);
    enter(&jane, &second).await.expect(200);
    assert_eq!(active(&jane).await, second);
    assert_eq!(jane.get("/workspace").await.json()["name"], "Second");
    let unknown = "ws_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    for wrong in [foreign.as_str(), unknown, "", "nonsense"] {
        enter(&jane, wrong).await.refused(404, "not_found");
    }
    assert_eq!(active(&jane).await, second);
    let owner = &world.owner;
    enter(owner, &first).await.refused(403, "forbidden");
    let ask = Ask::new("PUT", "/v1/sessions/current/workspace?wait=applied");
    let waits = jane.send(ask.json(&json!({ "workspace_id": first }))).await;
    waits.refused(422, "validation");
}

#[tokio::test]
async fn a_page_needs_its_csrf_token_for_changes() {
    let world = World::start("cookie").await;
    let jane = world.people().verified("jane@example.com").await;
    let place = world.control_plane.address("control");
    let form = |password: &str| {
        Ask::post(
            "/login",
            format!("email=jane%40example.com&password={password}"),
        )
        .header("content-type", "application/x-www-form-urlencoded")
        .from(jane.from)
    };
    let password = jane.password.replace(' ', "+");
    let mut browser = Browser::default();
    let wrong = browser.ask(form("wrong-password"), place).await;
    wrong.refused(401, "unauthenticated");
    // A form of another site logs nobody in.
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let ask = form(&password).header(name, value);
        browser.ask(ask, place).await.refused(403, "csrf");
    }
    let own = form(&password).header("origin", format!("http://{place}"));
    let reply = browser.ask(own, place).await.expect(200);
    let cookie = reply.must("set-cookie").to_owned();
    for part in [
        "throttleproxy_session=tps_",
        "; HttpOnly",
        "; SameSite=Lax",
        "; Path=/;",
    ] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let body = reply.json();
    assert!(
        body.get("token").is_none(),
        "the page needs no token: {body}"
    );
    let csrf = body["csrf_token"].as_str().unwrap().to_owned();

    let me = browser
        .ask(Ask::get("/v1/me"), place)
        .await
        .expect(200)
        .json();
    assert_eq!(me["csrf_token"], csrf.as_str());
    let make = || Ask::new("POST", "/v1/workspaces").json(&json!({ "name": "Page" }));
    for ask in [
        make(),
        make().header("x-csrf-token", ""),
        make().header("x-csrf-token", "0".repeat(64)),
        make().header(
            "x-csrf-token",
            browser.cookie(place, "throttleproxy_session").unwrap(),
        ),
        Ask::new("POST", "/logout"),
        Ask::new("DELETE", "/v1/sessions/current"),
    ] {
        browser.ask(ask, place).await.refused(403, "csrf");
    }
    let made = make().header("x-csrf-token", csrf.as_str());
    browser.ask(made, place).await.expect(201);
    browser
        .ask(Ask::get("/v1/workspace"), place)
        .await
        .expect(200);
    // The same for JSON; and a bearer needs neither cookie nor csrf token.
    let json = Ask::new("POST", "/login")
        .json(&json!({ "email": "jane@example.com", "password": jane.password }))
        .from(jane.from);
    Browser::default().ask(json, place).await.expect(200);
    let bearer = jane.log_in().await;
    assert!(bearer.get("/me").await.json().get("csrf_token").is_none());
    bearer.delete("/sessions/current").await.expect(204);

    let out = Ask::new("POST", "/logout").header("x-csrf-token", csrf.as_str());
    let kept = browser
        .cookie(place, "throttleproxy_session")
        .unwrap()
        .to_owned();
    let reply = browser.ask(out, place).await.expect(204);
    assert!(reply.must("set-cookie").contains("Max-Age=0"), "{reply:?}");
    let again = Ask::get("/v1/me").header("cookie", format!("throttleproxy_session={kept}"));
    Browser::default()
        .ask(again, place)
        .await
        .refused(401, "unauthenticated");
}

/// A session that is not of a page is not opened by a cookie, and behind TLS a cookie is
/// for TLS only.
#[tokio::test]
async fn cookies_are_for_pages_and_secure_behind_tls() {
    let port = tests::server::free_port();
    let world = World::builder("secure")
        .control_listen(port)
        .control_public_url("https://keys.example.com")
        .start()
        .await;
    let people = world.people();
    let jane = people.verified("jane@example.com").await;
    let mail = people.mail_to("jane@example.com", 0).await;
    assert!(
        mail.text
            .contains("\nhttps://keys.example.com/verify#token="),
        "{}",
        mail.text
    );
    let ask = Ask::new("POST", "/login")
        .json(&json!({ "email": "jane@example.com", "password": jane.password }))
        .header("origin", "https://keys.example.com");
    let reply = jane.send(ask).await.unwrap().expect(200);
    assert!(reply.must("set-cookie").ends_with("; Secure"), "{reply:?}");
    let token = jane.try_log_in().await.expect(201).json()["token"].clone();
    let cookie = format!("throttleproxy_session={}", token.as_str().unwrap());
    let ask = Ask::get("/v1/me").header("cookie", cookie);
    jane.send(ask)
        .await
        .unwrap()
        .refused(401, "unauthenticated");
}
