//! What can be typed. Only here is the environment read; only parsed values leave.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use malla_control::inject::{InjectionSettings, Resources, SidecarKind, Telling};
use malla_control::kubernetes::ClusterAddress;
use malla_proxy::log::LogFilter;
use malla_proxy::settings::HostPort;
use malla_proxy::trace::Collector;

use crate::duration::{parse_certificate_lifetime, parse_duration, parse_token_lifetime};
use crate::explain::Client;
use crate::http::Server;
use crate::remote::{Credential, Remote};

/// Malla: a service mesh without a cluster, without root, without rewriting your programs.
#[derive(Debug, Parser)]
#[command(name = "malla", version, arg_required_else_help = true, max_term_width = 110)]
#[command(after_help = "Example: a whole mesh on this machine, with live traffic:\n  malla demo")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// What to log, to standard error: `error`, `warn`, `info`, `debug`, `off`, or per module `info,malla_proxy=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "MALLA_LOG")]
    pub(crate) log: Option<LogFilter>,

    /// Never colour the output (colours appear only on a terminal in any case)
    #[arg(long = "no-color", global = true)]
    no_color: bool,

    /// <https://no-color.org>
    #[arg(long = "no-color-environment", hide = true, env = "NO_COLOR", hide_env = true)]
    no_color_environment: Option<String>,
}

impl Arguments {
    /// Whether colours are unwanted even on a terminal.
    pub(crate) fn no_color(&self) -> bool {
        self.no_color || self.no_color_environment.as_ref().is_some_and(|value| !value.is_empty())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the control server: it distributes routes and certificates to the sidecars
    Control(ControlArguments),
    /// Create tokens with which sidecars join, list and revoke them
    Token(TokenArguments),
    /// Show the roots of the mesh, or replace one by another
    Ca(CaArguments),
    /// Say whether a caller may, and which rule decides
    Authz(AuthzArguments),
    /// Show a sidecar's certificates and whom it trusts
    Identity(IdentityArguments),
    /// Check configuration files, and run the RouteTests in them
    Check(CheckArguments),
    /// Say in words what a sidecar would do with a request, and why
    Explain(ExplainArguments),
    /// Print the schemas of Malla's own kinds
    Schema(SchemaArguments),
    /// Add sidecars to the pods of Kubernetes manifests, as the admission webhook would
    Inject(InjectArguments),
    /// Take the sidecars that `malla inject` has added from manifests
    Uninject(UninjectArguments),
    /// Install Malla into a cluster, with Helm: look before, install, look again
    Install(InstallArguments),
    /// Bring Malla in a cluster up to date, kinds too
    Upgrade(InstallArguments),
    /// Take Malla from a cluster
    Uninstall(UninstallArguments),
    /// Show who is connected to the control server, and what each has applied or rejected
    Status(StatusArguments),
    /// Show the traffic of the mesh, edge by edge, live
    Top(TopArguments),
    /// Show the traffic of the mesh within a few seconds, once
    Stat(StatArguments),
    /// Show requests of a workload as they end
    Tap(TapArguments),
    /// Run a whole mesh on this machine: control server, a travel agency with sidecars, traffic, a live table
    Demo(DemoArguments),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  malla control --config mesh/ --listen 0.0.0.0:15012 --advertise mesh.example.com\n  malla control --kubernetes"
)]
pub(crate) struct ControlArguments {
    /// Directory (or file) of YAML documents; watched, a good change is applied at once
    #[arg(long, value_name = "DIR", required_unless_present = "kubernetes", env = "MALLA_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Read the mesh from the cluster: services, pods, routes, Malla's own kinds; with --config, from files too
    #[arg(long, env = "MALLA_KUBERNETES")]
    pub(crate) kubernetes: bool,

    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,

    #[command(flatten)]
    pub(crate) state: StateArgument,

    /// Where sidecars connect (xDS and certificates, over TLS)
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15012", env = "MALLA_LISTEN")]
    pub(crate) listen: SocketAddr,

