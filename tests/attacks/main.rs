//! Known attacks on container runtimes, tried against this one. Each test says what the attack is, which step it turns
//! on, and what holds it here; tries it as the attacker would; and shows it succeed once where that safeguard is taken
//! out ([`stockade::Weaken`]), so that the test can fail.

#[path = "../again/mod.rs"]
mod again;
mod attacker;
mod descriptors;
mod executable;
mod host_files;
mod inside;
mod labels;
mod landlock;
mod mounts;
mod privileges;
mod procfs;
mod races;
#[path = "../rig/mod.rs"]
mod rig;

/// What runs in place of a container's program. See [`attacker`].
#[test]
#[ignore = "it is executed inside containers"]
fn attacker() {
    attacker::run(&again::role().expect("a task"));
}
