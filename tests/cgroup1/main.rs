//! Limits, figures and ends of containers on a host whose controllers cgroup v1 holds (feature `cgroup1`).
//!
//! Where v2 has the controllers, as in the lane, each test says so and is skipped: the same is tested there through v2.

#![expect(
    clippy::print_stdout,
    reason = "what a test covered, and how a process in a role says that it is ready"
)]

#[path = "../again/mod.rs"]
mod again;
#[path = "../rig/mod.rs"]
mod rig;

mod change;
mod crash;
mod effects;
mod host;
#[path = "../system/image.rs"]
#[expect(dead_code, reason = "some parts are for other tests")]
mod image;
mod kinds;
mod life;
mod systems;
mod views;
