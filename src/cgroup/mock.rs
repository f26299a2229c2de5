//! A mock of a cgroup's files: text in memory, with those rules of the kernel that the order of writes is about.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rustix::io::Errno;

use super::Controller;
use super::limit::Limit;
use super::setting::Files;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, Default)]
pub(super) struct Mock {
    files: RefCell<BTreeMap<String, String>>,
    /// Each write, as `FILE=TEXT`.
    pub(super) log: RefCell<Vec<String>>,
    /// Files whose writes fail.
    pub(super) broken: RefCell<BTreeMap<String, Errno>>,
    /// How often the OOM killer came.
    pub(super) killed: RefCell<u32>,
    /// Bytes that no reclaim gets.
    pub(super) pinned: RefCell<u64>,
}

/// What a new cgroup of Linux 6.12 has.
const NEW: &[(&str, &str)] = &[
    ("cpu.weight", "100"),
    ("cpu.max", "max 100000"),
    ("cpu.max.burst", "0"),
    ("cpu.idle", "0"),
    ("cpu.uclamp.min", "0.00"),
    ("cpu.uclamp.max", "max"),
    ("cpuset.cpus", ""),
    ("cpuset.mems", ""),
    ("cpuset.cpus.partition", "member"),
    ("memory.current", "0"),
    ("memory.min", "0"),
    ("memory.low", "0"),
    ("memory.high", "max"),
    ("memory.max", "max"),
    ("memory.swap.high", "max"),
    ("memory.swap.max", "max"),
    ("memory.zswap.max", "max"),
    ("memory.oom.group", "0"),
    ("memory.reclaim", ""),
    ("io.weight", "default 100"),
    ("io.max", ""),
    ("io.latency", ""),
    ("../cpuset.cpus.effective", "0-3"),
    ("../cpuset.mems.effective", "0"),
    ("pids.current", "0"),
    ("pids.max", "max"),
    ("hugetlb.2MB.current", "0"),
    ("hugetlb.2MB.max", "max"),
    ("hugetlb.2MB.rsvd.max", "max"),
    ("rdma.max", "mlx5_0 hca_handle=max hca_object=max"),
    ("misc.max", "sev max\nsev_es max"),
    ("dmem.min", "vram0 0"),
    ("dmem.low", "vram0 0"),
    ("dmem.max", "vram0 max"),
];

impl Mock {
    pub(super) fn new() -> Self {
        let mock = Self::default();
        for (name, text) in NEW {
            mock.files.borrow_mut().insert((*name).to_owned(), format!("{text}\n"));
        }
        mock
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.files.borrow()[name].trim().to_owned()
    }

    /// Sets a file behind everybody's back.
    pub(super) fn place(&self, name: &str, text: &str) {
        self.files.borrow_mut().insert(name.to_owned(), format!("{text}\n"));
    }

    pub(super) fn take_away(&self, name: &str) {
        self.files.borrow_mut().remove(name);
    }

    pub(super) fn all(&self) -> BTreeMap<String, String> {
        self.files.borrow().clone()
    }

    fn number(&self, name: &str) -> u64 {
        self.file(name).parse().unwrap()
    }

    fn quota(&self) -> u64 {
        self.file("cpu.max").split(' ').next().unwrap().parse().unwrap_or(u64::MAX)
    }

