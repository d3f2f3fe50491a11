//! Limits on guessing: they stop guessers and lock nobody out.

use serde_json::json;
use tests::{Person, Reply, World};

fn retry_after(reply: &Reply) -> u64 {
    let seconds = reply.must("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{reply:?}");
    seconds
}

/// Somebody who tries wrong passwords until refused; how often they could.
async fn guess(person: &Person, from_ever_new_addresses: bool) -> usize {
    let guesser = person.with_password("a wrong password").elsewhere();
    for count in 0..40 {
        let guesser = match from_ever_new_addresses {
            true => guesser.elsewhere(),
            false => guesser.clone(),
        };
        let reply = guesser.try_log_in().await;
        if reply.status == 429 {
            retry_after(&reply);
            reply.refused(429, "too_many_attempts");
            return count;
        }
        reply.refused(401, "unauthenticated");
    }
    panic!("nobody stopped the guesser");
}

#[tokio::test]
async fn an_account_is_guessed_at_ten_times_a_minute_and_its_owner_goes_on() {
    let world = World::start("guessed").await;
    let people = world.people();
    let jane = people.verified("jane@example.com").await;
    let session = jane.log_in().await;
    // The owner's own log-in was the first of ten.
    assert_eq!(guess(&jane, true).await, 9);
    // From somewhere new not even the right password is looked at, and it is not told
    // whether there is such an account.
    let elsewhere = jane.elsewhere();
    elsewhere
        .try_log_in()
        .await
        .refused(429, "too_many_attempts");
    let nobody = people.stranger("nobody@example.com");
    assert_eq!(guess(&nobody, true).await, 10);
    nobody.try_log_in().await.refused(429, "too_many_attempts");
    // The rightful owner is not locked out: neither with a session, nor from an address
    // that logged in before, nor is anybody else.
    session.get("/me").await.expect(200);
    jane.log_in().await;
    people.verified("joe@example.com").await.log_in().await;
    // Spelled differently it is the same account.
    let spelled = elsewhere.with_email("JANE@Example.com");
    spelled.try_log_in().await.refused(429, "too_many_attempts");
}

#[tokio::test]
async fn an_address_tries_twenty_times_a_minute() {
    let world = World::start("peer").await;
    let people = world.people();
    let guesser = people.stranger("");
    for number in 0..20 {
        let email = format!("person{number}@example.com");
        let body = json!({ "email": email, "password": "a password" });
        let reply = guesser.post("/v1/sessions", body).await;
        reply.refused(401, "unauthenticated");
    }
    let body = json!({ "email": "person@example.com", "password": "a password" });
    let reply = guesser.post("/v1/sessions", body.clone()).await;
    retry_after(&reply);
    reply.refused(429, "too_many_attempts");
    // What a header says of the address is not believed.
    let ask = tests::Ask::new("POST", "/v1/sessions")
        .json(&body)
        .header("x-forwarded-for", "192.0.2.7")
        .header("forwarded", "for=192.0.2.7");
    let reply = guesser.send(ask).await.unwrap();
    reply.refused(429, "too_many_attempts");
    // The pages' log-in is the same door.
    let reply = guesser.post("/login", body).await;
    reply.refused(429, "too_many_attempts");
    people.verified("joe@example.com").await.log_in().await;
}

/// Somebody can have mails sent to a stranger, but not many, and not so that the stranger
/// gets none.
#[tokio::test]
async fn mails_to_one_address_are_few() {
    let world = World::start("flood").await;
    let people = world.people();
    let jane = people.verified("jane@example.com").await;
    for _ in 0..15 {
        jane.elsewhere().forgot().await.expect(200);
    }
    super::all_mail_is_sent(&world).await;
    let mails = people.mails_to("jane@example.com");
    assert_eq!(mails.len(), 1 + 10);
    let last = mails.last().unwrap().token();
    jane.reset(&last, "a new password of jane")
        .await
        .expect(200);
    let flooder = people.stranger("");
    let mut refused = None;
    for number in 0..100 {
        let body = json!({ "email": format!("person{number}@example.com") });
        let reply = flooder.post("/v1/accounts/password/forgot", body).await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("a limit by address");
    retry_after(&refused);
    refused.refused(429, "too_many_attempts");
}
