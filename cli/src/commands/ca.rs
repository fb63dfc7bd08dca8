//! `malla ca`: the roots of the mesh, and how one replaces another without anybody being cut off.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use malla_control::ca::Anchor;
use malla_control::holders::to_come_back;
use malla_control::rotation::{Rotation, Stage};
use malla_control::status::{AnchorStatus, Status, TrustStatus};
use serde_json::{Value, json};

use crate::arguments::{CaArguments, CaCommand, CaRotateArguments, OutputFormat, StatusArguments};
use crate::http;
use crate::output::{self, Paint};

/// How often the control servers are asked how far everybody is.
const POLL: Duration = Duration::from_millis(500);

/// Shows the roots, or replaces one.
///
/// # Errors
/// No control server answers, or somebody would be cut off.
pub(crate) async fn run(arguments: CaArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    match arguments.command {
        CaCommand::Status(status) => show(&status).await?,
        CaCommand::Rotate(rotate) => self::rotate(&rotate, paint).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(arguments: &StatusArguments) -> anyhow::Result<()> {
    let trust = trust(&arguments.server.server()?).await?;
    match arguments.output.format {
        OutputFormat::Json => output::print_json(&trust),
        OutputFormat::Table => {
            for anchor in &trust.anchors {
                output::print(describe(anchor))?;
            }
            output::print(format!("{} of {} clients have them", trust.up_to_date, trust.followers))?;
            trust.behind.iter().try_for_each(|node| output::print(format!("  not yet: {node}")))
        }
    }
}

fn describe(anchor: &AnchorStatus) -> String {
    let AnchorStatus { subject, fingerprint, certificates, .. } = anchor;
    let signs = if anchor.signs { "signs" } else { "trusted" };
    format!("{signs}  {subject}  {}  {certificates} certificates in use", short(fingerprint))
}

/// Takes step after step, each when nobody is cut off by it; wherever it ends, the next call goes on.
async fn rotate(arguments: &CaRotateArguments, paint: Paint) -> anyhow::Result<()> {
    let rotation = Rotation::open(&arguments.state.directory)?;
    loop {
        let before = rotation.stage()?;
        // Whom the next step would cut off has to be known before.
        match &before {
            Stage::Whole { .. } if !arguments.force => {
                for admin in &arguments.admin {
                    trust(&(*admin).into()).await?;
                }
            }
            Stage::Distributed { new, .. } => {
                let missing = |trust: &TrustStatus| not_trusting(trust, new);
                wait(arguments, "distribute", "trust the new root", missing, to_come_back).await?;
            }
            Stage::Signing { old, new } => {
                let missing = |trust: &TrustStatus| still_of(trust, old, new);
                // Whoever holds a certificate of the old root is known by that.
                wait(arguments, "sign", "have a certificate of the new root", missing, |_| Vec::new()).await?;
            }
            Stage::Whole { .. } | Stage::Made { .. } | Stage::Retired { .. } => {}
        }
        match rotation.step()? {
            Stage::Made { new, .. } => {
                let said = format!("{} {}", new.subject, short(&new.fingerprint));
                tell(arguments, "make", &said, json!({ "fingerprint": *new.fingerprint }))?;
            }
            Stage::Distributed { .. } => {
                tell(arguments, "distribute", "the new root is trusted beside the old one", json!({}))?;
            }
            Stage::Signing { .. } => tell(arguments, "sign", "the new root signs from now on", json!({}))?,
            Stage::Whole { root } | Stage::Retired { root } => {
                let said = format!("the old root is trusted no more; {} is the only one", root.subject);
                tell(arguments, "retire", &said, json!({ "fingerprint": *root.fingerprint }))?;
                if arguments.output.format == OutputFormat::Json {
                    return Ok(());
                }
                let path = arguments.state.directory.join(malla_control::ca::ROOT_CERTIFICATE);
                let note = format!("Give {} to sidecars that are yet to start as --trust.", path.display());
                return output::print(paint.strong(note));
            }
        }
    }
}

/// A line about a step: for people, or an object for programs, which has the sentence too.
fn tell(arguments: &CaRotateArguments, step: &str, said: &str, mut more: Value) -> anyhow::Result<()> {
    match arguments.output.format {
        OutputFormat::Table => output::print(format!("{step:<10}  {said}")),
        OutputFormat::Json => {
            more["step"] = json!(step);
            more["said"] = json!(said);
            output::print(more)
        }
    }
}

/// How far everybody is, as one control server knows it.
#[derive(Debug, PartialEq, Eq)]
struct Missing {
    done: usize,
    all: usize,
    who: Vec<String>,
}

/// Waits until no control server knows of anybody who would be cut off.
async fn wait(
    arguments: &CaRotateArguments,
    step: &str,
    what: &str,
    missing: impl Fn(&TrustStatus) -> Missing,
    away: impl Fn(&[TrustStatus]) -> Vec<String>,
) -> anyhow::Result<()> {
    if arguments.force {
        let said = format!("not waiting for those who do not yet {what} (--force)");
        return tell(arguments, step, &said, json!({}));
    }
    let end = Instant::now() + arguments.patience;
    let mut shown = None;
    loop {
        let mut total = Missing { done: 0, all: 0, who: Vec::new() };
        let mut servers = Vec::with_capacity(arguments.admin.len());
        for admin in &arguments.admin {
            servers.push(trust(&(*admin).into()).await?);
        }
        for of_one in servers.iter().map(&missing) {
            total.done += of_one.done;
            total.all += of_one.all;
            total.who.extend(of_one.who);
        }
        let away = away(&servers);
        total.all += away.len();
        total.who.extend(away);
        let said = format!("{} of {} {what}", total.done, total.all);
        if shown.as_ref() != Some(&said) {
            tell(arguments, step, &said, json!({ "done": total.done, "all": total.all, "missing": total.who }))?;
            shown = Some(said);
        }
        if total.who.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let who = total.who.join(", ");
            bail!(
                "would be cut off by the next step: {who}. Nothing is lost: call this again to go on when they are there, or with \
                 --force to go on without them"
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Connected clients that do not trust a root yet.
fn not_trusting(trust: &TrustStatus, new: &Anchor) -> Missing {
    let known = trust.anchors.iter().any(|anchor| *anchor.fingerprint == *new.fingerprint);
    match known {
        true => Missing { done: trust.up_to_date, all: trust.followers, who: trust.behind.clone() },
        false => {
            Missing { done: 0, all: trust.followers, who: vec!["the control server itself (for a moment)".to_owned()] }
        }
    }
}

/// Those whose certificates are of the root that goes.
fn still_of(trust: &TrustStatus, old: &Anchor, new: &Anchor) -> Missing {
    let find = |wanted: &Anchor| trust.anchors.iter().find(|anchor| *anchor.fingerprint == *wanted.fingerprint);
    let certificates = |anchor: Option<&AnchorStatus>| anchor.map_or(0, |anchor| anchor.certificates);
    let (of_old, of_new) = (certificates(find(old)), certificates(find(new)));
    let mut who = find(old).map(|anchor| anchor.holders.clone()).unwrap_or_default();
    if !find(new).is_some_and(|anchor| anchor.signs) {
        who.push("the control server itself (for a moment)".to_owned());
    }
    who.extend(trust.behind.iter().cloned());
    Missing { done: of_new, all: of_old + of_new, who }
}

async fn trust(server: &http::Server) -> anyhow::Result<TrustStatus> {
    let body = http::get(server, "/status.json").await.context(
        "no control server answers, so it is not known who would be cut off; is it running, and is --admin (or --control) its address?",
    )?;
    let status: Status = serde_json::from_slice(&body).context("the answer is not a control server's status")?;
    Ok(status.trust)
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}
