//! Whether a caller may: a pure function of the rules of a port and what is known of the caller and its request.
//!
//! What cannot be known opens no door. A condition is met, not met, or open — about the path of a raw stream, or of a request that
//! servers read in more than one way. An open condition denies where rules deny, and does not allow where rules allow (Kleene's
//! logic, so that it also holds behind `not`). Who has no identity is nobody: no condition on identities is met.
//!
//! Here is no I/O, no lock, and no allocation but for percent-encoded paths and repeated headers.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, Method};
use ipnet::IpNet;

use crate::names::SpiffeId;
use crate::route::{self, Head};
use crate::snapshot::ValueMatch;

/// The rules of a port, in the order in which they decide (Envoy `config.rbac.v3.RBAC`, one for each filter).
#[derive(Debug, Default)]
pub struct Authorization {
    /// Each may refuse.
    pub sets: Vec<RuleSet>,
}

/// Rules that allow, or rules that deny.
#[derive(Debug)]
pub struct RuleSet {
    /// What happens to what a policy matches; everything else is treated the other way.
    pub action: Action,
    /// Whether it refuses, or is only recorded.
    pub enforcement: Enforcement,
    /// Any of them decides.
    pub policies: Vec<Policy>,
}

/// What happens to what a policy matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is let through.
    Allow,
    /// It is refused.
    Deny,
}

/// Whether rules refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// They do.
    Enforced,
    /// What they would refuse is counted and logged.
    Shadow,
}

/// A caller that meets any of the one kind, and a request that meets any of the other.
#[derive(Debug)]
pub struct Policy {
    /// `namespace/name/rule`, for people and metrics.
    pub name: Arc<str>,
    /// On the request.
    pub permissions: Vec<Condition>,
    /// On the caller.
    pub principals: Vec<Condition>,
}

/// A condition.
#[derive(Debug)]
pub enum Condition {
    /// Always met.
    Any,
    /// Met if the other is not.
    Not(Box<Condition>),
    /// All of them.
    All(Vec<Condition>),
    /// One of them.
    OneOf(Vec<Condition>),
    /// The caller has proved an identity.
    Authenticated,
    /// The caller's identity.
    Identity(ValueMatch),
    /// Address of the peer that connects.
    Source(IpNet),
    /// Port of the application.
    Port(u16),
    /// Method.
    Method(Method),
    /// Header.
    Header(HeaderName, ValueMatch),
    /// Host in lower case, without its port.
    Host(ValueMatch),
    /// Path, decoded.
    Path(ValueMatch),
}

/// Who asks, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Identity that mTLS has proved; nobody in plaintext.
    pub peer: Option<&'a SpiffeId>,
    /// Address of the peer that connects.
    pub source: IpAddr,
    /// Port of the application.
    pub port: u16,
    /// The request; nothing for a raw stream.
    pub head: Option<Head<'a>>,
}

/// What the rules say, with the names of the policies that say so.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// It is let through because of this policy; nothing where it is refused, or no policy has to allow it.
    pub allowed: Option<&'a str>,
    /// It is refused.
    pub denied: Option<&'a str>,
    /// It would be refused, if what is audited were enforced.
    pub audited: Option<&'a str>,
}

/// The policy's name where no policy allows.
pub const NO_POLICY: &str = "none";

/// Judges.
pub fn authorize<'a>(rules: &'a Authorization, subject: &Subject<'_>) -> Verdict<'a> {
    let mut verdict = Verdict::default();
    for set in &rules.sets {
        let found = judged(set, subject);
        match (found, set.enforcement) {
            (Judged::Refused(policy), Enforcement::Shadow) => verdict.audited = verdict.audited.or(Some(policy)),
            (Judged::Refused(policy), Enforcement::Enforced) => {
                (verdict.allowed, verdict.denied) = (None, Some(policy));
                break;
            }
            (Judged::Allowed(policy), Enforcement::Enforced) => verdict.allowed = verdict.allowed.or(Some(policy)),
            (Judged::Allowed(_), Enforcement::Shadow) | (Judged::Passed, _) => {}
        }
    }
    verdict
}

