//! What people are told: who is connected, what each has applied, who rejected what and why, and what the last reload came to.
//!
//! Streams report here; `/status.json` is a [`Status`], which the command line reads too. Nothing here flows back.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use malla_xds::{Name, Rejection, ResourceType, SpiffeId, TypeProgress};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::holders::HolderStatus;
use crate::resources::{AttachedRoute, Published, ReloadOutcome, Resources};

/// Refusals that are kept per stream; of more, the newest.
const DENIALS_KEPT: usize = 8;

/// The state of a control server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the configuration that serves; empty before the first good one.
    pub version: String,
    /// Trust domain of the mesh, once a configuration was loaded.
    pub trust_domain: Option<String>,
    /// How many resources there are of each type.
    pub resources: BTreeMap<String, usize>,
    /// What should not be forgotten about the configuration that serves, in sentences: who takes plaintext.
    pub notices: Vec<String>,
    /// The last attempt to load the configuration.
    pub last_reload: ReloadStatus,
    /// Trust anchors, and who has them.
    #[serde(default)]
    pub trust: TrustStatus,
    /// The routes of the configuration that serves, in its order.
    #[serde(default)]
    pub routes: Vec<RouteStatus>,
    /// Open xDS streams, oldest first.
    pub streams: Vec<StreamStatus>,
}

/// A route, and its conditions as Gateway API names them. A configuration with a route that is not accepted, or names what is not
/// there, is refused as a whole: of the routes that serve, the first two hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// `HTTPRoute shop/cart`.
    pub name: String,
    /// It is valid and has a parent.
    pub accepted: bool,
    /// Everything that it names is there, and may be used.
    pub resolved_refs: bool,
    /// Who follows it, and who has applied it.
    pub programmed: Programmed,
}

/// How far a route has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Programmed {
    /// Connected clients that use a parent of it.
    pub used_by: usize,
    /// Those of them that have applied it as it is now.
    pub applied_by: usize,
}

/// Trust anchors, and who has them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustStatus {
    /// The anchors that are distributed, the one that signs first.
    pub anchors: Vec<AnchorStatus>,
    /// Connected clients that follow them.
    pub followers: usize,
    /// Those of them that have applied them as they are now.
    pub up_to_date: usize,
    /// The others, by name.
    pub behind: Vec<String>,
    /// Fingerprint of a root that signs as soon as nobody is behind.
    pub waiting: Option<String>,
    /// Why the files of the authority, as they are now, cannot be used.
    pub problem: Option<String>,
    /// Seconds since this control server has started.
    #[serde(default)]
    pub up: u64,
    /// Who holds certificates, and who is connected, by identity.
    #[serde(default)]
    pub holders: BTreeMap<String, HolderStatus>,
}

/// A trust anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnchorStatus {
    /// Its subject.
    pub subject: String,
    /// SHA-256, hexadecimal.
    pub fingerprint: String,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// Whether it is the root of what is signed now.
    pub signs: bool,
    /// Certificates of it that are in use.
    pub certificates: usize,
    /// When the last of them ends, in seconds since 1970.
    pub last_ends: Option<u64>,
    /// Whose they are; at most twenty.
    pub holders: Vec<String>,
}

/// Who follows the trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Followers {
    pub(crate) number: usize,
    /// Those who have not applied it as it is now.
    pub(crate) behind: Vec<String>,
    /// How many there are of each identity.
    pub(crate) identities: BTreeMap<String, usize>,
}

/// The last attempt to load the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Whether it serves now; if not, the one before does.
    pub applied: bool,
    /// All errors, as text with snippets; empty if applied.
    pub errors: String,
    /// How many errors.
    pub error_count: usize,
}