    /// Where status, health and metrics are served (plain HTTP, so on loopback unless you say otherwise)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15014", env = "MALLA_ADMIN")]
    pub(crate) admin: SocketAddr,

    /// A name or address by which sidecars reach this server, besides localhost and this host's name (repeatable)
    #[arg(long, value_name = "NAME", env = "MALLA_ADVERTISE", value_delimiter = ',')]
    pub(crate) advertise: Vec<String>,

    /// How long an issued certificate lives, from 10s to 30d; sidecars renew at half of it
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_certificate_lifetime, env = "MALLA_CERTIFICATE_LIFETIME")]
    pub(crate) certificate_lifetime: Duration,

    /// Certificates (PEM) to sign with, instead of the root made at the first start: the signing one first, then what leads to its
    /// root. May be replaced while the server runs
    #[arg(long, value_name = "FILE", requires = "root_key", env = "MALLA_ROOT_CERT")]
    pub(crate) root_cert: Option<PathBuf>,

    /// Private key (PEM) of the first of them
    #[arg(long, value_name = "FILE", requires = "root_cert", env = "MALLA_ROOT_KEY")]
    pub(crate) root_key: Option<PathBuf>,

    /// Serve the admission webhook of Kubernetes, which adds sidecars to pods, on this port of the address of --listen
    #[arg(long, value_name = "PORT", requires = "image", env = "MALLA_WEBHOOK_PORT")]
    pub(crate) webhook_port: Option<u16>,

    #[command(flatten)]
    pub(crate) sidecar: SidecarArguments,
}

/// Which cluster.
#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    /// The cluster's kubeconfig [default: KUBECONFIG, ~/.kube/config, or what a pod is told]
    #[arg(long, value_name = "FILE", env = "MALLA_KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig", env = "MALLA_CONTEXT")]
    pub(crate) context: Option<String>,
}

impl ClusterArguments {
    /// Where the cluster is.
    pub(crate) fn address(&self) -> ClusterAddress {
        match &self.kubeconfig {
            Some(path) => ClusterAddress::File { path: path.clone(), context: self.context.clone() },
            None => ClusterAddress::Inferred,
        }
    }
}

/// What sidecars of Kubernetes have in common.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sidecars in Kubernetes")]
pub(crate) struct SidecarArguments {
    /// Image of the sidecar, which also installs the redirection
    #[arg(id = "image", long = "sidecar-image", value_name = "IMAGE", env = "MALLA_SIDECAR_IMAGE")]
    pub(crate) image: Option<String>,

