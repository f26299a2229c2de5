//! The kernel's modules that a guest needs before its root is there.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// What is wanted, and whether the guest can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Must,
    May,
}

const STEP: &str = "find the modules of the guest's kernel";

/// The files of the modules and of all that they need, in the order in which they load. A module that the kernel has
/// built in is left out.
pub(super) fn find(dir: &Path, wanted: &[(&str, Wanted)]) -> Result<Vec<PathBuf>> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map_err(|e| {
            Error::io(STEP, e)
                .path(path)
                .hint("it is the directory of one kernel, such as /lib/modules/6.12.0-amd64, after depmod(8) has run")
        })
    };
    let order = load_order(&read("modules.dep")?, &read("modules.builtin")?, wanted);
    let order = order.map_err(|name| {
        Error::new(ErrorKind::InvalidConfig, STEP)
            .path(dir)
            .detail(format!("there is no module {name}"))
            .hint("take a kernel that has it, built in or as a module")
    })?;
    order
        .into_iter()
        .map(|file| {
            let path = Path::new(&file);
            // The list is the kernel's packager's: it leads nowhere else.
            match path.is_absolute() || path.components().any(|c| c.as_os_str() == "..") {
                true => Err(Error::new(ErrorKind::Corrupt, STEP)
                    .path(dir)
                    .detail(format!("modules.dep names {file}"))),
                false => Ok(dir.join(path)),
            }
        })
        .collect()
}

fn load_order(dep: &str, builtin: &str, wanted: &[(&str, Wanted)]) -> Result<Vec<String>, String> {
    let mut order: Vec<String> = Vec::new();
    for (name, need) in wanted {
        let line = dep.lines().find(|line| line.split_once(':').is_some_and(|(file, _)| is(file, name)));
        let Some((file, needs)) = line.and_then(|line| line.split_once(':')) else {
            if *need == Wanted::May || builtin.lines().any(|file| is(file, name)) {
                continue;
            }
            return Err((*name).to_owned());
        };
        // What is needed first is named last.
        for file in needs.split_whitespace().rev().chain([file]) {
            if !order.iter().any(|known| known == file) {
                order.push(file.to_owned());
            }
        }
    }
    Ok(order)
}

/// Whether the file is the module of that name.
fn is(file: &str, name: &str) -> bool {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_come_first_and_once() {
        let dep = "fs/a.ko.xz: fs/b.ko.xz fs/c.ko.xz\nfs/c.ko.xz:\nnet/a-b.ko: fs/c.ko.xz\n";
        let must = |name| (name, Wanted::Must);
        let order = load_order(dep, "drivers/d.ko\n", &[must("a"), must("d"), must("a_b")]).unwrap();
        assert_eq!(order, ["fs/c.ko.xz", "fs/b.ko.xz", "fs/a.ko.xz", "net/a-b.ko"]);
        assert_eq!(load_order(dep, "", &[must("d")]).unwrap_err(), "d");
        assert!(load_order(dep, "", &[("d", Wanted::May)]).unwrap().is_empty());
    }

    #[test]
    fn a_directory_without_lists_and_one_that_leads_elsewhere_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let e = find(dir.path(), &[]).unwrap_err();
        assert!(e.to_string().contains("modules.dep") && e.to_string().contains("depmod"), "{e}");
        std::fs::write(dir.path().join("modules.dep"), "../../a.ko:\n").unwrap();
        std::fs::write(dir.path().join("modules.builtin"), "").unwrap();
        assert_eq!(find(dir.path(), &[("a", Wanted::Must)]).unwrap_err().kind(), ErrorKind::Corrupt);
        let e = find(dir.path(), &[("b", Wanted::Must)]).unwrap_err();
        assert!(e.to_string().contains("no module b"), "{e}");
    }
}
