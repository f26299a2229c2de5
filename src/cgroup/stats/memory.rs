//! The memory controller's figures.

use serde::{Deserialize, Serialize};

use super::parse::flat_keyed;
use crate::cgroup::Cgroup;
use crate::error::Result;

/// Memory of a cgroup and its descendants. The host's root cgroup has `stat` alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes charged now, page cache and kernel memory included (`memory.current`).
    pub current: Option<u64>,
    /// The most bytes that ever were (`memory.peak`, Linux 5.19).
    pub peak: Option<u64>,
    /// Bytes in swap (`memory.swap.current`); `None` where the kernel does not count swap.
    pub swap_current: Option<u64>,
    /// The most bytes that ever were in swap (`memory.swap.peak`, Linux 6.5).
    pub swap_peak: Option<u64>,
    /// Bytes of memory that compressed swap takes (`memory.zswap.current`, with `CONFIG_ZSWAP`).
    pub zswap_current: Option<u64>,
    /// What the memory is, and what was done about it (`memory.stat`).
    pub stat: MemoryStat,
    /// How often the limits acted, descendants included (`memory.events`).
    pub events: Option<MemoryEvents>,
    /// How often the cgroup's own limits acted (`memory.events.local`).
    pub events_local: Option<MemoryEvents>,
    /// How often the limits of swap acted (`memory.swap.events`).
    pub swap_events: Option<SwapEvents>,
}

flat_keyed! {
    /// How often the memory limits acted (`memory.events`).
    pub struct MemoryEvents {
        /// Times that memory was reclaimed though usage was below `memory.low`.
        low: u64 = "low",
        /// Times that processes were slowed because usage was above `memory.high`.
        high: u64 = "high",
        /// Times that usage was about to exceed `memory.max`.
        max: u64 = "max",
        /// Times that an allocation was about to fail at the limit.
        oom: u64 = "oom",
        /// Processes that an OOM killer ended.
        oom_kill: u64 = "oom_kill",
        /// Times that an OOM killer ended a whole cgroup (`memory.oom.group`, Linux 5.17).
        oom_group_kill: u64 = "oom_group_kill",
        /// Times that network sockets were throttled for want of memory (Linux 6.18).
        sock_throttled: Option<u64> = "sock_throttled",
    }
}

flat_keyed! {
    /// How often the limits of swap acted (`memory.swap.events`).
    pub struct SwapEvents {
        /// Times that usage was above `memory.swap.high`.
        high: u64 = "high",
        /// Times that usage was about to exceed `memory.swap.max`.
        max: u64 = "max",
        /// Times that no swap could be had, at the limit or of the host.
        fail: u64 = "fail",
    }
}

