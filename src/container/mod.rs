//! System and application containers.

mod config;
mod console;
mod delete;
mod devices;
mod erase;
mod exec;
mod freeze;
mod handle;
mod info;
mod init;
mod intercept;
mod kill;
mod live;
mod load;
mod metrics;
mod networks;
mod nics;
mod payload;
mod pool;
mod programs;
mod reboot;
mod rename;
mod restart;
mod start;
mod stock;
mod stop;
mod streams;
mod supervise;
mod tail;
mod update;
mod verbs;
mod views;

pub use config::{
    BindMount, CgroupConfig, ContainerBuilder, ContainerConfig, DEFAULT_PATH, EtcFile, IdMapConfig,
    InitRequest, IpNet, MacAddress, Mount, MountOptions, MountSet, Nesting, Network, Nic, NicKind, OnReboot,
    Problem, Propagation, SeccompConfig, SystemConfig, SystemIdentity, TmpfsMount,
};
pub use exec::{Output, Process};
#[cfg(feature = "vm")]
pub(crate) use exec::{check_exec, read_output};
pub use handle::Container;
#[cfg(feature = "fuzzing")]
pub(crate) use handle::ContainerRecord;
#[cfg(feature = "vm")]
pub(crate) use handle::new_uuid;
pub(crate) use live::remove_cgroup;
pub(crate) use networks::{Networks, Taken as TakenNetwork};
pub use nics::{AddressScope, InterfaceAddress, InterfaceCounters, InterfaceState, LinkState};
pub(crate) use pool::{Pool, Sandbox};
pub use supervise::Supervisor;

pub use crate::views::ResourceViews;
