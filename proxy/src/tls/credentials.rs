//! What this sidecar needs for handshakes: certificate, key and trust anchors of one generation, made into rustls
//! configurations once.
//!
//! A new generation is a new [`Credentials`]: rustls resumes sessions only within one configuration, so a renewed
//! certificate or a changed trust bundle ends resumption of what was agreed before.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::UnixTime;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, version};

use super::Alpn;
use super::verify::{PeerVerifier, Trust};

/// The cryptography of the mesh: TLS 1.3 suites, hybrid post-quantum key exchange first.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
}

/// Certificate, key and trust anchors of one generation, ready for handshakes. Shared by all workers.
#[derive(Debug)]
pub struct Credentials {
    not_after: SystemTime,
    pub(super) verifier: Arc<PeerVerifier>,
    pub(super) client_h2: Arc<ClientConfig>,
    pub(super) client_tcp: Arc<ClientConfig>,
    pub(super) client_renewed: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

impl Credentials {
    /// Makes ready a certificate (valid until `not_after`) with its key, and by whom peers are verified.
    ///
    /// # Errors
    /// If rustls finds that they cannot be used together.
    pub fn new(certified_key: Arc<CertifiedKey>, trust: Trust, not_after: SystemTime) -> Result<Self, rustls::Error> {
        let provider = provider();
        let verifier = Arc::new(PeerVerifier::new(trust, &provider));
        let resolver = Arc::new(SingleCertAndKey::from(certified_key));

        let client = |alpn: Alpn| -> Result<Arc<ClientConfig>, rustls::Error> {
            let mut config = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&version::TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(verifier.clone())
                .with_client_cert_resolver(resolver.clone());
            config.alpn_protocols = vec![alpn.id().to_vec()];
            Ok(Arc::new(config))
        };
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(resolver.clone());
        // In our order of preference; the last two are what the clients of other meshes offer.
        let offered: [&[u8]; 5] = [Alpn::H2.id(), Alpn::Tcp.id(), Alpn::Renewed.id(), b"http/1.1", b"istio"];
        server.alpn_protocols = offered.map(<[u8]>::to_vec).into();
        server.send_tls13_tickets = 1;
        Ok(Credentials {
            client_h2: client(Alpn::H2)?,
            client_tcp: client(Alpn::Tcp)?,
            client_renewed: client(Alpn::Renewed)?,
            server: Arc::new(server),
            not_after,
            verifier,
        })
    }

    /// For how long the certificate has been expired; `None` while it is valid.
    pub fn expired(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.not_after).ok()
    }
}

/// The clock, as rustls wants it.
pub(super) fn unix_time(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default())
}
