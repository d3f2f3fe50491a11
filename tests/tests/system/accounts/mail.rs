//! Mail over SMTP: it arrives, also when the server was away, and at odd addresses.

use serde_json::json;
use tests::World;

use super::all_mail_is_sent;

#[tokio::test]
async fn mail_waits_for_its_server() {
    let world = World::builder("smtp").smtp().start().await;
    let people = world.people();
    let smtp = world.smtp.as_ref().unwrap();
    people.verified("first@example.com").await.log_in().await;

    smtp.kill().await;
    let jane = people.stranger("jane@example.com");
    jane.sign_up().await.expect(201);
    // Also over a restart of the control plane.
    world.control_plane.kill().await;
    world.control_plane.restart().await;
    world.control_plane.ready().await;
    smtp.restart().await;
    let mail = people.mail_to(&jane.email, 0).await;
    assert!(mail.head().contains("Auto-Submitted: auto-generated"));
    assert!(!mail.text.contains(&jane.name), "{}", mail.text);
    jane.verify(&mail.token()).await.expect(200);
    assert!(
        !world.dir.join("control-data/mail").exists(),
        "with a server, no mail is written to files"
    );
    all_mail_is_sent(&world).await;
}

#[tokio::test]
async fn odd_addresses_get_their_mail_and_nobody_else_does() {
    let world = World::builder("odd-mail").smtp().start().await;
    let people = world.people();
    for email in [
        "\"john doe\"@example.com",
        "\"a@b\"@example.com",
        "jane+tag@example.com",
        "o'hara@example.com",
        "!#$%&'*+-/=?^_`{|}~@example.com",
        &format!("{}@{}.example.com", "l".repeat(64), "d".repeat(63)),
    ] {
        let person = people.stranger(email);
        person.sign_up().await.expect(201);
        let token = people.mail_to(email, 0).await.token();
        person.verify(&token).await.expect(200);
        let me = person.log_in().await.get("/me").await.json();
        assert_eq!(me["account"]["email"], email);
    }
    // In any script: mail goes to the ASCII form of the domain.
    let person = people.stranger("jane@bücher.example");
    person.sign_up().await.expect(201);
    let token = people
        .mail_to("jane@xn--bcher-kva.example", 0)
        .await
        .token();
    person.verify(&token).await.expect(200);
    person.log_in().await;

    let before = world.database.query("SELECT COUNT(*) FROM accounts").await;
    for email in [
        "victim@example.com\r\nBcc: spam@example.com",
        "victim@example.com\nRCPT TO:<spam@example.com>",
        "victim@example.com, spam@example.com",
        "<victim@example.com> <spam@example.com>",
        "\"\r\nBcc: spam@example.com\r\n\"@example.com",
    ] {
        let body = json!({ "email": email, "password": "good enough" });
        let reply = person.post("/v1/accounts", body).await;
        reply.refused_fields("validation", &["email"]);
    }
    all_mail_is_sent(&world).await;
    let after = world.database.query("SELECT COUNT(*) FROM accounts").await;
    assert_eq!(before, after);
    for stranger in ["spam@example.com", "victim@example.com"] {
        assert!(people.mails_to(stranger).is_empty());
    }
}