    /// When nodes pull it: Always, IfNotPresent or Never
    #[arg(
        long = "sidecar-pull-policy",
        value_name = "POLICY",
        default_value = "IfNotPresent",
        env = "MALLA_SIDECAR_PULL_POLICY"
    )]
    pub(crate) pull_policy: String,

    /// The control server, as pods reach it
    #[arg(
        long = "sidecar-control",
        value_name = "HOST:PORT",
        default_value = "malla-control.malla-system.svc:15012",
        env = "MALLA_SIDECAR_CONTROL"
    )]
    pub(crate) control: String,

    /// Native sidecars (Kubernetes 1.29 and later) or classic ones, which are containers among others
    #[arg(long = "sidecar-kind", value_name = "KIND", default_value = "native", env = "MALLA_SIDECAR_KIND")]
    pub(crate) kind: SidecarKind,

    /// CPU that a sidecar asks for
    #[arg(long = "sidecar-cpu-request", value_name = "CPU", default_value = "20m", env = "MALLA_SIDECAR_CPU_REQUEST")]
    pub(crate) cpu_request: String,

    /// CPU that a sidecar may use at most; without it, what is free
    #[arg(long = "sidecar-cpu-limit", value_name = "CPU", env = "MALLA_SIDECAR_CPU_LIMIT")]
    pub(crate) cpu_limit: Option<String>,

    /// Memory that a sidecar asks for
    #[arg(
        long = "sidecar-memory-request",
        value_name = "MEMORY",
        default_value = "24Mi",
        env = "MALLA_SIDECAR_MEMORY_REQUEST"
    )]
    pub(crate) memory_request: String,

    /// Memory that a sidecar may use at most
    #[arg(
        long = "sidecar-memory-limit",
        value_name = "MEMORY",
        default_value = "256Mi",
        env = "MALLA_SIDECAR_MEMORY_LIMIT"
    )]
    pub(crate) memory_limit: String,

    /// Least level of a sidecar's log lines
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "MALLA_SIDECAR_LOG")]
    pub(crate) sidecar_log: String,

    /// How long connections may take to finish when a pod ends
    #[arg(long = "sidecar-drain", value_name = "DURATION", default_value = "30s", env = "MALLA_SIDECAR_DRAIN")]
    pub(crate) drain: String,

    /// Trace collector that takes OTLP, for sidecars: http://HOST:4317 (gRPC) or http://HOST:4318/v1/traces (HTTP)
    #[arg(long = "sidecar-otlp", value_name = "URL", env = "MALLA_SIDECAR_OTLP")]
    pub(crate) otlp: Option<String>,

    /// Share of the traces that begin at a sidecar to be followed; with --sidecar-otlp, 1% if not given
    #[arg(long = "sidecar-trace-sampling", value_name = "SHARE", env = "MALLA_SIDECAR_TRACE_SAMPLING")]
    pub(crate) trace_sampling: Option<String>,

    /// Sidecars tell also of requests that fail although their trace is not followed
    #[arg(long = "sidecar-trace-failures", env = "MALLA_SIDECAR_TRACE_FAILURES")]
    pub(crate) trace_failures: bool,

    /// Sidecars tell also of requests that take longer, for example 500ms
    #[arg(long = "sidecar-trace-slow", value_name = "DURATION", env = "MALLA_SIDECAR_TRACE_SLOW")]
    pub(crate) trace_slow: Option<String>,

    /// Sidecars write a line for each request: errors, all, or those and a share of the others (1%)
    #[arg(long = "sidecar-access-log", value_name = "WHICH", env = "MALLA_SIDECAR_ACCESS_LOG")]
    pub(crate) access_log: Option<String>,

    /// What such a line says: json (the default), or a text with fields in braces
    #[arg(long = "sidecar-access-log-format", value_name = "FORMAT", env = "MALLA_SIDECAR_ACCESS_LOG_FORMAT")]
    pub(crate) access_log_format: Option<String>,

    /// Malla's own namespace, whose pods get no sidecars
    #[arg(
        long = "system-namespace",
        value_name = "NAMESPACE",
        default_value = "malla-system",
        env = "MALLA_SYSTEM_NAMESPACE"
    )]
    pub(crate) system_namespace: String,
}

impl SidecarArguments {
    /// The settings of injection, with these root certificates; `None` without an image.
    pub(crate) fn settings(&self, trust: &str) -> Option<InjectionSettings> {
        let mut settings = InjectionSettings::new(self.image.as_ref()?, trust);
        settings.pull_policy.clone_from(&self.pull_policy);
        settings.control.clone_from(&self.control);
        settings.sidecar = self.kind;
        settings.resources = Resources {
            cpu_request: self.cpu_request.clone(),
            cpu_limit: self.cpu_limit.clone(),
            memory_request: self.memory_request.clone(),
            memory_limit: self.memory_limit.clone(),
        };
        settings.log.clone_from(&self.sidecar_log);
        settings.drain.clone_from(&self.drain);
        settings.system_namespace.clone_from(&self.system_namespace);
        settings.telling = Telling::new([
            ("otlp", self.otlp.clone()),
            ("trace-sampling", self.trace_sampling.clone()),
            ("trace-failures", self.trace_failures.then(|| "true".to_owned())),
            ("trace-slow", self.trace_slow.clone()),
            ("access-log", self.access_log.clone()),
            ("access-log-format", self.access_log_format.clone()),
        ]);
        Some(settings)
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  malla inject -f shop.yaml --sidecar-image malla-proxy:0.1.0 --trust root.pem | kubectl apply -f -\n  cat shop.yaml | malla inject -f - --sidecar-image malla-proxy:0.1.0 --trust root.pem | diff shop.yaml -"
)]
pub(crate) struct InjectArguments {
    #[command(flatten)]
    pub(crate) input: ManifestArgument,

