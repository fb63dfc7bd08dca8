//! The programs' own count of their calls: what a client saw, whatever the sidecars say.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Calls of all programs.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    lines: Mutex<BTreeMap<(String, String), Line>>,
}

/// Calls from one program to one service.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Answered as wished.
    pub(crate) succeeded: u64,
    /// Not.
    pub(crate) failed: u64,
    /// How often each explanation was given.
    pub(crate) why: BTreeMap<String, u64>,
}

/// Different explanations that are kept per line; addresses and times make some unique.
const EXPLANATIONS: usize = 20;

impl Ledger {
    /// Adds a call of `caller` to `service`; `why` it failed, if it did.
    pub(crate) fn record(&self, caller: &str, service: &str, why: Option<&str>) {
        let mut lines = self.lines.lock();
        let line = lines.entry((caller.to_owned(), service.to_owned())).or_default();
        match why {
            None => line.succeeded += 1,
            Some(why) => {
                line.failed += 1;
                if line.why.len() < EXPLANATIONS || line.why.contains_key(why) {
                    *line.why.entry(why.to_owned()).or_default() += 1;
                }
            }
        }
    }

    /// Every line: (caller, service) and its counts.
    pub(crate) fn lines(&self) -> BTreeMap<(String, String), Line> {
        self.lines.lock().clone()
    }
}
