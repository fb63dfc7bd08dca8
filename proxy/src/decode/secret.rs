//! The secret that holds the trust bundle. Private keys never come this way.

use std::collections::BTreeMap;
use std::sync::Arc;

use malla_xds::envoy::core::data_source::Specifier;
use malla_xds::envoy::core::{DataSource, TypedExtensionConfig};
use malla_xds::envoy::tls::secret::Type;
use malla_xds::envoy::tls::{Secret, SpiffeCertValidatorConfig};
use malla_xds::names::SPIFFE_VALIDATOR;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::fault::{At, Fault};
use super::{message, type_name, unsupported};

const SPIFFE: &str = "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// Trust anchors, by the trust domain for which each vouches.
#[derive(Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// Those of the mesh's own trust domain, each usable as an anchor; never empty.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Those of others, and perhaps the own once more.
    pub federated: Federated,
}

/// Trust anchors of trust domains, none of which has none.
pub type Federated = BTreeMap<Arc<str>, Vec<CertificateDer<'static>>>;

/// Checks a trust bundle.
pub(super) fn decode(written: &Secret) -> Result<TrustBundle, Fault> {
    let context = match &written.r#type {
        Some(Type::ValidationContext(context)) => context,
        Some(_) => return Err(Fault::new("only validation_context is supported").within("type")),
        None => return Err(Fault::new("is missing").within("validation_context")),
    };
    unsupported("validation_context.crl", context.crl.is_some())?;
    let certificates = inline(context.trusted_ca.as_ref()).at("validation_context.trusted_ca")?;
    let federated = match &context.custom_validator_config {
        Some(written) => self::federated(written).at("validation_context.custom_validator_config")?,
        None => Federated::default(),
    };
    Ok(TrustBundle { certificates, federated })
}

/// The trust domains of Envoy's SPIFFE validator.
fn federated(written: &TypedExtensionConfig) -> Result<Federated, Fault> {
    let any = written.typed_config.as_ref().ok_or_else(|| Fault::new("is missing").within("typed_config"))?;
    if type_name(&any.type_url) != SPIFFE {
        return Err(Fault::new(format!("{} is not supported, only {SPIFFE_VALIDATOR}", any.type_url)));
    }
    let config: SpiffeCertValidatorConfig = message(&any.value)?;
    unsupported("trust_bundles", config.trust_bundles.is_some())?;
    let mut domains = Federated::default();
    for (index, domain) in config.trust_domains.iter().enumerate() {
        let field = |name: &str| format!("trust_domains[{index}].{name}");
        if domain.name.is_empty() {
            return Err(Fault::new("is missing").within(field("name")));
        }
        let certificates = inline(domain.trust_bundle.as_ref()).at(field("trust_bundle"))?;
        if domains.insert(domain.name.as_str().into(), certificates).is_some() {
            return Err(Fault::new(format!("{} is there twice", domain.name)).within(field("name")));
        }
    }
    Ok(domains)
}

/// PEM certificates that can be trust anchors, at least one.
fn inline(source: Option<&DataSource>) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let pem: &[u8] = match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.as_bytes(),
        _ => return Err(Fault::new("must be inline")),
    };
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|cause| Fault::new(format!("is not PEM: {cause:?}")))?;
        certificates.push(trust_anchor(certificate)?);
    }
    if certificates.is_empty() { Err(Fault::new("holds no certificate")) } else { Ok(certificates) }
}

/// A certificate that can be a trust anchor.
pub(crate) fn trust_anchor(certificate: CertificateDer<'static>) -> Result<CertificateDer<'static>, Fault> {
    webpki::anchor_from_trusted_cert(&certificate)
        .map_err(|cause| Fault::new(format!("a certificate cannot be a trust anchor: {cause}")))?;
    Ok(certificate)
}
