//! mTLS of the floors and of the load: TLS 1.3 with the sidecar's cipher suite and key exchange.
//!
//! A peer is whoever has a certificate of the same authority: names are not checked, as the floors have no policy and the
//! sidecar's certificates name no host.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme, version,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// The name in the certificates of the benchmark.
pub(crate) const NAME: &str = "bench.mesh";

/// Both sides' configuration.
#[derive(Clone)]
pub(crate) struct Tls {
    name: ServerName<'static>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// Reads `ca_certificates.pem`, `certificates.pem` and `private_key.pem` of a directory.
    pub(crate) fn load(directory: &Path, alpn: &[u8]) -> Result<Tls> {
        Tls::load_named(directory, alpn, NAME)
    }

    /// As [`Tls::load`], asking for a server of this name.
    pub(crate) fn load_named(directory: &Path, alpn: &[u8], name: &str) -> Result<Tls> {
        let certificates = |file: &str| -> Result<Vec<CertificateDer<'static>>> {
            let certificates = CertificateDer::pem_file_iter(directory.join(file)).context("reading certificates")?;
            Ok(certificates.collect::<Result<_, _>>()?)
        };
        let mut roots = RootCertStore::empty();
        for root in certificates("ca_certificates.pem")? {
            roots.add(root)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("certificates.pem")?;
        let key = PrivateKeyDer::from_pem_file(directory.join("private_key.pem")).context("reading the key")?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
            .with_client_auth_cert(chain.clone(), key.clone_key())?;
        client.alpn_protocols = vec![alpn.to_vec()];
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::try_from(name.to_owned())?;
        Ok(Tls { name, client: Arc::new(client), server: Arc::new(server) })
    }

    /// The same, never resuming as a client.
    pub(crate) fn without_resumption(&self) -> Tls {
        let mut client = ClientConfig::clone(&self.client);
        client.resumption = Resumption::disabled();
        Tls { client: Arc::new(client), ..self.clone() }
    }

    pub(crate) async fn connect<IO>(&self, io: IO) -> Result<client::TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(TlsConnector::from(self.client.clone()).connect(self.name.clone(), io).await?)
    }

    pub(crate) async fn accept<IO>(&self, io: IO) -> Result<server::TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(TlsAcceptor::from(self.server.clone()).accept(io).await?)
    }
}

/// Takes every certificate of the authority.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is what is looked at last.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