    /// Root certificate (PEM) of the control server: root.pem in its state directory
    #[arg(long, value_name = "FILE")]
    pub(crate) trust: PathBuf,

    /// Namespace of what names none
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,

    #[command(flatten)]
    pub(crate) sidecar: SidecarArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kubectl get -n shop deployment -o yaml | malla uninject -f - | kubectl apply -f -")]
pub(crate) struct UninjectArguments {
    #[command(flatten)]
    pub(crate) input: ManifestArgument,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  malla install --chart deploy/helm/malla --values deploy/helm/malla/values.ha.yaml")]
pub(crate) struct InstallArguments {
    /// Directory of the chart
    #[arg(long, value_name = "DIR", default_value = "deploy/helm/malla")]
    pub(crate) chart: PathBuf,

    /// Values of the chart (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) values: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) helm: HelmArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  malla uninstall")]
pub(crate) struct UninstallArguments {
    /// Also while pods have sidecars: they get no certificates any more, and nobody reaches them when theirs end
    #[arg(long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) helm: HelmArguments,
}

/// Which cluster, which release.
#[derive(Debug, Args)]
pub(crate) struct HelmArguments {
    /// Malla's own namespace
    #[arg(long, value_name = "NAMESPACE", default_value = "malla-system")]
    pub(crate) system_namespace: String,

    /// The program `helm`
    #[arg(id = "helm_program", long = "helm", value_name = "PROGRAM", default_value = "helm")]
    pub(crate) program: PathBuf,

    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct ManifestArgument {
    /// YAML or JSON of Kubernetes; `-` for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct StateArgument {
    /// Where the control server keeps its root certificate and keys (mode 0600)
    #[arg(long = "state", value_name = "DIR", default_value = "malla-state", env = "MALLA_STATE")]
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct TokenArguments {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a join token: whoever holds it obtains a certificate of this identity until it expires
    #[command(
        after_help = "Example:\n  malla token create --namespace shop --service-account cart --ttl 1h > cart.token"
    )]
    Create(TokenCreateArguments),
    /// List tokens that have not expired, and what has become of them
    #[command(after_help = "Example:\n  malla token list --state malla-state")]
    List(TokenListArguments),
    /// Make a token worthless; certificates that were obtained with it stay
    #[command(
        after_help = "Example:\n  malla token revoke \"$(cat cart.token)\"\n  malla token revoke 0f3a…   (its id, from `malla token list`)"
    )]
    Revoke(TokenRevokeArguments),
}

#[derive(Debug, Args)]
pub(crate) struct TokenListArguments {
    #[command(flatten)]
    pub(crate) state: StateArgument,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct TokenRevokeArguments {
    /// The token, or its id
    #[arg(value_name = "TOKEN|ID")]
    pub(crate) token: String,

    #[command(flatten)]
    pub(crate) state: StateArgument,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct CaArguments {
    #[command(subcommand)]
    pub(crate) command: CaCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Show the trust anchors, who has them, and how many certificates of each are in use
    #[command(after_help = "Example:\n  malla ca status")]
    Status(StatusArguments),
    /// Replace the root: a new one is made, trusted by everybody, signs, and the old one is retired
    #[command(
        after_help = "Example:\n  malla ca rotate --state malla-state\n\nRun it beside the control server, as the user that runs it. Each step is taken only when nobody is cut off by it. It may be \
                      stopped at any point; called again, it goes on."
    )]
    Rotate(CaRotateArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CaRotateArguments {
    #[command(flatten)]
    pub(crate) state: StateArgument,

    /// Admin address of the control server; repeat it for each one that uses this state directory
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15014", env = "MALLA_ADMIN", value_delimiter = ',')]
    pub(crate) admin: Vec<SocketAddr>,

    /// How long to wait for those whom the next step would cut off: half of a certificate's life is the most it should take
    #[arg(long, value_name = "DURATION", default_value = "13h", value_parser = parse_duration)]
    pub(crate) patience: Duration,

    /// Wait for nobody: whoever is not ready is cut off
    #[arg(long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  malla authz --config mesh/ --from web/front --to cart.shop:80 GET /items\n\nExit code 1 if somebody would refuse it."
)]
pub(crate) struct AuthzArguments {
    /// The configuration: a YAML file, or a directory of them
    #[arg(long, value_name = "DIR|FILE", env = "MALLA_CONFIG")]
    pub(crate) config: PathBuf,

