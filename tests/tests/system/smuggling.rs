//! Requests that two servers might read in two ways. Each has one documented answer
//! (`data-plane/AMBIGUITY.md`), and what reaches an upstream has one reading.
//!
//! `corpus` holds the cases by class, `run` sends them with a canary behind each, and
//! `streams` does so over HTTP/2; `differential` asks nginx and HAProxy whether they see
//! requests end where we do.

mod case;
mod corpus;
mod differential;
mod mutate;
mod run;
mod streams;

use run::Stage;
use tests::wire::Recorder;

/// The cases, one after the other over the same upstream connections: what one leaves
/// behind, the next one finds.
#[tokio::test]
async fn every_ambiguous_request_has_its_one_answer() {
    let stage = Stage::set("corpus", Recorder::start().await).await;
    let cases = corpus::cases(&stage.setting);
    assert!(cases.len() >= 300, "{} cases", cases.len());
    let mut failures = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        if let Err(err) = stage.run(number, case).await {
            let sent = String::from_utf8_lossy(&case.sent[..case.sent.len().min(400)]);
            failures.push(format!(
                "{}, {}: {err:#}\n    {sent:?}",
                case.class, case.name
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}
