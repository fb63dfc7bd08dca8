//! Replacing the root in the state directory, step by step: a new root is made, trusted, signs, and the old one is retired.
//!
//! Which step a rotation has come to is read from the files, and every step ends with one rename: whoever is killed in the middle
//! goes on where he was. A running control server takes the files up as they change. Whether a step may be taken — who would be
//! cut off by it — is not known here; it is in the server's status.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{Issuer, KeyPair};
use rustls::crypto::CryptoProvider;

use crate::ca::{
    self, Anchor, AuthorityError, CROSS_CERTIFICATE, NEXT_CERTIFICATE, NEXT_KEY, ROOT_CERTIFICATE, ROOT_KEY, new_root,
};
use crate::state::{StateDirectory, StateError, StateLock};

/// How far a rotation has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// There is one root, and no other is to come.
    Whole {
        /// The root.
        root: Anchor,
    },
    /// A new root was made; nobody trusts it yet.
    Made {
        /// The root that signs.
        old: Anchor,
        /// The root that is to come.
        new: Anchor,
    },
    /// The new root is distributed beside the old one, which signs.
    Distributed {
        /// The root that signs.
        old: Anchor,
        /// The root that is to come.
        new: Anchor,
    },
    /// The new root signs; the old one is still trusted.
    Signing {
        /// The root that goes.
        old: Anchor,
        /// The root that signs.
        new: Anchor,
    },
    /// The old root is trusted no more; what is left of the rotation is to be cleared away.
    Retired {
        /// The root.
        root: Anchor,
    },
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The state directory's fault.
    #[error(transparent)]
    State(#[from] StateError),
    /// No root could be made or used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// There is nothing to rotate.
    #[error(
        "there is no {ROOT_CERTIFICATE} in {directory}: start `malla control` once, or name its state directory with --state (a root that \
             comes from --root-cert is rotated by who writes those files)"
    )]
    NoRoot {
        /// The directory.
        directory: String,
    },
    /// The files are not what a rotation leaves.
    #[error("the files of the root in {directory} contradict each other: {problem}")]
    Confused {
        /// The directory.
        directory: String,
        /// How.
        problem: &'static str,
    },
    /// A file cannot be removed.
    #[error("cannot remove {path}")]
    Remove {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}

/// The rotation of a state directory's root. Others wait while it is held.
#[derive(Debug)]
pub struct Rotation {
    state: StateDirectory,
    provider: Arc<CryptoProvider>,
    _lock: StateLock,
}

impl Rotation {
    /// Takes up, or begins, the rotation of the root in a state directory.
    ///
    /// # Errors
    /// There is no root in it, or it is not writable.
    pub fn open(directory: &Path) -> Result<Rotation, RotationError> {
        if !directory.join(ROOT_CERTIFICATE).exists() {
            return Err(RotationError::NoRoot { directory: directory.display().to_string() });
        }
        let state = StateDirectory::open(directory)?;
        let lock = state.lock()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(Rotation { state, provider, _lock: lock })
    }

    /// How far it has come.
    ///
    /// # Errors
    /// The files cannot be read, or are not what a rotation leaves.
    pub fn stage(&self) -> Result<Stage, RotationError> {
        let roots = self.anchors(ROOT_CERTIFICATE)?.ok_or_else(|| self.confused("root.pem is not a certificate"))?;
        let next = match (self.anchors(NEXT_CERTIFICATE)?, self.state.read(NEXT_KEY)?) {
            (Some(next), Some(_)) => next.into_iter().next(),
            // A key alone is what a rotation that was killed at its beginning leaves: it begins anew.
            _ => None,
        };
        match (&roots[..], next) {
            ([root], None) => Ok(Stage::Whole { root: root.clone() }),
            ([root], Some(next)) if *root == next => Ok(Stage::Retired { root: root.clone() }),
            ([old], Some(new)) => Ok(Stage::Made { old: old.clone(), new }),
            ([old, other], Some(new)) if *other == new => Ok(Stage::Distributed { old: old.clone(), new }),
            ([first, old], Some(new)) if *first == new => Ok(Stage::Signing { old: old.clone(), new }),
            (_, None) => Err(self.confused("root.pem holds several roots, and none of them is in root.next.pem")),
            (_, Some(_)) => {
                Err(self.confused("root.pem holds other roots than the old one and the one in root.next.pem"))
            }
        }
    }