    /// Who calls: namespace and service account, and its address where rules ask for it
    #[arg(
        long,
        value_name = "NAMESPACE/ACCOUNT[@IP]",
        default_value = "default/default",
        conflicts_with = "plaintext"
    )]
    pub(crate) from: Client,

    /// The caller has no mesh identity (permissive mTLS)
    #[arg(long)]
    pub(crate) plaintext: bool,

    /// The caller's address, for --plaintext too; before the one of --from
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<std::net::IpAddr>,

    /// Whom: a port of a service
    #[arg(long, value_name = "NAME.NAMESPACE:PORT")]
    pub(crate) to: String,

    /// A header of the request (repeatable)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,

    /// The request: a method (GET if there is none) and a path; nothing for a raw TCP connection
    #[arg(value_name = "[METHOD] PATH", num_args = 0..=2)]
    pub(crate) request: Vec<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  malla identity --sidecar 127.0.0.1:15020")]
pub(crate) struct IdentityArguments {
    /// Admin address of the sidecar
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15020", env = "MALLA_SIDECAR")]
    pub(crate) sidecar: SocketAddr,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreateArguments {
    /// Namespace of the identity
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) namespace: String,

    /// Service account of the identity
    #[arg(long, value_name = "NAME")]
    pub(crate) service_account: String,

    /// How long the token may be used, from 1s to 30d; certificates obtained with it are renewed without it
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_token_lifetime)]
    pub(crate) ttl: Duration,

    /// The token is used up by the first certificate that is asked for with it
    #[arg(long)]
    pub(crate) once: bool,

    /// Trust domain of the mesh, as in its `Mesh` document
    #[arg(long, value_name = "NAME", default_value = "cluster.local", env = "MALLA_TRUST_DOMAIN")]
    pub(crate) trust_domain: String,

    #[command(flatten)]
    pub(crate) state: StateArgument,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  malla check mesh/")]
pub(crate) struct CheckArguments {
    /// A YAML file, or a directory of them
    #[arg(value_name = "DIR|FILE", required_unless_present = "in_cluster", conflicts_with = "in_cluster")]
    pub(crate) path: Option<PathBuf>,

    /// Look at a cluster instead: whether Malla and all pods are there as they should be
    #[arg(long = "cluster", id = "in_cluster")]
    pub(crate) in_cluster: bool,

    /// With --cluster: look at what must be there before Malla is installed
    #[arg(long, requires = "in_cluster")]
    pub(crate) before: bool,

