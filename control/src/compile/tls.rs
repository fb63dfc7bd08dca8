//! Mesh TLS: what a client verifies, what an inbound listener demands, and the trust bundle itself.
//!
//! Each reader finds its own words in one rendering: gRPC takes certificates from a provider instance and enforces only the
//! deprecated list of names, Envoy takes them from SDS and wants the typed list. Sidecars honour both.

use std::collections::BTreeSet;

use malla_config::mesh::MeshSettings;
use malla_xds::envoy::tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use malla_xds::envoy::tls::spiffe_cert_validator_config::TrustDomain;
use malla_xds::envoy::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
    SdsSecretConfig, Secret, SpiffeCertValidatorConfig, SubjectAltNameMatcher, UpstreamTlsContext, secret,
    subject_alt_name_matcher,
};
use malla_xds::envoy::{core, matcher, pack_any, protobuf};
use malla_xds::{Resource, ResourceType, SpiffeId, names};
use prost::Message;

use super::filters::over_ads;
use crate::world::WorldError;

/// The client's side: only a peer with one of `identities` is trusted.
pub(super) fn upstream(server_name: String, identities: &BTreeSet<&SpiffeId>) -> core::TransportSocket {
    socket(pack_any(UpstreamTlsContext {
        sni: server_name,
        common_tls_context: Some(common(identities)),
        ..Default::default()
    }))
}

/// The server's side: any identity of the mesh, but never none.
pub(super) fn downstream() -> core::TransportSocket {
    socket(pack_any(DownstreamTlsContext {
        require_client_certificate: Some(protobuf::BoolValue { value: true }),
        common_tls_context: Some(common(&BTreeSet::new())),
        ..Default::default()
    }))
}

/// The secret with all trust anchors: the mesh's own (PEM), and those of other trust domains, each for its own identities (Envoy's
/// SPIFFE validator, in which the mesh's own come first).
pub(super) fn trust_bundle(pem: &str, settings: &MeshSettings) -> Result<Resource, WorldError> {
    let mut context = CertificateValidationContext { trusted_ca: Some(inline(pem)), ..Default::default() };
    if !settings.federation.is_empty() {
        for (domain, roots) in &settings.federation {
            if crate::ca::anchors(roots).is_none_or(|anchors| anchors.is_empty()) {
                return Err(WorldError::Roots { domain: domain.clone() });
            }
        }
        let domain = |name: &str, roots: &str| TrustDomain {
            name: name.to_owned(),
            trust_bundle: Some(inline(roots)),
            ..Default::default()
        };
        let others = settings.federation.iter().map(|(name, roots)| domain(name, roots));
        let trust_domains = std::iter::once(domain(&settings.trust_domain, pem)).chain(others).collect();
        context.custom_validator_config =
            Some(validator(SpiffeCertValidatorConfig { trust_domains, ..Default::default() }));
    }
    Ok(secret(context))
}

fn inline(text: &str) -> core::DataSource {
    let specifier = Some(core::data_source::Specifier::InlineString(text.to_owned()));
    core::DataSource { specifier, ..Default::default() }
}

fn validator(config: SpiffeCertValidatorConfig) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig { name: names::SPIFFE_VALIDATOR.into(), typed_config: Some(pack_any(config)) }
}

fn secret(context: CertificateValidationContext) -> Resource {
    let message = Secret { name: names::ROOT_CA.into(), r#type: Some(secret::Type::ValidationContext(context)) };
    Resource::new(ResourceType::Secret, names::ROOT_CA, [], &message)
}

/// The same secret with other trust anchors of the mesh's own (PEM).
pub(crate) fn with_trust_bundle(pem: &str, known: Option<&Resource>) -> Resource {
    let known = known.and_then(|known| Secret::decode(&*known.body).ok()).and_then(|known| known.r#type);
    let mut context = match known {
        Some(secret::Type::ValidationContext(context)) => context,
        _ => CertificateValidationContext::default(),
    };
    context.trusted_ca = Some(inline(pem));
    let others = context.custom_validator_config.as_ref().and_then(|written| written.typed_config.as_ref());
    if let Some(Ok(mut config)) = others.map(|any| SpiffeCertValidatorConfig::decode(&*any.value)) {
        if let Some(own) = config.trust_domains.first_mut() {
            own.trust_bundle = Some(inline(pem));
        }
        context.custom_validator_config = Some(validator(config));
    }
    secret(context)
}

fn socket(context: protobuf::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: "tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(context)),
    }
}

#[allow(deprecated, reason = "the only list of names that gRPC enforces")]
fn common(identities: &BTreeSet<&SpiffeId>) -> CommonTlsContext {
    let provider = || CertificateProviderPluginInstance {
        instance_name: names::CERTIFICATE_PROVIDER.into(),
        ..Default::default()
    };
    let from_sds = |name: &str| SdsSecretConfig { name: name.to_owned(), sds_config: Some(over_ads()) };
    let exactly = |identity: &&SpiffeId| matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(identity.as_str().to_owned())),
        ..Default::default()
    };
    let typed = |identity: &&SpiffeId| SubjectAltNameMatcher {
        san_type: subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(exactly(identity)),
        ..Default::default()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            ca_certificate_provider_instance: Some(provider()),
            match_subject_alt_names: identities.iter().map(exactly).collect(),
            match_typed_subject_alt_names: identities.iter().map(typed).collect(),
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(from_sds(names::ROOT_CA)),
        ..Default::default()
    };
    CommonTlsContext {
        tls_certificate_provider_instance: Some(provider()),
        tls_certificate_sds_secret_configs: vec![from_sds(names::CERTIFICATE_PROVIDER)],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        ..Default::default()
    }
}
