//! Rules for free text that goes into an event. The log cannot be edited, so a
//! credential or an address typed into a name would stay for ever.

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use crate::refusal::{FieldCode, FieldRefusal};

/// The most characters of a name.
pub const NAME_CHARS_MAX: usize = 255;

/// Tells text that looks like a credential or an e-mail address from a plain name.
///
/// It refuses our own keys, shapes that providers document (`sk-`, `ghp_`, `xox?-`,
/// `AKIA…`, JSON web tokens, PEM headers), long unbroken runs that no person types, and
/// anything with `@` between name characters.
#[derive(Debug)]
pub struct SecretLook {
    known: Regex,
    run: Regex,
}

impl Default for SecretLook {
    fn default() -> Self {
        let known = [
            r"tp_(?:live|test)_[0-9A-Za-z]{44}",
            r"(?:^|[^0-9A-Za-z_-])sk-",
            r"gh[pousr]_",
            r"xox[a-z]-",
            r"\bAKIA[0-9A-Z]*\b",
            r"\beyJ[0-9A-Za-z_-]*\.",
            r"-----BEGIN [A-Z ]+-----",
            r"[\w.+-]@[\w-]",
        ];
        Self {
            known: Regex::new(&known.join("|")).expect("the patterns are constant and tested"),
            run: Regex::new(r"[A-Za-z0-9+/=_]{32,}").expect("the pattern is constant and tested"),
        }
    }
}

impl SecretLook {
    /// Whether `text` looks like something that must not be written down.
    pub fn matches(&self, text: &str) -> bool {
        self.known.is_match(text) || self.run.find_iter(text).any(|run| is_random(run.as_str()))
    }

    /// A free text of `1..=chars_max` characters, trimmed, or why it is refused.
    pub(crate) fn check(
        &self,
        field: &str,
        text: &str,
        chars_max: usize,
        refusals: &mut Vec<FieldRefusal>,
    ) -> String {
        let text = text.trim();
        let chars = text.chars().count();
        if chars == 0 || chars > chars_max {
            refusals.push(FieldRefusal::invalid(
                field,
                format!("1 to {chars_max} characters after trimming, this has {chars}"),
            ));
        } else if text.chars().any(char::is_control) {
            refusals.push(FieldRefusal::invalid(field, "no control characters"));
        } else if self.matches(text) {
            refusals.push(FieldRefusal {
                field: field.to_owned(),
                code: FieldCode::LooksLikeSecret,
                detail: "this looks like a credential or an address; it would stay in the log \
                         for ever"
                    .to_owned(),
            });
        }
        text.to_owned()
    }
}

/// A run of 32 or more characters is random if all of it is hex, or if it mixes upper
/// case, lower case and digits.
fn is_random(run: &str) -> bool {
    let hex_run = run
        .split(|c: char| !c.is_ascii_hexdigit())
        .any(|part| part.len() >= 32);
    hex_run
        || (run.bytes().any(|b| b.is_ascii_uppercase())
            && run.bytes().any(|b| b.is_ascii_lowercase())
            && run.bytes().any(|b| b.is_ascii_digit()))
}

/// The form in which names are compared: NFC, lower case.
pub fn name_key(name: &str) -> String {
    name.nfc().collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_addresses_are_told_from_names() {
        let look = SecretLook::default();
        let key = format!("tp_live_{}", "a".repeat(44));
        for bad in [
            key.as_str(),
            "sk-proj-abcdefgh12345",
            "sk-1",
            "our ghp_x",
            "AKIA",
            "eyJhbGciOi.abc",
            "my ghp_0123456789abcdef0123",
            "xoxb-123456789012-abc",
            "AKIAIOSFODNN7EXAMPLE",
            "eyJhbGciOiJIUzI1NiJ9.e30",
            "-----BEGIN RSA PRIVATE KEY-----",
            "jane.doe@example.com",
            "ops@eu",
            "0123456789abcdef0123456789abcdef",
            "abcDEF0123456789abcDEF0123456789_x",
        ] {
            assert!(look.matches(bad), "{bad}");
        }
        for good in [
            "checkout-worker-staging",
            "batch @ night",
            "task-sk-8",
            "the-quick-brown-fox-jumps-over-the-lazy-dog-again",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaag",
            "Schlüssel für Zürich",
            "key_01",
        ] {
            assert!(!look.matches(good), "{good}");
        }
    }

    #[test]
    fn names_are_compared_without_case_and_composition() {
        assert_eq!(name_key("CAFE\u{301}"), name_key("café"));
    }
}
