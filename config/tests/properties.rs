//! For any input: no panic, and the same answer each time.

use std::fs;
use std::path::Path;

use malla_config::{SourceFile, Style, load};
use proptest::prelude::*;

/// The texts of all examples.
fn examples() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut directories: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    directories.iter().map(|directory| fs::read_to_string(directory.join("mesh.yaml")).unwrap()).collect()
}

/// Loads twice and compares everything that can be seen.
fn load_twice(files: &[SourceFile]) -> Result<(), TestCaseError> {
    match (load(files), load(files)) {
        (Ok(first), Ok(second)) => prop_assert_eq!(first, second),
        (Err(first), Err(second)) => {
            prop_assert_eq!(first.to_string(), second.to_string());
            let narrow = first.render(Style::Terminal { width: 10 });
            prop_assert!(!narrow.is_empty());
            prop_assert!(first.diagnostics().iter().all(|error| error.line > 0 && error.column > 0));
            prop_assert!(first.diagnostics().iter().all(|error| !error.message.is_empty()));
        }
        (first, second) => prop_assert!(false, "{first:?} and {second:?}"),
    }
    Ok(())
}

/// One change of a text, told by numbers so that it shrinks.
#[derive(Debug, Clone)]
enum Change {
    DeleteLine(usize),
    RepeatLine(usize),
    SwapLines(usize, usize),
    Indent(usize, usize),
    Replace(usize, &'static str),
    Cut(usize),
    /// Puts the value of one line after the key of another.
    GraftValue(usize, usize),
}

/// Pieces that mean something to YAML, to the schemas, or to neither.
const PIECES: [&str; 34] = [
    "\t",
    "{",
    "}",
    "[",
    "]",
    "- ",
    ": ",
    "&a ",
    "*a",
    "!x ",
    "|\n",
    "'",
    "\"",
    "#",
    "---\n",
    "...\n",
    "null",
    "yes",
    "08",
    "-1",
    "99999999999999999999",
    "1.5",
    "\u{fffd}",
    "\u{feff}",
    "\0",
    "é",
    "\r\n",
    "<<: ",
    "%YAML 1.1\n",
    "spec: ",
    "name: ",
    "kind: Mesh",
    "~",
    "/a(b",
];

fn change() -> impl Strategy<Value = Change> {
    let at = || 0..10_000usize;
    prop_oneof![
        at().prop_map(Change::DeleteLine),
        at().prop_map(Change::RepeatLine),
        (at(), at()).prop_map(|(a, b)| Change::SwapLines(a, b)),
        (at(), 0..5usize).prop_map(|(line, by)| Change::Indent(line, by)),
        (at(), 0..PIECES.len()).prop_map(|(at, piece)| Change::Replace(at, PIECES[piece])),
        at().prop_map(Change::Cut),
        (at(), at()).prop_map(|(a, b)| Change::GraftValue(a, b)),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    if lines.is_empty() {
        return text.to_owned();
    }
    let count = lines.len();
    match change {
        Change::DeleteLine(line) => {
            lines.remove(line % count);
        }
        Change::RepeatLine(line) => lines.insert(line % count, lines[line % count].clone()),
        Change::SwapLines(a, b) => lines.swap(a % count, b % count),
        Change::Indent(line, by) => lines[line % count].insert_str(0, &" ".repeat(*by)),
        Change::Replace(at, piece) => {
            let characters: Vec<char> = text.chars().collect();
            let at = at % characters.len();
            let (before, after) = characters.split_at(at);
            let after = after.get(1..).unwrap_or_default();
            return before.iter().collect::<String>() + piece + &after.iter().collect::<String>();
        }
        Change::Cut(at) => return text.chars().take(at % text.len()).collect(),
        Change::GraftValue(a, b) => {
            let value = lines[b % count].split_once(": ").map(|(_, value)| value.to_owned());
            let key = lines[a % count].split_once(": ").map(|(key, _)| key.to_owned());
            if let (Some(key), Some(value)) = (key, value) {
                lines[a % count] = format!("{key}: {value}");
            }
        }
    }
    lines.concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_examples_never_panic(which in 0..100usize, changes in prop::collection::vec(change(), 0..6)) {
        let examples = examples();
        let text = changes.iter().fold(examples[which % examples.len()].clone(), |text, change| apply(&text, change));
        load_twice(&[SourceFile::new("changed.yaml", text)])?;
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        load_twice(&[SourceFile::from_bytes("bytes.yaml", &bytes)])?;
    }

    #[test]
    fn any_pieces_never_panic(pieces in prop::collection::vec(0..PIECES.len(), 0..60)) {
        let text: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
        load_twice(&[SourceFile::new("pieces.yaml", text)])?;
    }

    /// The order of files decides only the order of routes, not whether the configuration is good.
    #[test]
    fn the_order_of_documents_does_not_matter(which in 0..100usize, seed in any::<u64>()) {
        let examples = examples();
        let mut documents: Vec<&str> = examples[which % examples.len()].split("---\n").collect();
        let mut state = seed | 1;
        for at in (1..documents.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            documents.swap(at, (state >> 33) as usize % (at + 1));
        }
        let loaded = load(&[SourceFile::new("shuffled.yaml", documents.join("---\n"))]);
        prop_assert!(loaded.is_ok(), "{}", loaded.err().map(|report| report.to_string()).unwrap_or_default());
    }
}
