//! Tests of watching a directory: what a change on disk becomes, in whatever way it is made.

use std::fs::{self, create_dir, remove_dir_all, remove_file, rename, write};
use std::os::unix::fs::symlink;
use std::time::Duration;

use malla_xds::ResourceType;
use tempfile::TempDir;

use super::*;

fn service(name: &str) -> String {
    let spec = "{type: ExternalName, externalName: example.com, ports: [{port: 80}]}";
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
}

/// A directory and the source that reads it.
struct Fixture {
    directory: TempDir,
    source: Source,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            write(directory.path().join(name), text).expect("is written");
        }
        let source =
            start(directory.path(), tokio::sync::watch::Sender::new("bundle".into()).subscribe()).expect("starts");
        Fixture { directory, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        write(self.path(name), text).expect("is written");
    }

    fn is_loaded(&self) -> bool {
        self.source.published.resources.borrow().is_loaded()
    }

    /// The names of the services that are served.
    fn services(&self) -> Vec<String> {
        let resources = self.source.published.resources.borrow();
        resources.all(ResourceType::Cluster).map(|cluster| cluster.name.to_string()).collect()
    }

    /// Waits until these are served, and served without complaint.
    async fn serves(&mut self, services: &[&str]) {
        self.outcome(|outcome| matches!(outcome, ReloadOutcome::Applied { .. }), services).await;
    }

    /// Waits until the configuration is refused for a reason that contains `reason`; the services are still served.
    async fn refuses(&mut self, reason: &str, services: &[&str]) {
        let refused = |outcome: &ReloadOutcome| matches!(outcome, ReloadOutcome::Refused { errors, .. } if errors.contains(reason));
        self.outcome(refused, services).await;
    }

    async fn outcome(&mut self, expected: impl Fn(&ReloadOutcome) -> bool, services: &[&str]) {
        let waiting = async {
            loop {
                let last_reload = &mut self.source.published.last_reload;
                let outcome = last_reload.borrow_and_update().outcome.clone();
                let served = self.source.published.resources.borrow();
                let names: Vec<String> =
                    served.all(ResourceType::Cluster).map(|cluster| cluster.name.to_string()).collect();
                drop(served);
                if expected(&outcome) && names == services {
                    return;
                }
                last_reload.changed().await.expect("the source runs");
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), waiting).await.is_err() {
            let outcome = self.source.published.last_reload.borrow().outcome.clone();
            panic!("expected {services:?}, serves {:?} after {outcome:?}", self.services());
        }
    }
}

#[tokio::test]
async fn applies_changes_and_keeps_the_last_good_one() {
    let mut mesh = Fixture::new(&[("a.yaml", &service("a"))]);
    mesh.serves(&["a.shop:80"]).await;
    mesh.write("b.yaml", &service("b"));
    mesh.serves(&["a.shop:80", "b.shop:80"]).await;
    mesh.write("b.yaml", "kind: Servce\n");
    mesh.refuses("unknown kind `Servce`", &["a.shop:80", "b.shop:80"]).await;
    // Refused as a whole: the good part of the change too.
    mesh.write("a.yaml", &service("c"));
    mesh.write("b.yaml", "kind: [\n");
    mesh.refuses("b.yaml:", &["a.shop:80", "b.shop:80"]).await;
    mesh.write("b.yaml", &service("d"));
    mesh.serves(&["c.shop:80", "d.shop:80"]).await;
    remove_file(mesh.path("b.yaml")).expect("is removed");
    mesh.serves(&["c.shop:80"]).await;
}

#[tokio::test]
async fn a_change_is_there_within_a_second() {
    let mut mesh = Fixture::new(&[("a.yaml", &service("a"))]);
    mesh.serves(&["a.shop:80"]).await;
    // The watch stands once a first change has been told of.
    mesh.write("b.yaml", &service("b"));
    mesh.serves(&["a.shop:80", "b.shop:80"]).await;
    let start = std::time::Instant::now();
    mesh.write("b.yaml", &service("c"));
    mesh.serves(&["a.shop:80", "c.shop:80"]).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_editor_that_renames_is_no_loss() {
    let mut mesh = Fixture::new(&[("a.yaml", &service("a"))]);
    write(mesh.path("a.yaml.tmp"), service("b")).expect("is written");
    rename(mesh.path("a.yaml.tmp"), mesh.path("a.yaml")).expect("is renamed");
    mesh.serves(&["b.shop:80"]).await;
    rename(mesh.path("a.yaml"), mesh.path("a.yaml~")).expect("is renamed");
    mesh.write("a.yaml", &service("c"));
    mesh.serves(&["c.shop:80"]).await;
}

#[tokio::test]
async fn a_mount_that_swaps_its_link_is_read_anew() {
    let mut mesh = Fixture::new(&[]);
    let version = |number: u8| format!("..version_{number}");
    for number in [1, 2] {
        create_dir(mesh.path(&version(number))).expect("is made");
        mesh.write(&format!("{}/mesh.yaml", version(number)), &service(&format!("v{number}")));
    }
    symlink(version(1), mesh.path("..data")).expect("is linked");
    symlink("..data/mesh.yaml", mesh.path("mesh.yaml")).expect("is linked");
    mesh.serves(&["v1.shop:80"]).await;
    // As the kubelet does it: a new link, renamed over the old one.
    symlink(version(2), mesh.path("..data_tmp")).expect("is linked");
    rename(mesh.path("..data_tmp"), mesh.path("..data")).expect("is renamed");
    remove_dir_all(mesh.path(&version(1))).expect("is removed");
    mesh.serves(&["v2.shop:80"]).await;
}

#[tokio::test]
async fn a_file_changed_behind_a_link_is_read_anew() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    write(elsewhere.path().join("real.yaml"), service("a")).expect("is written");
    let mut mesh = Fixture::new(&[]);
    symlink(elsewhere.path().join("real.yaml"), mesh.path("a.yaml")).expect("is linked");
    mesh.serves(&["a.shop:80"]).await;
    write(elsewhere.path().join("real.yaml"), service("b")).expect("is written");
    mesh.serves(&["b.shop:80"]).await;
}