    /// With --cluster: Malla's own namespace
    #[arg(long, value_name = "NAMESPACE", default_value = "malla-system")]
    pub(crate) system_namespace: String,

    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  malla explain --config mesh/ --from web/front GET http://cart.shop/items?all=1 -H 'x-tester: 1'\n  malla explain --diff mesh.old/ mesh/ --requests requests.txt    (lines: [from=web/front] [METHOD] URL [| name: value]…)"
)]
pub(crate) struct ExplainArguments {
    /// The configuration: a YAML file, or a directory of them
    #[arg(
        long,
        value_name = "DIR|FILE",
        required_unless_present = "diff",
        conflicts_with = "diff",
        env = "MALLA_CONFIG"
    )]
    pub(crate) config: Option<PathBuf>,

    /// Who sends the request: namespace and service account, and from where if a policy asks
    #[arg(long, value_name = "NAMESPACE/ACCOUNT[@ADDRESS]", default_value = "default/default")]
    pub(crate) from: Client,

    /// Two configurations: tell which requests would be treated differently
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"])]
    pub(crate) diff: Vec<PathBuf>,

    /// With --diff: a file of requests, one on each line, besides those of the RouteTests
    #[arg(long, value_name = "FILE", requires = "diff")]
    pub(crate) requests: Option<PathBuf>,

    /// A header of the request (repeatable)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,

    /// The request: a method (GET if there is none) and an absolute URL
    #[arg(value_name = "[METHOD] URL", num_args = 0..=2)]
    pub(crate) request: Vec<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  malla schema --format json Workload\n  malla schema --format crd | kubectl apply -f -"
)]
pub(crate) struct SchemaArguments {
    /// JSON Schema (for editors), CustomResourceDefinitions (for Kubernetes), or a reference for people
    #[arg(long, value_enum, default_value_t = SchemaFormat::Json)]
    pub(crate) format: SchemaFormat,

    /// One kind; all without it
    #[arg(value_name = "KIND")]
    pub(crate) kind: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaFormat {
    /// Kubernetes CustomResourceDefinitions, as YAML documents
    Crd,
    /// JSON Schema
    Json,
    /// Every parameter with its type, default and bounds, as Markdown
    Markdown,
}

/// Which control server is asked, from where, and as whom.
#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    /// Admin address of the control server, from its own machine
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15014", env = "MALLA_ADMIN")]
    pub(crate) admin: SocketAddr,

    /// xDS address of a control server elsewhere, which answers those whom `Mesh.spec.observers` names; instead of --admin
    #[arg(long, value_name = "HOST:PORT", requires = "trust", requires = "credential")]
    control: Option<HostPort>,

    /// Root certificates (PEM) that the control server elsewhere is known by
    #[arg(long, value_name = "FILE", requires = "control")]
    trust: Option<PathBuf>,

    /// File with a join token, or a Kubernetes service account's token for the audience malla
    #[arg(long, value_name = "FILE", requires = "control", group = "credential")]
    token: Option<PathBuf>,

    /// Certificate of the mesh with its intermediates (PEM), as `malla-proxy certificates` writes it
    #[arg(long, value_name = "FILE", requires = "control", requires = "key", group = "credential")]
    certificate: Option<PathBuf>,

    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

impl ServerArguments {
    /// Who is asked.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(crate) fn server(&self) -> anyhow::Result<Server> {
        let (Some(control), Some(trust)) = (&self.control, &self.trust) else { return Ok(self.admin.into()) };
        let credential = match (&self.token, &self.certificate, &self.key) {
            (Some(token), _, _) => Credential::Token(token),
            (None, Some(chain), Some(key)) => Credential::Certificate { chain, key },
            (None, _, _) => anyhow::bail!("show who you are: --token FILE, or --certificate FILE with --key FILE"),
        };
        Ok(Server::Remote(Remote::new(control.clone(), trust, credential)?))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  malla status --admin 127.0.0.1:15014")]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) server: ServerArguments,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

/// Where traffic is asked for, and which of it.
#[derive(Debug, Args)]
pub(crate) struct TrafficArguments {
    #[command(flatten)]
    pub(crate) server: ServerArguments,

    /// Which edge comes first
    #[arg(long, value_enum, default_value_t = Order::Rate)]
    pub(crate) sort: Order,

