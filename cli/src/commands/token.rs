//! `malla token`: how a sidecar outside Kubernetes is let in, and how it no longer is.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use malla_control::state::StateDirectory;
use malla_control::token::{JoinClaims, TOKEN_KEY, TokenAuthority};
use malla_control::token_book::{TokenBook, TokenRecord};
use malla_xds::SpiffeId;
use serde::Serialize;
use serde_json::json;

use crate::arguments::{
    OutputFormat, StateArgument, TokenArguments, TokenCommand, TokenCreateArguments, TokenListArguments,
    TokenRevokeArguments,
};
use crate::output;

/// Of a token that was revoked by its id alone nobody knows when it expires: no token lives longer than this.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A token that was made.
#[derive(Debug, Serialize)]
struct Created {
    token: String,
    #[serde(flatten)]
    record: TokenRecord,
}

/// Prints a token, and nothing else, to standard output; lists tokens; revokes one.
///
/// # Errors
/// The control server has left no key in the state directory, or the names cannot be part of an identity.
pub(crate) fn run(arguments: TokenArguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        TokenCommand::Create(arguments) => create(&arguments)?,
        TokenCommand::List(arguments) => list(&arguments)?,
        TokenCommand::Revoke(arguments) => revoke(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create(arguments: &TokenCreateArguments) -> anyhow::Result<()> {
    let identity = SpiffeId::new(&arguments.trust_domain, &arguments.namespace, &arguments.service_account)
        .context("namespace and service account become parts of an identity")?;
    let authority = TokenAuthority::open(&state(&arguments.state)?)?;
    let claims = JoinClaims { once: arguments.once, ..JoinClaims::new(&identity, arguments.ttl) };
    let token = authority.create(&claims).context("cannot sign the token")?;
    let record = TokenRecord {
        id: claims.jti,
        identity: Some(claims.sub),
        expires: claims.exp,
        once: claims.once,
        ..Default::default()
    };
    authority.book().add(&record)?;
    match arguments.output.format {
        OutputFormat::Table => output::print(token),
        OutputFormat::Json => output::print_json(&Created { token, record }),
    }
}

fn list(arguments: &TokenListArguments) -> anyhow::Result<()> {
    let records = TokenBook::open(&state(&arguments.state)?).records()?;
    match arguments.output.format {
        OutputFormat::Json => output::print_json(&records),
        OutputFormat::Table => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            records.iter().try_for_each(|record| output::print(line(record, now)))
        }
    }
}

fn line(record: &TokenRecord, now: u64) -> String {
    let state = match record {
        TokenRecord { revoked: true, .. } => "revoked",
        TokenRecord { used: true, .. } => "used",
        TokenRecord { once: true, .. } => "for one use",
        _ => "valid",
    };
    let minutes = record.expires.saturating_sub(now).div_ceil(60);
    format!("{}  {}  {state}, {minutes} min left", record.id, record.identity.as_deref().unwrap_or("unknown"))
}

fn revoke(arguments: &TokenRevokeArguments) -> anyhow::Result<()> {
    let state = state(&arguments.state)?;
    let text = arguments.token.trim();
    let (id, expires) = match text.contains('.') {
        true => {
            let proven = TokenAuthority::open(&state)?.verify(text).context("this token is worthless already")?;
            (proven.token, proven.expires)
        }
        false => {
            let end = SystemTime::now() + LONGEST_LIFE;
            (text.to_owned(), end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
        }
    };
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("{id:?} is neither a token nor the id of one: see `malla token list`");
    }
    TokenBook::open(&state).add(&TokenRecord { id: id.clone(), expires, revoked: true, ..Default::default() })?;
    match arguments.output.format {
        OutputFormat::Table => {
            output::print(format!("revoked {id}; who has obtained a certificate with it keeps it, and renews it"))
        }
        OutputFormat::Json => output::print_json(&json!({ "revoked": id })),
    }
}

fn state(argument: &StateArgument) -> anyhow::Result<StateDirectory> {
    let directory = &argument.directory;
    // A key made here would sign tokens that no control server knows.
    if !directory.join(TOKEN_KEY).exists() {
        bail!(
            "there is no {TOKEN_KEY} in {}: start `malla control` once, or name its state directory with --state",
            directory.display()
        );
    }
    Ok(StateDirectory::open(directory)?)
}
