//! What one measurement of the load says, as one line of JSON.

use serde::{Deserialize, Serialize};

/// One measurement: what the load counted in its window, and what the watched processes used in it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Length of the window.
    pub seconds: f64,
    /// Requests, messages, connections or handshakes that succeeded.
    pub completed: u64,
    /// Those that did not.
    pub failed: u64,
    /// Payload bytes received.
    pub bytes: u64,
    /// What was wrong first.
    pub failure: Option<String>,
    /// Latencies of what succeeded.
    pub latency: Latency,
    /// Processor time in seconds, of each watched process.
    pub processor: Vec<f64>,
    /// Processor time of the load itself, seconds.
    pub own_processor: f64,
    /// Resident memory at the window's end, bytes, of each watched process.
    pub resident: Vec<u64>,
}

/// Quantiles in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Sample {
    /// Successes per second.
    pub fn rate(&self) -> f64 {
        self.completed as f64 / self.seconds
    }

    /// Processor time of all watched processes per success, in microseconds.
    pub fn processor_each(&self) -> f64 {
        self.processor.iter().sum::<f64>() * 1e6 / self.completed as f64
    }

    /// Bytes per second, in units of 10⁹.
    pub fn gigabytes(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e9
    }

    /// Memory of all watched processes, bytes.
    pub fn memory(&self) -> u64 {
        self.resident.iter().sum()
    }
}
