//! Reads the configuration files of a directory tree, or one file, as a whole or not at all.
//!
//! Files are read in the order of their paths, each once however many symbolic links lead to it. Names that begin with a dot
//! are skipped: editors' files, and the versioned directories of Kubernetes mounts (`..data`), whose files are reached by the
//! links beside them. Refuses what cannot be read, what is too large, and what looks like a file being written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use malla_config::SourceFile;

const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 10_000;
const MAX_FILE_SIZE: u64 = 16 << 20;
const MAX_TOTAL_SIZE: u64 = 128 << 20;
/// As many as Linux follows itself.
const MAX_LINKS: usize = 40;

/// What was found, and what to watch to learn of changes: also where reading failed.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) places: Places,
    pub(super) content: Result<Content, ReadError>,
}

/// What to watch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Directories whose every entry matters.
    pub(super) directories: BTreeSet<PathBuf>,
    /// Single entries that matter, in directories that are not ours: the configuration itself, targets of links.
    pub(super) entries: BTreeSet<PathBuf>,
}

/// The files of a configuration.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) files: Vec<SourceFile>,
    /// Hash of all paths and texts.
    pub(super) hash: u64,
}

/// Why a configuration was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} is not a regular file: move it away, or rename it", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is empty: delete it if nothing belongs there (an empty file is refused because it may be just being written)", path.display())]
    Empty { path: PathBuf },
    #[error("{} is larger than {} MiB", path.display(), limit >> 20)]
    FileTooLarge { path: PathBuf, limit: u64 },
    #[error("the files below {} are larger than {} MiB together", path.display(), limit >> 20)]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("there are more than {MAX_FILES} files below {}", path.display())]
    TooMany { path: PathBuf },
    #[error("{} is more than {MAX_DEPTH} directories deep", path.display())]
    TooDeep { path: PathBuf },
    #[error("there are no *.yaml, *.yml or *.json files below {}: for a mesh without services, write one with kind Mesh", path.display())]
    NoFiles { path: PathBuf },
}

/// Reads `root`.
pub(super) fn scan(root: &Path) -> Scan {
    let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let mut walk = Walk { root: &root, places: Places::default(), files: Vec::new(), seen: BTreeSet::new(), size: 0 };
    let read = walk.root();
    let Walk { places, mut files, .. } = walk;
    let content = read.map(|()| {
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        let files: Vec<SourceFile> = files.into_iter().map(|(_, file)| file).collect();
        let mut hasher = DefaultHasher::new();
        files.iter().for_each(|file| (&file.path, &file.text).hash(&mut hasher));
        Content { hash: hasher.finish(), files }
    });
    Scan { places, content }
}

/// A walk through the tree, failing at the first file that cannot be read.
struct Walk<'a> {
    root: &'a Path,
    places: Places,
    files: Vec<(PathBuf, SourceFile)>,
    /// Real paths that were visited: each once, which also ends loops.
    seen: BTreeSet<PathBuf>,
    size: u64,
}

impl Walk<'_> {
    fn root(&mut self) -> Result<(), ReadError> {
        let root = self.root.to_owned();
        self.places.add_links(&root);
        let metadata = root.metadata().map_err(unreadable(&root))?;
        if !metadata.is_dir() {
            return self.file(&root, Path::new(root.file_name().unwrap_or_default()));
        }
        self.directory(&root, 0)?;
        if self.files.is_empty() {
            return Err(ReadError::NoFiles { path: root });
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, depth: usize) -> Result<(), ReadError> {
        let real = path.canonicalize().map_err(unreadable(path))?;
        if !self.seen.insert(real.clone()) {
            return Ok(());
        }
        self.places.directories.insert(real);
        if depth > MAX_DEPTH {
            return Err(ReadError::TooDeep { path: path.to_owned() });
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(unreadable(path))? {
            names.push(entry.map_err(unreadable(path))?.file_name());
        }
        names.sort();
        for name in names {
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = path.join(name);
            let is_configuration = has_configuration_extension(&path);
            if path.is_symlink() {
                self.places.add_links(&path);
            }
            match path.metadata() {
                Ok(metadata) if metadata.is_dir() => self.directory(&path, depth + 1)?,
                Ok(_) if is_configuration => {
                    let shown = path.strip_prefix(self.root).unwrap_or(&path).to_owned();
                    self.file(&path, &shown)?;
                }
                Err(cause) if is_configuration => return Err(ReadError::Unreadable { path, cause }),
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, shown: &Path) -> Result<(), ReadError> {
        if !self.seen.insert(path.canonicalize().map_err(unreadable(path))?) {
            return Ok(());
        }
        // Asked before opening: opening a pipe would wait for its writer.
        if !path.metadata().map_err(unreadable(path))?.is_file() {
            return Err(ReadError::NotAFile { path: path.to_owned() });
        }
        if self.files.len() >= MAX_FILES {
            return Err(ReadError::TooMany { path: self.root.to_owned() });
        }
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable(path))?;
        file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes).map_err(unreadable(path))?;
        let size = bytes.len() as u64;
        self.size += size;
        if size > MAX_FILE_SIZE {
            return Err(ReadError::FileTooLarge { path: path.to_owned(), limit: MAX_FILE_SIZE });
        }
        if self.size > MAX_TOTAL_SIZE {
            return Err(ReadError::TooLarge { path: self.root.to_owned(), limit: MAX_TOTAL_SIZE });
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(ReadError::Empty { path: path.to_owned() });
        }
        self.files.push((shown.to_owned(), SourceFile::from_bytes(shown.to_string_lossy(), &bytes)));
        Ok(())
    }
}

impl Places {
    /// Notes `path`, and where it leads link by link, as entries that matter.
    fn add_links(&mut self, path: &Path) {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            self.add_entry(&path);
            let Ok(target) = path.read_link() else { return };
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
    }

    /// Notes an entry under its real directory; where that does not exist, its nearest ancestor that has one.
    fn add_entry(&mut self, path: &Path) {
        for path in path.ancestors() {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
            if let Ok(real) = parent.canonicalize() {
                self.entries.insert(real.join(name));
                return;
            }
        }
    }

    /// All directories that must be watched.
    pub(super) fn watched(&self) -> BTreeSet<PathBuf> {
        let parents = self.entries.iter().filter_map(|entry| entry.parent());
        self.directories.iter().map(PathBuf::as_path).chain(parents).map(Path::to_owned).collect()
    }

    /// Whether a change at `path` may change the configuration.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        self.entries.contains(path)
            || self.directories.contains(path)
            || path.parent().is_some_and(|parent| self.directories.contains(parent))
    }
}

fn has_configuration_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
    let path = path.to_owned();
    move |cause| ReadError::Unreadable { path, cause }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
