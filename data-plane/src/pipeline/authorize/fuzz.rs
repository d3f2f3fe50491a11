//! Whatever stands where a destination may stand: what is let through has one reading.

use super::*;

/// Reads the first line of `bytes` as a path with its query, and the second as the origin
/// of `x-throttleproxy-target`.
///
/// # Panics
/// When a path is let through that somebody may read as another, an origin is more than
/// one, or a key stays in a query.
pub fn check(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |&byte| byte == b'\n');
    let line = lines.next().unwrap_or_default();
    if let Ok(asked) = PathAndQuery::try_from(line) {
        check_one_path(&asked);
    }
    check_origin(lines.next().unwrap_or_default());
}

fn check_one_path(asked: &PathAndQuery) {
    let path = asked.path();
    let is_let_through = check_path(path).is_ok();
    assert_eq!(is_let_through, is_plain(path), "{path:?}");
    let Ok(sent) = with_query(path.to_owned(), asked.query()) else {
        panic!("{asked} cannot be passed on");
    };
    assert_eq!(sent.path(), path);
    let pairs = |query: Option<&str>| -> Vec<String> {
        let pairs = query.map(|it| it.split('&').map(str::to_owned).collect());
        pairs.unwrap_or_default()
    };
    let is_key = |pair: &String| {
        let name = pair.split('=').next().unwrap_or_default();
        percent_decode(name.as_bytes()).collect::<Vec<_>>() == b"x_api_key"
    };
    let mut expected = pairs(asked.query());
    expected.retain(|pair| !is_key(pair));
    assert_eq!(pairs(sent.query()), expected, "{asked}");
}

/// The rule once more, one byte after the other.
fn is_plain(path: &str) -> bool {
    let mut segments = vec![Vec::new()];
    let mut rest = path.as_bytes();
    if rest.first() != Some(&b'/') {
        return false;
    }
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match behind {
            [high, low, behind @ ..] if *first == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, behind),
                _ => (*first, rest.split_at(1).1),
            },
            _ => (*first, behind),
        };
        match byte {
            b'/' | b'\\' => segments.push(Vec::new()),
            0..0x20 | 0x7f => return false,
            byte => segments.last_mut().expect("there is one").push(byte),
        }
        rest = behind;
    }
    !segments.iter().any(|segment| {
        let end = segment.iter().position(|&byte| byte == b';');
        matches!(&segment[..end.unwrap_or(segment.len())], b"." | b"..")
    })
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

fn check_origin(value: &[u8]) {
    let Ok(read) = destination(value) else {
        return;
    };
    let text = std::str::from_utf8(value).expect("an origin is text");
    assert!(
        !text.contains(['@', '?', '#', '\\', ' ', ',', '\t', '%']),
        "{text:?} is more than an origin"
    );
    assert_eq!(
        text.matches('/').count(),
        2,
        "{text:?} is more than an origin"
    );
    assert_ne!(read.port, 0);
    assert!(!read.host.is_empty() && read.host == read.host.to_ascii_lowercase());
    // Another reader of URLs finds the same.
    let uri: http::Uri = text.parse().expect("an origin is a URL");
    let host = uri.host().expect("an origin has a host");
    assert_eq!(host.to_ascii_lowercase(), read.host, "{text:?}");
    assert_eq!(
        uri.port_u16().unwrap_or(read.scheme.default_port()),
        read.port,
        "{text:?}"
    );
    let scheme = read.scheme.as_str();
    let again = format!("{scheme}://{}:{}", read.host, read.port);
    assert_eq!(destination(again.as_bytes()).ok(), Some(read), "{text:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_lead_to_a_path_or_origin_of_two_readings() {
        let pieces: [&[u8]; 46] = [
            b"/",
            b"/",
            b".",
            b"..",
            b"/../",
            b"/./",
            b"%2e",
            b"%2E",
            b"%2f",
            b"%2F",
            b"%5c",
            b"\\",
            b";",
            b"%3b",
            b"%00",
            b"%0a",
            b"%7f",
            b"%25",
            b"%",
            b"%2",
            b"a",
            b"/t/",
            b"?",
            b"&",
            b"=",
            b"x_api_key",
            b"x%5fapi_key=k",
            b"#",
            b"\n",
            b"\nhttps://",
            b"\nhttp://",
            b"\nHTTP://",
            b"api.Example.com",
            b":443",
            b":",
            b":0",
            b":65536",
            b"[::1]",
            b"[",
            b"]",
            b"@",
            b"127.0.0.1",
            b"%40",
            b" ",
            b"\xc3\xa9",
            b"\xff",
        ];
        crate::fuzz::run(&pieces, check);
    }
}
