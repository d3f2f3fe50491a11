//! Whatever stands where a key may stand: one key or none, and never a choice of two.

use http::HeaderValue;

use super::*;

/// Reads `bytes` as a query and, line by line, values of `authorization` (lines that begin
/// with `a`) and `x-api-key` (all others).
///
/// # Panics
/// When a key is found that was not presented, or one of several.
pub fn check(bytes: &[u8]) {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let query = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = match line {
            [b'a', value @ ..] => (AUTHORIZATION, value),
            [_, value @ ..] => (X_API_KEY, value),
            [] => (X_API_KEY, line),
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }

    let shown = shown(&headers, query);
    let mut shaped: Vec<_> = shown.iter().filter(|it| is_shaped(it)).collect();
    shaped.sort();
    shaped.dedup();
    let repeats = [X_API_KEY, AUTHORIZATION].iter().any(|name| {
        let mut values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| value.as_bytes().trim_ascii())
            .collect();
        values.dedup();
        values.len() > 1
    });
    match presented(&headers, query) {
        Err(rejection) => {
            assert_eq!(rejection.code, Code::AmbiguousCredentials);
            let has_spaces = headers
                .get_all(AUTHORIZATION)
                .iter()
                .any(|value| value.as_bytes().trim_ascii() != value.as_bytes());
            assert!(
                shaped.len() > 1 || repeats || has_spaces,
                "refused {shown:?}"
            );
        }
        Ok(found) => {
            assert!(shaped.len() <= 1 && !repeats, "chosen among {shown:?}");
            match found {
                Presented::Ours { key, in_query } => {
                    assert_eq!(shaped, [&key.to_vec()]);
                    assert_eq!(shape(&key), Shape::Ours);
                    let in_header = shown_in_headers(&headers).contains(&key.to_vec());
                    assert_eq!(in_query, !in_header, "{shown:?}");
                }
                // A look-up would not find it; the request holds something all the same.
                Presented::Foreign => {
                    assert!(shaped.iter().all(|it| shape(it) == Shape::BadChecksum));
                    assert!(shown.iter().any(|it| !it.is_empty()));
                }
                Presented::Nothing => assert!(shaped.is_empty()),
            }
        }
    }
}

/// Everything that stands where a key may stand, found without the code under test.
fn shown(headers: &HeaderMap, query: Option<&str>) -> Vec<Vec<u8>> {
    let mut shown = shown_in_headers(headers);
    for pair in query.unwrap_or_default().split('&') {
        let (name, value) = pair.split_at(pair.find('=').unwrap_or(pair.len()));
        if decoded(name) == b"x_api_key" {
            shown.push(decoded(value.strip_prefix('=').unwrap_or_default()));
        }
    }
    shown
}

fn shown_in_headers(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let keys = headers
        .get_all(X_API_KEY)
        .iter()
        .map(|value| value.as_bytes().trim_ascii().to_vec());
    let tokens = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let is_bearer = text.to_ascii_lowercase().starts_with("bearer ");
        is_bearer.then(|| value.as_bytes()[7..].trim_ascii().to_vec())
    });
    keys.chain(tokens).collect()
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let escaped = behind
            .get(..2)
            .filter(|it| *first == b'%' && it.iter().all(u8::is_ascii_hexdigit))
            .and_then(|it| std::str::from_utf8(it).ok())
            .and_then(|it| u8::from_str_radix(it, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = &behind[if escaped.is_some() { 2 } else { 0 }..];
    }
    bytes
}

/// The layout of a key: a marker and 44 letters or digits.
fn is_shaped(text: &[u8]) -> bool {
    let rest = text
        .strip_prefix(b"tp_live_")
        .or_else(|| text.strip_prefix(b"tp_test_"));
    rest.is_some_and(|it| it.len() == 44 && it.iter().all(u8::is_ascii_alphanumeric))
}

#[cfg(test)]
mod tests {
    use schemas::Credential;

    use super::*;

    fn key(environment: Environment, mut next: u8) -> Vec<u8> {
        let key = Credential::generate(environment, || {
            next = next.wrapping_mul(5).wrapping_add(17);
            next
        });
        key.reveal().as_bytes().to_vec()
    }

    #[test]
    fn no_bytes_present_a_choice_of_keys() {
        let (one, two) = (key(Environment::Live, 1), key(Environment::Test, 2));
        let mistyped = [&one[..51], b"!"].concat();
        let wrong = [&one[..51], if one[51] == b'0' { b"1" } else { b"0" }].concat();
        let lines = [
            b"\naBearer ".to_vec(),
            b"\nabearer  ".to_vec(),
            b"\naBasic ".to_vec(),
            b"\na".to_vec(),
            b"\nx".to_vec(),
            b"\nx ".to_vec(),
            b"x_api_key=".to_vec(),
            b"&x%5fapi%5Fkey=".to_vec(),
            b"&X_API_KEY=".to_vec(),
            b"&".to_vec(),
            b"%".to_vec(),
            b"%74p_live_".to_vec(),
            b"tp_live_".to_vec(),
            b" ".to_vec(),
            b"\t".to_vec(),
            b",".to_vec(),
            b"\xff".to_vec(),
            one,
            two,
            mistyped,
            wrong,
        ];
        let pieces: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        crate::fuzz::run(&pieces, check);
    }
}
