//! Which processor a helper runs on.

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Where a helper has been put.
///
/// It works while the thread that asks waits, so one processor is enough for both; to wake another that idles takes several
/// times as long as to go from one to the other. The kernel takes the one that idles, unless it may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Where the kernel likes.
    #[default]
    Any,
    /// On this processor.
    On(usize),
    /// Where the kernel likes, since it would not have it otherwise.
    Free,
}

impl Place {
    /// Puts the helper where this thread runs. A hint: what fails leaves it where this thread may run.
    pub(super) fn follow(&mut self, helper: u32) {
        let here = sched_getcpu();
        if matches!(self, Self::Free) || *self == Self::On(here) {
            return;
        }
        let pid = i32::try_from(helper).ok().and_then(Pid::from_raw);
        let mut only = CpuSet::new();
        let fits = here < CpuSet::MAX_CPU;
        if fits {
            only.set(here);
        }
        *self = match pid {
            Some(pid) if fits && sched_setaffinity(Some(pid), &only).is_ok() => Self::On(here),
            Some(pid) if *self != Self::Any => {
                // Its cpuset has changed. This thread is in the same.
                let _ = sched_getaffinity(None).and_then(|all| sched_setaffinity(Some(pid), &all));
                Self::Free
            }
            _ => Self::Free,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_is_put_where_the_thread_that_asks_runs() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let all = sched_getaffinity(None).unwrap();
        let mut place = Place::default();
        let mut places = 0;
        for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).take(4) {
            let mut only = CpuSet::new();
            only.set(cpu);
            sched_setaffinity(None, &only).unwrap();
            place.follow(child.id());
            assert_eq!(place, Place::On(cpu));
            assert!(sched_getaffinity(pid).unwrap() == only);
            places += 1;
        }
        sched_setaffinity(None, &all).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What cannot be put anywhere is left alone from then on.
        let mut place = Place::default();
        place.follow(u32::MAX);
        assert_eq!(place, Place::Free);
        assert!(places > 0);
    }
}
