//! What the documentation says, compared with the code.

use std::path::{Path, PathBuf};

use malla_proxy::reason::Reason;

fn document(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_reason_is_documented_with_its_status_and_sentence() {
    let text = document("docs/reasons.md");
    let rows: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').take(4).map(str::trim).collect::<Vec<_>>().join("|"))
        .collect();
    let expected: Vec<String> = Reason::ALL
        .iter()
        .map(|reason| format!("|`{}`|{}|{}", reason.word(), reason.status(), reason.sentence()))
        .collect();
    assert_eq!(rows, expected);
    let without_advice =
        text.lines().filter(|line| line.starts_with("| `") && line.trim_end().ends_with("| |")).count();
    assert_eq!(without_advice, 0, "each reason says what to look at");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for path in ["README.md", "ARCHITECTURE.md", "docs/getting-started.md", "docs/reasons.md", "docs/traffic-policy.md"]
    {
        let directory = Path::new(path).parent().unwrap_or(Path::new(""));
        for target in document(path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let file = target.split('#').next().unwrap_or(target);
            let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(directory).join(file);
            assert!(found.exists(), "{path} links to {target}, which is not there");
        }
    }
}
