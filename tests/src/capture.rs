//! What travels between pods, as seen from the bridge: captured by tcpdump, read by a reader of our own.
//!
//! The reader knows just enough of pcap, Ethernet, IP, TCP and the TLS record layer to say what a byte on the wire is.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::wait;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures what passes the bridge and matches `filter` (in tcpdump's language), from the moment this returns.
    #[track_caller]
    pub fn start(sandbox: &Sandbox, filter: &str) -> Capture {
        let file = sandbox.directory().join("capture.pcap");
        let name = file.to_str().expect("temporary directories have plain names");
        // Run by a shell only so that the options read like a command.
        let options = "-i bridge -Z root -U --immediate-mode -B 65536";
        let line = format!("exec tcpdump {options} -w {name} '{filter}'");
        let tcpdump = sandbox.spawn(&["sh", "-c", &line]);
        wait::until("tcpdump to listen", Duration::from_secs(20), || {
            tcpdump.stderr().contains("listening on").then_some(())
        });
        Capture { tcpdump, file }
    }

    /// Ends the capture and puts the streams together.
    #[track_caller]
    pub fn stop(self) -> Vec<Stream> {
        let said = self.tcpdump.terminate(Duration::from_secs(20)).success().both();
        assert!(said.contains("0 packets dropped by kernel"), "the capture has holes: {said}");
        streams(&fs::read(&self.file).expect("tcpdump wrote its file"))
    }
}

/// One direction of a TCP connection.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Who sent.
    pub from: SocketAddr,
    /// Who received.
    pub to: SocketAddr,
    /// What was sent, in order.
    pub bytes: Vec<u8>,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(60)]).into_owned();
        write!(f, "{} → {} ({} bytes, starting {start:?})", self.from, self.to, self.bytes.len())
    }
}

impl Stream {
    /// Checks that the stream is TLS 1.3 from the first byte to the last: a plain hello (two, when the server asked
    /// for another), then nothing but encrypted records.
    ///
    /// # Errors
    ///
    /// What is at which byte instead.
    pub fn check_tls13(&self) -> Result<(), String> {
        let mut rest = self.bytes.as_slice();
        let mut hellos = 0;
        while let [kind, major, minor, high, low, after @ ..] = rest {
            let at = self.bytes.len() - rest.len();
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if *major != 3 || !matches!(minor, 1 | 3) || length > 16384 + 256 {
                return Err(format!("no TLS record at byte {at}"));
            }
            let body = &after[..length.min(after.len())];
            match kind {
                22 => {
                    hellos += 1;
                    let server = body.first() == Some(&2);
                    if hellos > 2 {
                        return Err(format!("a handshake in the clear at byte {at}: not TLS 1.3"));
                    }
                    if server && !offers_tls13(body) {
                        return Err("the server chose something older than TLS 1.3".to_owned());
                    }
                }
                20 | 23 => {}
                // A refused handshake may be told in the clear.
                21 if length == 2 => {}
                _ => return Err(format!("a record of type {kind} at byte {at}")),
            }
            rest = &after[length.min(after.len())..];
        }
        if !self.bytes.is_empty() && hellos == 0 {
            return Err("no hello".to_owned());
        }
        Ok(())
    }
}

/// Whether a ServerHello carries `supported_versions` = 1.3 (RFC 8446 §4.2.1).
fn offers_tls13(hello: &[u8]) -> bool {
    hello.windows(6).any(|window| window == [0x00, 0x2b, 0x00, 0x02, 0x03, 0x04])
}

/// Asserts that every byte of every stream is TLS 1.3, and that there were streams.
#[track_caller]
pub fn assert_only_tls13(streams: &[Stream]) {
    assert!(streams.iter().any(|stream| !stream.bytes.is_empty()), "nothing was captured");
    let wrong: Vec<String> =
        streams.iter().filter_map(|stream| Some(format!("{stream}: {}", stream.check_tls13().err()?))).collect();
    assert!(wrong.is_empty(), "not everything between the pods is TLS 1.3:\n{}", wrong.join("\n"));
}

/// Reads a pcap file and puts TCP streams together.
pub fn streams(pcap: &[u8]) -> Vec<Stream> {
    let mut pieces: BTreeMap<_, Vec<(u32, &[u8])>> = BTreeMap::new();
    let mut rest = pcap.get(24..).unwrap_or_default();
    while let [_, _, _, _, _, _, _, _, l0, l1, l2, l3, _, _, _, _, packets @ ..] = rest {
        let length = (u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize).min(packets.len());
        if let Some((from, to, sequence, payload)) = segment(&packets[..length]) {
            pieces.entry((from, to)).or_default().push((sequence, payload));
        }
        rest = &packets[length..];
    }
    pieces.into_iter().map(|((from, to), segments)| Stream { from, to, bytes: assemble(segments) }).collect()
}

/// The TCP segment in an Ethernet frame: addresses, sequence number of the first payload byte, payload.
fn segment(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, u32, &[u8])> {
    let packet = frame.get(14..)?;
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        0x0800 if packet.get(9) == Some(&6) => {
            let header = usize::from(packet[0] & 15) * 4;
            let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            // Zero: a packet beyond 64 KiB that the interface would have cut.
            let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (address(12)?.into(), address(16)?.into(), packet.get(header..end)?)
        }
        0x86dd if packet.get(6) == Some(&6) => {
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            let end = if length == 0 { packet.len() } else { (40 + length).min(packet.len()) };
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            (address(8)?.into(), address(24)?.into(), packet.get(40..end)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    let synchronize = tcp.get(13)? & 2 != 0;
    let payload = tcp.get(header..)?;
    let (from, to) = (SocketAddr::new(from, port(0)?), SocketAddr::new(to, port(2)?));
    Some((from, to, sequence.wrapping_add(u32::from(synchronize)), payload))
}

/// Payloads in the order of their sequence numbers, retransmissions once.
fn assemble(mut segments: Vec<(u32, &[u8])>) -> Vec<u8> {
    let Some(&(first, _)) = segments.first() else { return Vec::new() };
    segments.sort_by_key(|(sequence, _)| sequence.wrapping_sub(first));
    let mut bytes = Vec::new();
    for (sequence, payload) in segments {
        let known = bytes.len().saturating_sub(sequence.wrapping_sub(first) as usize);
        bytes.extend_from_slice(payload.get(known..).unwrap_or_default());
    }
    bytes
}
