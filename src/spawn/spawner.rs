//! [`Spawner`]: a thread that lives in a mount namespace with next to nothing in it, and makes children from there.
//!
//! A child with a mount namespace of its own starts with a copy of its maker's mounts, each of which costs time: on a
//! host with a thousand of them a start takes more than twice as long. From this thread it copies four. What a child
//! needs of the host comes by descriptor, or lies under the same names: `/proc`, `/sys` and `/dev`.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsmount, fsopen, mount_change, move_mount, unmount,
};

use super::launch::{Spec, Stage2, Started, Strategy, launch};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::mount::clone_tree;
use crate::sys::process::unshare_mounts;

/// What the thread is asked for.
#[derive(Debug)]
struct Order {
    namespaces: u64,
    cgroup: Option<OwnedFd>,
    ambient: u64,
    own_memory_first: bool,
    answer: SyncSender<Result<Started>>,
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Spawner {
    orders: Option<Mutex<SyncSender<Order>>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    /// Starts the thread; without a stage-2 it forks. Needs `CAP_SYS_ADMIN`.
    pub(crate) fn start(stage2: Option<Arc<Stage2>>) -> Result<Self> {
        let (orders, queue) = sync_channel(1);
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("stockade-spawn".to_owned())
            .spawn(move || {
                let ready = leave_the_hosts_mounts();
                let failed = ready.is_err();
                let _ = tell.send(ready);
                if !failed {
                    work(&queue, stage2.as_deref());
                }
            })
            .map_err(|e| Error::io("start the spawner thread", e))?;
        let spawner = Self { orders: Some(Mutex::new(orders)), thread: Some(thread) };
        told.recv().map_err(|_| gone())??;
        Ok(spawner)
    }

    /// As [`launch`], from the thread and with its strategy.
    pub(crate) fn launch(&self, spec: &Spec<'_>) -> Result<Started> {
        let cgroup = spec.cgroup.map(|fd| fd.try_clone_to_owned()).transpose();
        let (answer, answered) = sync_channel(1);
        let order = Order {
            namespaces: spec.namespaces,
            cgroup: cgroup.map_err(|e| Error::io("duplicate a descriptor", e))?,
            ambient: spec.ambient,
            own_memory_first: spec.own_memory_first,
            answer,
        };
        let orders = self.orders.as_ref().ok_or_else(gone)?;
        orders.lock().unwrap_or_else(|e| e.into_inner()).send(order).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(queue: &Receiver<Order>, stage2: Option<&Stage2>) {
    for order in queue {
        let spec = Spec {
            strategy: stage2.map_or(Strategy::Fork, Strategy::Exec),
            namespaces: order.namespaces,
            cgroup: order.cgroup.as_ref().map(AsFd::as_fd),
            ambient: order.ambient,
            own_memory_first: order.own_memory_first,
        };
        let _ = order.answer.send(launch(&spec));
    }
}

/// Moves this thread into a mount namespace of its own, with a small root that has the host's /dev and a full /proc
/// and /sys: without these in view the kernel lets nobody mount any in a user namespace.
fn leave_the_hosts_mounts() -> Result<()> {
    let step = |what: &'static str| move |e: Errno| Error::sys(what, e).with_op("open");
    unshare_mounts().map_err(step("unshare the spawner thread's mounts"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(step("make the spawner thread's mounts private"))?;
    let dev = clone_tree(CWD, "/dev", false).map_err(step("copy /dev"))?;
    let root = new_mount("tmpfs").map_err(step("make the spawner thread's root"))?;
    for (name, tree) in [("dev", Ok(dev)), ("proc", new_mount("proc")), ("sys", new_mount("sysfs"))] {
        let tree = tree.map_err(step("make the spawner thread's mounts"))?;
        mkdirat(&root, name, Mode::from_raw_mode(0o755)).map_err(step("make a directory for a mount"))?;
        // A detached mount takes mounts only since Linux 6.15, so the root is attached first.
        if name == "dev" {
            move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(step("attach the spawner thread's root"))?;
        }
        move_mount(&tree, "", &root, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(step("attach the spawner thread's mounts"))?;
    }
    enter(&root).map_err(step("enter the spawner thread's root"))
}

fn new_mount(fstype: &str) -> Result<OwnedFd, Errno> {
    let fs = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(fs.as_fd())?;
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)
}

#[expect(clippy::disallowed_methods, reason = "the thread's working directory is its own by now")]
fn enter(root: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

fn gone() -> Error {
    Error::new(ErrorKind::InvalidState, "ask the spawner thread").detail("it has ended")
}