/// What one set says, with the policy that says so.
enum Judged<'a> {
    Refused(&'a str),
    Allowed(&'a str),
    /// No policy that denies.
    Passed,
}

fn judged<'a>(set: &'a RuleSet, subject: &Subject<'_>) -> Judged<'a> {
    let mut policies = set.policies.iter();
    match set.action {
        Action::Deny => match policies.find(|policy| meets(policy, subject) != Truth::No) {
            Some(policy) => Judged::Refused(&policy.name),
            None => Judged::Passed,
        },
        Action::Allow => match policies.find(|policy| meets(policy, subject) == Truth::Yes) {
            Some(policy) => Judged::Allowed(&policy.name),
            None => Judged::Refused(NO_POLICY),
        },
    }
}

/// Whether caller and request are what a policy is about.
fn meets(policy: &Policy, subject: &Subject<'_>) -> Truth {
    let caller = one_of(&policy.principals, subject);
    if caller == Truth::No { caller } else { caller.and(one_of(&policy.permissions, subject)) }
}

/// Whether a condition is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Truth {
    No,
    Open,
    Yes,
}

impl Truth {
    fn and(self, other: Truth) -> Truth {
        self.min(other)
    }

    fn not(self) -> Truth {
        match self {
            Truth::No => Truth::Yes,
            Truth::Open => Truth::Open,
            Truth::Yes => Truth::No,
        }
    }
}

impl From<bool> for Truth {
    fn from(met: bool) -> Truth {
        if met { Truth::Yes } else { Truth::No }
    }
}

fn one_of(conditions: &[Condition], subject: &Subject<'_>) -> Truth {
    let mut highest = Truth::No;
    for condition in conditions {
        highest = highest.max(judge(condition, subject));
        if highest == Truth::Yes {
            break;
        }
    }
    highest
}

