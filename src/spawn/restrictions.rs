//! What on this host may forbid user namespaces, by name.

use std::path::Path;

/// The sysctls that do, each with the value that forbids and what to do.
const SYSCTLS: [(&str, &str, &str); 3] = [
    (
        "user/max_user_namespaces",
        "0",
        "user.max_user_namespaces is 0: no user namespace can be made here; set it to some thousands with sysctl(8)",
    ),
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "kernel.unprivileged_userns_clone is 0: only root may make user namespaces here; set it to 1 with sysctl(8)",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns is 1: in a user namespace of a program without an AppArmor \
         profile that has `userns,` nothing is allowed; write such a profile for this program, or set it to 0 with \
         sysctl(8)",
    ),
];

/// The settings that forbid user namespaces to this process, in words; `None` where no setting is known to.
pub(crate) fn found() -> Option<String> {
    found_in(Path::new("/proc/sys"))
}

fn found_in(sys: &Path) -> Option<String> {
    let forbids = |(file, value, _): &(&str, &str, &str)| {
        std::fs::read_to_string(sys.join(file)).is_ok_and(|text| text.trim() == *value)
    };
    let all: Vec<&str> = SYSCTLS.iter().filter(|s| forbids(s)).map(|(.., words)| *words).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_named() {
        let sys = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = sys.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(found_in(sys.path()), None);
        write("user/max_user_namespaces", "5000\n");
        write("kernel/apparmor_restrict_unprivileged_userns", "0\n");
        assert_eq!(found_in(sys.path()), None);
        write("kernel/apparmor_restrict_unprivileged_userns", "1\n");
        assert!(
            found_in(sys.path()).unwrap().starts_with("kernel.apparmor_restrict_unprivileged_userns is 1")
        );
        write("user/max_user_namespaces", "0\n");
        write("kernel/unprivileged_userns_clone", "0\n");
        let all = found_in(sys.path()).unwrap();
        for name in ["user.max_user_namespaces", "kernel.unprivileged_userns_clone", "kernel.apparmor"] {
            assert!(all.contains(name), "{all}");
        }
    }
}
