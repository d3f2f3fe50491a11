//! Which hosts may be targets, by their names alone.
//!
//! A pattern is a host name, or `*.` and a name: every host that is one label longer. A
//! pattern must belong to somebody in particular, so public suffixes (`com`, `co.uk`,
//! `github.io`) are refused as hosts and under a wildcard; the list is Mozilla's, with its
//! private section.

use std::net::{IpAddr, SocketAddr};

use super::TargetFields;
use crate::command::OwnPlaces;
use crate::refusal::{FieldCode, FieldRefusal};

/// What a wildcard begins with.
pub(crate) const WILDCARD: &str = "*.";

/// A host in its one spelling: ASCII (IDNA, UTS 46), lower case, without the root's dot.
/// What has no such spelling stays as it is and is refused by [`check`].
pub(super) fn normal(host: &str) -> String {
    let host = host.trim();
    let (wildcard, name) = match host.strip_prefix(WILDCARD) {
        Some(name) => (WILDCARD, name),
        None => ("", host),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_plain = name.is_ascii() && !name.to_ascii_lowercase().contains("xn--");
    let name = match is_plain {
        true => name.to_ascii_lowercase(),
        false => idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::URL)
            .map(|it| it.into_owned())
            // Neither a plain name nor an international one.
            .unwrap_or_else(|_| format!("{name}\u{fffd}")),
    };
    format!("{wildcard}{name}")
}

/// Refuses hosts that may not be targets.
pub(super) fn check(fields: &TargetFields, own: &OwnPlaces, refusals: &mut Vec<FieldRefusal>) {
    if let Err((code, detail)) = judge(fields, own) {
        refusals.push(FieldRefusal {
            field: "host".to_owned(),
            code,
            detail: detail.to_owned(),
        });
    }
}

type Verdict = Result<(), (FieldCode, &'static str)>;

fn judge(fields: &TargetFields, own: &OwnPlaces) -> Verdict {
    let host = fields.host.as_str();
    if let Some(address) = literal(host)? {
        if !fields.allow_private {
            return not_allowed(
                "a host name; an address needs allow_private, which needs [security] \
                 allow_private_upstreams = true",
            );
        }
        return match ports(fields).any(|port| is_own_listener(address, port, own)) {
            true => not_allowed(OWN),
            false => Ok(()),
        };
    }
    let name = host.strip_prefix(WILDCARD).unwrap_or(host);
    let is_wildcard = name.len() < host.len();
    if host == "*"
        || is_wildcard
            && name
                .split('.')
                .all(|label| label == "*" || label.is_empty())
    {
        return not_allowed("a host name, or *. and one: nobody owns every host");
    }
    if !is_host_name(name) {
        return invalid(
            "a host name such as api.example.com, or a wildcard such as *.example.com, without \
             scheme or port",
        );
    }
    if is_public_suffix(name, is_wildcard, fields.allow_private) {
        return not_allowed(
            "a host name below a registered domain; this is a public suffix, under which \
             anybody can have a name",
        );
    }
    if is_internal(name) && !fields.allow_private {
        return not_allowed(
            "a public host name; an internal one needs allow_private, which needs [security] \
             allow_private_upstreams = true",
        );
    }
    if own.hosts.iter().any(|it| it == host) {
        return not_allowed(OWN);
    }
    Ok(())
}

const OWN: &str = "another host: this is where the proxy itself is reached";

fn not_allowed(detail: &'static str) -> Verdict {
    Err((FieldCode::HostNotAllowed, detail))
}

fn invalid(detail: &'static str) -> Verdict {
    Err((FieldCode::Invalid, detail))
}

/// The address, where the host is one.
fn literal(host: &str) -> Result<Option<IpAddr>, (FieldCode, &'static str)> {
    let in_brackets = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    match in_brackets.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) if address.is_ipv6() != in_brackets.is_some() => {
            invalid("an IPv6 address stands in brackets, as in a URL").map(|()| None)
        }
        parsed => Ok(parsed.ok()),
    }
}

