//! Which modules a module needs, from modules.dep(5).

use crate::Result;

/// The files of the modules and of all that they need, in the order in which they load. A module that the kernel has
/// built in is left out.
pub fn load_order(dep: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let line = dep.lines().find(|line| line.split_once(':').is_some_and(|(file, _)| is(file, name)));
        let Some((file, needs)) = line.and_then(|line| line.split_once(':')) else {
            if builtin.lines().any(|file| is(file, name)) {
                continue;
            }
            return Err(format!("the kernel has no module {name}"));
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
        let order = load_order(dep, "drivers/d.ko\n", &["a", "d", "a_b"]).unwrap();
        assert_eq!(order, ["fs/c.ko.xz", "fs/b.ko.xz", "fs/a.ko.xz", "net/a-b.ko"]);
        assert!(load_order(dep, "", &["d"]).is_err());
    }
}
