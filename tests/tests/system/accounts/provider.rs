//! Signing in at a real OpenID Connect provider.

use serde_json::{Value, json};
use tests::person::Authenticator;
use tests::server::free_port;
use tests::server::oidc::{Browser, Oidc};
use tests::{Ask, Control, Reply, World};

const PATH: &str = "/v1/sessions/oidc/local";

/// A world whose control plane lets people sign in at a provider.
struct Signing {
    world: World,
    provider: Oidc,
    public_url: String,
}

impl Signing {
    async fn start(name: &'static str, more: &str) -> Self {
        let port = free_port();
        let public_url = format!("http://127.0.0.1:{port}");
        let dir = tests::world::binary_dir();
        let callback = format!("{public_url}{PATH}/callback");
        let provider = Oidc::start(&dir, name, &callback).await;
        let secret = dir.join(format!("{name}.secret"));
        std::fs::write(&secret, format!("{}\n", Oidc::CLIENT_SECRET)).unwrap();
        let config = format!(
            "\n{more}\n[[oidc]]\nname = \"local\"\nissuer = \"{}\"\nclient_id = \"{}\"\n\
             client_secret_file = \"{}\"\n",
            provider.issuer(),
            Oidc::CLIENT_ID,
            secret.display(),
        );
        let world = World::builder(name)
            .control_listen(port)
            .control_config(&config)
            .start()
            .await;
        Self {
            world,
            provider,
            public_url,
        }
    }

    /// Everything up to the callback: the address that the provider sends the browser to.
    async fn callback(&self, browser: &mut Browser, login: &str) -> String {
        let until = format!("{}{PATH}/callback", self.public_url);
        let start = format!("{}{PATH}/start", self.public_url);
        browser.sign_in(&start, login, &until).await
    }

    async fn ask(&self, browser: &mut Browser, url: &str, accept: &str) -> Reply {
        let path = url.strip_prefix(&self.public_url).unwrap();
        let place = self.world.control_plane.address("control");
        browser
            .ask(Ask::get(path).header("accept", accept), place)
            .await
    }

    /// The whole way, as a program goes it.
    async fn sign_in(&self, login: &str) -> Reply {
        let mut browser = Browser::default();
        let url = self.callback(&mut browser, login).await;
        self.ask(&mut browser, &url, "application/json").await
    }

    fn session(&self, reply: &Value) -> Control {
        self.world
            .people()
            .with_token(reply["token"].as_str().unwrap())
    }
}