    /// Edges alone that have this in their source, destination, identity or a reason
    #[arg(value_name = "TEXT")]
    pub(crate) filter: Option<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  malla top\n  malla top --sort failures shop")]
pub(crate) struct TopArguments {
    #[command(flatten)]
    pub(crate) traffic: TrafficArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  malla stat\n  malla stat --for 30s -o json")]
pub(crate) struct StatArguments {
    #[command(flatten)]
    pub(crate) traffic: TrafficArguments,

    /// How long to count
    #[arg(long = "for", value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
}

/// Order of edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Most requests first
    Rate,
    /// Most failures first
    Failures,
    /// Slowest first, by the 99th percentile
    P99,
    /// By source and destination
    Name,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  malla tap shop/cart-1\n  malla tap 'shop/cart-*' --status 5xx\n  malla tap shop --identity web/sa/front --path /api -o json\n  malla tap shop --control mesh.example:15012 --trust root.pem --token token\n\nPaths are shown; queries, headers and bodies are not. \
                  On the control server's own machine for whoever is there; from elsewhere for those whom `Mesh.spec.observers` names."
)]
pub(crate) struct TapArguments {
    /// Whose requests: a workload, its beginning with a star, or a namespace
    #[arg(value_name = "NAMESPACE[/WORKLOAD]")]
    pub(crate) workload: String,

    #[command(flatten)]
    pub(crate) server: ServerArguments,

    /// Requests with this method alone
    #[arg(long, value_name = "METHOD", default_value = "")]
    pub(crate) method: String,

    /// Requests whose path begins so
    #[arg(long, value_name = "PATH", default_value = "")]
    pub(crate) path: String,

    /// Requests with this status: 503, or 5xx
    #[arg(long, value_name = "STATUS", default_value = "")]
    pub(crate) status: String,

    /// Requests to or from this identity, or what it ends in: web/sa/front
    #[arg(long, value_name = "IDENTITY", default_value = "")]
    pub(crate) identity: String,

    /// Requests that failed for this reason
    #[arg(long, value_name = "REASON", default_value = "")]
    pub(crate) reason: String,

    /// Requests in a second and sidecar, at most; 100 at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) per_second: u32,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  malla demo\n  malla demo --config ./mesh      (routes you can edit while it runs)\n  malla demo --for 20s            (a check: exit code 0 only if everything succeeded)"
)]
pub(crate) struct DemoArguments {
    /// Stop after this time, print a summary, and exit with 0 only if everything succeeded
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,

    /// Keep the mesh's files in this directory (written there if it has none) instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) config: Option<PathBuf>,

    /// Requests per second that visitors make, over all portals; each becomes about thirteen inside the mesh
    #[arg(long, value_name = "NUMBER", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,

    /// Trace collector (Jaeger, for example) that is told of every request: http://127.0.0.1:4317
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<Collector>,

    /// Write a configuration for Prometheus into this directory: whom to scrape, recording rules and alerts
    #[arg(long, value_name = "DIR")]
    pub(crate) prometheus: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgument {
    /// Table for people or JSON for programs
    #[arg(short = 'o', long = "output", value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT")]
    pub(crate) format: OutputFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    Table,
    /// For programs
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_flag_of_the_control_server_is_an_environment_variable() {
        let mut command = Arguments::command();
        command.build();
        let control = command.find_subcommand("control").expect("there is one");
        for argument in control.get_arguments() {
            let Some(flag) = argument.get_long().filter(|flag| !["help", "no-color"].contains(flag)) else { continue };
            let expected = match flag {
                // https://no-color.org
                "no-color-environment" => "NO_COLOR".to_owned(),
                flag => format!("MALLA_{}", flag.to_uppercase().replace('-', "_")),
            };
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&*expected), "--{flag}");
        }
    }

    #[test]
    fn every_command_that_does_something_shows_an_example() {
        fn check(command: &clap::Command) {
            if command.has_subcommands() {
                command.get_subcommands().filter(|child| child.get_name() != "help").for_each(check);
            } else {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "`{}` shows no example", command.get_name());
            }
        }
        check(&Arguments::command());
    }
}
