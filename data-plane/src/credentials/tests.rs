//! Values of upstream credentials. Variables of the process cannot be set in a test
//! without `unsafe`; the system tests start a proxy that has some.

use std::fs;

use super::*;

const WORKSPACE: WorkspaceId = WorkspaceId::from_u128(1);

fn credential(adjust: impl FnOnce(&mut UpstreamCredential)) -> UpstreamCredential {
    let mut credential = UpstreamCredential {
        name: "provider".to_owned(),
        header: "authorization".to_owned(),
        format: "Bearer {secret}".to_owned(),
        source: SecretSource::File,
        reference: "PROVIDER".to_owned(),
    };
    adjust(&mut credential);
    credential
}

fn injection(adjust: impl FnOnce(&mut UpstreamCredential)) -> Injection {
    Injection::compile(WORKSPACE, &credential(adjust)).unwrap()
}

/// A directory with a value in a file, and what reads it.
struct Dir {
    dir: tempfile::TempDir,
    credentials: Credentials,
}

impl Dir {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(WORKSPACE.to_string())).unwrap();
        let credentials = Credentials::new(dir.path().to_owned());
        Self { dir, credentials }
    }

    fn path(&self) -> PathBuf {
        let of_workspace = self.dir.path().join(WORKSPACE.to_string());
        of_workspace.join("PROVIDER")
    }

    async fn at(&self, steady_ms: u64) -> Option<String> {
        let header = self.credentials.header(&injection(|_| {}), steady_ms).await;
        let header = header.ok()?;
        assert!(header.is_sensitive());
        Some(header.to_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn a_file_that_changes_counts_after_a_second_at_most() {
    let dir = Dir::new();
    assert_eq!(dir.at(1_000).await, None);
    fs::write(dir.path(), "one\n").unwrap();
    // That there is none is known for as long.
    assert_eq!(dir.at(1_999).await, None);
    assert_eq!(dir.at(2_000).await.as_deref(), Some("Bearer one"));
    fs::write(dir.path(), "two\r\n").unwrap();
    assert_eq!(dir.at(2_999).await.as_deref(), Some("Bearer one"));
    assert_eq!(dir.at(3_000).await.as_deref(), Some("Bearer two"));
    fs::remove_file(dir.path()).unwrap();
    assert_eq!(dir.at(4_000).await, None);
}

#[tokio::test]
async fn what_is_no_value_is_none() {
    let dir = Dir::new();
    let mut now = 0;
    let mut check = async |bytes: &[u8], is_value: bool| {
        fs::write(dir.path(), bytes).unwrap();
        now += 1_000;
        assert_eq!(dir.at(now).await.is_some(), is_value, "{bytes:?}");
    };
    check(b"sk-abc", true).await;
    check(b"with spaces inside", true).await;
    check(b"", false).await;
    check(b" \r\n", false).await;
    check(b"a\r\nx-evil: 1", false).await;
    check(b"a\tb", false).await;
    check(b"a\0b", false).await;
    check("ä".as_bytes(), false).await;
    check(&[b'a'; VALUE_BYTES_MAX], true).await;
    check(&[b'a'; VALUE_BYTES_MAX + 1], false).await;

    fs::remove_file(dir.path()).unwrap();
    fs::create_dir(dir.path()).unwrap();
    assert_eq!(dir.at(now + 1_000).await, None, "a directory");
}

#[test]
fn a_place_has_the_workspace_in_its_name() {
    let of_file = injection(|_| {}).place;
    assert_eq!(
        of_file,
        Place::File(PathBuf::from(format!("{WORKSPACE}/PROVIDER")))
    );
    let of_variable = injection(|it| it.source = SecretSource::Env).place;
    let name = format!("THROTTLEPROXY_CREDENTIAL_{WORKSPACE}_PROVIDER");
    assert_eq!(of_variable, Place::Env(name.into()));
}

/// No control plane of ours writes such; a region that was written to by others might.
#[test]
fn what_would_lead_elsewhere_is_not_compiled() {
    let check = |adjust: &dyn Fn(&mut UpstreamCredential)| {
        assert!(Injection::compile(WORKSPACE, &credential(adjust)).is_none());
    };
    check(&|it| it.reference = "../../etc/passwd".to_owned());
    check(&|it| it.reference = String::new());
    check(&|it| it.header = "a b".to_owned());
    check(&|it| it.format = "Bearer".to_owned());
    check(&|it| it.format = "a\r\nb: {secret}".to_owned());
}

#[test]
fn the_header_is_the_only_one_of_its_name() {
    let mut headers = HeaderMap::new();
    for name in ["x-api-token", "x_api_token", "x-api_token", "x-api-tokens"] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    let injection = injection(|it| it.header = "x-api-token".to_owned());
    injection.put(&mut headers, HeaderValue::from_static("2"));
    let mut left: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    left.sort_unstable();
    assert_eq!(left, ["x-api-token=2", "x-api-tokens=1"]);
}

#[test]
fn a_value_is_not_shown() {
    let held = Held {
        value: Value::of(b"sk-abc").ok(),
        read_ms: AtomicU64::new(0),
        told_ms: None,
    };
    assert!(!format!("{held:?}").contains("sk-abc"));
}
