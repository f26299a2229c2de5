//! System and application containers.

mod config;

pub use config::{
    BindMount, CgroupConfig, ContainerBuilder, ContainerConfig, DEFAULT_PATH, EtcFile, IdMapConfig, Mount,
    MountOptions, MountSet, Network, Problem, Propagation, SeccompConfig, TmpfsMount,
};
