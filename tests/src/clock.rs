//! A clock of its own for a program, which the test sets; monotonic time stays as it is. By libfaketime.

use std::fs;
use std::path::PathBuf;

use crate::sandbox::Sandbox;

/// A clock that some programs see.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
    wrapper: Vec<String>,
}

impl Clock {
    /// A clock that is right.
    ///
    /// # Panics
    ///
    /// Where libfaketime is not installed.
    #[track_caller]
    pub fn new(sandbox: &Sandbox, name: &str) -> Clock {
        let file = sandbox.writable_directory("clocks").join(name);
        let libraries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let library = libraries.map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
        let library = library.expect("libfaketime is there: run tests/setup");
        let wrapper = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
            "FAKETIME_CACHE_DURATION=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        let clock = Clock { file, wrapper };
        clock.set(0);
        clock
    }

    /// From now on (within two seconds) it is wrong by this many seconds.
    #[track_caller]
    pub fn set(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).and_then(|()| fs::rename(&new, &self.file)).expect("writable");
    }

    /// What stands before the command of a program that sees this clock.
    pub fn wrapper(&self) -> Vec<&str> {
        self.wrapper.iter().map(String::as_str).collect()
    }
}