fn ports(fields: &TargetFields) -> impl Iterator<Item = u16> {
    std::iter::once(fields.port).chain(fields.extra_ports.iter().copied())
}

/// Whether one of the installation's own listeners is at this address, as far as its
/// configuration tells; the proxy, which knows more, refuses the rest.
fn is_own_listener(address: IpAddr, port: u16, own: &OwnPlaces) -> bool {
    let is_here = |listener: &SocketAddr| {
        listener.port() == port
            && (listener.ip() == address
                || listener.ip().is_unspecified() && address.is_loopback()
                || address.is_unspecified())
    };
    own.listeners.iter().any(is_here)
}

/// Letters, digits and hyphens in labels of 1 to 63 (RFC 1123, 2.1); a last label of
/// digits only would be read as an address by some.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or(host);
    let last_is_number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    host.len() <= 253 && host.split('.').all(is_label) && !last_is_number
}

/// Whether anybody can have a name below this one. A wildcard must not cover public
/// suffixes either (`*.compute.amazonaws.com` is a rule of the list). Inside a network a
/// single label such as `dev` may be a host, whatever top-level domain has its name.
fn is_public_suffix(name: &str, is_wildcard: bool, allow_private: bool) -> bool {
    let is_suffix = |name: &str| {
        psl::suffix(name.as_bytes())
            .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == name.as_bytes())
    };
    match (is_wildcard, name.contains('.')) {
        (true, _) => is_suffix(name) || is_suffix(&format!("label.{name}")),
        (false, true) => is_suffix(name),
        (false, false) => is_suffix(name) && !allow_private,
    }
}

/// Names that only mean something inside a network (RFC 6761, RFC 6762, RFC 7686,
/// RFC 8375, RFC 9476, ICANN's `.internal` and names that it never gave out), and names of
/// a single label.
fn is_internal(name: &str) -> bool {
    const SUFFIXES: [&str; 14] = [
        "localhost",
        "local",
        "internal",
        "intranet",
        "private",
        "corp",
        "home",
        "lan",
        "home.arpa",
        "localdomain",
        "test",
        "invalid",
        "onion",
        "alt",
    ];
    !name.contains('.')
        || SUFFIXES.iter().any(|suffix| {
            name.strip_suffix(suffix)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        for (text, expected) in [
            ("API.Example.COM", "api.example.com"),
            (" api.example.com. ", "api.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("*.Bücher.example", "*.xn--bcher-kva.example"),
            // Full-width digits and dots are the plain ones, also to an upstream's resolver.
            ("１２７．0。0.1", "127.0.0.1"),
            ("api。example。com", "api.example.com"),
        ] {
            assert_eq!(normal(text), expected, "{text}");
            assert_eq!(normal(&normal(text)), expected, "{text}, twice");
        }
        // No two names have this spelling, so none may have it.
        for text in ["xn--a", "xn--bcher-kva\u{200d}", "a\u{0}é"] {
            assert!(!is_host_name(&normal(text)), "{text}");
        }
    }

    #[test]
    fn public_suffixes_of_both_sections() {
        let check = |name, is_wildcard, expected| {
            let found = is_public_suffix(name, is_wildcard, false);
            assert_eq!(found, expected, "{name}, wildcard: {is_wildcard}");
        };
        for suffix in [
            "com",
            "co.uk",
            "github.io",
            "s3.amazonaws.com",
            "xn--55qx5d.cn",
        ] {
            check(suffix, false, true);
            check(suffix, true, true);
        }
        for owned in ["example.com", "example.co.uk", "someone.github.io"] {
            check(owned, false, false);
            check(owned, true, false);
        }
        // Rules that end in a wildcard, and their exceptions.
        check("compute.amazonaws.com", true, true);
        check("anything.ck", false, true);
        check("www.ck", false, false);
        check("ck", true, true);
        // Not on the list: a name somebody made up.
        check("example.unheard", true, false);
    }
}
