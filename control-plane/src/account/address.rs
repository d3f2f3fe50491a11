//! E-mail addresses: which are taken, and when two are the same.
//!
//! ```text
//! "John Doe"@Bücher.example   as written, kept for its owner and for mail
//! "john doe"@xn--bcher-kva.example   as compared: one account for both
//! ```
//!
//! Odd but legal forms are taken (RFC 5321, RFC 6531): quoted local parts, every `atext`,
//! names in any script, international domains. Left out on purpose: comments and folding
//! white space, which no mail server is given, and addresses at IP literals, which name a
//! machine instead of a mailbox's domain.

use std::fmt;

use lettre::Address as Mailbox;
use unicode_normalization::UnicodeNormalization;

/// The most bytes of an address, with its domain in ASCII (RFC 5321, 4.5.3.1.3).
const BYTES_MAX: usize = 254;

/// The most bytes before the `@` (RFC 5321, 4.5.3.1.1).
const LOCAL_BYTES_MAX: usize = 64;

/// What is right, for whoever wrote something else.
pub const EXPECTED: &str = "an e-mail address such as jane@example.com, at most 254 bytes";

/// An address that mail can be sent to.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    written: String,
    key: String,
}

// === impl Address ===

impl Address {
    /// Reads an address; `None` for what is none. White space around it is a slip of the
    /// hand and is dropped.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        // Nothing that could end a line of a mail's head, or of SMTP, gets any further.
        if text.chars().any(char::is_control) {
            return None;
        }
        let (local, domain) = text.rsplit_once('@')?;
        let local: String = local.nfc().collect();
        let domain = idna::domain_to_ascii_strict(domain).ok()?;
        if local.len() > LOCAL_BYTES_MAX || local.len() + 1 + domain.len() > BYTES_MAX {
            return None;
        }
        if domain.parse::<std::net::IpAddr>().is_ok() {
            return None;
        }
        let mailbox = Mailbox::new(&local, &domain).ok()?;
        Some(Self {
            key: format!("{}@{domain}", unquoted(&local).to_lowercase()),
            written: mailbox.to_string(),
        })
    }

    /// The form in which addresses are compared. It need not be an address: quotes that
    /// are not needed are gone, and case is.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// As its owner wrote it, with the domain in ASCII.
    pub fn written(&self) -> &str {
        &self.written
    }
}

/// Addresses must not reach the log of the process by accident.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(…)")
    }
}

/// `"john"` and `john` are one mailbox (RFC 5321, 4.1.2), and so are `"a\b"` and `"ab"`.
fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|it| it.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        plain.extend(match char {
            '\\' => chars.next(),
            other => Some(other),
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<String> {
        Address::parse(text).map(|it| it.key().to_owned())
    }

    #[test]
    fn odd_but_legal_addresses_are_taken() {
        let longest = format!("{}@{}.example", "l".repeat(64), "d".repeat(60));
        for good in [
            "jane@example.com",
            "jane.doe+tag@mail.example.com",
            "!#$%&'*+/=?^_`{|}~-@example.com",
            "\"john doe\"@example.com",
            "\"a@b\"@example.com",
            "\"very.(),:;<>[]\\\".VERY\"@example.com",
            "o'hara@example.com",
            "1@example.com",
            "ops@localhost",
            "用户@例え.example",
            "jörg@bücher.example",
            &longest,
        ] {
            let address = Address::parse(good).unwrap_or_else(|| panic!("{good}"));
            // Whatever is taken can also be written to.
            let (local, domain) = address.written().rsplit_once('@').unwrap();
            assert!(Mailbox::new(local, domain).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let too_long = format!("jane@{}.example", "d.".repeat(150));
        let local_too_long = format!("{}@example.com", "l".repeat(65));
        for bad in [
            "",
            "@",
            "jane",
            "jane@",
            "@example.com",
            "jane@@example.com",
            "jane doe@example.com",
            ".jane@example.com",
            "jane.@example.com",
            "ja..ne@example.com",
            "jane@example..com",
            "jane@-example.com",
            "jane@exam ple.com",
            "jane@[192.0.2.1]",
            "jane@192.0.2.1",
            "jane(comment)@example.com",
            "Jane <jane@example.com>",
            "jane@example.com, joe@example.com",
            "jane@example.com\r\nBcc: joe@example.com",
            "jane\r\nBcc: joe@example.com",
            "\"jane\r\n\"@example.com",
            "jane@example.com\nRCPT TO:<joe@example.com>",
            "jane\0@example.com",
            &too_long,
            &local_too_long,
        ] {
            assert_eq!(key(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn one_mailbox_has_one_key() {
        for (one, other) in [
            ("Jane@Example.COM", "jane@example.com"),
            (" jane@example.com ", "jane@example.com"),
            ("\"jane\"@example.com", "jane@example.com"),
            ("\"ja\\ne\"@example.com", "jane@example.com"),
            ("jane@BÜCHER.example", "jane@xn--bcher-kva.example"),
            ("jo\u{308}rg@example.com", "J\u{d6}RG@example.com"),
        ] {
            assert_eq!(key(one), key(other), "{one} and {other}");
            assert!(key(one).is_some(), "{one}");
        }
        assert_ne!(key("jane+a@example.com"), key("jane@example.com"));
        assert_ne!(key("ja.ne@example.com"), key("jane@example.com"));
    }
}