/// A connected sidecar or gRPC client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// `node.id`: `workload.namespace` for sidecars; empty until its first request.
    pub node: String,
    /// What it says it runs (`node.metadata.version` or the user agent), if anything.
    pub software: String,
    /// The identity that its certificate proves.
    pub identity: String,
    /// Its address.
    pub address: SocketAddr,
    /// `delta` or `sotw`.
    pub flavour: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The newest version of the configuration that it applied completely, in all types; none if types differ or some are
    /// not acknowledged yet.
    pub applied: Option<String>,
    /// By type of resource.
    pub types: BTreeMap<String, TypeStatus>,
    /// What it asked for and may not have, newest last.
    pub denied: Vec<String>,
    /// The workload whose ports it asked for, if the configuration has none of that name: it then serves nothing.
    pub unknown_workload: Option<String>,
}

/// One type of resource on one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeStatus {
    /// Names subscribed to.
    pub subscriptions: usize,
    /// Newest version of the configuration that the client applied completely.
    pub applied: Option<String>,
    /// Responses that the client has neither acknowledged nor rejected.
    pub unanswered: usize,
    /// Rejections that stand.
    pub rejections: Vec<RejectionStatus>,
}

/// A rejection that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionStatus {
    /// When, in seconds since 1970.
    pub at: u64,
    /// What was rejected.
    pub resources: Vec<String>,
    /// Why, in the client's words.
    pub message: String,
    /// Version of the configuration in which it was sent.
    pub version: String,
}

/// The open streams of a server.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: Mutex<BTreeMap<u64, StreamEntry>>,
}

#[derive(Debug)]
struct StreamEntry {
    node: String,
    software: String,
    /// The workload whose ports it asked for.
    own: Option<String>,
    identity: SpiffeId,
    address: SocketAddr,
    flavour: &'static str,
    since: SystemTime,
    progress: Vec<TypeProgress>,
    /// When each standing rejection was first seen.
    rejections: Vec<(SystemTime, ResourceType, Rejection)>,
    denied: Vec<String>,
}

/// The report of one stream; ends when dropped.
#[derive(Debug)]
pub(crate) struct StreamReport {
    streams: Arc<Streams>,
    id: u64,
}

impl Streams {
    /// A stream was opened.
    pub(crate) fn open(
        self: &Arc<Self>,
        identity: SpiffeId,
        address: SocketAddr,
        flavour: &'static str,
    ) -> StreamReport {
        let entry = StreamEntry {
            node: String::new(),
            software: String::new(),
            own: None,
            identity,
            address,
            flavour,
            since: SystemTime::now(),
            progress: Vec::new(),
            rejections: Vec::new(),
            denied: Vec::new(),
        };
        let mut streams = self.streams.lock();
        let id = streams.last_key_value().map_or(0, |(last, _)| last + 1);
        streams.insert(id, entry);
        StreamReport { streams: self.clone(), id }
    }
}

impl Streams {
    /// Who follows the trust bundle. Nobody has one that is not published yet.
    pub(crate) fn followers(&self, published: &Published, bundle: &str) -> Followers {
        let resources = published.resources.borrow().clone();
        let is_published = resources.trusts(bundle);
        let mut followers = Followers::default();
        for entry in self.streams.lock().values() {
            let of_secrets = entry.progress.iter().find(|of_type| of_type.kind == ResourceType::Secret);
            // A gRPC client has its trust anchors by files, which a stream of their own keeps up to date.
            if of_secrets.is_none() && entry.flavour != "delta" {
                continue;
            }
            followers.number += 1;
            *followers.identities.entry(entry.identity.to_string()).or_default() += 1;
            let applied = of_secrets.and_then(|of_type| of_type.applied.as_ref());
            if !is_published || applied != Some(resources.version()) {
                let name = if entry.node.is_empty() { entry.identity.as_str() } else { &entry.node };
                followers.behind.push(name.to_owned());
            }
        }
        followers
    }
}

impl StreamReport {
    /// The client told who it is.
    pub(crate) fn node(&self, node: &str, software: &str) {
        self.with(|entry| {
            entry.node = node.to_owned();
            entry.software = software.to_owned();
        });
    }