#[tokio::test]
async fn people_sign_in_at_a_provider() {
    let signing = Signing::start("oidc", "").await;
    let people = signing.world.people();

    // Somebody new.
    let jane = signing.sign_in("jane@example.com").await.expect(201).json();
    let me = signing.session(&jane).get("/me").await.expect(200).json();
    assert_eq!(me["account"]["email"], "jane@example.com");
    assert_eq!(me["account"]["name"], "Jane of the Provider");
    assert_eq!(me["account"]["email_verified"], true);
    // Again it is the same account.
    let again = signing.sign_in("jane@example.com").await.expect(201).json();
    assert_eq!(again["account"]["id"], jane["account"]["id"]);

    // Who has an account with the address is that account, and keeps the password.
    let joe = people.verified("joe@example.com").await;
    let known = joe.log_in().await.get("/me").await.json();
    let signed = signing.sign_in("joe@example.com").await.expect(201).json();
    assert_eq!(signed["account"]["id"], known["account"]["id"]);
    joe.log_in().await;

    // Who made an account with an address that is not theirs is out when its owner comes.
    let thief = people.stranger("ann@example.com");
    thief.sign_up().await.expect(201);
    let stolen = thief.log_in().await;
    let ann = signing.sign_in("ann@example.com").await.expect(201).json();
    assert_eq!(ann["account"]["email_verified"], true);
    stolen.get("/me").await.refused(401, "unauthenticated");
    thief.try_log_in().await.refused(401, "unauthenticated");

    // The provider must have verified the address.
    let reply = signing.sign_in("unverified:joe@example.com").await;
    reply.refused(403, "email_not_verified");

    // A browser gets a cookie, no token, and no way back to the same answer.
    let mut browser = Browser::default();
    let url = signing.callback(&mut browser, "jane@example.com").await;
    let reply = signing.ask(&mut browser, &url, "text/html,*/*;q=0.8").await;
    let reply = reply.expect(303);
    assert_eq!(reply.must("location"), signing.public_url);
    assert!(!reply.text().contains("tps_"));
    let me = format!("{}/v1/me", signing.public_url);
    let me = signing
        .ask(&mut browser, &me, "*/*")
        .await
        .expect(200)
        .json();
    assert_eq!(me["account"]["id"], jane["account"]["id"]);
    assert!(me["csrf_token"].is_string(), "{me}");
    let again = signing.ask(&mut browser, &url, "*/*").await;
    again.refused(401, "unauthenticated");

    let owner = &signing.world.owner;
    let unknown = owner.get("/sessions/oidc/nowhere/start").await;
    unknown.refused(404, "not_found");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_signs_nobody_in() {
    let signing = Signing::start("oidc-forged", "").await;
    // What one browser started, another cannot finish, with or without a sign-in of its own.
    let (mut thief, mut victim) = (Browser::default(), Browser::default());
    let url = signing.callback(&mut thief, "thief@example.com").await;
    let reply = signing.ask(&mut Browser::default(), &url, "*/*").await;
    reply.refused(401, "unauthenticated");
    let start = format!("{}{PATH}/start", signing.public_url);
    signing.ask(&mut victim, &start, "*/*").await.expect(303);
    let reply = signing.ask(&mut victim, &url, "*/*").await;
    reply.refused(401, "unauthenticated");
    // The thief's own browser could have, with this state and this code only.
    let forged = url.replace("code=", "code=x");
    let reply = signing.ask(&mut thief, &forged, "*/*").await;
    reply.refused(401, "unauthenticated");
    for query in [
        "",
        "?error=access_denied&state=x",
        "?code=x",
        "?code=x&state=",
    ] {
        let mut browser = Browser::default();
        let url = format!("{}{PATH}/callback{query}", signing.public_url);
        let reply = signing.ask(&mut browser, &url, "*/*").await;
        reply.refused(401, "unauthenticated");
    }
    // A provider that is away is not the caller's fault.
    let mut late = Browser::default();
    let url = signing.callback(&mut late, "late@example.com").await;
    signing.provider.kill().await;
    let reply = signing.ask(&mut late, &url, "*/*").await;
    assert!([401, 503].contains(&reply.status), "{reply:?}");
    let count = "SELECT COUNT(*) FROM accounts WHERE email LIKE 'thief%' OR email LIKE 'late%'";
    assert_eq!(signing.world.database.query(count).await.trim(), "0");
}

#[tokio::test]
async fn a_provider_stands_for_the_password_and_not_for_the_code() {
    let signing = Signing::start("oidc-code", "[accounts]\nsign_up = \"invite\"").await;
    let people = signing.world.people();
    let stranger = signing.sign_in("stranger@example.com").await;
    stranger.refused(403, "forbidden");

    let invitation = json!({ "email": "jane@example.com", "role": "viewer" });
    let owner = &signing.world.owner;
    owner.post("/invitations", invitation).await.expect(201);
    let jane = signing.sign_in("jane@example.com").await.expect(201).json();
    let session = signing.session(&jane);
    let enrolment = session.post("/me/totp", json!({})).await.expect(201).json();
    let authenticator = Authenticator::new(enrolment["secret"].as_str().unwrap());
    let body = json!({ "code": authenticator.code(0) });
    session.post("/me/totp", body).await.expect(200);

    let signed = signing.sign_in("jane@example.com").await.expect(200).json();
    assert!(signed.get("token").is_none(), "{signed}");
    let finish = async |ticket: &Value, code: &str| {
        let body = json!({ "ticket": ticket, "totp": code });
        people.stranger("").post("/v1/sessions", body).await
    };
    let ticket = &signed["ticket"];
    let wrong = finish(ticket, "000000").await;
    wrong.refused(401, "unauthenticated");
    let wrong = finish(&json!("nonsense"), &authenticator.code(0)).await;
    wrong.refused(401, "unauthenticated");
    let code = authenticator.code(0);
    let reply = finish(ticket, &code).await.expect(201).json();
    assert_eq!(reply["account"]["id"], jane["account"]["id"]);
    let used = finish(ticket, &authenticator.code(1)).await;
    used.refused(401, "unauthenticated");
}
