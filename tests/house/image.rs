//! The Dockerfile, as far as it can be tried without a container runtime: what it copies and builds is there, its script makes a root
//! directory in which the programs run, and a linter finds nothing.

use std::fs;
use std::process::Command;

use malla_tests::tools;

fn dockerfile() -> String {
    // Lines that go on are one.
    fs::read_to_string(tools::repository().join("Dockerfile")).expect("is there").replace("\\\n", " ")
}

#[test]
fn what_it_copies_and_builds_is_there_and_not_ignored() {
    let root = tools::repository();
    let ignored = fs::read_to_string(root.join(".dockerignore")).expect("is there");
    let kept: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for path in &kept {
        assert!(root.join(path).exists(), ".dockerignore keeps {path}, which is not there");
    }
    let members = fs::read_to_string(root.join("Cargo.toml")).expect("is there");
    let members = members.lines().find_map(|line| line.strip_prefix("members = ")).expect("members").to_owned();
    for member in members.split('"').skip(1).step_by(2) {
        assert!(kept.contains(&member), "{member} is a member of the workspace: .dockerignore must keep it");
    }
    let text = dockerfile();
    let mut copied = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from")) {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.pop();
        for source in words.iter().filter(|source| **source != ".") {
            assert!(root.join(source).exists(), "the Dockerfile copies {source}, which is not there");
            assert!(kept.iter().any(|path| source.starts_with(path)), ".dockerignore must keep {source}");
            copied += 1;
        }
    }
    assert_eq!(copied, 1);
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(words.contains(&"--locked"));
    for package in words.windows(2).filter(|pair| pair[0] == "--package").map(|pair| pair[1]) {
        let name = format!("name = \"{package}\"");
        let manifests =
            ["cli/Cargo.toml", "proxy/Cargo.toml"].map(|path| fs::read_to_string(root.join(path)).expect("read"));
        assert!(
            manifests.iter().any(|manifest| manifest.lines().any(|line| line == name)),
            "there is no package {package}"
        );
    }
}

#[test]
fn the_script_makes_a_root_directory_in_which_the_programs_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("root");
    let proxy = tools::binary("malla-proxy");
    let script = tools::repository().join("deploy/image/collect");
    let collected = Command::new(&script).arg(&root).arg(&proxy).arg("/usr/sbin/nft").output().expect("runs");
    assert!(collected.status.success(), "{}", String::from_utf8_lossy(&collected.stderr));
    for file in ["etc/passwd", "etc/group", "etc/nsswitch.conf", "usr/sbin/nft"] {
        assert!(root.join(file).exists(), "{file}");
    }
    for (program, flag) in [(proxy.to_str().expect("UTF-8"), "--version"), ("/usr/sbin/nft", "--version")] {
        let run = Command::new("unshare").args(["--map-root-user", "--root"]).arg(&root).args([program, flag]).output();
        let run = run.expect("runs");
        assert!(run.status.success(), "{program}: {}", String::from_utf8_lossy(&run.stderr));
    }
    let missing = Command::new(&script).arg(directory.path().join("other")).arg("/nothing").output().expect("runs");
    assert!(!missing.status.success());
}

#[test]
fn a_linter_finds_nothing_in_it() {
    let linter = tools::python().with_file_name("hadolint");
    let output = Command::new(linter).arg(tools::repository().join("Dockerfile")).output().expect("run tests/setup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
