//! Tests of the certificate authority: what it signs, what it keeps on disk, and how it changes its roots.

use std::os::unix::fs::PermissionsExt;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn open(directory: &std::path::Path) -> Result<CertificateAuthority, AuthorityError> {
    let state = StateDirectory::open(directory)?;
    CertificateAuthority::open(&state, &RootSource::State, DAY, provider())
}

fn cart() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "cart").expect("valid")
}

/// A request that wants to be an authority, a bank, and a code signer.
fn greedy_request() -> String {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bank");
    params.subject_alt_names = vec![
        SanType::URI("spiffe://cluster.local/ns/bank/sa/vault".try_into().expect("ascii")),
        SanType::DnsName("bank.example".try_into().expect("ascii")),
    ];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params.serialize_request(&key).expect("a request").pem().expect("pem")
}

fn parse(issued: &Issued, check: impl FnOnce(&X509Certificate<'_>)) {
    let der = CertificateDer::from_pem_slice(issued.chain[0].as_bytes()).expect("pem");
    check(&x509_parser::parse_x509_certificate(&der).expect("X.509").1);
}

#[test]
fn a_request_decides_nothing_but_the_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = open(directory.path()).expect("a root");
    let issued = authority.issue(&greedy_request(), &cart(), None).expect("issued");
    assert_eq!(issued.chain.len(), 2, "the leaf, and the root last");
    assert_eq!(issued.chain[1], **authority.trust_bundle());
    parse(&issued, |leaf| {
        assert!(!leaf.is_ca());
        assert!(!leaf.subject().to_string().contains("bank"));
        let names = leaf.subject_alternative_name().expect("valid").expect("present").value;
        assert_eq!(names.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]);
        let usage = leaf.key_usage().expect("valid").expect("present").value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let extended = leaf.extended_key_usage().expect("valid").expect("present").value;
        assert!(extended.client_auth && extended.server_auth && !extended.code_signing && !extended.any);
        let validity = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
        assert_eq!(validity, 24 * 3600 + 25 * 60, "one clock may be ten minutes behind, another ten ahead");
    });
    let leaf = CertificateDer::from_pem_slice(issued.chain[0].as_bytes()).expect("pem");
    assert_eq!(identity(&leaf), Some(cart()));
    let anchors = Arc::new(authority.trust_anchors().expect("usable"));
    let verifier = WebPkiClientVerifier::builder_with_provider(anchors, provider()).build().expect("a verifier");
    verifier.verify_client_cert(&leaf, &[], UnixTime::now()).expect("trusted");
}

#[test]
fn a_lifetime_can_be_shortened_and_not_lengthened() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = open(directory.path()).expect("a root");
    let lasts = |wanted| {
        let issued = authority.issue(&greedy_request(), &cart(), Some(wanted)).expect("issued");
        issued.not_after.duration_since(SystemTime::now()).expect("in the future")
    };
    assert!(lasts(Duration::from_secs(60)) <= Duration::from_secs(60));
    assert!(lasts(DAY * 100) <= DAY);
}

#[test]
fn refuses_requests_that_are_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = open(directory.path()).expect("a root");
    let request = greedy_request();
    let mut changed = request.clone().into_bytes();
    // A letter in the middle of the base64 text: the signature no longer fits, or it is no DER.
    changed[200] = if changed[200] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("text");
    let truncated = request[..request.len() / 2].to_owned();
    for bad in ["", "garbage", &changed, &truncated, authority.trust_bundle().as_ref(), &"x".repeat(1 << 20)] {
        assert!(matches!(authority.issue(bad, &cart(), None), Err(IssueError::Request(_))));
    }
}

