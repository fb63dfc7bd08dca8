//! A program running in a pod: its output, its signals, its end.
//!
//! Programs are started by `nsenter`, which waits for them in the parent's process namespace; signals go to the program
//! itself. Output goes to files, so nothing blocks on a full pipe and a failing test can show it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// How long a program may take to appear, or to go away after SIGKILL.
const MOMENT: Duration = Duration::from_secs(10);

/// What a program that has ended wrote.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// The output of a program that must have succeeded.
    #[track_caller]
    pub fn success(self) -> Output {
        assert!(self.status.success(), "`{}` failed: {}\n{}", self.command, self.status, self.both());
        self
    }

    /// The output of a program that must have failed.
    #[track_caller]
    pub fn failure(self) -> Output {
        assert!(!self.status.success(), "`{}` succeeded, and should not have:\n{}", self.command, self.both());
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output, then standard error.
    pub fn both(&self) -> String {
        format!("{}{}", self.text(), String::from_utf8_lossy(&self.stderr))
    }
}

/// A running program, killed when dropped.
#[derive(Debug)]
pub struct Process {
    command: String,
    child: Child,
    /// The program itself, as the test sees it; `nsenter`'s own id is `child`'s.
    id: u32,
    /// A process of the sandbox, from whose user namespace signals are sent.
    sandbox: u32,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `nsenter` (already complete in `command`) with its output in new files of `directory`.
    pub(crate) fn start(mut command: Command, what: String, sandbox: u32, directory: &Path) -> Result<Process> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let word = Path::new(what.split(' ').next().unwrap_or_default()).file_name().unwrap_or_default();
        let file = |kind| directory.join(format!("{number:04}-{}.{kind}", word.to_string_lossy()));
        let (stdout, stderr) = (file("out"), file("err"));
        let child = command
            .stdout(fs::File::create(&stdout)?)
            .stderr(fs::File::create(&stderr)?)
            .spawn()
            .with_context(|| format!("starting {what}"))?;
        let mut process = Process { command: what, id: child.id(), child, sandbox, stdout, stderr };
        let children = format!("/proc/{0}/task/{0}/children", process.child.id());
        let found = wait::within(MOMENT, || {
            if process.has_ended() {
                return Some(None);
            }
            let text = fs::read_to_string(&children).ok()?;
            Some(Some(text.split(' ').next()?.parse().ok()?))
        });
        match found {
            Some(Some(id)) => process.id = id,
            Some(None) => {}
            None => bail!("`{}` did not start within {MOMENT:?}", process.command),
        }
        Ok(process)
    }

    /// The process id, as the test sees it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What has been written to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What has been written to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Both outputs, the last 60 lines of each.
    pub fn tail(&self) -> String {
        let last = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(60)..].join("\n")
        };
        format!("--- {} (process {})\n{}\n{}\n", self.command, self.id, last(self.stdout()), last(self.stderr()))
    }

    /// Whether the program has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for the program's end.
    #[track_caller]
    pub fn end(mut self, limit: Duration) -> Output {
        let status = wait::within(limit, || self.child.try_wait().ok().flatten());
        let status = status.unwrap_or_else(|| panic!("did not end within {limit:?}:\n{}", self.tail()));
        Output {
            command: self.command.clone(),
            status,
            stdout: fs::read(&self.stdout).unwrap_or_default(),
            stderr: fs::read(&self.stderr).unwrap_or_default(),
        }
    }

    /// Sends a signal by name (`TERM`, `KILL`, `STOP`, `CONT`).
    pub fn signal(&self, name: &str) {
        // `nsenter` stops itself with what it has started, and waits to be continued too.
        let waiting = if name == "CONT" { format!(" {}", self.child.id()) } else { String::new() };
        let command = format!("kill -{name} {}{waiting}", self.id);
        // A program that has just ended cannot be signalled, and need not be.
        let _ = enter(self.sandbox, &["--user"])
            .args(["sh", "-c", &command])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }

    /// Ends the program with SIGTERM.
    #[track_caller]
    pub fn terminate(self, limit: Duration) -> Output {
        self.signal("TERM");
        self.end(limit)
    }

    /// Ends the program with SIGKILL.
    #[track_caller]
    pub fn kill(self) -> Output {
        self.signal("KILL");
        self.end(MOMENT)
    }

    /// Descriptors that the program has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id)).map_or(0, Iterator::count)
    }

    /// A value of `/proc/<id>/status` in KiB (`VmHWM`: the most memory it ever held; `VmRSS`: what it holds now).
    ///
    /// # Panics
    ///
    /// When the program has ended.
    #[track_caller]
    pub fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        number.unwrap_or_else(|| panic!("no {field} of a running program:\n{}", self.tail()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal("KILL");
            let _ = wait::within(MOMENT, || self.has_ended().then_some(()));
        }
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
    }
}

/// `nsenter` into namespaces of a process. Namespaces of users are entered only if there are any to enter.
pub(crate) fn enter(target: u32, namespaces: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg("--target").arg(target.to_string());
    let foreign_user =
        fs::read_link(format!("/proc/{target}/ns/user")).ok() != fs::read_link("/proc/self/ns/user").ok();
    command.args(namespaces.iter().filter(|namespace| **namespace != "--user" || foreign_user));
    command.arg("--");
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", "/tmp").env("LANG", "C.UTF-8");
    command
}
