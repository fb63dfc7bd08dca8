//! The state directory: the keys of the mesh. Files are written whole or not at all; only the root certificate is for others.
//! Refuses to guess: what is half there, unreadable or not writable is told with the file's name and what to do.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// Largest key or certificate file that is read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Name of the lock that keeps two servers from making two roots.
const LOCK: &str = ".lock";

/// The state directory of a control server.
#[derive(Debug, Clone)]
pub struct StateDirectory {
    path: PathBuf,
}

/// Why state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made.
    #[error("cannot make the state directory {}: make it yourself and give it to this user, or name another with --state", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It is there and is not a directory.
    #[error("{} is not a directory: name a directory with --state", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}: it must be readable by the user that runs the control server", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: the state directory must be writable by the user that runs the control server", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

impl StateDirectory {
    /// Opens a directory; makes it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// It can neither be found nor made.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_dir() => return Err(StateError::NotADirectory { path }),
            Ok(metadata) if metadata.mode() & 0o077 != 0 => {
                tracing::warn!(directory = %path.display(), "the state directory is open to other users; its files are not");
            }
            Ok(_) => {}
            Err(_) => {
                if let Err(cause) = DirBuilder::new().recursive(true).mode(0o700).create(&path) {
                    return Err(StateError::Make { path, cause });
                }
            }
        }
        Ok(StateDirectory { path })
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The text of a file, or `None` if there is none of that name.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>, StateError> {
        let path = self.file(name);
        match read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(StateError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a file that only its owner can read: complete under its name, or not there.
    ///
    /// # Errors
    /// The directory is not writable.
    pub fn write(&self, name: &str, text: &str) -> Result<(), StateError> {
        self.replace(name, text, Mode::from(0o600))
    }

    /// The same for what is no secret: copies that keep its mode can be read by whoever they are for.
    ///
    /// # Errors
    /// The directory is not writable.
    pub fn write_public(&self, name: &str, text: &str) -> Result<(), StateError> {
        self.replace(name, text, Mode::from(0o644))
    }

    fn replace(&self, name: &str, text: &str, mode: Mode) -> Result<(), StateError> {
        let path = self.file(name);
        let draft = self.file(&format!(".{name}.{}", std::process::id()));
        write_draft(&draft, text, mode)
            .and_then(|()| fs::rename(&draft, &path))
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(|cause| {
                // Best effort: the error that matters is the one above.
                let _ = fs::remove_file(&draft);
                StateError::Write { path, cause }
            })
    }

    /// Waits for, and holds, the right to make new state.
    ///
    /// # Errors
    /// The directory is not writable.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.file(LOCK);
        let locked =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).and_then(|file| {
                rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
                Ok(StateLock { _file: file })
            });
        locked.map_err(|cause| StateError::Write { path, cause })
    }
}

/// The right to make new state, given up when dropped.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

/// Reads a file of at most 1 MiB.
///
/// # Errors
/// It cannot be read, or is too large to be what it should be.
pub(crate) fn read(path: &Path) -> Result<String, StateError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_string(&mut text));
    read.map_err(|cause| StateError::Read { path: path.to_owned(), cause })?;
    Ok(text)
}

fn write_draft(draft: &Path, text: &str, mode: Mode) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(draft)?;
    // Whatever the umask says.
    rustix::fs::fchmod(&file, mode)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_it_makes_is_for_its_owner_only() {
        let parent = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(parent.path().join("deep/state")).expect("opens");
        state.write("root.key", "secret").expect("writes");
        state.write("root.key", "other").expect("writes again");
        state.write_public("root.pem", "certificate").expect("writes");
        assert_eq!(state.read("root.key").expect("reads").as_deref(), Some("other"));
        assert_eq!(state.read("absent").expect("reads"), None);
        let mode = |path: PathBuf| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(state.file("root.key")), mode(parent.path().join("deep/state"))), (0o600, 0o700));
        assert_eq!(mode(state.file("root.pem")), 0o644);
        assert_eq!(fs::read_dir(state.file("")).expect("lists").count(), 2, "no draft is left");
    }

    #[test]
    fn says_which_path_and_what_to_do() {
        let parent = tempfile::tempdir().expect("a directory");
        let file = parent.path().join("file");
        fs::write(&file, "").expect("writes");
        let error = StateDirectory::open(&file).expect_err("is a file");
        assert_eq!(error.to_string(), format!("{} is not a directory: name a directory with --state", file.display()));
        let error = StateDirectory::open(file.join("below")).expect_err("cannot be made");
        assert!(error.to_string().starts_with("cannot make the state directory"), "{error}");
    }
}