    /// The client asked for the ports of a workload, `cart-1.shop`.
    pub(crate) fn serves(&self, workload: &str) {
        self.with(|entry| entry.own = Some(workload.to_owned()));
    }

    /// Something was sent or answered.
    pub(crate) fn progress(&self, progress: Vec<TypeProgress>) {
        let now = SystemTime::now();
        self.with(|entry| {
            let known = std::mem::take(&mut entry.rejections);
            for of_type in &progress {
                for rejection in &of_type.rejections {
                    let same = known.iter().find(|(_, kind, before)| *kind == of_type.kind && before == rejection);
                    let at = same.map_or(now, |(at, ..)| *at);
                    entry.rejections.push((at, of_type.kind, rejection.clone()));
                }
            }
            entry.progress = progress;
        });
    }

    /// It asked for what it may not have.
    pub(crate) fn denied(&self, kind: ResourceType, name: &Name, reason: &str) {
        self.with(|entry| {
            let text = format!("{kind} {name}: {reason}");
            entry.denied.retain(|earlier| *earlier != text);
            if entry.denied.len() >= DENIALS_KEPT {
                entry.denied.remove(0);
            }
            entry.denied.push(text);
        });
    }

    fn with(&self, change: impl FnOnce(&mut StreamEntry)) {
        if let Some(entry) = self.streams.streams.lock().get_mut(&self.id) {
            change(entry);
        }
    }
}

impl Drop for StreamReport {
    fn drop(&mut self) {
        self.streams.streams.lock().remove(&self.id);
    }
}

impl Status {
    /// The state now.
    pub(crate) fn now(published: &Published, streams: &Streams, trust: TrustStatus) -> Status {
        let resources = published.resources.borrow().clone();
        let last = published.last_reload.borrow().clone();
        let (applied, errors, error_count) = match &last.outcome {
            ReloadOutcome::Applied { .. } => (true, String::new(), 0),
            ReloadOutcome::Refused { errors, count } => (false, errors.to_string(), *count),
        };
        let streams = streams.streams.lock();
        Status {
            routes: resources.routes().iter().map(|route| route_status(route, &resources, &streams)).collect(),
            version: resources.version().to_string(),
            trust_domain: resources.trust_domain().map(|name| name.to_string()),
            resources: ResourceType::ALL
                .into_iter()
                .map(|kind| (kind.word().to_owned(), resources.all(kind).count()))
                .collect(),
            notices: resources.notices().to_vec(),
            last_reload: ReloadStatus { at: seconds(last.at), applied, errors, error_count },
            trust,
            streams: streams.values().map(|entry| entry.status(&resources)).collect(),
        }
    }

