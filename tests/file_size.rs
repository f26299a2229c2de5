//! A file holds one concern: over 500 lines it says why in its header, over 700 it is split.

use std::fs;
use std::path::{Path, PathBuf};

const NEEDS_REASON: usize = 500;
const LIMIT: usize = 700;
/// How far down the reason may stand.
const HEADER: usize = 40;

/// What is wrong with a file of this text, if anything is.
fn complaint(text: &str) -> Option<String> {
    let lines = text.lines().count();
    let reason = text.lines().take(HEADER).find_map(|line| line.strip_prefix("//! Length: "));
    let reasoned = reason.is_some_and(|why| !why.trim().is_empty());
    if lines > LIMIT {
        Some(format!("has {lines} lines; over {LIMIT} it must be split"))
    } else if lines > NEEDS_REASON && !reasoned {
        Some(format!("has {lines} lines; over {NEEDS_REASON} its header needs a line `//! Length: REASON`"))
    } else {
        None
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_file_is_too_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "crates", "xtask", "tests", "examples", "benches", "fuzz"] {
        rust_files(&root.join(dir), &mut files);
    }
    assert!(files.iter().any(|f| f.ends_with("src/lib.rs")), "the walk found no sources");
    let complaints: Vec<String> = files
        .iter()
        .filter_map(|file| {
            let text = fs::read_to_string(file).expect("a source file is readable UTF-8");
            complaint(&text)
                .map(|what| format!("{}: {what}", file.strip_prefix(root).unwrap_or(file).display()))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_limits_are_what_they_say() {
    let lines = |n: usize| "x\n".repeat(n);
    let with_reason = |n: usize| format!("//! Length: one table, read as a whole.\n{}", lines(n - 1));
    assert_eq!(complaint(&lines(500)), None);
    assert!(complaint(&lines(501)).is_some());
    assert_eq!(complaint(&with_reason(700)), None);
    assert!(complaint(&with_reason(701)).is_some());
    assert!(complaint(&format!("//! Length: \n{}", lines(600))).is_some());
}
