//! Debian packages: looked up, fetched and unpacked, never installed.
//!
//! Installing is not always possible: a `qemu-utils` from backports, for one, breaks this release's QEMU. And it would
//! change the machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixtures::at;
use crate::{Result, paths, sh};

/// A field of the newest version of a package, from apt's lists, which are fetched where there are none.
pub fn field(package: &str, field: &str) -> Result<String> {
    if paths::program("apt-cache").is_none() {
        return Err(format!("{package} comes from Debian, and there is no apt here"));
    }
    let look = || {
        let text = sh::output(Command::new("apt-cache").args(["show", "--no-all-versions", package])).ok()?;
        value(&text, field).map(str::to_owned)
    };
    if let Some(found) = look() {
        return Ok(found);
    }
    eprintln!("vm: fetching the package lists for {package}");
    let updated = sh::run(apt_get().arg("update").stdout(std::io::stderr()));
    look().ok_or_else(|| match updated {
        Err(why) => format!("no package {package}: {why}"),
        Ok(()) => format!("no package {package}, or without {field}, in apt's lists"),
    })
}

fn value<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y", "-o", "APT::Sandbox::User=root"]);
    apt
}

/// Unpacks that package alone into `root`.
pub fn unpack(package: &str, root: &Path) -> Result {
    let fetched = root.join(".debs");
    at(&fetched, fs::create_dir_all(&fetched))?;
    sh::output(apt_get().args(["download", package]).current_dir(&fetched))?;
    extract(&fetched, root)
}

/// Unpacks the packages into `root`, and what they depend on that this machine lacks.
pub fn unpack_with_dependencies(packages: &[&str], root: &Path) -> Result {
    let fetched = root.join(".debs");
    let partial = fetched.join("partial");
    at(&partial, fs::create_dir_all(&partial))?;
    let installed = at(Path::new("dpkg's status"), fs::read_to_string("/var/lib/dpkg/status"))?;
    let status = fetched.join("status");
    at(&status, fs::write(&status, without_relations(&installed, packages)))?;
    sh::output(
        apt_get()
            .arg("-o")
            .arg(format!("Dir::State::status={}", status.display()))
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", fetched.display()))
            // It touches nothing that the lock guards, so that it needs no root.
            .args(["-o", "Debug::NoLocking=1"])
            .args(["install", "--download-only", "--no-install-recommends"])
            .args(packages),
    )?;
    extract(&fetched, root)
}

fn extract(fetched: &Path, root: &Path) -> Result {
    for entry in at(fetched, fs::read_dir(fetched))?.flatten() {
        let deb = entry.path();
        if deb.extension().is_some_and(|e| e == "deb") {
            sh::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(root))?;
        }
    }
    at(fetched, fs::remove_dir_all(fetched))
}

/// What is installed, but nothing of QEMU and nothing of what was asked for, and without what the packages say of each
/// other: a list against which apt refuses nothing.
fn without_relations(status: &str, wanted: &[&str]) -> String {
    let mut kept = String::new();
    for paragraph in status.split("\n\n") {
        let Some(name) = value(paragraph, "Package") else { continue };
        if name.starts_with("qemu") || wanted.contains(&name) {
            continue;
        }
        let relations = ["Depends: ", "Pre-Depends: ", "Breaks: ", "Conflicts: "];
        for line in paragraph.lines().filter(|line| !relations.iter().any(|r| line.starts_with(r))) {
            kept.push_str(line);
            kept.push('\n');
        }
        kept.push('\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "Package: a\nInstalled-Version: 3\nVersion: 1:2\nDepends: b (= 1), c\n";
        assert_eq!(value(text, "Version"), Some("1:2"));
        assert_eq!(value(text, "Depends"), Some("b (= 1), c"));
        assert_eq!(value(text, "Epoch"), None);
    }

    #[test]
    fn a_status_without_relations_refuses_nothing() {
        let status = "Package: qemu-utils\nBreaks: qemu-system-common\n\n\
                      Package: cloud\nStatus: ok\nDepends: qemu-utils\n Depends: text\n\nPackage: zstd\n\n";
        assert_eq!(without_relations(status, &["zstd"]), "Package: cloud\nStatus: ok\n Depends: text\n\n");
    }
}
