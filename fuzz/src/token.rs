//! Join tokens: whatever is shown, nobody becomes who the authority did not name.

use std::sync::OnceLock;
use std::time::Duration;

use malla_control::state::StateDirectory;
use malla_control::token::{JoinClaims, TokenAuthority, claimed_identity};
use malla_xds::SpiffeId;
use tempfile::TempDir;

use crate::Target;
use crate::mutate::Form;

pub(crate) const TARGET: Target = Target {
    name: "token",
    form: Form::Bytes,
    words: &[".", "..", "=", "eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9", "A", "-", "_"],
    run,
    seeds,
};

fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(claimed) = claimed_identity(&text) {
        assert!(
            claimed.chars().count() <= 256 && !claimed.chars().any(char::is_control),
            "it goes to the log: {claimed:?}"
        );
    }
    if let Ok(proven) = authority().verify(&text) {
        assert_eq!(proven.identity, identity(), "who else?");
    }
}

fn identity() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "cart").expect("valid")
}

fn authority() -> &'static TokenAuthority {
    static AUTHORITY: OnceLock<(TempDir, TokenAuthority)> = OnceLock::new();
    let made = || {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(directory.path().join("state")).expect("a state directory");
        let authority = TokenAuthority::open(&state).expect("a key");
        (directory, authority)
    };
    &AUTHORITY.get_or_init(made).1
}

fn seeds() -> Vec<Vec<u8>> {
    let token = |claims: JoinClaims| authority().create(&claims).expect("signed").into_bytes();
    let claims = || JoinClaims::new(&identity(), Duration::from_secs(3600));
    let another = || SpiffeId::new("cluster.local", "shop", "bank").expect("valid");
    let mixed = JoinClaims { sub: another().to_string(), ..claims() };
    let elsewhere = JoinClaims { aud: "elsewhere".to_owned(), ..claims() };
    let old = JoinClaims { exp: 1, ..JoinClaims::new(&another(), Duration::from_secs(1)) };
    vec![token(claims()), token(JoinClaims { once: true, ..claims() }), token(mixed), token(elsewhere), token(old)]
}
