//! Takes what may be secret out of an address before it is shown.

/// The address without user name, password and the values of its query. Whatever
/// stands before the last `@` goes, so that a password with odd characters, or several
/// addresses in one text, cannot leak a part.
pub(super) fn url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let place = match rest.rsplit_once('@') {
        Some((_, place)) => format!("redacted@{place}"),
        None => rest.to_owned(),
    };
    let Some((place, query)) = place.split_once('?') else {
        return format!("{scheme}://{place}");
    };
    let query: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) => format!("{name}=redacted"),
            None => "redacted".to_owned(),
        })
        .collect();
    format!("{scheme}://{place}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn nothing_that_may_be_secret_is_left() {
        for (given, shown) in [
            (
                "sqlite://data/throttleproxy.db",
                "sqlite://data/throttleproxy.db",
            ),
            (
                "postgres://u:p/w@h:5432/db",
                "postgres://redacted@h:5432/db",
            ),
            (
                "postgres://h/db?user=u&password=p",
                "postgres://h/db?user=redacted&password=redacted",
            ),
            ("redis://:p@ss@h", "redis://redacted@h"),
            ("nats://a:b@h1,nats://c:d@h2", "nats://redacted@h2"),
            ("nats://token@h", "nats://redacted@h"),
        ] {
            assert_eq!(url(given), shown);
        }
    }
}