    /// A table for people. `now` is in seconds since 1970.
    pub fn table(&self, now: u64) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let version = if self.version.is_empty() { "none yet" } else { &self.version };
        let counts: Vec<String> = self.resources.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let _ = writeln!(text, "configuration  {version} ({})", counts.join(", "));
        for notice in &self.notices {
            let _ = writeln!(text, "WARNING        {notice}");
        }
        let reload = &self.last_reload;
        let errors = match reload.error_count {
            1 => "1 error".to_owned(),
            count => format!("{count} errors"),
        };
        let outcome = match (reload.applied, self.version.is_empty()) {
            (true, _) => "applied".to_owned(),
            (false, false) => format!("REFUSED, {errors}; the configuration above keeps serving"),
            (false, true) => format!("REFUSED, {errors}; there is none to serve yet"),
        };
        let _ = writeln!(text, "last reload    {} ago: {outcome}", ago(now, reload.at));
        if !reload.applied {
            let _ = writeln!(text, "\n{}\n", reload.errors.trim_end());
        }
        self.trust.table(now, &mut text);
        if !self.routes.is_empty() {
            let mut rows = vec![["ROUTE", "ACCEPTED", "RESOLVED REFS", "PROGRAMMED"].map(str::to_owned)];
            let word = |holds: bool| if holds { "yes" } else { "NO" }.to_owned();
            rows.extend(self.routes.iter().map(|route| {
                let Programmed { used_by, applied_by } = route.programmed;
                let programmed = match used_by {
                    0 => "nobody uses it".to_owned(),
                    _ => format!("{applied_by} of {used_by} clients"),
                };
                [route.name.clone(), word(route.accepted), word(route.resolved_refs), programmed]
            }));
            let _ = writeln!(text);
            write_columns(&rows, &mut text);
            let _ = writeln!(text);
        }
        let current = |stream: &&StreamStatus| stream.applied.as_deref() == Some(self.version.as_str());
        let up_to_date = self.streams.iter().filter(current).count();
        let _ = writeln!(text, "connected      {} ({up_to_date} up to date)\n", self.streams.len());
        let mut rows = vec![["NODE", "IDENTITY", "ADDRESS", "SINCE", "APPLIED", "STATE"].map(str::to_owned)];
        for stream in &self.streams {
            rows.push([
                if stream.node.is_empty() { "-".to_owned() } else { stream.node.clone() },
                stream.identity.clone(),
                stream.address.to_string(),
                ago(now, stream.since),
                stream.applied.clone().unwrap_or_else(|| "-".to_owned()),
                stream.state(&self.version),
            ]);
        }
        if rows.len() > 1 {
            write_columns(&rows, &mut text);
        }
        for stream in &self.streams {
            for (kind, of_type) in &stream.types {
                for rejection in &of_type.rejections {
                    let (when, what) = (ago(now, rejection.at), rejection.resources.join(", "));
                    let _ =
                        writeln!(text, "\n{} rejected {kind} {what} {when} ago:\n  {}", stream.node, rejection.message);
                }
            }
            for denied in &stream.denied {
                let _ = writeln!(text, "\n{} may not have {denied}", stream.node);
            }
            if let Some(workload) = &stream.unknown_workload {
                let _ = writeln!(
                    text,
                    "\nWARNING: the configuration has no Workload {workload}, so the sidecar of that name serves nothing: \
                     is its --workload or --namespace misspelt?"
                );
            }
        }
        text
    }
}

impl TrustStatus {
    /// A line if all is as ever; a line for each anchor while there are several.
    fn table(&self, now: u64, text: &mut String) {
        let Some(root) = self.anchors.first() else { return };
        // Writing to a String does not fail.
        let days = root.expires.saturating_sub(now) / (24 * 3600);
        let (all, some) = (self.followers, self.up_to_date);
        let _ = writeln!(text, "trust          {}, {days} days left: {some} of {all} clients have it", root.subject);
        for anchor in self.anchors.iter().skip(1) {
            let _ =
                writeln!(text, "               also {}: {} certificates in use", anchor.subject, anchor.certificates);
        }
        if let Some(root) = &self.waiting {
            let short = root.get(..16).unwrap_or(root);
            let _ = writeln!(text, "               the root {short}… signs as soon as all have it");
        }
        if let Some(problem) = &self.problem {
            let _ = writeln!(text, "WARNING        the authority's files cannot be used: {problem}");
        }
    }
}

impl StreamStatus {
    /// One word (or two) on how it stands to the configuration that serves.
    pub fn state(&self, version: &str) -> String {
        let rejections: usize = self.types.values().map(|of_type| of_type.rejections.len()).sum();
        let unanswered: usize = self.types.values().map(|of_type| of_type.unanswered).sum();
        if rejections > 0 {
            format!("{rejections} rejected")
        } else if unanswered > 0 {
            format!("{unanswered} unanswered")
        } else if self.types.is_empty() {
            "asked nothing".to_owned()
        } else if self.applied.as_deref() == Some(version) {
            "up to date".to_owned()
        } else {
            "pushing".to_owned()
        }
    }
}

