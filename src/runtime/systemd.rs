//! A scope of systemd's for the cgroups of all instances of a runtime.
//!
//! systemd makes a scope around processes that exist, and ends it when the last is gone. So the runtime keeps one small
//! process in it, in a leaf of its own: stage-2, which waits for a plan that never comes and ends with its host.
//!
//! ```text
//! stockade.slice/stockade-1a2b3c4d.scope     Delegate=yes: from here down the tree is ours
//!   stockade-keeper                          one waiting process, while the runtime is open
//!   stockade-1a2b3c4d-default:web            an instance
//! ```

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use zbus::export::futures_core::Stream;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, Variant, connection, message};

use crate::cgroup::{Cgroup, Hierarchy};
use crate::error::{Error, ErrorKind, Result};
use crate::spawn::{Spec, Stage2, Started, Strategy, launch};

const KEEPER: &str = "stockade-keeper";
/// How long systemd may take unless told otherwise.
const DEADLINE: Duration = Duration::from_secs(30);
const STEP: &str = "ask systemd for a scope";

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Which systemd is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Manager {
    /// The system's for root, the user's for anybody else.
    #[default]
    Auto,
    /// The system's, on the system bus. Anybody but root needs leave from polkit.
    System,
    /// The user's own (`systemd --user`), on the session bus.
    User,
}

/// A scope for a runtime's cgroups; see [`Placement::SystemdScope`](super::Placement::SystemdScope). One scope serves
/// all instances: each is a leaf below it, made by the runtime without systemd.
///
/// ```no_run
/// use stockade::{Placement, Runtime, SystemdScope};
///
/// let scope = SystemdScope::new().slice("machine.slice");
/// let runtime = Runtime::builder().cgroup_placement(Placement::SystemdScope(scope)).open()?;
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a scope is made when a runtime opens"]
pub struct SystemdScope {
    manager: Manager,
    slice: String,
    name: Option<String>,
    deadline: Duration,
}

impl Default for SystemdScope {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemdScope {
    /// In `stockade.slice`, named after the runtime's run directory, within 30 seconds.
    pub fn new() -> Self {
        Self {
            manager: Manager::default(),
            slice: "stockade.slice".to_owned(),
            name: None,
            deadline: DEADLINE,
        }
    }

    /// Sets which systemd is asked.
    pub fn manager(mut self, manager: Manager) -> Self {
        self.manager = manager;
        self
    }

    /// Sets the slice that the scope is put in, made by systemd where it does not exist: `NAME.slice`
    /// (`systemd.slice(5)`).
    pub fn slice(mut self, slice: impl Into<String>) -> Self {
        self.slice = slice.into();
        self
    }

    /// Sets the scope's name: `NAME.scope`. Unless told otherwise it is `stockade-TAG.scope`, with a tag that stands for
    /// the runtime's run directory, so that a runtime opened anew finds the scope that its instances run in.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets how long systemd may take.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn check(&self, name: &str) -> Result<()> {
        for (field, unit, suffix) in [("slice", &*self.slice, ".slice"), ("name", name, ".scope")] {
            let ok = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
            let stem = unit.strip_suffix(suffix).unwrap_or_default();
            if stem.is_empty() || unit.len() > 255 || !stem.bytes().all(ok) {
                return Err(Error::invalid(field, format!("is no unit name that ends in `{suffix}`"))
                    .object(unit.chars().take(80).collect::<String>()));
            }
        }
        Ok(())
    }

    fn asks_system(&self) -> bool {
        match self.manager {
            Manager::Auto => rustix::process::geteuid().is_root(),
            Manager::System => true,
            Manager::User => false,
        }
    }
}

/// The process that keeps the scope.
#[derive(Debug)]
pub(super) struct HeldScope {
    keeper: Started,
    leaf: Cgroup,
}

impl HeldScope {
    /// Ends the keeper. The scope ends with it, or with the last instance.
    pub(super) fn release(self) {
        drop(self.keeper);
        // systemd may be faster, and removes all of it.
        let _ = self.leaf.remove(Some(Instant::now() + Duration::from_millis(200)));
    }
}

