//! Who was given which certificate, when, by whom, for how long: a file with one line of JSON for each (`audit.jsonl` in the state
//! directory), and in memory those that are still in use. An old root can go when nothing of it is.
//!
//! A certificate that was used to obtain the next one is not in use any more. What the file says survives a restart.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::state::StateDirectory;

/// The file in the state directory.
pub(crate) const AUDIT: &str = "audit.jsonl";
/// The one before, when that has become too long.
const AUDIT_BEFORE: &str = "audit.1.jsonl";
/// Longest audit file, in bytes.
const FILE_LIMIT: u64 = 64 << 20;
/// So long after a renewal, whoever asked for it may not have received it, and still use the certificate before.
const IN_DOUBT: Duration = Duration::from_secs(15);

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// When, in seconds since 1970.
    pub(crate) at: u64,
    /// For whom.
    pub(crate) identity: String,
    /// Serial number, hexadecimal.
    pub(crate) serial: String,
    /// Fingerprint of the root.
    pub(crate) root: String,
    /// When it ends, in seconds since 1970.
    pub(crate) until: u64,
    /// For how long, in seconds.
    pub(crate) lasts: u64,
    /// Who asked, by address.
    pub(crate) address: String,
    /// What proved the identity: `token <id>` or `certificate <serial>`.
    pub(crate) proof: String,
}

/// A certificate in use.
#[derive(Debug, Clone)]
struct InUse {
    identity: Arc<str>,
    root: Arc<str>,
    until: SystemTime,
    renewed: bool,
}

/// Certificates of one root that are in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OfRoot {
    pub(crate) certificates: usize,
    /// When the last of them ends.
    pub(crate) until: Option<SystemTime>,
    /// Whose they are, some of them.
    pub(crate) holders: Vec<String>,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: StateDirectory,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<(File, u64)>,
    in_use: HashMap<Box<str>, InUse>,
    swept: Option<SystemTime>,
}

impl Ledger {
    /// The ledger of a state directory, with what earlier servers wrote.
    pub(crate) fn open(state: &StateDirectory) -> Ledger {
        let ledger = Ledger { state: state.clone(), inner: Mutex::default() };
        let now = SystemTime::now();
        let mut inner = ledger.inner.lock();
        for name in [AUDIT_BEFORE, AUDIT] {
            let Ok(file) = File::open(state.file(name)) else { continue };
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                // The last line may be cut off.
                if let Ok(entry) = serde_json::from_str::<Entry>(&line) {
                    inner.note(&entry, now);
                }
            }
        }
        drop(inner);
        ledger
    }

    /// A certificate was issued.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(crate) fn issued(&self, entry: &Entry) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.note(entry, SystemTime::now());
        let mut line = serde_json::to_string(entry)?;
        line.push('\n');
        inner.write(&self.state, &line)
    }

    /// What is in use of a root.
    pub(crate) fn of_root(&self, root: &str) -> OfRoot {
        const SHOWN: usize = 20;
        let now = SystemTime::now();
        let inner = self.inner.lock();
        let mut found = OfRoot::default();
        for certificate in
            inner.in_use.values().filter(|certificate| *certificate.root == *root && certificate.until > now)
        {
            found.certificates += 1;
            found.until = found.until.max(Some(certificate.until));
            if found.holders.len() < SHOWN && !found.holders.iter().any(|holder| **holder == *certificate.identity) {
                found.holders.push(certificate.identity.to_string());
            }
        }
        found.holders.sort();
        found
    }

    /// Of each identity the certificates in use that were not renewed.
    pub(crate) fn held(&self) -> BTreeMap<String, usize> {
        let now = SystemTime::now();
        let mut held = BTreeMap::new();
        for certificate in self.inner.lock().in_use.values() {
            if certificate.until > now && !certificate.renewed {
                *held.entry(certificate.identity.to_string()).or_default() += 1;
            }
        }
        held
    }
}

impl Inner {
    fn note(&mut self, entry: &Entry, now: SystemTime) {
        let time = |seconds: u64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(now);
        if let Some(before) = entry.proof.strip_prefix("certificate ")
            && let Some(before) = self.in_use.get_mut(before)
        {
            before.until = before.until.min(time(entry.at) + IN_DOUBT);
            before.renewed = true;
        }
        let until = time(entry.until);
        if until > now {
            let (identity, root) = (entry.identity.as_str().into(), entry.root.as_str().into());
            self.in_use.insert(entry.serial.as_str().into(), InUse { identity, root, until, renewed: false });
        }
        let due = self.swept.is_none_or(|swept| now.duration_since(swept).is_ok_and(|since| since > IN_DOUBT));
        if due {
            self.swept = Some(now);
            self.in_use.retain(|_, certificate| certificate.until > now);
        }
    }

    fn write(&mut self, state: &StateDirectory, line: &str) -> io::Result<()> {
        let path = state.file(AUDIT);
        if self.file.as_ref().is_some_and(|(_, length)| *length > FILE_LIMIT) {
            std::fs::rename(&path, state.file(AUDIT_BEFORE))?;
            self.file = None;
        }
        let (file, length) = match &mut self.file {
            Some(open) => open,
            None => self.file.insert(append(path)?),
        };
        // One write: a line is there or not.
        file.write_all(line.as_bytes())?;
        *length += line.len() as u64;
        Ok(())
    }
}

fn append(path: PathBuf) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    if length > 0 {
        // Whoever was killed in the middle of a line left no end of it.
        file.write_all(b"\n")?;
    }
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use malla_xds::SpiffeId;

    use super::*;

    fn entry(serial: &str, root: &str, proof: &str, ago: u64, lasts: u64) -> Entry {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() - ago;
        Entry {
            at,
            identity: SpiffeId::new("cluster.local", "shop", "cart").expect("valid").to_string(),
            serial: serial.into(),
            root: root.into(),
            until: at + lasts,
            lasts,
            address: "10.0.0.1:5".into(),
            proof: proof.into(),
        }
    }

    #[test]
    fn what_was_renewed_or_has_ended_is_not_in_use_also_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path().join("state")).expect("opens");
        let ledger = Ledger::open(&state);
        ledger.issued(&entry("1", "old", "token 7", 100, 3600)).expect("written");
        ledger.issued(&entry("2", "old", "token 8", 100, 50)).expect("written");
        assert_eq!(ledger.of_root("old").certificates, 1, "the second has ended");
        ledger.issued(&entry("3", "new", "certificate 1", 0, 3600)).expect("written");
        assert_eq!(ledger.of_root("old").certificates, 1, "the renewal may have been lost on its way");
        ledger.issued(&entry("4", "new", "certificate 1", 60, 3600)).expect("written");
        for ledger in [ledger, Ledger::open(&state)] {
            assert_eq!(ledger.of_root("old"), OfRoot::default());
            assert_eq!(ledger.held().into_values().collect::<Vec<_>>(), [2]);
            let new = ledger.of_root("new");
            assert_eq!((new.certificates, new.holders.len()), (2, 1));
            assert!(new.until.is_some_and(|until| until > SystemTime::now()));
        }
    }

    #[test]
    fn a_line_that_was_cut_off_costs_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path().join("state")).expect("opens");
        std::fs::write(state.file(AUDIT), "{\"at\": 17, \"ident").expect("written");
        Ledger::open(&state).issued(&entry("1", "root", "token 7", 0, 60)).expect("written");
        assert_eq!(Ledger::open(&state).of_root("root").certificates, 1);
    }
}
