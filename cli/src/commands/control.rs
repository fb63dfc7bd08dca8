//! `malla control`: the control server, until it is told to stop.

use std::net::SocketAddr;
use std::process::ExitCode;

use malla_control::ca::RootSource;
use malla_control::run::{Control, ControlSettings, WebhookSettings};

use crate::arguments::ControlArguments;
use crate::signals::Interruption;

/// Serves until Ctrl-C or SIGTERM.
///
/// # Errors
/// It cannot start; the sentence says why and what to do.
pub(crate) async fn run(arguments: ControlArguments) -> anyhow::Result<ExitCode> {
    let mut interruption = Interruption::listen()?;
    let root = match (arguments.root_cert, arguments.root_key) {
        (Some(certificate), Some(key)) => RootSource::Files { certificate, key },
        _ => RootSource::State,
    };
    let webhook = arguments.webhook_port.and_then(|port| {
        // The root certificates are the control server's own.
        let injection = arguments.sidecar.settings("")?;
        Some(WebhookSettings { listen: SocketAddr::new(arguments.listen.ip(), port), injection })
    });
    let control = Control::start(ControlSettings {
        config: arguments.config,
        state: arguments.state.directory,
        listen: arguments.listen,
        admin: arguments.admin,
        advertise: arguments.advertise,
        certificate_lifetime: arguments.certificate_lifetime,
        root,
        webhook,
    })?;
    interruption.wait().await;
    tracing::info!("stopping");
    control.stop().await;
    Ok(ExitCode::SUCCESS)
}
