//! The server name in a ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), whatever version of TLS it is for.
//!
//! A parser of our own and not rustls's `Acceptor`, because most ClientHellos that are read here are not for us: they may be
//! of versions and with extensions that rustls refuses, and must pass untouched.

use std::sync::Arc;

/// Content type of a handshake record, the first byte of every TLS connection.
pub(super) const HANDSHAKE: u8 = 0x16;

/// Longest ClientHello that is awaited. With post-quantum key shares they have 1.8 KiB.
const LONGEST: usize = 30 * 1024;

/// Extensions and name types.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// All of it is here.
    Complete { sni: Option<Arc<str>> },
    /// It may go on.
    NeedMore,
    /// It is not one.
    Invalid,
}

/// Reads a ClientHello that may be spread over several records.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut message = Vec::new();
    let mut input = Reader(bytes);
    loop {
        // What can be refused early is, so that nobody waits for the rest of something else.
        match input.0 {
            [] => return Parsed::NeedMore,
            [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, _] | [HANDSHAKE, 3, _, _] => return Parsed::NeedMore,
            // The minor version of a record is not looked at (RFC 8446 §5.1).
            [HANDSHAKE, 3, _, high, low, ..] if (1..=16384).contains(&u16::from_be_bytes([*high, *low])) => {}
            _ => return Parsed::Invalid,
        }
        input = Reader(input.0.get(3..).unwrap_or_default());
        let Some(length) = input.u16() else { return Parsed::NeedMore };
        let here = input.0.len().min(usize::from(length));
        message.extend_from_slice(input.take(here).unwrap_or_default());
        let length_of_message = match message.as_slice() {
            [] | [1] | [1, _] | [1, _, _] => None,
            [1, a, b, c, ..] => Some(u32::from_be_bytes([0, *a, *b, *c]) as usize),
            _ => return Parsed::Invalid,
        };
        if let Some(length_of_message) = length_of_message {
            if length_of_message > LONGEST {
                return Parsed::Invalid;
            }
            if let Some(body) = message.get(4..).and_then(|rest| rest.get(..length_of_message)) {
                return match server_name(body) {
                    Some(sni) => Parsed::Complete { sni },
                    None => Parsed::Invalid,
                };
            }
        }
        if here < usize::from(length) {
            return Parsed::NeedMore;
        }
    }
}

/// The inner `None` is a ClientHello without a name, the outer one something that is not a ClientHello.
fn server_name(body: &[u8]) -> Option<Option<Arc<str>>> {
    let mut body = Reader(body);
    body.take(2 + 32)?; // version, random
    let session_id = body.u8()?;
    body.take(session_id.into())?;
    let cipher_suites = body.u16()?;
    body.take(cipher_suites.into())?;
    let compression_methods = body.u8()?;
    body.take(compression_methods.into())?;
    if body.0.is_empty() {
        return Some(None); // TLS 1.2 and older may come without extensions
    }
    let length = body.u16()?;
    let mut extensions = Reader(body.take(length.into())?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let length = extensions.u16()?;
        let mut extension = Reader(extensions.take(length.into())?);
        if kind != SERVER_NAME {
            continue;
        }
        let length = extension.u16()?;
        let mut names = Reader(extension.take(length.into())?);
        while !names.0.is_empty() {
            let kind = names.u8()?;
            let length = names.u16()?;
            let name = names.take(length.into())?;
            if kind == HOST_NAME {
                let name = std::str::from_utf8(name).ok().filter(|name| name.is_ascii() && !name.is_empty())?;
                return Some(Some(name.trim_end_matches('.').to_ascii_lowercase().into()));
            }
        }
    }
    Some(None)
}

/// Takes from the front, never beyond the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What rustls sends, with the key shares of the mesh.
    pub(in super::super) fn client_hello(name: Option<&str>) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = name.map_or(ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()), |name| {
            ServerName::try_from(name.to_owned()).expect("a DNS name")
        });
        let mut bytes = Vec::new();
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        client.write_tls(&mut bytes).expect("a vector takes everything");
        bytes
    }

    /// The same message in records of `size` bytes.
    fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
        let records = hello[5..].chunks(size).flat_map(|chunk| {
            let length = u16::try_from(chunk.len()).expect("short").to_be_bytes();
            [&[HANDSHAKE, 3, 1, length[0], length[1]], chunk].concat()
        });
        records.collect()
    }

    #[test]
    fn every_prefix_needs_more_and_the_whole_is_complete() {
        let hello = client_hello(Some("80.cart.shop.mesh"));
        assert!(hello.len() > 1200, "the post-quantum key share is there");
        for bytes in [hello.clone(), fragmented(&hello, 7), fragmented(&hello, 500)] {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Parsed::NeedMore, "{cut}");
            }
            let expected = Parsed::Complete { sni: Some("80.cart.shop.mesh".into()) };
            assert_eq!(parse(&bytes), expected);
            assert_eq!(parse(&[&bytes[..], b"early data"].concat()), expected);
        }
    }

    #[test]
    fn what_is_no_client_hello_is_refused_early() {
        for bytes in [
            b"\x16\x03\x01\0\0".as_slice(),        // empty record
            b"\x16\x03\x01\xff\xff",               // longer than a record may be
            b"\x16\x03\x01\0\x05\x02",             // a ServerHello
            b"\x16\x03\x01\0\x05\x01\xff\xff\xff", // 16 MiB announced
            b"\x16\x03\x01\0\x05\x01\0\0\x01\0",   // too short for its fields
        ] {
            assert_eq!(parse(bytes), Parsed::Invalid, "{bytes:x?}");
        }
    }
}