/// Who follows a route, and who of them has applied it.
fn route_status(route: &AttachedRoute, resources: &Resources, streams: &BTreeMap<u64, StreamEntry>) -> RouteStatus {
    let mut programmed = Programmed { used_by: 0, applied_by: 0 };
    for stream in streams.values() {
        let namespace = stream.identity.namespace();
        let follows = |kind: ResourceType, name: &Name| match &route.only_for {
            Some(only) => **only == *namespace,
            None => !resources.is_special(namespace, kind, name),
        };
        let used = |of_type: &&TypeProgress| {
            route.resources.iter().any(|(kind, name)| {
                *kind == of_type.kind
                    && follows(*kind, name)
                    && of_type.names.iter().any(|asked| resources.canonical(*kind, asked) == name)
            })
        };
        let Some(of_type) = stream.progress.iter().find(used) else { continue };
        programmed.used_by += 1;
        let rejected = of_type
            .rejections
            .iter()
            .any(|rejection| route.resources.iter().any(|(_, name)| rejection.resources.contains(name)));
        let current = of_type.applied.as_ref() == Some(resources.version());
        programmed.applied_by += usize::from(current && !rejected);
    }
    RouteStatus { name: route.name.clone(), accepted: true, resolved_refs: true, programmed }
}

impl StreamEntry {
    fn status(&self, resources: &Resources) -> StreamStatus {
        let types: BTreeMap<String, TypeStatus> = self.progress.iter().map(|of_type| self.of_type(of_type)).collect();
        let mut applied = types.values().map(|of_type| of_type.applied.clone());
        let first = applied.next().flatten();
        let applied = if applied.all(|version| version == first) { first } else { None };
        StreamStatus {
            node: self.node.clone(),
            software: self.software.clone(),
            identity: self.identity.to_string(),
            address: self.address,
            flavour: self.flavour.to_owned(),
            since: seconds(self.since),
            applied,
            types,
            denied: self.denied.clone(),
            unknown_workload: self.own.as_deref().filter(|own| !resources.has_workload(own)).map(str::to_owned),
        }
    }

