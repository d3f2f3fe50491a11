//! `<data-dir>/demo.json`: what the demo made, for the next start and for programs.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use control_plane::demo::{Before, Demo, TARGET};
use schemas::{KeyId, WorkspaceId};
use serde::{Deserialize, Serialize};

/// The content of the file. It holds a key and a token in clear text, which is why the
/// file is for its owner only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoFile {
    /// Where the control API listens.
    pub control_url: String,
    /// Where the proxy listens.
    pub proxy_url: String,
    /// Where operators look at the proxy.
    pub admin_url: String,
    /// Opens the control API.
    pub control_token: String,
    /// The workspace of the key.
    pub workspace_id: WorkspaceId,
    /// The name of the target.
    pub target: String,
    /// The id of the key.
    pub key_id: KeyId,
    /// The key itself.
    pub key: String,
}

// === impl DemoFile ===

impl DemoFile {
    /// What to remember of a demo that can be reached at these addresses.
    pub fn of(demo: Demo, control_url: String, proxy_url: String, admin_url: String) -> Self {
        Self {
            control_url,
            proxy_url,
            admin_url,
            control_token: demo.control_token,
            workspace_id: demo.workspace_id,
            target: TARGET.to_owned(),
            key_id: demo.key_id,
            key: demo.key,
        }
    }

    /// What the next start wants to keep.
    pub fn into_before(self) -> Before {
        Before {
            control_token: self.control_token,
            workspace_id: self.workspace_id,
            key_id: self.key_id,
            key: self.key,
        }
    }

    /// Reads the file. `None` when there is none, or when it is not one of ours.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Writes the file, whole or not at all, with mode 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        // One that a crash left behind may have another mode.
        match std::fs::remove_file(&new) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(format!("{}\n", serde_json::to_string_pretty(self)?).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(new, path)
    }

    /// What to paste into a shell, a comment line before each call.
    pub fn curl_lines(&self) -> String {
        let Self {
            control_url,
            proxy_url,
            control_token,
            target,
            key_id,
            key,
            ..
        } = self;
        let token = format!("-H 'authorization: Bearer {control_token}'");
        format!(
            "# call the upstream through the proxy\n\
             curl -s {proxy_url}/t/{target}/hello -H 'x-api-key: {key}'\n\
             # the same with a bearer token and a body\n\
             curl -s {proxy_url}/t/{target}/hello -H 'authorization: Bearer {key}' -d 'some text'\n\
             # the key looks at itself\n\
             curl -s {proxy_url}/.throttleproxy/me -H 'x-api-key: {key}'\n\
             # list the keys\n\
             curl -s {control_url}/v1/api-keys {token}\n\
             # switch the key off: the first call is refused from now on\n\
             curl -s -X POST {control_url}/v1/api-keys/{key_id}/deactivate {token}\n\
             # switch it on again\n\
             curl -s -X POST {control_url}/v1/api-keys/{key_id}/reactivate {token}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn sample() -> DemoFile {
        DemoFile {
            control_url: "http://127.0.0.1:7070".to_owned(),
            proxy_url: "http://127.0.0.1:7080".to_owned(),
            admin_url: "http://127.0.0.1:7090".to_owned(),
            control_token: "tpc_1".to_owned(),
            workspace_id: WorkspaceId::from_parts(1, 2),
            target: "echo".to_owned(),
            key_id: KeyId::from_parts(3, 4),
            key: "tp_live_1".to_owned(),
        }
    }

    #[test]
    fn it_is_for_its_owner_only_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo.json");
        assert!(DemoFile::read(&path).unwrap().is_none());

        std::fs::write(dir.path().join("demo.new"), "left behind").unwrap();
        sample().write(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(DemoFile::read(&path).unwrap() == Some(sample()));

        std::fs::write(&path, "{\"foreign\": 1}").unwrap();
        assert!(DemoFile::read(&path).unwrap().is_none());
    }

    #[test]
    fn every_line_is_a_comment_or_a_call() {
        let lines = sample().curl_lines();
        for line in lines.lines() {
            assert!(
                line.starts_with("# ") || line.starts_with("curl -s "),
                "{line}"
            );
        }
    }
}
