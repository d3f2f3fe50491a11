use super::*;

fn check(text: &str, expected: Option<(&str, &str)>) {
    let found = read_request(text.as_bytes());
    match (&found, expected) {
        (Reading::Whole(arrived), Some((body, rest))) => {
            assert_eq!(arrived.body, body.as_bytes(), "{text:?}");
            assert_eq!(&text[arrived.bytes..], rest, "{text:?}");
        }
        (Reading::Unclear(_), None) => {}
        _ => panic!("{text:?} is {found:?}"),
    }
}

#[test]
fn a_request_ends_where_every_server_says_it_does() {
    for (text, body, rest) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\nrest", "", "rest"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nbodied",
            "bo",
            "died",
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nbo\r\n0\r\nx-a: b\r\n\r\nrest",
            "bo",
            "rest",
        ),
    ] {
        check(text, Some((body, rest)));
        let whole = text.len() - rest.len();
        for short in 0..whole {
            assert_eq!(
                read_request(&text.as_bytes()[..short]),
                Reading::More,
                "{short} bytes of {text:?}"
            );
        }
    }
}

#[test]
fn what_servers_may_read_in_two_ways_is_unclear() {
    let with = |lines: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n");
    for text in [
        "GET / HTTP/1.1\nhost: a\n\n".to_owned(),
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\nhost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        with("host: a"),
        with("x-a: b\r\n folded"),
        with("x-a: b\rx"),
        with("x-a: \0"),
        with("x-a : b"),
        with("content-length: 0\r\ncontent-length: 0"),
        with("content-length: +0"),
        with("content-length: 0, 0"),
        with("content-length: 0\r\ntransfer-encoding: chunked") + "0\r\n\r\n",
        with("transfer-encoding: gzip, chunked") + "0\r\n\r\n",
        with("transfer-encoding: chunked") + "0;x=y\r\n\r\n",
        with("transfer-encoding: chunked") + "0 \r\n\r\n",
        with("transfer-encoding: chunked") + "1\r\nxy\r\n0\r\n\r\n",
    ] {
        check(&text, None);
    }
}

#[test]
fn answers_are_read_one_behind_the_other() {
    let text = b"HTTP/1.1 100 Continue\r\n\r\n\
        HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\
        HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n\
        HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort";
    let (answers, rest) = read_answers(text);
    let read: Vec<_> = answers
        .iter()
        .map(|it| (it.status, it.body.as_ref()))
        .collect();
    assert_eq!(read, [(200, &b"ok"[..]), (400, b"")]);
    assert!(rest.ends_with(b"short"));
}