#[test]
fn refuses_requests_that_are_not_signed_by_their_own_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = open(directory.path()).expect("a root");
    let mut request = greedy_request().into_bytes();
    // The signature is last in a request: what it says stays what it was, and DER.
    let end = request.windows(9).rposition(|window| window == b"-----END ").expect("PEM");
    let changed = end - 8;
    request[changed] = if request[changed] == b'A' { b'B' } else { b'A' };
    let request = String::from_utf8(request).expect("text");
    match authority.issue(&request, &cart(), None) {
        Err(IssueError::Request(why)) => assert_eq!(why, "its signature is not by its own key"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_restart_keeps_the_root_and_its_key_is_private() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let first = open(&state).expect("a root").trust_bundle().clone();
    assert_eq!(*open(&state).expect("the same root").trust_bundle(), first);
    // The certificate is what every sidecar is given.
    for (name, expected) in [(ROOT_CERTIFICATE, 0o644), (ROOT_KEY, 0o600)] {
        let mode = std::fs::metadata(state.join(name)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, expected, "{name}");
    }
}

#[test]
fn half_a_root_is_told_and_not_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    open(directory.path()).expect("a root");
    std::fs::remove_file(directory.path().join(ROOT_KEY)).expect("removed");
    let error = open(directory.path()).expect_err("half").to_string();
    assert!(error.contains("root.key is missing although") && error.contains("restore it from a backup"), "{error}");
    std::fs::write(directory.path().join(ROOT_KEY), "garbage").expect("written");
    let error = open(directory.path()).expect_err("no key").to_string();
    assert!(error.contains("root.key does not hold the private key of"), "{error}");
}

#[test]
fn a_root_given_by_files_must_fit_together_and_be_an_authority() {
    let (ours, theirs) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (authority, _) = (open(ours.path()).expect("a root"), open(theirs.path()).expect("a root"));
    let state = StateDirectory::open(ours.path().join("other")).expect("opens");
    let given = |certificate: PathBuf, key: PathBuf| {
        CertificateAuthority::open(&state, &RootSource::Files { certificate, key }, DAY, provider())
    };
    let root = |directory: &tempfile::TempDir, name: &str| directory.path().join(name);
    let same = given(root(&ours, ROOT_CERTIFICATE), root(&ours, ROOT_KEY)).expect("fits");
    assert_eq!(same.trust_bundle(), authority.trust_bundle());
    assert!(!state.file(ROOT_KEY).exists(), "a given root is not copied");
    let mixed = given(root(&ours, ROOT_CERTIFICATE), root(&theirs, ROOT_KEY));
    assert!(matches!(mixed, Err(AuthorityError::Key { cause: None, .. })), "{mixed:?}");
    let leaf = root(&ours, "leaf.pem");
    std::fs::write(&leaf, &authority.issue(&greedy_request(), &cart(), None).expect("issued").chain[0])
        .expect("written");
    let error = given(leaf, root(&ours, ROOT_KEY)).expect_err("no authority").to_string();
    assert!(error.contains("the first may not sign"), "{error}");
    let absent = given(root(&ours, "absent.pem"), root(&ours, ROOT_KEY)).expect_err("absent").to_string();
    assert!(absent.contains("cannot read") && absent.contains("absent.pem"), "{absent}");
}

#[test]
fn its_own_certificate_passes_ordinary_verification_of_names() {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    let directory = tempfile::tempdir().expect("a directory");
    let authority = open(directory.path()).expect("a root");
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "malla-control.malla-system.svc".to_owned()];
    let (certified, _) = authority.server_certificate(&names).expect("made");
    let anchors = Arc::new(authority.trust_anchors().expect("usable"));
    let verifier = WebPkiServerVerifier::builder_with_provider(anchors, provider()).build().expect("a verifier");
    let verify = |name: &'static str| {
        let name = ServerName::try_from(name).expect("a name");
        verifier.verify_server_cert(&certified.cert[0], &certified.cert[1..], &name, &[], UnixTime::now())
    };
    assert!(verify("localhost").is_ok() && verify("127.0.0.1").is_ok());
    assert!(verify("example.org").is_err());
}