    fn check(&self, name: &str, value: &str) -> Result<String, Errno> {
        let limit = || Limit::parse(value).ok_or(Errno::INVAL);
        match name {
            "cpuset.cpus" | "cpuset.mems"
                if value.is_empty() && !self.file(name).is_empty() && self.number("pids.current") > 0 =>
            {
                return Err(Errno::NOSPC);
            }
            "cpu.weight" if self.file("cpu.idle") == "1" => return Err(Errno::INVAL),
            "cpu.weight" if !(1..=10_000).contains(&value.parse().unwrap_or(0)) => return Err(Errno::RANGE),
            "cpu.idle" => {
                let weight = if value == "1" { "0" } else { "100" };
                if value != self.file("cpu.idle") {
                    self.place("cpu.weight", weight);
                }
            }
            "cpu.max.burst" if value.parse().unwrap_or(u64::MAX) > self.quota() => return Err(Errno::INVAL),
            "cpu.max" => {
                let mut words = value.split(' ');
                let quota = words.next().unwrap();
                if self.number("cpu.max.burst") > quota.parse().unwrap_or(u64::MAX) {
                    return Err(Errno::INVAL);
                }
                return Ok(format!("{quota} {}", words.next().unwrap_or("100000")));
            }
            "memory.max" => {
                if let Limit::Value(max) = limit()?
                    && max < self.number("memory.current")
                {
                    self.place("memory.current", &max.to_string());
                    *self.killed.borrow_mut() += 1;
                }
            }
            "memory.reclaim" => {
                let (now, wanted) = (self.number("memory.current"), value.parse::<u64>().unwrap());
                let taken = wanted.min(now.saturating_sub(*self.pinned.borrow()));
                self.place("memory.current", &(now - taken).to_string());
                return if taken < wanted { Err(Errno::AGAIN) } else { Ok(String::new()) };
            }
            "hugetlb.2MB.max" => {
                if let Limit::Value(max) = limit()?
                    && max < self.number("hugetlb.2MB.current")
                {
                    return Err(Errno::BUSY);
                }
            }
            "io.max" => return Ok(self.merged(name, value, "rbps=max wbps=max riops=max wiops=max")),
            "rdma.max" => return Ok(self.merged(name, value, "hca_handle=max hca_object=max")),
            "io.weight" | "io.latency" | "misc.max" | "dmem.min" | "dmem.low" | "dmem.max" => {
                return Ok(self.merged(name, value, ""));
            }
            _ => {}
        }
        Ok(value.to_owned())
    }

    /// The whole file with one line changed.
    fn merged(&self, name: &str, value: &str, none: &str) -> String {
        let (key, rest) = value.split_once(' ').unwrap();
        let old = self.file(name);
        let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
        let at = lines.iter().position(|l| l.starts_with(&format!("{key} "))).unwrap_or_else(|| {
            lines.push(format!("{key} {none}"));
            lines.len() - 1
        });
        let words: Vec<String> = if rest.contains('=') && !none.is_empty() {
            let given = |k: &str| rest.split(' ').find(|w| w.starts_with(&format!("{k}=")));
            let old = lines[at].split(' ').skip(1);
            old.map(|w| given(w.split('=').next().unwrap()).unwrap_or(w).to_owned()).collect()
        } else {
            vec![rest.to_owned()]
        };
        let line = words.join(" ");
        if (name == "io.max" && line == none) || (key != "default" && line == "default") || line == "target=0"
        {
            drop(lines.remove(at));
        } else {
            lines[at] = format!("{key} {line}");
        }
        lines.join("\n")
    }
}

impl Files for Mock {
    fn get(&self, name: &str) -> Result<String> {
        let found = self.files.borrow().get(name).cloned();
        found.ok_or_else(|| Error::sys("read", Errno::NOENT).object(name))
    }

    fn put(&self, name: &str, value: &str) -> Result<()> {
        let step = format!("write `{value}` to {name}");
        self.get(name)?;
        if let Some(errno) = self.broken.borrow().get(name) {
            return Err(Error::sys(step, *errno));
        }
        self.log.borrow_mut().push(format!("{name}={}", value.trim()));
        let text = self.check(name, value.trim()).map_err(|e| Error::sys(step, e))?;
        self.place(name, &text);
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>> {
        Ok(self.files.borrow().keys().cloned().collect())
    }

    fn lacks(&self, controller: Controller, name: &str) -> Error {
        Error::new(ErrorKind::Unsupported, "set limit").object(name).detail(format!("no {controller} here"))
    }
}
