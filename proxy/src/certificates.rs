//! `malla-proxy certificates`: keeps a certificate, its key and the trust bundle fresh as PEM files, for programs that do their own
//! TLS (proxyless gRPC, Envoy).
//!
//! The three files always belong together: each set is written into a directory of its own, and one symbolic link is swapped, as
//! Kubernetes does for mounted secrets. `certificates.pem`, `private_key.pem` and `ca_certificates.pem` lead through that link.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::control::Connector;
use crate::dial::Dialer;
use crate::dns::Resolver;
use crate::identity::{Identity, IdentityStore, Renewal};
use crate::settings::{JoinArgs, SettingsError};
use crate::subscribe::{Directory, Subject};
use crate::tls;

/// Keep a certificate, its key and the trust bundle as PEM files
///
/// For programs that do their own TLS, such as proxyless gRPC with a `file_watcher` certificate provider. Runs until it is
/// stopped and replaces the files before they expire.
///
/// Example: malla-proxy certificates --out /run/malla --trust root.pem --token token
#[derive(Debug, clap::Args)]
pub struct CertificatesArgs {
    #[command(flatten)]
    join: JoinArgs,

    /// Directory for certificates.pem, private_key.pem and ca_certificates.pem; made if it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Write the files once and end
    #[arg(long)]
    once: bool,
}

/// Why the files cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No certificate.
    #[error("no certificate: {0}")]
    Refused(String),
    /// The directory.
    #[error("cannot write to {}: give a directory that this user can write to with --out", path.display())]
    Write {
        /// Path.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
}

/// Runs the command until it is dropped, or with `--once` until the files are written.
///
/// # Errors
/// Settings, a directory that cannot be written to; with `--once` a refused certificate too.
pub async fn run(args: CertificatesArgs) -> Result<(), CertificatesError> {
    let settings = args.join.ready()?;
    // Before anything is asked for: the directory is what is most often wrong.
    prepare(&args.out).map_err(|cause| CertificatesError::Write { path: args.out.clone(), cause })?;
    let (resolver, dialer) = (Resolver::new(&settings).into(), Dialer::new(&settings).into());
    let connector = Connector::new(&settings, tls::provider(), resolver, dialer);
    let identity = IdentityStore::new();
    let renewal = Renewal::new(identity.clone(), connector.clone(), &settings);
    if args.once {
        let obtained = renewal.obtain().await.map_err(CertificatesError::Refused)?;
        return write(&args.out, &obtained);
    }
    let mut generations = identity.subscribe();
    let (directory, asks) = Directory::new();
    let follow = directory.follow(asks, &settings, Subject::TrustBundle, connector, identity.clone());
    let writing = async {
        while generations.changed().await.is_ok() {
            if let Some(identity) = identity.last() {
                write(&args.out, &identity)?;
                tracing::info!(directory = %args.out.display(), identity = %identity.spiffe_id, "wrote certificate, key and trust bundle");
            }
        }
        Ok(())
    };
    tokio::select! {
        () = renewal.run() => Ok(()),
        () = follow => Ok(()),
        written = writing => written,
    }
}

const LINK: &str = "..data";
const FILES: [&str; 3] = ["certificates.pem", "private_key.pem", "ca_certificates.pem"];

/// Makes the directory, and sees whether it can be written to.
fn prepare(out: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(out)?;
    let probe = out.join("..probe");
    fs::File::create(&probe)?;
    fs::remove_file(probe)
}

/// Writes a set of files and makes it the current one.
fn write(out: &Path, identity: &Identity) -> Result<(), CertificatesError> {
    let chain: String = identity.certified_key.cert.iter().map(|certificate| pem(certificate)).collect();
    let anchors: String = identity.trust_certificates.iter().map(|certificate| pem(certificate)).collect();
    replace(out, [&chain, identity.key_pem.expose(), &anchors])
        .map_err(|cause| CertificatesError::Write { path: out.to_owned(), cause })
}

/// RFC 7468.
fn pem(certificate: &[u8]) -> String {
    let encoded = STANDARD.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + "-----END CERTIFICATE-----\n"
}

fn replace(out: &Path, contents: [&str; 3]) -> io::Result<()> {
    let before = fs::read_link(out.join(LINK)).ok();
    let version = fresh_name(out);
    let directory = out.join(&version);
    fs::DirBuilder::new().mode(0o700).create(&directory)?;
    for (name, content) in FILES.into_iter().zip(contents) {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(name))?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
    }
    swap_link(&version, out, LINK)?;
    for name in FILES {
        let target = Path::new(LINK).join(name);
        if fs::read_link(out.join(name)).ok().as_deref() != Some(&target) {
            swap_link(&target, out, name)?;
        }
    }
    // Who has just followed the link may still read the set before; older ones are gone.
    for entry in fs::read_dir(out)?.flatten() {
        let name = PathBuf::from(entry.file_name());
        let old = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if old && name != version && Some(&name) != before.as_ref() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

const PREFIX: &str = "..malla-";

/// A name in the directory that is not taken.
fn fresh_name(out: &Path) -> PathBuf {
    loop {
        let name = PathBuf::from(format!("{PREFIX}{:016x}", fastrand::u64(..)));
        if !out.join(&name).exists() {
            return name;
        }
    }
}

/// Makes `name` a link to `target`, in place of whatever it was.
fn swap_link(target: &Path, out: &Path, name: &str) -> io::Result<()> {
    let temporary = out.join(format!("..new-{}", name.trim_start_matches('.')));
    let _ = fs::remove_file(&temporary);
    symlink(target, &temporary)?;
    fs::rename(temporary, out.join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(out: &Path) -> Vec<String> {
        FILES.iter().map(|name| fs::read_to_string(out.join(name)).expect("written")).collect()
    }

    #[test]
    fn swaps_all_files_at_once_and_keeps_the_key_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("certificates");
        prepare(&out).expect("prepared");
        for round in ["a", "b", "c"] {
            replace(&out, [round; 3]).expect("replaced");
            assert_eq!(read(&out), [round; 3]);
        }
        let mode = fs::metadata(out.join("private_key.pem")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let sets = fs::read_dir(&out).expect("readable").flatten();
        let sets = sets.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)).count();
        assert_eq!(sets, 2, "the current one and the one before");
    }

    #[test]
    fn replaces_plain_files_of_the_same_names() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("certificates.pem"), "old").expect("written");
        replace(directory.path(), ["new"; 3]).expect("replaced");
        assert_eq!(read(directory.path()), ["new"; 3]);
    }

    #[test]
    fn pem_has_lines_of_64_characters() {
        let text = pem(&[0; 100]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first(), Some(&"-----BEGIN CERTIFICATE-----"));
        assert_eq!(lines[1].len(), 64);
        assert!(text.ends_with("=\n-----END CERTIFICATE-----\n"));
    }
}
