//! Imports go only downward between the layers of ARCHITECTURE.md.
//!
//! Every path that starts at `crate::` (or climbs to the crate root by `super::`) in `src/` is looked up in
//! [`LAYERS`]. A module may use its own layer and those below. In the two lower layers with several modules, L1
//! and L2, modules of one layer may not use each other in a circle either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layers, lowest first. A new top-level module is put here first.
const LAYERS: &[&[&str]] = &[
    &["sys", "error", "exit", "name", "named_bits", "os_text", "signal"],
    &["namespaces", "cgroup", "idmap", "seccomp", "rootfs", "caps", "tty", "process", "views"],
    &["spawn", "op", "store"],
    &["instance", "container", "vm", "runtime", "events"],
    &["oci", "server", "fuzzing"],
];

/// The layers in which a circle between modules is refused.
const NO_CIRCLES: [usize; 2] = [1, 2];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&module))
}

/// One top-level module's use of another: who, whom, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Use {
    from: String,
    to: String,
    place: String,
}

/// The source with comments and literals made blank, so that only code is searched. Line breaks stay.
fn code_only(source: &str) -> String {
    let text: Vec<char> = source.chars().collect();
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    // Keeps the lines of what is left out.
    let blank = |out: &mut String, from: usize, to: usize| {
        out.push(' ');
        out.extend(text[from..to.min(text.len())].iter().filter(|c| **c == '\n'));
    };
    while i < text.len() {
        let start = i;
        if at(i) == '/' && at(i + 1) == '/' {
            while i < text.len() && at(i) != '\n' {
                i += 1;
            }
        } else if at(i) == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= text.len() {
                    break;
                }
            }
        } else if at(i) == 'r' && matches!(at(i + 1), '"' | '#') && raw_string(&text, i).is_some() {
            i = raw_string(&text, i).unwrap_or(i + 1);
        } else if at(i) == '"' {
            i += 1;
            while i < text.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if at(i) == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < text.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else {
            out.push(at(i));
            i += 1;
            continue;
        }
        blank(&mut out, start, i);
    }
    out
}

/// The end of the raw string that begins at `at`, if one does.
fn raw_string(text: &[char], at: usize) -> Option<usize> {
    let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
    let mut i = at + 1 + hashes;
    if text.get(i) != Some(&'"') {
        return None;
    }
    loop {
        i += 1;
        match text.get(i) {
            None => return Some(text.len()),
            Some('"') if text[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes => {
                return Some(i + 1 + hashes);
            }
            Some(_) => {}
        }
    }
}

/// The words and the punctuation of the code, each with its line.
fn tokens(code: &str) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut word = false;
        for c in line.chars() {
            let part = c.is_alphanumeric() || c == '_';
            if part && word {
                if let Some((last, _)) = found.last_mut() {
                    last.push(c);
                }
            } else if !c.is_whitespace() {
                found.push((c.to_string(), number + 1));
            }
            word = part;
        }
    }
    found
}

