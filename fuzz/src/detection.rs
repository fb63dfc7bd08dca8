//! ClientHello and protocol detection: a decision stands whatever comes after, and a name that rustls reads is read alike.

use std::sync::Arc;

use malla_proxy::detect::{Detected, detect, http_version, tls};
use malla_proxy::http::Version;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::Target;
use crate::mutate::Form;

pub(crate) const TARGET: Target = Target {
    name: "detection",
    form: Form::Bytes,
    words: &[
        "GET / HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\r\n",
        "\n",
        "\u{16}\u{3}\u{1}",
        "\0\0",
        "HTTP/1.0",
    ],
    run,
    seeds,
};

/// Longer than what is awaited anywhere is of no use here.
const LONGEST: usize = 16 * 1024;

fn run(bytes: &[u8]) {
    let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
    let whole = detect(bytes);
    let step = (bytes.len() / 24).max(1);
    for cut in (0..bytes.len()).step_by(step).chain(bytes.len().checked_sub(1)) {
        let early = detect(&bytes[..cut]);
        assert!(early == Detected::NeedMore || early == whole, "{early:?} after {cut} bytes, then {whole:?}");
    }
    if let Detected::Tls { .. } = &whole {
        assert_eq!(tls(bytes), Some(whole.clone()));
    }
    if whole == Detected::Http2 {
        assert_eq!(http_version(bytes), Some(Version::Http2));
    }
    if let Some(name) = name_by_rustls(bytes) {
        let sni = Some(name.trim_end_matches('.').to_ascii_lowercase().into());
        assert_eq!(whole, Detected::Tls { sni }, "rustls reads {name:?}");
    }
}

/// The server name, as rustls reads it.
fn name_by_rustls(mut bytes: &[u8]) -> Option<String> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).ok()? == 0 {
            return None;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return accepted.client_hello().server_name().map(str::to_owned),
            Ok(None) => {}
            Err(_) => return None,
        }
    }
    None
}

fn seeds() -> Vec<Vec<u8>> {
    let hello = |name: &str| {
        let config = ClientConfig::builder_with_provider(malla_proxy::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut bytes = Vec::new();
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        client.write_tls(&mut bytes).expect("a vector takes everything");
        bytes
    };
    let whole = hello("80.cart.shop.mesh");
    // The same message in records of 100 bytes.
    let fragmented: Vec<u8> = whole[5..]
        .chunks(100)
        .flat_map(|chunk| [&[0x16, 3, 1, 0, u8::try_from(chunk.len()).expect("short")], chunk].concat())
        .collect();
    vec![
        whole,
        fragmented,
        hello("127.0.0.1"),
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ]
}
