//! Chunks and what may stand behind them. The upstream gets chunks of our own making:
//! whatever was odd about the client's is gone or has ended the request.

use super::super::case::{Case, Class, Setting, bad_request, chunked, posted, trailed};

const CODING: &str = "transfer-encoding: chunked";

pub fn cases(at: &Setting) -> Vec<Case> {
    let mut class = Class::new("chunks");
    for (name, body) in [
        ("one", "5\r\nhello\r\n0\r\n\r\n"),
        ("two", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        ("a size with a zero in front", "05\r\nhello\r\n0\r\n\r\n"),
        (
            "a size with many zeros in front",
            "00000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        ("a last size of many zeros", "5\r\nhello\r\n0000\r\n\r\n"),
        ("a space behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
        ("a tab behind the size", "5\t\r\nhello\r\n0\r\n\r\n"),
        ("a space behind the last size", "5\r\nhello\r\n0 \r\n\r\n"),
        ("an empty extension", "5;\r\nhello\r\n0\r\n\r\n"),
        ("an extension", "5;x\r\nhello\r\n0\r\n\r\n"),
        ("an extension with a value", "5;x=y\r\nhello\r\n0\r\n\r\n"),
        ("a quoted extension", "5;x=\"a;b\"\r\nhello\r\n0\r\n\r\n"),
        ("a space before the extension", "5 ;x\r\nhello\r\n0\r\n\r\n"),
        ("an extension of the last size", "5\r\nhello\r\n0;x\r\n\r\n"),
        (
            "an extension that looks like a size",
            "5;0\r\nhello\r\n0\r\n\r\n",
        ),
        ("an extension with a NUL", "5;\0\r\nhello\r\n0\r\n\r\n"),
        ("an unclosed quote", "5;x=\"\r\nhello\r\n0\r\n\r\n"),
    ] {
        class.add(name, at.post(CODING, body), chunked("hello"));
    }
    class.add(
        "hexadecimal in both cases",
        at.post(CODING, "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
        chunked("01234567890123456789"),
    );
    class.add("none", at.post(CODING, "0\r\n\r\n"), chunked(""));

    for (name, body) in [
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("no hexadecimal digit", "g\r\nhello\r\n0\r\n\r\n"),
        ("a minus sign", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a plus sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a suffix", "5h\r\nhello\r\n0\r\n\r\n"),
        ("a fraction", "5.0\r\nhello\r\n0\r\n\r\n"),
        ("an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("a comma", "5,5\r\nhello\r\n0\r\n\r\n"),
        ("two sizes", "5 5\r\nhello\r\n0\r\n\r\n"),
        ("a space in front", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a tab in front", "\t5\r\nhello\r\n0\r\n\r\n"),
        ("a semicolon in front", ";5\r\nhello\r\n0\r\n\r\n"),
        ("a vertical tab behind", "5\x0b\r\nhello\r\n0\r\n\r\n"),
        ("a NUL behind", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("quotes", "\"5\"\r\nhello\r\n0\r\n\r\n"),
        (
            "a digit of another script",
            "\u{ff15}\r\nhello\r\n0\r\n\r\n",
        ),
        ("2^64", "10000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("2^64 + 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("2^68", "100000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("a lone LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        ("a lone CR behind the size", "5\rhello\r\n0\r\n\r\n"),
        ("CR CR LF behind the size", "5\r\r\nhello\r\n0\r\n\r\n"),
        ("a lone LF in an extension", "5;x\nhello\r\n0\r\n\r\n"),
        ("a lone CR in an extension", "5;x\ry\r\nhello\r\n0\r\n\r\n"),
        ("no line end behind the bytes", "5\r\nhello0\r\n\r\n"),
        ("a lone LF behind the bytes", "5\r\nhello\n0\r\n\r\n"),
        ("a lone CR behind the bytes", "5\r\nhello\r0\r\n\r\n"),
        ("one byte too many", "5\r\nhello!\r\n0\r\n\r\n"),
        ("one byte too few", "5\r\nhell\r\n0\r\n\r\n"),
        ("two bytes too many", "5\r\nhello!!\r\n0\r\n\r\n"),
        ("LF CR behind the bytes", "5\r\nhello\n\r0\r\n\r\n"),
        ("a lone LF behind the last size", "5\r\nhello\r\n0\n\r\n"),
        ("lone LFs at the end", "5\r\nhello\r\n0\n\n"),
        ("a lone CR at the end", "5\r\nhello\r\n0\r\n\rx"),
        (
            "an empty line between chunks",
            "5\r\nhello\r\n\r\n0\r\n\r\n",
        ),
        (
            "a chunk without bytes but with a line",
            "5\r\nhello\r\n0\r\n\r\r\n",
        ),
    ] {
        class.add(
            format!("refused: {name}"),
            at.post(CODING, body),
            bad_request(),
        );
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(17 << 10));
    class.add(
        "refused: an extension of 17 KiB",
        at.post(CODING, long),
        bad_request(),
    );
    let many = "1;xxxxxxxxxxxxxxxxxxxxxxx\r\nh\r\n".repeat(1_000) + "0\r\n\r\n";
    class.add(
        "refused: 24 KiB of extensions in small pieces",
        at.post(CODING, many),
        bad_request(),
    );

    for (name, body) in [
        ("no last chunk", "5\r\nhello\r\n"),
        ("no end of the last chunk", "5\r\nhello\r\n0\r\n"),
        ("half an end of the last chunk", "5\r\nhello\r\n0\r\n\r"),
        ("a size without its line end", "5"),
        ("fewer bytes than said", "500\r\nhello"),
        ("2^60 bytes", "1000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("nothing at all", ""),
        ("an unfinished trailer", "0\r\nx-a: b\r\n"),
    ] {
        class.waits(format!("unfinished: {name}"), at.post(CODING, body));
    }
    let hidden = at.hidden();
    let cover = [
        format!("{:x}\r\n", hidden.len()).as_bytes(),
        &hidden[..],
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    class.add(
        "a whole request in a chunk",
        at.post(CODING, cover),
        chunked(&hidden),
    );
    trailers(at, &mut class);
    class.done()
}

/// Fields behind the chunks that nobody announced do not pass, whatever they are.
fn trailers(at: &Setting, class: &mut Class) {
    for line in [
        "x-sum: 1",
        "content-length: 500",
        "transfer-encoding: chunked",
        "host: b",
        "authorization: Bearer x",
        "x-api-key: x",
        "cookie: a=b",
        "connection: close",
        "trailer: x",
        "te: trailers",
        "upgrade: h2c",
        "x-forwarded-for: 1",
        "x-throttleproxy-target: http://b",
        "x_api_key: x",
        "content_length: 500",
        "expect: 100-continue",
    ] {
        let body = format!("5\r\nhello\r\n0\r\n{line}\r\n\r\n");
        class.add(
            format!("an unannounced trailer does not pass: {line}"),
            at.post(CODING, body),
            chunked("hello"),
        );
    }
    for (name, lines) in [
        ("no colon", "x-sum"),
        ("a space in the name", "x sum: 1"),
        ("a space before the colon", "x-sum : 1"),
        ("a folded line", "x-sum: 1\r\n 2"),
        ("a bare CR", "x-sum: 1\r2"),
        ("a NUL", "x-sum: \0"),
        ("no name", ": 1"),
        ("a request line", "GET /t/wire/hidden HTTP/1.1"),
    ] {
        let body = format!("5\r\nhello\r\n0\r\n{lines}\r\n\r\n");
        class.add(
            format!("refused trailer: {name}"),
            at.post(CODING, body),
            bad_request(),
        );
    }
    let announced = |names: &str, lines: &str| {
        let body = format!("5\r\nhello\r\n0\r\n{lines}\r\n\r\n");
        at.post(format!("{CODING}\r\ntrailer: {names}"), body)
    };
    class.add(
        "an announced trailer passes",
        announced("x-sum", "x-sum: 1"),
        trailed("hello", &[("trailer", "x-sum")], &[("x-sum", "1")]),
    );
    class.add(
        "two announced trailers pass, in any case",
        announced("X-Sum, x-more", "x-sum: 1\r\nX-MORE: 2\r\nx-other: 3"),
        trailed(
            "hello",
            &[("trailer", "x-sum, x-more")],
            &[("x-sum", "1"), ("x-more", "2")],
        ),
    );
    class.add(
        "what was announced and does not come",
        announced("x-sum", "x-other: 1"),
        trailed("hello", &[("trailer", "x-sum")], &[]),
    );
    for line in [
        "content-length: 500",
        "transfer-encoding: chunked",
        "host: b",
        "authorization: Bearer x",
        "proxy-authorization: Basic x",
        "x-api-key: x",
        "cookie: a=b",
        "connection: close",
        "trailer: x-sum",
        "te: trailers",
        "upgrade: websocket",
        "x-forwarded-for: 1",
        "x-throttleproxy-target: http://b",
        "x_api_key: x",
        "content_length: 500",
        "transfer_encoding: chunked",
    ] {
        let name = line.split(':').next().unwrap_or_default();
        class.add(
            format!("an announced trailer does not pass: {line}"),
            announced(name, line),
            chunked("hello"),
        );
    }
    class.add(
        "a trailer that Connection names does not pass",
        at.post(
            format!("{CODING}\r\ntrailer: x-sum\r\nconnection: x-sum"),
            "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
        ),
        chunked("hello"),
    );
    class.add(
        "trailers announced for a body with a length",
        at.post("trailer: x-sum\r\ncontent-length: 5", "hello"),
        posted("hello"),
    );
    let many: String = (0..101).map(|at| format!("x-{at}: 1\r\n")).collect();
    class.add(
        "refused trailer: 101 of them",
        at.post(CODING, format!("5\r\nhello\r\n0\r\n{many}\r\n")),
        bad_request(),
    );
    let long = "x".repeat(70 << 10);
    class.add(
        "refused trailer: one of 70 KiB",
        at.post(CODING, format!("5\r\nhello\r\n0\r\nx-a: {long}\r\n\r\n")),
        bad_request(),
    );
}