/// The first names after a root path: one for `::name`, several for `::{a::b, c}`.
fn heads(tokens: &[(String, usize)], mut i: usize) -> Vec<(String, usize)> {
    let is = |i: usize, what: &str| tokens.get(i).is_some_and(|(t, _)| t == what);
    if !(is(i, ":") && is(i + 1, ":")) {
        return Vec::new();
    }
    i += 2;
    if !is(i, "{") {
        return tokens.get(i).cloned().into_iter().collect();
    }
    let mut found = Vec::new();
    let (mut depth, mut first) = (0, false);
    while let Some((token, line)) = tokens.get(i) {
        match token.as_str() {
            "{" => (depth, first) = (depth + 1, depth == 0),
            "}" => depth -= 1,
            "," => first = depth == 1,
            name if first => {
                found.push((name.to_owned(), *line));
                first = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        i += 1;
    }
    found
}

/// What is named at the crate root by this file: each name with its line.
///
/// `depth` is how many modules deep the file stands: 1 for `src/spawn/mod.rs`, 2 for `src/spawn/plan.rs`.
fn root_names(source: &str, depth: usize) -> Vec<(String, usize)> {
    let tokens = tokens(&code_only(source));
    let is = |i: usize, what: &str| tokens.get(i).is_some_and(|(t, _)| t == what);
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if is(i, "crate") && !is(i.wrapping_sub(1), "$") {
            found.extend(heads(&tokens, i + 1));
        } else if is(i, "super") {
            let mut ups = 1;
            while is(i + 1, ":") && is(i + 2, ":") && is(i + 3, "super") {
                (ups, i) = (ups + 1, i + 3);
            }
            if ups >= depth {
                // A `super` inside an inline module climbs one less: names that no layer has are let pass here.
                found.extend(heads(&tokens, i + 1).into_iter().filter(|(name, _)| layer(name).is_some()));
            }
        }
        i += 1;
    }
    found
}

/// The names that `lib.rs` re-exports, and the module of each.
fn reexports(lib: &str) -> BTreeMap<String, String> {
    let code = code_only(lib);
    let mut found = BTreeMap::new();
    for statement in code.split(';') {
        let Some((_, path)) = statement.split_once("use ") else { continue };
        let Some((module, names)) = path.split_once("::") else { continue };
        let names = names.replace(['{', '}'], " ");
        for name in names.split(',') {
            // `a::B as C` is known as C, `a::B` as B.
            if let Some(last) = name.split([' ', ':', '\n']).rfind(|s| !s.is_empty()) {
                found.insert(last.to_owned(), module.trim().to_owned());
            }
        }
    }
    found
}

fn complaints(uses: &[Use]) -> Vec<String> {
    let mut found = Vec::new();
    let mut beside: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for u in uses {
        match (layer(&u.from), layer(&u.to)) {
            (Some(from), Some(to)) if to > from => {
                found.push(format!("{}: `{}` (L{from}) uses `{}` (L{to})", u.place, u.from, u.to));
            }
            (Some(from), Some(to)) if from == to && u.from != u.to && NO_CIRCLES.contains(&from) => {
                beside.entry(&u.from).or_default().insert(&u.to);
            }
            (Some(_), Some(_)) => {}
            (None, _) => found.push(format!("{}: `{}` stands in no layer", u.place, u.from)),
            (_, None) => found.push(format!("{}: `crate::{}` stands in no layer", u.place, u.to)),
        }
    }
    for start in beside.keys() {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut next = vec![*start];
        while let Some(module) = next.pop() {
            for to in beside.get(module).into_iter().flatten() {
                if reached.insert(to) {
                    next.push(to);
                }
            }
        }
        if reached.contains(start) {
            found.push(format!("`{start}` uses itself through modules of its own layer: {reached:?}"));
        }
    }
    found
}

/// Every use in the files below `dir`; `module` is the path of modules that `dir` stands for.
fn collect(dir: &Path, module: &[String], known: &BTreeMap<String, String>, uses: &mut Vec<Use>) {
    let entries = fs::read_dir(dir).expect("the source directory is readable");
    for entry in entries.flatten() {
        let path = entry.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut inner = module.to_vec();
        if path.is_dir() {
            inner.push(stem);
            collect(&path, &inner, known, uses);
        } else if path.extension().is_some_and(|e| e == "rs") && !(module.is_empty() && stem == "lib") {
            if stem != "mod" {
                inner.push(stem);
            }
            let source = fs::read_to_string(&path).expect("a source file is readable UTF-8");
            for (name, line) in root_names(&source, inner.len()) {
                let to = known.get(&name).unwrap_or(&name).clone();
                uses.push(Use { from: inner[0].clone(), to, place: format!("{}:{line}", path.display()) });
            }
        }
    }
}

#[test]
fn imports_go_downward() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = fs::read_to_string(src.join("lib.rs")).expect("src/lib.rs is readable");
    let mut uses = Vec::new();
    collect(&src, &[], &reexports(&lib), &mut uses);
    assert!(uses.iter().any(|u| u.from == "name" && u.to == "error"), "the search found nothing: {uses:?}");
    let found = complaints(&uses);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .expect("src/lib.rs is readable");
    let code = code_only(&lib);
    let modules: Vec<&str> = code
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.rsplit_once("mod "))
        .map(|(_, name)| name)
        .collect();
    assert!(modules.contains(&"sys"), "the search found no modules");
    for module in modules {
        assert!(layer(module).is_some(), "`{module}` stands in no layer: put it into LAYERS");
    }
}

/// The names alone.
fn names(source: &str, depth: usize) -> Vec<String> {
    root_names(source, depth).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn all_forms_of_a_use_are_found() {
    assert_eq!(names("use crate::sys::fd;", 1), ["sys"]);
    assert_eq!(
        names("use crate::{error::{Error, Result}, sys::{fd, mount}, name};", 2),
        ["error", "sys", "name"]
    );
    assert_eq!(names("fn f() { crate::store::open(crate::Error::new()) }", 1), ["store", "Error"]);
    assert_eq!(names("use super::super::container::Container;", 2), ["container"]);
    assert_eq!(names("use super::container;", 1), ["container"]);
    assert_eq!(names("use super::container;", 2), Vec::<String>::new());
    assert_eq!(names("pub(crate) fn f() {} mod t { use super::*; }", 1), Vec::<String>::new());
}

#[test]
fn comments_and_literals_are_no_uses() {
    let source = r###"
        /// See [`X`](crate::container::X). // crate::vm
        /* crate::vm /* nested */ crate::vm */
        const A: &str = "crate::vm \" crate::vm";
        const B: &str = r#"crate::vm " crate::vm"#;
        const C: char = '"'; const D: char = '\''; fn f<'a>(x: &'a str) {}
        use crate::sys;
    "###;
    assert_eq!(root_names(source, 1), [("sys".to_owned(), 7)]);
}

#[test]
fn upward_unknown_and_circular_uses_are_refused() {
    let complain = |pairs: &[(&str, &str)]| {
        let uses: Vec<Use> = pairs
            .iter()
            .map(|(from, to)| Use { from: (*from).into(), to: (*to).into(), place: "x.rs:1".into() })
            .collect();
        complaints(&uses)
    };
    assert!(complain(&[("container", "spawn"), ("spawn", "spawn"), ("container", "runtime")]).is_empty());
    assert_eq!(complain(&[("sys", "spawn")]), ["x.rs:1: `sys` (L0) uses `spawn` (L2)"]);
    assert_eq!(complain(&[("spawn", "nowhere")]).len(), 1);
    assert_eq!(complain(&[("rootfs", "idmap"), ("idmap", "caps"), ("caps", "rootfs")]).len(), 3);
    assert!(complain(&[("rootfs", "idmap"), ("seccomp", "caps")]).is_empty());
}

#[test]
fn reexported_names_lead_to_their_modules() {
    let found = reexports("mod error;\npub use error::{Error, ErrorKind};\npub use name::Id as InstanceId;");
    assert_eq!(found.get("ErrorKind").map(String::as_str), Some("error"));
    assert_eq!(found.get("InstanceId").map(String::as_str), Some("name"));
}
