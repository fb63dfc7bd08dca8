//! The README's steps for two machines, run as they stand on two pods: only the addresses are replaced.

use std::path::Path;

use malla_tests::tools;
use malla_tests::{Pod, Sandbox};

/// A fenced block of the README.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// What follows the fence: `sh run=a`, `output`.
    information: String,
    text: String,
}

#[test]
fn the_steps_for_two_machines_work_as_the_readme_says() {
    let readme = std::fs::read_to_string(tools::repository().join("README.md")).expect("the README");
    let sandbox = Sandbox::new();
    let (a, b) = (sandbox.pod("a"), sandbox.pod("b"));
    let readme = readme.replace("192.0.2.10", &a.ipv4().to_string()).replace("192.0.2.20", &b.ipv4().to_string());
    let mut printed = String::new();
    let mut run = 0;
    for block in blocks(&readme) {
        match block.information.as_str() {
            "sh run=a" => printed = shell(&a, &b, &block.text),
            "sh run=b" => printed = shell(&b, &a, &block.text),
            "output" => {
                // Headers end in CR LF.
                let printed = printed.replace('\r', "");
                assert!(printed.contains(&block.text), "expected\n{}after\n{printed}", block.text);
                continue;
            }
            _ => continue,
        }
        run += 1;
    }
    assert!(run >= 6, "the README has lost its steps: {run} blocks were run");
}

/// Runs a block in a pod's own directory, with the programs on the `PATH`; `scp` copies into the other pod's directory.
#[track_caller]
fn shell(pod: &Pod, other: &Pod, commands: &str) -> String {
    let program = malla_tests::pod::inside("malla");
    let programs = Path::new(&program).parent().expect("a binary is in a directory");
    let script = format!(
        "set -e
         cd {}
         PATH={}:$PATH
         scp() {{
             for file; do
                 case $file in *:) ;; *) cp \"$file\" {} ;; esac
             done
         }}
         {commands}",
        pod.directory().display(),
        programs.display(),
        other.directory().display(),
    );
    pod.exec(&["bash", "-c", &script]).success().both()
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in markdown.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(information), None) => {
                open = Some(Block { information: information.to_owned(), text: String::new() });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}
