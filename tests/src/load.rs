//! Steady load from a pod, with an account of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pod::{Pod, inside};
use crate::process::Process;
use crate::wait;

/// What `malla-load` counts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Account {
    /// Requests answered with success and a whole body.
    pub succeeded: u64,
    /// All others.
    pub failed: u64,
    /// Successes by the first line of the body, where backends say their names.
    pub backends: BTreeMap<String, u64>,
    /// The first few kinds of failure, counted.
    pub failures: BTreeMap<String, u64>,
    /// The longest that any request took.
    pub slowest_milliseconds: u64,
}

impl Account {
    /// Successes of one backend.
    pub fn of(&self, backend: &str) -> u64 {
        self.backends.get(backend).copied().unwrap_or_default()
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

impl Load {
    /// Starts `malla-load` with these arguments and waits for its first success.
    #[track_caller]
    pub fn start(pod: &Pod, arguments: &[&str]) -> Load {
        let program = inside("malla-load");
        let command: Vec<&str> = std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect();
        Load::follow(pod.spawn(&command))
    }

    /// Follows a program that writes its account as `malla-load` does; waits for its first success.
    #[track_caller]
    pub fn follow(process: Process) -> Load {
        let load = Load { process };
        load.wait_successes(1);
        load
    }

    /// As [`Load::follow`], without waiting for a success.
    pub fn follow_failing(process: Process) -> Load {
        Load { process }
    }

    /// The account so far.
    pub fn account(&self) -> Account {
        let written = self.process.stdout();
        let complete = written.rsplit_once('\n').map_or("", |(lines, _)| lines);
        complete.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
    }

    /// Waits for `more` successes after those so far.
    #[track_caller]
    pub fn wait_successes(&self, more: u64) {
        let wanted = self.account().succeeded + more;
        wait::until("the load to go on", Duration::from_secs(60), || {
            (self.account().succeeded >= wanted).then_some(())
        });
    }

    /// Waits until a backend answers, for `more` times after those so far.
    #[track_caller]
    pub fn wait_backend(&self, backend: &str, more: u64) {
        let wanted = self.account().of(backend) + more;
        let what = format!("{backend} to answer; {:?}", self.account());
        wait::until(&what, Duration::from_secs(30), || (self.account().of(backend) >= wanted).then_some(()));
    }

    /// Waits until, over the time of 50 requests, only `backends` answer.
    #[track_caller]
    pub fn wait_only(&self, backends: &[&str]) {
        wait::until(&format!("only {backends:?} to answer"), Duration::from_secs(30), || {
            let before = self.account();
            self.wait_successes(50);
            let after = self.account();
            let others = after.backends.iter().filter(|(name, _)| !backends.contains(&name.as_str()));
            others.into_iter().all(|(name, count)| before.of(name) == *count).then_some(())
        });
    }

    /// Ends the load.
    #[track_caller]
    pub fn stop(self) -> Account {
        let output = self.process.terminate(Duration::from_secs(15)).success();
        let last = output.text().lines().last().map(str::to_owned).unwrap_or_default();
        serde_json::from_str(&last).unwrap_or_else(|error| panic!("{error} in {last:?}"))
    }

    /// Ends the load and asserts that nothing failed.
    #[track_caller]
    pub fn stop_without_failure(self) -> Account {
        let account = self.stop();
        assert!(account.failed == 0 && account.succeeded > 0, "the client counted failures: {account:#?}");
        account
    }
}