    fn of_type(&self, progress: &TypeProgress) -> (String, TypeStatus) {
        let rejections = self.rejections.iter().filter(|(_, kind, _)| *kind == progress.kind);
        let status = TypeStatus {
            subscriptions: progress.subscriptions,
            applied: progress.applied.as_ref().map(|version| version.to_string()),
            unanswered: progress.unanswered,
            rejections: rejections
                .map(|(at, _, rejection)| RejectionStatus {
                    at: seconds(*at),
                    resources: rejection.resources.iter().map(|name| name.to_string()).collect(),
                    message: rejection.message.clone(),
                    version: rejection.version.to_string(),
                })
                .collect(),
        };
        (progress.kind.word().to_owned(), status)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `7s`, `3m`, `5h`, `2d`.
fn ago(now: u64, then: u64) -> String {
    match now.saturating_sub(then) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn write_columns<const N: usize>(rows: &[[String; N]], text: &mut String) {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{LastReload, publish};

    #[test]
    fn a_route_is_programmed_by_those_who_use_it_and_have_applied_it() {
        let route = |name: &str, only_for: Option<&str>| AttachedRoute {
            name: name.to_owned(),
            resources: vec![(ResourceType::Route, "cart.shop:80".into())],
            only_for: only_for.map(Name::from),
        };
        let own = malla_xds::Resource::empty(ResourceType::Route, "cart.shop:80").expect("has an empty form");
        let special = [(Name::from("web"), own)];
        let resources = Resources::new("cluster.local", Default::default(), [], special, Default::default())
            .with_routes(vec![route("HTTPRoute shop/cart", None), route("HTTPRoute web/cart", Some("web"))]);
        let version = resources.version().clone();
        let (_publisher, published) = publish(resources, ReloadOutcome::Applied { version: version.clone() });
        let streams = Arc::new(Streams::default());
        let mut reports = Vec::new();
        for (namespace, names, applied, rejected) in [
            ("shop", vec!["cart.shop:80"], Some(&version), false),
            ("shop", vec!["cart.shop:80"], None, false),
            ("shop", vec!["cart.shop:80"], Some(&version), true),
            ("shop", vec!["other.shop:80"], Some(&version), false),
            ("web", vec!["cart.shop:80"], Some(&version), false),
        ] {
            let identity = SpiffeId::new("cluster.local", namespace, "any").expect("valid");
            let report = streams.open(identity, "127.0.0.1:4000".parse().expect("an address"), "delta");
            let rejection =
                Rejection { resources: vec!["cart.shop:80".into()], message: "no".into(), version: version.clone() };
            report.progress(vec![TypeProgress {
                kind: ResourceType::Route,
                subscriptions: names.len(),
                names: names.into_iter().map(Name::from).collect(),
                applied: applied.cloned(),
                unanswered: 0,
                rejections: if rejected { vec![rejection] } else { Vec::new() },
            }]);
            reports.push(report);
        }
        let status = Status::now(&published, &streams, TrustStatus::default());
        let programmed: Vec<_> =
            status.routes.iter().map(|route| (route.programmed.used_by, route.programmed.applied_by)).collect();
        assert_eq!(programmed, [(3, 1), (1, 1)]);
        let table = status.table(seconds(SystemTime::now()));
        assert!(table.contains("HTTPRoute shop/cart  yes       yes            1 of 3 clients"), "{table}");
    }

    #[test]
    fn shows_who_rejected_what_and_why_and_the_last_error() {
        let resources = Resources::new("cluster.local", Default::default(), [], [], Default::default())
            .with_notices(vec!["plaintext is taken by x.y".to_owned()]);
        let version = resources.version().clone();
        let (publisher, published) = publish(resources, ReloadOutcome::Applied { version: version.clone() });
        let refused = ReloadOutcome::Refused { errors: "routes.yaml:3:5: no such service".into(), count: 1 };
        publisher.last_reload.send_replace(LastReload { at: SystemTime::now(), outcome: refused });
        let streams = Arc::new(Streams::default());
        let identity = SpiffeId::new("cluster.local", "shop", "cart").expect("valid");
        let report = streams.open(identity, "127.0.0.1:4000".parse().expect("an address"), "delta");
        report.node("cart-1.shop", "malla-proxy 0.1.0");
        let rejection = Rejection {
            resources: vec!["pay.shop:80".into()],
            message: "pay.shop:80: field lb_policy".into(),
            version: version.clone(),
        };
        report.progress(vec![TypeProgress {
            kind: ResourceType::Cluster,
            subscriptions: 2,
            names: Vec::new(),
            applied: None,
            unanswered: 0,
            rejections: vec![rejection],
        }]);
        report.serves("cart-1.shop");
        let status = Status::now(&published, &streams, TrustStatus::default());
        let table = status.table(seconds(SystemTime::now()));
        for part in [
            "REFUSED, 1 error; the configuration above keeps serving",
            "routes.yaml:3:5: no such service",
            "cart-1.shop  spiffe://cluster.local/ns/shop/sa/cart  127.0.0.1:4000",
            "1 rejected",
            "cart-1.shop rejected clusters pay.shop:80",
            "pay.shop:80: field lb_policy",
            "WARNING        plaintext is taken by x.y",
            "the configuration has no Workload cart-1.shop",
        ] {
            assert!(table.contains(part), "{part:?} is not in\n{table}");
        }
        let json = serde_json::to_string(&status).expect("serializes");
        assert_eq!(serde_json::from_str::<Status>(&json).expect("deserializes"), status);
        drop(report);
        assert!(Status::now(&published, &streams, TrustStatus::default()).streams.is_empty());
    }
}
