//! Names of destinations and identities: one spelling each, whoever wrote them.

use malla_proxy::names::{SpiffeId, destination};

use crate::mutate::Form;
use crate::{Target, no_seeds};

pub(crate) const TARGET: Target = Target {
    name: "names",
    form: Form::Bytes,
    words: &[
        ".",
        ":",
        "80",
        "0",
        "[",
        "]",
        "::1",
        ".svc",
        ".svc.cluster.local",
        "spiffe://",
        "/ns/",
        "/sa/",
        "%",
        "@",
        "A",
    ],
    run,
    seeds: no_seeds,
};

fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(name) = destination(text, 80, "shop") {
        assert_eq!(destination(&name, 443, "other").as_deref(), Some(&*name), "{text:?} has several names");
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_whitespace()), "{name:?}");
    }
    if let Ok(identity) = SpiffeId::parse(text) {
        assert_eq!(identity.as_str(), text, "an identity has one spelling");
        let (namespace, account) = (identity.namespace(), identity.service_account());
        assert!(!namespace.is_empty() && !account.is_empty() && !format!("{namespace}{account}").contains('/'));
    }
}
