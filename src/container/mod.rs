//! System and application containers.

mod config;
mod delete;
mod devices;
mod erase;
mod exec;
mod freeze;
mod handle;
mod info;
mod kill;
mod live;
mod load;
mod metrics;
mod networks;
mod nics;
mod payload;
mod pool;
mod rename;
mod restart;
mod start;
mod stock;
mod stop;
mod streams;
mod tail;
mod update;
mod verbs;

pub use config::{
    BindMount, CgroupConfig, ContainerBuilder, ContainerConfig, DEFAULT_PATH, EtcFile, IdMapConfig, IpNet,
    MacAddress, Mount, MountOptions, MountSet, Network, Nic, NicKind, Problem, Propagation, SeccompConfig,
    TmpfsMount,
};
pub use exec::{Output, Process};
pub use handle::Container;
#[cfg(feature = "fuzzing")]
pub(crate) use handle::ContainerRecord;
#[cfg(feature = "vm")]
pub(crate) use handle::new_uuid;
pub(crate) use live::remove_cgroup;
pub(crate) use networks::{Networks, Taken as TakenNetwork};
pub use nics::{AddressScope, InterfaceAddress, InterfaceCounters, InterfaceState, LinkState};
pub(crate) use pool::{Pool, Sandbox};
