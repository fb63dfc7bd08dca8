//! Tests of reading a directory: which files count, and what is said about those that cannot be read.

use std::fs::{create_dir, create_dir_all, write};
use std::os::unix::fs::symlink;

use super::*;

fn read(root: &Path) -> Vec<(String, String)> {
    let content = scan(root).content.unwrap_or_else(|error| panic!("{error}"));
    content.files.into_iter().map(|file| (file.path, file.text)).collect()
}

fn names(root: &Path) -> Vec<String> {
    read(root).into_iter().map(|(name, _)| name).collect()
}

fn refusal(root: &Path) -> String {
    scan(root).content.expect_err("is refused").to_string()
}

#[test]
fn reads_a_tree_in_the_order_of_its_paths() {
    let root = tempfile::tempdir().expect("a directory");
    create_dir_all(root.path().join("b/c")).expect("is made");
    create_dir(root.path().join(".git")).expect("is made");
    for name in ["z.yml", "b/c/d.yaml", "b/a.json", "a.yaml", ".hidden.yaml", ".git/x.yaml", "README.md", "a.yaml~"] {
        write(root.path().join(name), name).expect("is written");
    }
    assert_eq!(names(root.path()), ["a.yaml", "b/a.json", "b/c/d.yaml", "z.yml"]);
}

#[test]
fn reads_one_file_under_its_own_name() {
    let root = tempfile::tempdir().expect("a directory");
    let file = root.path().join("mesh.conf");
    write(&file, "text").expect("is written");
    assert_eq!(read(&file), [("mesh.conf".to_owned(), "text".to_owned())]);
}

#[test]
fn reads_each_file_of_a_mount_once() {
    let root = tempfile::tempdir().expect("a directory");
    create_dir(root.path().join("..2026_11")).expect("is made");
    write(root.path().join("..2026_11/mesh.yaml"), "text").expect("is written");
    symlink("..2026_11", root.path().join("..data")).expect("is linked");
    symlink("..data/mesh.yaml", root.path().join("mesh.yaml")).expect("is linked");
    symlink("mesh.yaml", root.path().join("same.yaml")).expect("is linked");
    assert_eq!(names(root.path()), ["mesh.yaml"]);
    let places = scan(root.path()).places;
    assert!(places.concerns(&root.path().canonicalize().expect("is there").join("..data")));
}

#[test]
fn ends_at_loops() {
    // What is above belongs to the test, too: one of the links leads there.
    let above = tempfile::tempdir().expect("a directory");
    let root = above.path().join("mesh");
    create_dir(&root).expect("is made");
    write(root.join("a.yaml"), "text").expect("is written");
    symlink(".", root.join("self")).expect("is linked");
    symlink("..", root.join("up")).expect("is linked");
    // Leads to itself: to no file at all.
    symlink("round", root.join("round")).expect("is linked");
    assert_eq!(names(&root)[0], "a.yaml");
    symlink("round.yaml", root.join("round.yaml")).expect("is linked");
    assert!(refusal(&root).contains("round.yaml cannot be read"));
}

#[test]
fn refuses_what_it_cannot_vouch_for() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("a.yaml");
    assert!(refusal(root.path()).contains("there are no *.yaml"));
    write(&path, " \n").expect("is written");
    assert!(refusal(root.path()).contains("a.yaml is empty"));
    std::fs::remove_file(&path).expect("is removed");
    symlink("nowhere.yaml", &path).expect("is linked");
    assert!(refusal(root.path()).contains("a.yaml cannot be read"));
    std::fs::remove_file(&path).expect("is removed");
    let socket = std::os::unix::net::UnixListener::bind(&path).expect("binds");
    assert!(refusal(root.path()).contains("a.yaml is not a regular file"));
    drop(socket);
    assert!(refusal(&root.path().join("absent")).contains("absent cannot be read"));
}

#[test]
fn refuses_what_is_too_large_or_too_deep() {
    let root = tempfile::tempdir().expect("a directory");
    let file = File::create(root.path().join("a.yaml")).expect("is made");
    file.set_len(MAX_FILE_SIZE + 1).expect("grows, without using the disk");
    assert!(refusal(root.path()).contains("larger than 16 MiB"));
    file.set_len(0).expect("shrinks");
    let deep = (0..MAX_DEPTH + 1).fold(root.path().join("z"), |path, _| path.join("d"));
    create_dir_all(&deep).expect("is made");
    std::fs::remove_file(root.path().join("a.yaml")).expect("is removed");
    assert!(refusal(root.path()).contains("directories deep"));
}
