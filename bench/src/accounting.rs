//! Processor time and memory of processes with all their descendants, as the operating system accounts for them.
//!
//! A process that does not exist counts nothing: whoever measures has looked at failures already.

use std::fs;
use std::time::Duration;

/// Clock ticks per second in `/proc/<id>/stat`: fixed for user space on every platform that Linux supports.
const TICKS: u64 = 100;

/// User and system time that a process and its living descendants have used so far.
pub fn processor_time(id: u32) -> Duration {
    let own = fs::read_to_string(format!("/proc/{id}/stat")).ok().and_then(|stat| ticks(&stat)).unwrap_or_default();
    let ticks = Duration::from_millis(own * 1000 / TICKS);
    children(id).into_iter().map(processor_time).fold(ticks, |sum, one| sum + one)
}

/// When a process started: seconds since the machine did, in steps of a hundredth.
pub fn started(id: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let started: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    Some(started as f64 / TICKS as f64)
}

/// Seconds since the machine started.
pub fn now() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Resident memory of a process and its descendants, bytes. Pages that several of them share count once for each.
pub fn resident(id: u32) -> u64 {
    children(id).into_iter().map(resident).sum::<u64>() + kibibytes(&format!("/proc/{id}/status"), "VmRSS")
}

/// Resident memory of a process and its descendants, bytes, with a page that several processes share divided among them.
pub fn proportional(id: u32) -> u64 {
    children(id).into_iter().map(proportional).sum::<u64>() + kibibytes(&format!("/proc/{id}/smaps_rollup"), "Pss")
}

/// A line `field:  number kB`, in bytes; nothing if there is none.
fn kibibytes(file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kibibytes.unwrap_or_default() * 1024
}

/// Fields 14 and 15: `utime` and `stime`. The command's name, which may hold anything, ends with the last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn children(id: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0";
        assert_eq!(ticks(stat), Some(175));
    }

    #[test]
    fn this_process_has_memory_and_a_missing_one_has_none() {
        let own = std::process::id();
        assert!(resident(own) > 0 && proportional(own) > 0);
        assert_eq!((resident(u32::MAX), proportional(u32::MAX), processor_time(u32::MAX)), (0, 0, Duration::ZERO));
    }
}
