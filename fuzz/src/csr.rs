//! Requests for certificates: whatever they ask for, the certificate is for the identity that was proved, and certifies nobody else.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use malla_control::ca::{CertificateAuthority, RootSource};
use malla_control::state::StateDirectory;
use malla_xds::SpiffeId;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use crate::Target;
use crate::mutate::Form;

pub(crate) const TARGET: Target =
    Target { name: "csr", form: Form::Bytes, words: &["0\u{80}", "\u{1}", "\0", "*.example"], run, seeds };

/// An input is a request in DER, or its PEM.
fn run(bytes: &[u8]) {
    let identity = SpiffeId::new("cluster.local", "shop", "cart").expect("valid");
    let request = match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with("-----") => text.to_owned(),
        _ => format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            STANDARD.encode(bytes)
        ),
    };
    let Ok(issued) = authority().issue(&request, &identity, None) else { return };
    let (_, pem) = parse_x509_pem(issued.chain[0].as_bytes()).expect("a certificate");
    let certificate = pem.parse_x509().expect("a certificate");
    assert!(!certificate.is_ca(), "a leaf may not sign");
    let names = certificate.subject_alternative_name().expect("one extension").expect("a name");
    assert!(
        matches!(&*names.value.general_names, [GeneralName::URI(uri)] if *uri == identity.as_str()),
        "{:?}",
        names.value.general_names
    );
}

fn authority() -> &'static CertificateAuthority {
    static AUTHORITY: OnceLock<CertificateAuthority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path().join("state")).expect("a state directory");
        let provider = malla_proxy::tls::provider();
        CertificateAuthority::open(&state, &RootSource::State, Duration::from_secs(3600), provider)
            .expect("an authority")
    })
}

fn seeds() -> Vec<Vec<u8>> {
    let request = |params: CertificateParams| {
        let key = KeyPair::generate().expect("a key");
        params.serialize_request(&key).expect("a request")
    };
    let mut greedy = CertificateParams::new(["*.example".to_owned()]).expect("valid");
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let (modest, greedy) = (request(CertificateParams::default()), request(greedy));
    vec![modest.der().to_vec(), greedy.der().to_vec(), modest.pem().expect("encodes").into_bytes()]
}
