//! `malla token create`: how a sidecar outside Kubernetes is let in.

use std::process::ExitCode;

use anyhow::{Context, bail};
use malla_control::state::StateDirectory;
use malla_control::token::{JoinClaims, TOKEN_KEY, TokenAuthority};
use malla_xds::SpiffeId;

use crate::arguments::{TokenArguments, TokenCommand, TokenCreateArguments};
use crate::output;

/// Prints a token, and nothing else, to standard output.
///
/// # Errors
/// The control server has left no key in the state directory, or the names cannot be part of an identity.
pub(crate) fn run(arguments: TokenArguments) -> anyhow::Result<ExitCode> {
    let TokenCommand::Create(create) = arguments.command;
    output::print(token(&create)?)?;
    Ok(ExitCode::SUCCESS)
}

fn token(create: &TokenCreateArguments) -> anyhow::Result<String> {
    let directory = &create.state.directory;
    // A key made here would sign tokens that no control server knows.
    if !directory.join(TOKEN_KEY).exists() {
        bail!(
            "there is no {TOKEN_KEY} in {}: start `malla control` once, or name its state directory with --state",
            directory.display()
        );
    }
    let identity = SpiffeId::new(&create.trust_domain, &create.namespace, &create.service_account)
        .context("namespace and service account become parts of an identity")?;
    let authority = TokenAuthority::open(&StateDirectory::open(directory)?)?;
    authority.create(&JoinClaims::new(&identity, create.ttl)).context("cannot sign the token")
}