fn judge(condition: &Condition, subject: &Subject<'_>) -> Truth {
    let Subject { peer, source, port, head } = subject;
    let asked = |met: &dyn Fn(&Head<'_>) -> Truth| head.as_ref().map_or(Truth::Open, met);
    match condition {
        Condition::Any => Truth::Yes,
        Condition::Not(other) => judge(other, subject).not(),
        Condition::All(all) => all
            .iter()
            .fold(Truth::Yes, |lowest, one| if lowest == Truth::No { lowest } else { lowest.and(judge(one, subject)) }),
        Condition::OneOf(several) => one_of(several, subject),
        Condition::Authenticated => peer.is_some().into(),
        Condition::Identity(wanted) => {
            peer.is_some_and(|identity| route::matches_value(wanted, identity.as_str())).into()
        }
        Condition::Source(block) => block.contains(source).into(),
        Condition::Port(wanted) => (wanted == port).into(),
        Condition::Method(method) => asked(&|head| (head.method == method).into()),
        Condition::Header(name, value) => asked(&|head| route::matches_header(name, value, head.headers).into()),
        Condition::Host(wanted) => asked(&|head| route::matches_value(wanted, head.host).into()),
        Condition::Path(wanted) => asked(&|head| match unambiguous(head.path) {
            Some(path) => route::matches_value(wanted, &path).into(),
            None => Truth::Open,
        }),
    }
}

/// The path as every server reads it, decoded; nothing if servers differ: about encoded separators, backslashes, empty segments,
/// parameters of segments (`;`), and what is no valid encoding. Dot segments are resolved before any rule sees a path.
fn unambiguous(path: &str) -> Option<Cow<'_, str>> {
    let bytes = path.as_bytes();
    if bytes.iter().any(|byte| matches!(byte, b'\\' | b';')) || path.contains("//") {
        return None;
    }
    if memchr::memchr(b'%', bytes).is_none() {
        return Some(Cow::Borrowed(path));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let (hex, after) = rest.split_at_checked(2)?;
        let byte = u8::from_str_radix(std::str::from_utf8(hex).ok().filter(|hex| !hex.starts_with('+'))?, 16).ok()?;
        if matches!(byte, b'/' | b'\\' | b';' | 0..=0x1f | 0x7f) {
            return None;
        }
        decoded.push(byte);
        rest = after;
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn exact(text: &str) -> ValueMatch {
        ValueMatch::Exact(text.into())
    }

    fn regex(text: &str) -> ValueMatch {
        ValueMatch::Regex(regex::Regex::new(&format!("^(?:{text})$")).expect("compiles"))
    }

    fn policy(name: &str, principals: Vec<Condition>, permissions: Vec<Condition>) -> Policy {
        Policy { name: name.into(), permissions, principals }
    }

    fn set(action: Action, policies: Vec<Policy>) -> RuleSet {
        RuleSet { action, enforcement: Enforcement::Enforced, policies }
    }

    fn web() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").expect("valid")
    }

    /// Asks as `peer` for a path, or for a raw stream.
    fn ask<'a>(rules: &'a Authorization, peer: Option<&SpiffeId>, path: Option<&str>) -> Verdict<'a> {
        let headers = HeaderMap::new();
        let head = path.map(|path| Head { method: &Method::GET, host: "cart", path, query: None, headers: &headers });
        authorize(rules, &Subject { peer, source: IpAddr::from([10, 1, 2, 3]), port: 8080, head })
    }

    fn is_denied(rules: &Authorization, peer: Option<&SpiffeId>, path: Option<&str>) -> bool {
        ask(rules, peer, path).denied.is_some()
    }

    fn only(set: RuleSet) -> Authorization {
        Authorization { sets: vec![set] }
    }

    #[test]
    fn without_rules_everybody_may() {
        assert_eq!(ask(&Authorization::default(), None, Some("/")), Verdict::default());
        assert_eq!(ask(&Authorization::default(), None, None), Verdict::default());
    }

    #[test]
    fn allowing_nobody_refuses_everybody_and_denying_nothing_nobody() {
        let closed = only(set(Action::Allow, vec![]));
        assert_eq!(ask(&closed, Some(&web()), Some("/")).denied, Some(NO_POLICY));
        assert_eq!(ask(&closed, Some(&web()), None).denied, Some(NO_POLICY));
        assert!(!is_denied(&only(set(Action::Deny, vec![])), None, Some("/")));
    }

    #[test]
    fn what_denies_goes_before_what_allows() {
        let identity = || vec![Condition::Identity(exact(web().as_str()))];
        let admin = vec![Condition::Path(regex("/admin|/admin/.*"))];
        let rules = Authorization {
            sets: vec![
                set(Action::Deny, vec![policy("shop/no-admin/0", vec![Condition::Any], admin)]),
                set(Action::Allow, vec![policy("shop/web/0", identity(), vec![Condition::Any])]),
            ],
        };
        let allowed = Verdict { allowed: Some("shop/web/0"), ..Verdict::default() };
        assert_eq!(ask(&rules, Some(&web()), Some("/cart")), allowed);
        assert_eq!(ask(&rules, Some(&web()), Some("/admin/x")).denied, Some("shop/no-admin/0"));
        assert_eq!(ask(&rules, None, Some("/cart")).allowed, None);
        assert_eq!(ask(&rules, None, Some("/cart")).denied, Some(NO_POLICY));
        let other = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/other").expect("valid");
        assert_eq!(ask(&rules, Some(&other), Some("/cart")).denied, Some(NO_POLICY));
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_opens_no_door() {
        let public = only(set(
            Action::Allow,
            vec![policy("p", vec![Condition::Any], vec![Condition::Path(regex("/public/.*"))])],
        ));
        let admin = only(set(
            Action::Deny,
            vec![policy("p", vec![Condition::Any], vec![Condition::Path(regex("/admin(/.*)?"))])],
        ));
        let not_admin = Condition::Not(Box::new(Condition::Path(regex("/admin(/.*)?"))));
        let all_but_admin = only(set(Action::Allow, vec![policy("p", vec![Condition::Any], vec![not_admin])]));
        for path in [
            "/public/..;/admin",
            "/public/%2fadmin",
            "/public/%5Cadmin",
            "/public//admin",
            "/public/a\\b",
            "/public/%00",
            "/public/%zz",
            "/public/%+1",
            "/admin;x=1",
            "/admin%2f",
            "/public/%ff",
        ] {
            assert!(is_denied(&public, None, Some(path)), "{path} is allowed");
            assert!(is_denied(&admin, None, Some(path)), "{path} is not denied");
            assert!(is_denied(&all_but_admin, None, Some(path)), "{path} is allowed behind a `not`");
        }
        assert!(is_denied(&admin, None, Some("/%61dmin")), "another spelling of the same path");
        assert!(!is_denied(&admin, None, Some("/administration")));
        assert!(!is_denied(&public, None, Some("/public/%C3%A9")));
        assert!(!is_denied(&all_but_admin, None, Some("/cart")));
    }

    #[test]
    fn a_raw_stream_meets_no_condition_on_requests() {
        let get = || vec![Condition::Method(Method::GET)];
        assert!(is_denied(&only(set(Action::Allow, vec![policy("p", vec![Condition::Any], get())])), None, None));
        assert!(is_denied(&only(set(Action::Deny, vec![policy("p", vec![Condition::Any], get())])), None, None));
        let port = || vec![Condition::All(vec![Condition::Port(8080), Condition::Any])];
        assert!(!is_denied(&only(set(Action::Allow, vec![policy("p", vec![Condition::Any], port())])), None, None));
        let other = || vec![Condition::All(vec![Condition::Port(9090), Condition::Method(Method::GET)])];
        assert!(!is_denied(&only(set(Action::Deny, vec![policy("p", vec![Condition::Any], other())])), None, None));
    }

    #[test]
    fn plaintext_is_nobody() {
        let shop = || Condition::Identity(regex("spiffe://cluster.local/ns/shop/sa/.*"));
        let any = || vec![Condition::Any];
        assert!(!is_denied(&only(set(Action::Deny, vec![policy("p", vec![shop()], any())])), None, Some("/")));
        assert!(is_denied(&only(set(Action::Allow, vec![policy("p", vec![shop()], any())])), None, Some("/")));
        let strangers = || vec![Condition::Not(Box::new(shop()))];
        assert!(is_denied(&only(set(Action::Deny, vec![policy("p", strangers(), any())])), None, Some("/")));
        let known = vec![Condition::All(vec![Condition::Authenticated, Condition::Not(Box::new(Condition::Any))])];
        assert!(is_denied(&only(set(Action::Allow, vec![policy("p", known, any())])), Some(&web()), Some("/")));
    }

    #[test]
    fn addresses_and_headers_decide_too() {
        let block = |text: &str| Condition::Source(text.parse().expect("a block"));
        let from = |text: &str| only(set(Action::Allow, vec![policy("p", vec![block(text)], vec![Condition::Any])]));
        assert!(!is_denied(&from("10.0.0.0/8"), None, Some("/")));
        assert!(is_denied(&from("10.2.0.0/16"), None, Some("/")));
        assert!(is_denied(&from("fd00::/8"), None, Some("/")));
        let header = Condition::Header(HeaderName::from_static("x-team"), exact("a"));
        let rules = only(set(Action::Allow, vec![policy("p", vec![Condition::Any], vec![header])]));
        assert!(is_denied(&rules, None, Some("/")), "the header is missing");
    }

    #[test]
    fn shadow_rules_refuse_nothing_and_say_so() {
        let shadow = RuleSet { enforcement: Enforcement::Shadow, ..set(Action::Allow, vec![]) };
        let verdict = Authorization { sets: vec![shadow] };
        assert_eq!(ask(&verdict, None, Some("/")), Verdict { audited: Some(NO_POLICY), ..Verdict::default() });
    }
}
