//! Removing files that only root of an ordinary user's namespace may remove: directories of the ids delegated to him.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::config::IdMapConfig;
use super::handle::Container;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::idmap::SetGroups;
use crate::namespaces::NamespaceKind;
use crate::op::Deadline;
use crate::rootfs::Rootfs;
use crate::spawn::{Fd, Plan, Spec, launch};
use crate::store::{Durability, Place};

const STEP: &str = "remove the changes of the container";

impl Container {
    /// Removes the changes to a layered root, where this process alone may not be able to.
    pub(super) fn erase_changes(&self, deadline: Deadline) -> Result<()> {
        let config = self.config();
        let Rootfs::Overlay(overlay) = &config.rootfs else { return Ok(()) };
        if overlay.upper_dir().is_some() || config.idmap == IdMapConfig::SingleUser {
            return Ok(());
        }
        let inner = self.runtime.inner();
        let Some(map) = self.id_map()?.filter(|map| inner.host.needs_programs(map)) else { return Ok(()) };
        let place = match config.durability() {
            Durability::Durable => Place::State,
            Durability::Ephemeral => Place::Run,
        };
        let dir = inner.store.instance_path(&self.id(), place)?.join("rootfs");
        if std::fs::symlink_metadata(&dir).is_err() {
            return Ok(());
        }
        let held = inner
            .held
            .get(&inner.host, &map, deadline)
            .map_err(|e| e.also(format!("{STEP}: {}", dir.display())))?;
        let mut plan = Plan::new(1);
        plan.prctl("hide this process's memory", libc::PR_SET_DUMPABLE, 0);
        plan.setns("join the user namespace", Fd::Slot(0), NamespaceKind::User.clone_flag());
        plan.set_ids("become root of the user namespace", 0, 0);
        if held.set_groups == SetGroups::Allow {
            plan.set_groups(&[]);
        }
        rm(&mut plan, &dir);
        let mut started = launch(&Spec {
            strategy: inner.host.strategy(),
            namespaces: 0,
            cgroup: None,
            ambient: 0,
            own_memory_first: false,
        })?;
        let sent = started.send(&mut plan, &[held.namespace.as_fd()]);
        started.or_its_own(&plan, sent)?;
        let child = started.wait_exec(&plan, deadline, None)?.child;
        let ended = child.wait(deadline, None).inspect_err(|_| {
            child.kill_and_reap();
        })?;
        match ended {
            ExitStatus::Exited(0) => Ok(()),
            // A host that takes the status away: what is left is found by who goes on.
            ExitStatus::Unknown => Ok(()),
            other => Err(Error::new(ErrorKind::Kernel, STEP)
                .path(&dir)
                .detail(format!("rm {other}"))
                .hint("see whether something in it is in use as a mount point, or immutable (chattr(1))")),
        }
    }
}

/// The host's `rm -rf`, silent.
fn rm(plan: &mut Plan, dir: &Path) {
    let null = plan.open("open the null device", "/dev/null", rustix::fs::OFlags::RDWR.bits());
    for n in 0..3 {
        plan.dup_to("set a standard stream", null, n);
    }
    plan.reset_signals();
    plan.marker();
    plan.close_others();
    let candidates: [&[u8]; 3] = [b"/usr/bin/rm", b"/bin/rm", b"/run/current-system/sw/bin/rm"];
    let candidates = candidates.map(<[u8]>::to_vec);
    let args: [&[u8]; 4] = [b"rm", b"-rf", b"--", dir.as_os_str().as_bytes()];
    let args = args.map(<[u8]>::to_vec);
    plan.exec(b"rm", &candidates, &args, &[] as &[Vec<u8>]);
}
