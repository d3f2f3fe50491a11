//! A case: bytes, and the one answer to them.

use tests::wire::Arrived;

/// What the requests of the corpus name: who asks, and where it leads.
#[derive(Debug, Clone)]
pub struct Setting {
    /// A key of the workspace.
    pub key: String,
    /// Another one.
    pub other: String,
    /// The port of the target `wire` on 127.0.0.1, whose base path is [`BASE`].
    pub port: u16,
}

/// The base path of the target.
pub const BASE: &str = "/base";

/// Bytes for the proxy, and what has to become of them.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it belongs to.
    pub class: &'static str,
    /// What is tried, once in a class.
    pub name: String,
    /// Everything that is sent.
    pub sent: Vec<u8>,
    /// The answers, one for each request that the proxy may see in it.
    pub answers: Vec<Outcome>,
    /// What becomes of the connection.
    pub then: Then,
}

/// The answer to one request.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The HTTP library refuses it while it parses the head: a bare status.
    Library(u16),
    /// The proxy refuses it with this code.
    Refused(u16, &'static str),
    /// The upstream gets it, and exactly this of it.
    Passes(Passed),
}

/// What the upstream must see.
#[derive(Debug, Clone)]
pub struct Passed {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// All fields but `Host`, which is always the upstream's.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The fields behind a chunked body.
    pub trailers: Vec<(String, String)>,
}

/// What becomes of the client's connection after the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It ends, and what was sent behind is never looked at.
    Closes,
    /// It goes on, and what was sent behind is a request of its own.
    GoesOn,
    /// There is no answer: the rest of the request is waited for.
    Waits,
}

/// The cases of one class.
#[derive(Debug)]
pub struct Class {
    name: &'static str,
    cases: Vec<Case>,
}

// === impl Setting ===

impl Setting {
    /// A request with this request line and these further lines, without its empty line.
    pub fn head(&self, line: impl AsRef<[u8]>, lines: impl AsRef<[u8]>) -> Vec<u8> {
        let mut head = line.as_ref().to_vec();
        head.extend_from_slice(b"\r\nhost: a\r\nx-api-key: ");
        head.extend_from_slice(self.key.as_bytes());
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(lines.as_ref());
        if !lines.as_ref().is_empty() {
            head.extend_from_slice(b"\r\n");
        }
        head
    }

    /// `GET /t/wire/case` with these further lines.
    pub fn get(&self, lines: impl AsRef<[u8]>) -> Vec<u8> {
        self.line("GET /t/wire/case HTTP/1.1", lines)
    }

    /// `POST /t/wire/case` with these further lines and these bytes behind the head.
    pub fn post(&self, lines: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
        let mut sent = self.line("POST /t/wire/case HTTP/1.1", lines);
        sent.extend_from_slice(body.as_ref());
        sent
    }

    /// A request with this request line and these further lines, to its empty line.
    pub fn line(&self, line: impl AsRef<[u8]>, lines: impl AsRef<[u8]>) -> Vec<u8> {
        let mut sent = self.head(line, lines);
        sent.extend_from_slice(b"\r\n");
        sent
    }

    /// A GET by URL for this path.
    pub fn by_url(&self, path: impl AsRef<[u8]>) -> Vec<u8> {
        let line = [b"GET ", path.as_ref(), b" HTTP/1.1"].concat();
        let origin = format!("x-throttleproxy-target: http://127.0.0.1:{}", self.port);
        self.line(line, origin)
    }

    /// A whole request that nobody may ever take for one where it hides in another.
    pub fn hidden(&self) -> Vec<u8> {
        self.line("GET /t/wire/hidden HTTP/1.1", "")
    }
}

// === impl Class ===

