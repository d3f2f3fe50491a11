use super::*;

fn body(rejection: &Rejection, profile: ErrorProfile) -> String {
    let response = answer(rejection, profile, "01JD3ZK8Q6N4V6M2W0T5R7X9YB");
    String::from_utf8(response.into_body().to_vec()).unwrap()
}

fn standing(scope: Scope, span: Span, limit: u64) -> Standing {
    Standing {
        scope,
        span,
        limit,
        remaining: 0,
        reset_ms: 1_200,
    }
}

#[test]
fn the_compact_body_is_exactly_the_text() {
    let check = |rejection: Rejection, expected: &str| {
        assert_eq!(body(&rejection, ErrorProfile::Compact), expected);
    };
    check(
        Rejection::new(Code::InvalidKey, ""),
        r#"{"error": "Invalid API Key"}"#,
    );
    check(
        Rejection::limit(&standing(Scope::Key, Span::Minute, 5)),
        r#"{"error": "Rate limit exceeded: rpm"}"#,
    );
    check(
        Rejection::limit(&standing(Scope::Workspace, Span::Second, 5)),
        r#"{"error": "exceeded the per-second rate limit on your subscription"}"#,
    );
    check(
        Rejection::new(Code::BadTarget, "a \"quoted\" path"),
        r#"{"error": "a \"quoted\" path"}"#,
    );
}

#[test]
fn the_standard_body_is_a_problem_with_the_text() {
    let text = body(
        &Rejection::limit(&standing(Scope::Team, Span::Second, 5)),
        ErrorProfile::Standard,
    );
    let problem: Problem = serde_json::from_str(&text).unwrap();
    assert_eq!(
        problem.kind,
        "https://throttleproxy.dev/problems/rate_limited"
    );
    assert_eq!(problem.status, 429);
    assert_eq!(problem.error.as_deref(), Some("Rate limit exceeded: rps"));
    assert_eq!(problem.scope.as_deref(), Some("team"));
    assert_eq!(problem.window.as_deref(), Some("rps"));
    assert_eq!(problem.retryable, Some(true));
    assert_eq!(problem.request_id, "01JD3ZK8Q6N4V6M2W0T5R7X9YB");
}

#[test]
fn a_limit_of_nought_never_says_when_to_try_again() {
    let some = answer(
        &Rejection::limit(&standing(Scope::Key, Span::Second, 5)),
        ErrorProfile::Standard,
        "",
    );
    assert_eq!(some.headers()[RETRY_AFTER], "2");
    let none = Rejection::limit(&standing(Scope::Key, Span::Second, 0));
    assert_eq!(none.retryable, Some(false));
    assert!(
        !answer(&none, ErrorProfile::Standard, "")
            .headers()
            .contains_key(RETRY_AFTER)
    );
}

#[test]
fn codes_are_snake_case_and_their_texts_read_like_them() {
    for (place, code) in Code::ALL.iter().enumerate() {
        assert_eq!(code.index(), place);
        assert!(
            code.as_str()
                .bytes()
                .all(|it| it.is_ascii_lowercase() || it == b'_')
        );
        assert!(StatusCode::from_u16(code.status()).is_ok());
        if code.status() == 503 {
            assert!(matches!(code, Code::Stale | Code::Overloaded));
        }
    }
}