/// Has a scope made, or finds the one of that name, and keeps it. Gives the scope's cgroup.
pub(super) fn hold(
    hierarchy: &Hierarchy,
    wanted: &SystemdScope,
    tag: &str,
    stage2: Option<&Stage2>,
) -> Result<(Cgroup, HeldScope)> {
    let name = wanted.name.clone().unwrap_or_else(|| format!("stockade-{tag}.scope"));
    wanted.check(&name)?;
    let keeper = launch(&Spec {
        strategy: stage2.map_or(Strategy::Fork, Strategy::Exec),
        namespaces: 0,
        cgroup: None,
        ambient: 0,
        // It is moved, and its memory charged where it goes: not the host's.
        own_memory_first: true,
    })?;
    let pid = keeper.child()?.id();
    let ask = Ask { wanted, name: &name, pid, deadline: Instant::now() + wanted.deadline };
    let scope = match ask.run(Call::Start)? {
        Done::Started => of_process(hierarchy, pid, &name)?,
        Done::Exists(cgroup) => {
            let scope = hierarchy.open(&hierarchy.root().path().join(cgroup.trim_start_matches('/')))?;
            leaf_in(&scope)?;
            ask.run(Call::Attach)?;
            scope
        }
    };
    let leaf = leaf_in(&scope)?;
    leaf.add_process(pid)?;
    Ok((scope, HeldScope { keeper, leaf }))
}

fn leaf_in(scope: &Cgroup) -> Result<Cgroup> {
    match scope.create_child(KEEPER) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => scope.open_child(KEEPER),
        made => made,
    }
}

/// The cgroup that the process is in, which must be the scope's.
fn of_process(hierarchy: &Hierarchy, pid: u32, name: &str) -> Result<Cgroup> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&file).map_err(|e| Error::io(STEP, e).path(&file))?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::/")).map(PathBuf::from);
    match path {
        Some(path) if path.file_name().is_some_and(|last| last == name) => {
            hierarchy.open(&hierarchy.root().path().join(path))
        }
        other => Err(Error::new(ErrorKind::Unsupported, STEP)
            .object(name)
            .detail(format!("the process that was put into it is in {other:?} of cgroup v2"))
            .hint("systemd must manage cgroup v2 here, as it does unless it was booted with a v1 hierarchy")),
    }
}

#[derive(Clone, Copy)]
enum Call {
    Start,
    Attach,
}

enum Done {
    Started,
    /// The control group of the scope of that name.
    Exists(String),
}

struct Ask<'a> {
    wanted: &'a SystemdScope,
    name: &'a str,
    pid: u32,
    deadline: Instant,
}