impl Class {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            cases: Vec::new(),
        }
    }

    /// Adds a case whose connection goes on, unless the HTTP library refuses it.
    pub fn add(&mut self, name: impl Into<String>, sent: Vec<u8>, outcome: Outcome) {
        let then = match outcome {
            Outcome::Library(_) | Outcome::Refused(400, "bad_request") => Then::Closes,
            _ => Then::GoesOn,
        };
        self.all(name, sent, vec![outcome], then);
    }

    /// Adds a case whose connection ends after its answer.
    pub fn closes(&mut self, name: impl Into<String>, sent: Vec<u8>, outcome: Outcome) {
        self.all(name, sent, vec![outcome], Then::Closes);
    }

    /// Adds a case that is not a whole request.
    pub fn waits(&mut self, name: impl Into<String>, sent: Vec<u8>) {
        self.all(name, sent, Vec::new(), Then::Waits);
    }

    /// Adds a case with several answers.
    pub fn all(
        &mut self,
        name: impl Into<String>,
        sent: Vec<u8>,
        answers: Vec<Outcome>,
        then: Then,
    ) {
        self.cases.push(Case {
            class: self.name,
            name: name.into(),
            sent,
            answers,
            then,
        });
    }

    pub fn done(self) -> Vec<Case> {
        self.cases
    }
}

// === Outcomes ===

/// The HTTP library's own answer, after which the connection closes.
pub fn library(status: u16) -> Outcome {
    Outcome::Library(status)
}

/// 400 `bad_request`, after which the connection closes.
pub fn bad_request() -> Outcome {
    Outcome::Refused(400, "bad_request")
}

/// 400 `bad_target`.
pub fn bad_target() -> Outcome {
    Outcome::Refused(400, "bad_target")
}

/// A refusal of the proxy.
pub fn refused(status: u16, code: &'static str) -> Outcome {
    Outcome::Refused(status, code)
}

/// `GET /t/wire/case` passes with these fields beside `Host`.
pub fn got(headers: &[(&str, &str)]) -> Outcome {
    passed("GET", "/case", headers, "")
}

/// `POST /t/wire/case` passes with its length and this body.
pub fn posted(body: impl AsRef<[u8]>) -> Outcome {
    let length = body.as_ref().len().to_string();
    passed("POST", "/case", &[("content-length", &length)], body)
}

/// `POST /t/wire/case` passes chunked, with this body.
pub fn chunked(body: impl AsRef<[u8]>) -> Outcome {
    passed("POST", "/case", &[("transfer-encoding", "chunked")], body)
}

/// Something passes: `path` is what stands behind the target's base path.
pub fn passed(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Outcome {
    Outcome::Passes(Passed {
        method: method.into(),
        target: format!("{BASE}{path}"),
        headers: headers
            .iter()
            .map(|&(name, value)| (name.into(), value.into()))
            .collect(),
        body: body.as_ref().to_vec(),
        trailers: Vec::new(),
    })
}

/// `POST /t/wire/case` passes chunked, with this body, these fields in its head and these
/// behind its chunks.
pub fn trailed(
    body: impl AsRef<[u8]>,
    headers: &[(&str, &str)],
    trailers: &[(&str, &str)],
) -> Outcome {
    let headers = [headers, &[("transfer-encoding", "chunked")]].concat();
    let mut outcome = passed("POST", "/case", &headers, body);
    if let Outcome::Passes(passed) = &mut outcome {
        passed.trailers = trailers
            .iter()
            .map(|&(name, value)| (name.into(), value.into()))
            .collect();
    }
    outcome
}

// === impl Passed ===

impl Passed {
    /// What differs between this and what arrived.
    pub fn differs(&self, arrived: &Arrived, host: &str) -> Option<String> {
        let mut headers = self.headers.clone();
        headers.push(("host".into(), host.into()));
        headers.sort();
        let mut came = arrived.headers.clone();
        came.sort();
        let same = self.method == arrived.method
            && self.target == arrived.target
            && headers == came
            && self.body == arrived.body
            && self.trailers == arrived.trailers;
        (!same).then(|| format!("{arrived:?} arrived instead of {self:?}"))
    }
}