flat_keyed! {
    /// What the memory is, in bytes, and what was done about it, in events since the cgroup was made (`memory.stat`).
    /// The fields have the kernel's names. `None`: this kernel does not count it, by its version or its configuration.
    pub struct MemoryStat {
        /// Bytes of anonymous memory: heaps, stacks, `MAP_ANONYMOUS`.
        anon: u64 = "anon",
        /// Bytes of page cache, tmpfs and shared memory included.
        file: u64 = "file",
        /// Bytes of the kernel's memory for it, of all kinds.
        kernel: u64 = "kernel",
        /// Bytes of kernel stacks.
        kernel_stack: u64 = "kernel_stack",
        /// Bytes of page tables.
        pagetables: u64 = "pagetables",
        /// Bytes of page tables of virtual machines and IOMMUs (Linux 6.1).
        sec_pagetables: Option<u64> = "sec_pagetables",
        /// Bytes of per-CPU data of the kernel.
        percpu: u64 = "percpu",
        /// Bytes of network buffers.
        sock: u64 = "sock",
        /// Bytes mapped by `vmalloc`.
        vmalloc: u64 = "vmalloc",
        /// Bytes of page cache that swap backs: tmpfs, shared memory.
        shmem: u64 = "shmem",
        /// Bytes of compressed swap.
        zswap: Option<u64> = "zswap",
        /// Bytes that are in compressed swap, uncompressed.
        zswapped: Option<u64> = "zswapped",
        /// Bytes of page cache that processes have mapped.
        file_mapped: u64 = "file_mapped",
        /// Bytes of page cache that must be written back.
        file_dirty: u64 = "file_dirty",
        /// Bytes of page cache that are being written back.
        file_writeback: u64 = "file_writeback",
        /// Bytes that are in swap and in memory both.
        swapcached: Option<u64> = "swapcached",
        /// Bytes of anonymous memory in huge pages.
        anon_thp: Option<u64> = "anon_thp",
        /// Bytes of page cache in huge pages.
        file_thp: Option<u64> = "file_thp",
        /// Bytes of shared memory in huge pages.
        shmem_thp: Option<u64> = "shmem_thp",
        /// Bytes of anonymous memory that is reclaimed first.
        inactive_anon: u64 = "inactive_anon",
        /// Bytes of anonymous memory in use.
        active_anon: u64 = "active_anon",
        /// Bytes of page cache that is reclaimed first.
        inactive_file: u64 = "inactive_file",
        /// Bytes of page cache in use.
        active_file: u64 = "active_file",
        /// Bytes that cannot be reclaimed, such as those of `mlock(2)`.
        unevictable: u64 = "unevictable",
        /// Bytes of kernel objects that can be reclaimed, such as directory entries.
        slab_reclaimable: u64 = "slab_reclaimable",
        /// Bytes of kernel objects that cannot.
        slab_unreclaimable: u64 = "slab_unreclaimable",
        /// Bytes of kernel objects, both kinds.
        slab: u64 = "slab",
        /// Anonymous pages that came back soon after they were evicted.
        workingset_refault_anon: u64 = "workingset_refault_anon",
        /// Page cache pages that came back soon after they were evicted.
        workingset_refault_file: u64 = "workingset_refault_file",
        /// Of the anonymous ones, those that were in use at once.
        workingset_activate_anon: u64 = "workingset_activate_anon",
        /// Of those of the page cache, those that were in use at once.
        workingset_activate_file: u64 = "workingset_activate_file",
        /// Of the anonymous ones, those that had been in use before.
        workingset_restore_anon: u64 = "workingset_restore_anon",
        /// Of those of the page cache, those that had been in use before.
        workingset_restore_file: u64 = "workingset_restore_file",
        /// Times that shadow nodes were reclaimed.
        workingset_nodereclaim: u64 = "workingset_nodereclaim",
        /// Pages moved to slower memory by kswapd.
        pgdemote_kswapd: Option<u64> = "pgdemote_kswapd",
        /// Pages moved to slower memory by processes.
        pgdemote_direct: Option<u64> = "pgdemote_direct",
        /// Pages moved to slower memory by khugepaged.
        pgdemote_khugepaged: Option<u64> = "pgdemote_khugepaged",
        /// Pages moved to slower memory by `memory.reclaim` (Linux 6.16).
        pgdemote_proactive: Option<u64> = "pgdemote_proactive",
        /// Pages moved to faster memory.
        pgpromote_success: Option<u64> = "pgpromote_success",
        /// Bytes of huge pages, where they count as memory (mount option `memory_hugetlb_accounting`).
        hugetlb: Option<u64> = "hugetlb",
        /// Pages looked at for reclaim.
        pgscan: u64 = "pgscan",
        /// Pages reclaimed.
        pgsteal: u64 = "pgsteal",
        /// Pages swapped in (Linux 6.16).
        pswpin: Option<u64> = "pswpin",
        /// Pages swapped out (Linux 6.16).
        pswpout: Option<u64> = "pswpout",
        /// Pages looked at by kswapd.
        pgscan_kswapd: u64 = "pgscan_kswapd",
        /// Pages looked at by processes.
        pgscan_direct: u64 = "pgscan_direct",
        /// Pages looked at by khugepaged.
        pgscan_khugepaged: Option<u64> = "pgscan_khugepaged",
        /// Pages looked at by `memory.reclaim` (Linux 6.16).
        pgscan_proactive: Option<u64> = "pgscan_proactive",
        /// Pages reclaimed by kswapd.
        pgsteal_kswapd: u64 = "pgsteal_kswapd",
        /// Pages reclaimed by processes.
        pgsteal_direct: u64 = "pgsteal_direct",
        /// Pages reclaimed by khugepaged.
        pgsteal_khugepaged: Option<u64> = "pgsteal_khugepaged",
        /// Pages reclaimed by `memory.reclaim` (Linux 6.16).
        pgsteal_proactive: Option<u64> = "pgsteal_proactive",
        /// Page faults.
        pgfault: u64 = "pgfault",
        /// Page faults that waited for a device.
        pgmajfault: u64 = "pgmajfault",
        /// Pages looked at on the active lists.
        pgrefill: u64 = "pgrefill",
        /// Pages moved to the active lists.
        pgactivate: u64 = "pgactivate",
        /// Pages moved to the inactive lists.
        pgdeactivate: u64 = "pgdeactivate",
        /// Pages that `MADV_FREE` gave up.
        pglazyfree: u64 = "pglazyfree",
        /// Of these, those reclaimed.
        pglazyfreed: u64 = "pglazyfreed",
        /// Pages of zeros that came back without a read (Linux 6.12).
        swpin_zero: Option<u64> = "swpin_zero",
        /// Pages of zeros that went without a write (Linux 6.12).
        swpout_zero: Option<u64> = "swpout_zero",
        /// Pages that came back from compressed swap.
        zswpin: Option<u64> = "zswpin",
        /// Pages that went to compressed swap.
        zswpout: Option<u64> = "zswpout",
        /// Pages written from compressed swap to the device.
        zswpwb: Option<u64> = "zswpwb",
        /// Huge pages given on a page fault.
        thp_fault_alloc: Option<u64> = "thp_fault_alloc",
        /// Huge pages made from small ones.
        thp_collapse_alloc: Option<u64> = "thp_collapse_alloc",
        /// Huge pages swapped out whole.
        thp_swpout: Option<u64> = "thp_swpout",
        /// Huge pages split before they were swapped out.
        thp_swpout_fallback: Option<u64> = "thp_swpout_fallback",
        /// Pages moved by NUMA balancing.
        numa_pages_migrated: Option<u64> = "numa_pages_migrated",
        /// Page table entries marked by NUMA balancing.
        numa_pte_updates: Option<u64> = "numa_pte_updates",
        /// Page faults on those.
        numa_hint_faults: Option<u64> = "numa_hint_faults",
        /// Tasks moved by NUMA balancing (Linux 6.16).
        numa_task_migrated: Option<u64> = "numa_task_migrated",
        /// Tasks exchanged by NUMA balancing (Linux 6.16).
        numa_task_swapped: Option<u64> = "numa_task_swapped",
    }
}

impl Cgroup {
    /// How often the memory limits acted; `None` without the memory controller.
    ///
    /// # Errors
    /// What the kernel says is passed on.
    pub fn memory_events(&self) -> Result<Option<MemoryEvents>> {
        let Some(text) = self.read_optional("memory.events")? else {
            return self.stats_v1()?.memory_events();
        };
        let mut events = MemoryEvents::default();
        events.parse(text.as_bytes());
        Ok(Some(events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_and_events_are_read() {
        let mut stat = MemoryStat::default();
        stat.parse(b"anon 4096\nfile 8192\nkernel 1\nnew_key 5\nslab 7\npgfault 8\nthp_swpout 9\n");
        assert_eq!((stat.anon, stat.file, stat.kernel, stat.slab, stat.pgfault), (4096, 8192, 1, 7, 8));
        assert_eq!((stat.thp_swpout, stat.zswap, stat.other["new_key"]), (Some(9), None, 5));
        let mut events = MemoryEvents::default();
        events.parse(b"low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n");
        assert_eq!((events.low, events.high, events.max), (1, 2, 3));
        assert_eq!((events.oom, events.oom_kill, events.oom_group_kill), (4, 5, 6));
        assert_eq!(events.sock_throttled, None);
    }
}
