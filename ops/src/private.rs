//! Directories and files that nobody but this user may read.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes a directory, and those above it that are missing, with mode 0700. One that is
/// there keeps its mode: whoever made it chose it.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes an empty file with mode 0600. One that is there is not even opened: closing it
/// again would drop the locks that this process may hold on it.
///
/// # Errors
/// When it cannot be made.
pub fn make_file(path: &Path) -> io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_one_user_and_what_is_there_stays() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("above/data");
        make_dir(&dir).unwrap();
        assert_eq!(mode_of(&dir), 0o700);
        assert_eq!(mode_of(&temp.path().join("above")), 0o700);

        let file = dir.join("file");
        make_file(&file).unwrap();
        assert_eq!(mode_of(&file), 0o600);

        std::fs::write(&file, "content").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o750)).unwrap();
        make_dir(&dir).unwrap();
        make_file(&file).unwrap();
        assert_eq!(mode_of(&dir), 0o750);
        assert_eq!(mode_of(&file), 0o640);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "content");
    }
}