#[tokio::test]
async fn an_empty_or_missing_directory_takes_nothing_away() {
    let mut mesh = Fixture::new(&[("a.yaml", &service("a"))]);
    remove_file(mesh.path("a.yaml")).expect("is removed");
    mesh.refuses("there are no *.yaml", &["a.shop:80"]).await;
    let directory = mesh.directory.path().to_owned();
    fs::remove_dir(&directory).expect("is removed");
    mesh.refuses("cannot be read", &["a.shop:80"]).await;
    create_dir(&directory).expect("is made again");
    mesh.write("b.yaml", &service("b"));
    mesh.serves(&["b.shop:80"]).await;
    mesh.write("b.yaml", &service("c"));
    mesh.serves(&["c.shop:80"]).await;
}

#[tokio::test]
async fn a_file_that_was_only_truncated_takes_nothing_away() {
    let mut mesh = Fixture::new(&[("a.yaml", &service("a"))]);
    mesh.write("a.yaml", "");
    mesh.refuses("a.yaml is empty", &["a.shop:80"]).await;
    mesh.write("a.yaml", &service("b"));
    mesh.serves(&["b.shop:80"]).await;
}

#[tokio::test]
async fn a_broken_start_serves_nothing_until_it_is_mended() {
    let mut mesh = Fixture::new(&[("a.yaml", "kind: [\n")]);
    mesh.refuses("a.yaml:", &[]).await;
    assert!(!mesh.is_loaded());
    mesh.write("a.yaml", &service("a"));
    mesh.serves(&["a.shop:80"]).await;
    assert!(mesh.is_loaded());
}

#[tokio::test]
async fn one_file_is_followed_through_renames() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("mesh.yaml");
    write(&file, service("a")).expect("is written");
    let source = start(&file, tokio::sync::watch::Sender::new("bundle".into()).subscribe()).expect("starts");
    let mut mesh = Fixture { directory, source };
    mesh.serves(&["a.shop:80"]).await;
    mesh.write("other.yaml", &service("b"));
    rename(mesh.path("other.yaml"), &file).expect("is renamed");
    mesh.serves(&["b.shop:80"]).await;
}

#[tokio::test]
async fn a_path_that_does_not_exist_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let error = start(&directory.path().join("typo"), tokio::sync::watch::Sender::new("bundle".into()).subscribe())
        .expect_err("does not start");
    assert!(error.to_string().contains("typo: give a directory"));
}

#[tokio::test]
async fn a_policy_that_targets_nothing_is_told_as_long_as_it_serves() {
    let policy = "apiVersion: malla.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p, namespace: shop}\n\
                  spec: {targetRefs: [{group: '', kind: Service, name: crat}]}\n";
    let mut fixture = Fixture::new(&[("cart.yaml", &service("cart")), ("policy.yaml", policy)]);
    let notices = |fixture: &Fixture| fixture.source.published.resources.borrow().notices().to_vec();
    let told = notices(&fixture);
    assert!(told.len() == 1 && told[0].contains("TrafficPolicy shop/p: the policy targets nothing"), "{told:?}");
    fixture.write("crat.yaml", &service("crat"));
    fixture.serves(&["cart.shop:80", "crat.shop:80"]).await;
    assert_eq!(notices(&fixture), [""; 0]);
}

#[test]
fn a_cause_that_an_error_tells_itself_is_not_told_twice() {
    #[derive(Debug, thiserror::Error)]
    #[error("asking: {0}")]
    struct Outer(#[source] Inner);
    #[derive(Debug, thiserror::Error)]
    #[error("connecting")]
    struct Inner(#[source] std::io::Error);
    let error = Outer(Inner(std::io::Error::other("refused")));
    assert_eq!(chain(&error), "asking: connecting: refused");
}