    /// Takes the next step.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn step(&self) -> Result<Stage, RotationError> {
        match self.stage()? {
            Stage::Whole { root } => self.make(&root)?,
            Stage::Made { old, new } => {
                self.state.write_public(ROOT_CERTIFICATE, &format!("{}{}", old.pem, new.pem))?
            }
            Stage::Distributed { old, new } => {
                self.state.write_public(ROOT_CERTIFICATE, &format!("{}{}", new.pem, old.pem))?;
            }
            Stage::Signing { new, .. } => {
                // The key first: a certificate whose key is nowhere would be the end of the mesh.
                let key = self.state.read(NEXT_KEY)?.ok_or_else(|| self.confused("root.next.key is missing"))?;
                self.state.write(ROOT_KEY, &key)?;
                self.state.write_public(ROOT_CERTIFICATE, &new.pem)?;
                self.clear()?;
            }
            Stage::Retired { .. } => self.clear()?,
        }
        self.stage()
    }

    /// Makes the root that is to come, also as certified by the old one.
    fn make(&self, old: &Anchor) -> Result<(), RotationError> {
        let (params, key) = new_root(&self.provider)?;
        let certificate = params.self_signed(&key).map_err(AuthorityError::Make)?;
        let old_key = self.state.read(ROOT_KEY)?.ok_or_else(|| self.confused("root.key is missing"))?;
        let old_key = KeyPair::from_pem(&old_key).map_err(AuthorityError::Make)?;
        let issuer = Issuer::from_ca_cert_der(&old.certificate, old_key).map_err(AuthorityError::Make)?;
        let mut crossed = params;
        crossed.not_after = old.expires.into();
        crossed.use_authority_key_identifier_extension = true;
        let crossed = crossed.signed_by(&key, &issuer).map_err(AuthorityError::Make)?;
        self.state.write(NEXT_KEY, &key.serialize_pem())?;
        self.state.write_public(CROSS_CERTIFICATE, &crossed.pem())?;
        Ok(self.state.write_public(NEXT_CERTIFICATE, &certificate.pem())?)
    }

    /// Clears away what a rotation leaves; the certificate that tells of it last.
    fn clear(&self) -> Result<(), RotationError> {
        for name in [NEXT_KEY, CROSS_CERTIFICATE, NEXT_CERTIFICATE] {
            let path = self.state.file(name);
            match fs::remove_file(&path) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    return Err(RotationError::Remove { path: path.display().to_string(), cause });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn anchors(&self, name: &str) -> Result<Option<Vec<Anchor>>, RotationError> {
        Ok(self.state.read(name)?.and_then(|text| ca::anchors(&text)))
    }

    fn confused(&self, problem: &'static str) -> RotationError {
        RotationError::Confused { directory: self.state.file("").display().to_string(), problem }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ca::{CertificateAuthority, RootSource};

    fn open(directory: &Path) -> CertificateAuthority {
        let state = StateDirectory::open(directory).expect("opens");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        CertificateAuthority::open(&state, &RootSource::State, Duration::from_secs(60), provider).expect("an authority")
    }

    fn trusted(authority: &CertificateAuthority) -> Vec<&str> {
        authority.anchors().iter().map(|anchor| &*anchor.fingerprint).collect()
    }

    #[test]
    fn a_rotation_ends_with_one_new_root_and_an_authority_at_every_step() {
        let directory = tempfile::tempdir().expect("a directory");
        let old = open(directory.path()).root();
        let step = || {
            // Each step by a process of its own, as after a kill.
            let rotation = Rotation::open(directory.path()).expect("there is a root");
            rotation.step().expect("taken")
        };
        let Stage::Made { new, .. } = step() else { panic!("not made") };
        let new = new.fingerprint;
        assert_eq!(trusted(&open(directory.path())), [&*old]);
        assert!(matches!(step(), Stage::Distributed { .. }));
        let authority = open(directory.path());
        assert_eq!((authority.root(), trusted(&authority)), (old.clone(), vec![&*old, &*new]));
        assert!(matches!(step(), Stage::Signing { .. }));
        let authority = open(directory.path());
        assert_eq!((authority.root(), trusted(&authority)), (new.clone(), vec![&*new, &*old]));
        assert!(matches!(step(), Stage::Whole { .. }));
        assert_eq!(trusted(&open(directory.path())), [&*new]);
        let left: Vec<_> =
            fs::read_dir(directory.path()).expect("lists").flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("next")), "{left:?}");
    }

    #[test]
    fn goes_on_wherever_it_was_killed() {
        let directory = tempfile::tempdir().expect("a directory");
        open(directory.path());
        let rotation = || Rotation::open(directory.path()).expect("there is a root");
        let path = |name: &str| directory.path().join(name);
        // Killed with the key written and the certificate not.
        fs::write(path(NEXT_KEY), "half").expect("written");
        assert!(matches!(rotation().stage().expect("known"), Stage::Whole { .. }));
        for _ in 0..3 {
            rotation().step().expect("taken");
        }
        // Killed while retiring: the new key is in place, the old root still trusted.
        fs::copy(path(NEXT_KEY), path(ROOT_KEY)).expect("copied");
        let Stage::Signing { new, .. } = rotation().stage().expect("known") else { panic!("not signing") };
        assert_eq!(open(directory.path()).root(), new.fingerprint);
        // Killed while clearing away.
        fs::write(path(ROOT_CERTIFICATE), &new.pem).expect("written");
        assert!(matches!(rotation().stage().expect("known"), Stage::Retired { .. }));
        assert!(matches!(rotation().step().expect("taken"), Stage::Whole { root } if root == new));
        assert_eq!(trusted(&open(directory.path())), [&*new.fingerprint]);
    }
}
