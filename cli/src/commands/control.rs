//! `malla control`: the control server, until it is told to stop.

use std::net::SocketAddr;
use std::process::ExitCode;

use malla_control::ca::RootSource;
use malla_control::kubernetes;
use malla_control::run::{Cluster, Control, ControlSettings, WebhookSettings};

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
    let settings = ControlSettings {
        config: arguments.config,
        state: arguments.state.directory,
        listen: arguments.listen,
        admin: arguments.admin,
        advertise: arguments.advertise,
        certificate_lifetime: arguments.certificate_lifetime,
        root,
        webhook,
    };
    let control = match arguments.kubernetes {
        false => Control::start(settings)?,
        true => {
            let client = kubernetes::connect(&arguments.cluster.address()).await?;
            let replica = format!("{}_{:08x}", rustix::system::uname().nodename().to_string_lossy(), fastrand::u32(..));
            Control::start_in(Cluster { client, namespace: arguments.sidecar.system_namespace, replica }, settings)?
        }
    };
    interruption.wait().await;
    tracing::info!("stopping");
    control.stop().await;
    Ok(ExitCode::SUCCESS)
}
