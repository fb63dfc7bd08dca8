//! What became of join tokens: created, used, revoked. One file of the state directory (`tokens.jsonl`), to which lines are added; a
//! token that has expired is nobody's concern any more.
//!
//! Servers that share the directory, and the command line, add to it one at a time. A server reads it again when it has grown.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::state::{StateDirectory, StateError};

/// The file in the state directory.
pub const TOKENS: &str = "tokens.jsonl";
/// Lines beyond this are written anew without tokens that have expired, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its unique id.
    pub id: String,
    /// Whose it is; unknown of one that was revoked by its id alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
    /// Whether it can be used once.
    #[serde(default)]
    pub once: bool,
    /// Whether it was used up.
    #[serde(default)]
    pub used: bool,
    /// Whether it was revoked.
    #[serde(default)]
    pub revoked: bool,
}

/// The book.
#[derive(Debug)]
pub struct TokenBook {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    length: u64,
    records: BTreeMap<String, TokenRecord>,
}

impl TokenBook {
    /// The book of a state directory.
    pub fn open(state: &StateDirectory) -> TokenBook {
        TokenBook { path: state.file(TOKENS), known: Mutex::default() }
    }

    /// Tokens that have not expired, by id.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn records(&self) -> Result<Vec<TokenRecord>, StateError> {
        self.with(|known, _| Ok(known.records.values().cloned().collect()))
    }

    /// What is known of a token.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn find(&self, id: &str) -> Result<Option<TokenRecord>, StateError> {
        self.with(|known, _| Ok(known.records.get(id).cloned()))
    }

    /// Adds what has become of a token.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&self, record: &TokenRecord) -> Result<(), StateError> {
        self.with(|known, file| append(known, file, record))
    }

    /// Uses a token up; false if it was before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn use_up(&self, id: &str, expires: u64) -> Result<bool, StateError> {
        self.with(|known, file| {
            if known.records.get(id).is_some_and(|record| record.used) {
                return Ok(false);
            }
            let record = TokenRecord { id: id.to_owned(), expires, once: true, used: true, ..Default::default() };
            append(known, file, &record).map(|()| true)
        })
    }

    /// With what the file says at this moment, and nobody else writing.
    fn with<T>(&self, work: impl FnOnce(&mut Known, &mut File) -> io::Result<T>) -> Result<T, StateError> {
        let mut known = self.known.lock();
        let worked = || {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).append(true).read(true).mode(0o600).open(&self.path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            let length = file.metadata()?.len();
            if length != known.length {
                let mut text = String::new();
                file.seek(SeekFrom::Start(0))?;
                (&mut file).take(8 * FILE_LIMIT).read_to_string(&mut text)?;
                *known = Known { length, records: read(&text) };
            }
            work(&mut known, &mut file)
        };
        worked().map_err(|cause| StateError::Write { path: self.path.clone(), cause })
    }
}

fn append(known: &mut Known, file: &mut File, record: &TokenRecord) -> io::Result<()> {
    merge(&mut known.records, record.clone());
    let line = |record: &TokenRecord| serde_json::to_string(record).map(|line| line + "\n");
    if known.length > FILE_LIMIT {
        // Nobody else has the file: whoever waits for the lock reads it anew.
        known.records.retain(|_, record| record.expires > now());
        let text = known.records.values().map(line).collect::<Result<String, _>>()?;
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
    } else {
        // The line before may have been cut off.
        file.write_all(format!("\n{}", line(record)?).as_bytes())?;
    }
    file.sync_data()?;
    known.length = file.metadata()?.len();
    Ok(())
}

fn read(text: &str) -> BTreeMap<String, TokenRecord> {
    let mut records = BTreeMap::new();
    for record in text.lines().filter_map(|line| serde_json::from_str::<TokenRecord>(line).ok()) {
        if record.expires > now() {
            merge(&mut records, record);
        }
    }
    records
}

/// What was said of a token before stays true.
fn merge(records: &mut BTreeMap<String, TokenRecord>, later: TokenRecord) {
    let record = records.entry(later.id.clone()).or_insert_with(|| later.clone());
    record.identity = record.identity.take().or(later.identity);
    record.once |= later.once;
    record.used |= later.used;
    record.revoked |= later.revoked;
    record.expires = record.expires.max(later.expires);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_server_learns_the_others_know() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path().join("state")).expect("opens");
        let (one, other) = (TokenBook::open(&state), TokenBook::open(&state));
        let expires = now() + 60;
        let created =
            TokenRecord { id: "a".into(), identity: Some("cart".into()), expires, once: true, ..Default::default() };
        one.add(&created).expect("written");
        assert!(other.use_up("a", expires).expect("written"));
        assert!(!one.use_up("a", expires).expect("read"));
        assert!(!other.use_up("a", expires).expect("read"));
        other.add(&TokenRecord { id: "b".into(), expires, revoked: true, ..Default::default() }).expect("written");
        let known = one.find("b").expect("read").expect("known");
        assert!(known.revoked && !known.used);
        assert_eq!(one.records().expect("read")[0], TokenRecord { used: true, ..created });
        // Of what has expired nothing is kept.
        one.add(&TokenRecord { id: "c".into(), expires: 7, revoked: true, ..Default::default() }).expect("written");
        assert_eq!(other.find("c").expect("read"), None);
    }
}