impl Ask<'_> {
    /// Makes the call in a thread of its own, which ends before this returns: the D-Bus library keeps its reactor in
    /// the thread, and may not be called where another one is running.
    fn run(&self, call: Call) -> Result<Done> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("stockade-dbus".to_owned())
                .spawn_scoped(scope, || self.block_on(call))
                .map_err(|e| Error::io("start the thread for D-Bus", e))?;
            let died = |_| Err(Error::new(ErrorKind::Died, STEP).detail("the thread for D-Bus has panicked"));
            thread.join().unwrap_or_else(died)
        })
    }

    fn block_on(&self, call: Call) -> Result<Done> {
        zruntime::block_on(async {
            let runtime = zruntime::SharedRuntime::current().map_err(|e| Error::io(STEP, e))?;
            let late = |_| {
                Error::new(ErrorKind::Timeout, STEP)
                    .object(self.name)
                    .detail("systemd has not answered in time")
                    .hint("see `systemctl list-jobs` and the journal")
            };
            let mut bus = None;
            let done = runtime.timeout_at(self.deadline, pin!(self.talk(call, &mut bus))).await.map_err(late);
            if let Some(bus) = bus {
                // A second is plenty for closing a socket; its tasks end with it.
                let soon = Instant::now() + Duration::from_secs(1);
                let _ = runtime.timeout_at(soon, pin!(bus.close())).await;
            }
            done?
        })
    }

    async fn talk(&self, call: Call, bus: &mut Option<Connection>) -> Result<Done> {
        let system = self.wanted.asks_system();
        let builder = if system { connection::Builder::system() } else { connection::Builder::session() };
        let bus = &*bus.insert(builder.build().await.map_err(|e| no_bus(e, system))?);
        let done = match call {
            Call::Start => match self.start(bus).await {
                Err(e) if name_of(&e).is_some_and(|n| n.ends_with(".UnitExists")) => {
                    self.find(bus).await.map(Done::Exists)
                }
                done => done.map(|()| Done::Started),
            },
            Call::Attach => self.attach(bus).await.map(|()| Done::Started),
        };
        done.map_err(|e| self.refused(e))
    }

    async fn start(&self, bus: &Connection) -> zbus::Result<()> {
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(SERVICE)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()?;
        let mut jobs = MessageStream::for_match_rule(rule, bus, None).await?;
        bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "Subscribe", &()).await?;
        let properties: Vec<(&str, Variant<'_>)> = vec![
            ("Description", Variant::from("Containers of a Stockade runtime")),
            ("Slice", Variant::from(&*self.wanted.slice)),
            ("Delegate", Variant::from(true)),
            ("PIDs", Variant::from(vec![self.pid])),
            ("CollectMode", Variant::from("inactive-or-failed")),
        ];
        let auxiliary: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let body = (self.name, "fail", properties, auxiliary);
        let job = bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "StartTransientUnit", &body).await?;
        let job: OwnedObjectPath = job.body().deserialize()?;
        loop {
            let Some(signal) = poll_fn(|cx| Pin::new(&mut jobs).poll_next(cx)).await else {
                return Err(zbus::Error::Failure("the bus was closed".to_owned()));
            };
            let body = signal?;
            let body = body.body();
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize()?;
            if path == job {
                let done = result == "done";
                return done
                    .then_some(())
                    .ok_or_else(|| zbus::Error::Failure(format!("the job's result is `{result}`")));
            }
        }
    }

    /// The control group of the scope, which must be delegated.
    async fn find(&self, bus: &Connection) -> zbus::Result<String> {
        let unit = bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "GetUnit", &(self.name,)).await?;
        let unit: OwnedObjectPath = unit.body().deserialize()?;
        let get = async |property: &str| {
            let scope = "org.freedesktop.systemd1.Scope";
            let properties = Some("org.freedesktop.DBus.Properties");
            bus.call_method(Some(SERVICE), unit.as_str(), properties, "Get", &(scope, property)).await
        };
        let delegated = get("Delegate").await?;
        let delegated = delegated.body();
        if !matches!(inner(delegated.deserialize()?), Variant::Bool(true)) {
            return Err(zbus::Error::Failure("a scope of that name exists and is not delegated".to_owned()));
        }
        let cgroup = get("ControlGroup").await?;
        let cgroup = cgroup.body();
        match inner(cgroup.deserialize()?) {
            Variant::Str(path) => Ok(path.as_str().to_owned()),
            _ => Err(zbus::Error::InvalidReply),
        }
    }

    async fn attach(&self, bus: &Connection) -> zbus::Result<()> {
        let body = (self.name, format!("/{KEEPER}"), vec![self.pid]);
        bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "AttachProcessesToUnit", &body).await.map(drop)
    }

    fn refused(&self, e: zbus::Error) -> Error {
        let name = name_of(&e).unwrap_or_default();
        let denied = ["AccessDenied", "InteractiveAuthorizationRequired", "AuthFailed"];
        if denied.iter().any(|d| name.ends_with(d)) {
            return Error::new(ErrorKind::PermissionDenied, STEP)
                .object(self.name)
                .hint("ask the user's own systemd (Manager::User), run as root, or have polkit allow it")
                .with_source(e);
        }
        if name.ends_with("ServiceUnknown") || name.ends_with("NameHasNoOwner") {
            return Error::new(ErrorKind::Unsupported, STEP)
                .object(self.name)
                .detail("no systemd is on the bus")
                .hint(INSTEAD)
                .with_source(e);
        }
        let kind =
            if name.ends_with("InvalidArgs") { ErrorKind::InvalidConfig } else { ErrorKind::InvalidState };
        Error::new(kind, STEP).object(self.name).detail("systemd refuses").with_source(e)
    }
}

fn inner(value: Variant<'_>) -> Variant<'_> {
    match value {
        Variant::Variant(value) => *value,
        value => value,
    }
}

const INSTEAD: &str = "boot the host with systemd, or choose Placement::OwnWithLeaf";

fn no_bus(e: zbus::Error, system: bool) -> Error {
    let (which, hint) = if system {
        ("the system bus", INSTEAD)
    } else {
        (
            "the session bus",
            "set DBUS_SESSION_BUS_ADDRESS or XDG_RUNTIME_DIR; `loginctl enable-linger` starts a user's systemd",
        )
    };
    Error::new(ErrorKind::Unsupported, STEP)
        .object(which)
        .detail("cannot be reached")
        .hint(hint)
        .with_source(e)
}

/// The name of a D-Bus error.
fn name_of(e: &zbus::Error) -> Option<String> {
    use zbus::DBusError;
    match e {
        zbus::Error::MethodError(name, ..) => Some(name.as_str().to_owned()),
        zbus::Error::FDO(e) => Some(e.name().as_str().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_names_are_checked_before_anybody_is_asked() {
        let scope = SystemdScope::new();
        scope.check("stockade-1.scope").unwrap();
        for bad in ["", ".scope", "x", "x.slice", "a/b.scope", "a b.scope", &"x".repeat(300)] {
            assert_eq!(scope.check(bad).unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad}");
        }
        assert_eq!(scope.slice("x.scope").check("a.scope").unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}
