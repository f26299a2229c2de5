//! When the supervisor goes away, when somebody else takes its place, and when many call at once.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Std};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stockade::container::{Container, ContainerBuilder};
use stockade::instance::{StartOptions, Stdio};
use stockade::seccomp::{Action, Call, Interception, Nodes, NotifyLoop, Policy, Responder, Response, Rule};
use stockade::{ExitStatus, Runtime};
use support::{require_fixture, require_root};

use super::calls::debian;
use super::inside;
use super::rig::{Rig, busybox, end, sh};

/// A container whose first process calls `sysinfo` again and again, and ends when that fails.
fn caller(work: &Path, name: &str) -> Option<ContainerBuilder> {
    let config = debian(work, name)?.intercept(Interception::new().sysinfo());
    Some(
        config.args([inside::PROGRAM, "--exact", "inside::entry", "--nocapture"]).env(inside::CASE, "caller"),
    )
}

/// Starts it: its words.
fn start(c: &Container) -> impl Iterator<Item = String> + use<> {
    let pipes = c.start_with(StartOptions::new().stdout(Stdio::Piped)).unwrap();
    words(fs::File::from(pipes.stdout.unwrap()))
}

fn words(from: impl std::io::Read) -> impl Iterator<Item = String> {
    BufReader::new(from).lines().filter_map(|line| Some(line.ok()?.split_once("> ")?.1.to_owned()))
}

#[test]
fn calls_fail_once_the_runtime_is_closed() {
    let Some(rig) = Rig::new() else { return };
    let work = tempfile::tempdir().unwrap();
    if let Some(config) = caller(work.path(), "closed") {
        let other = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
        let c = other.create(config.build().unwrap()).unwrap();
        let mut said = start(&c);
        assert_eq!(said.next().as_deref(), Some("0"));
        let supervisor = other.supervisor().unwrap();
        assert_eq!(supervisor.listeners(), 1);
        assert!(answering() > 0);
        other.clone().close();
        assert_none_answers();
        assert_eq!(supervisor.listeners(), 0);
        assert_eq!(said.next().as_deref(), Some("ENOSYS"));
        assert_eq!(c.wait().unwrap(), ExitStatus::Exited(0));
        end(c);
    }
    drop(work);
    rig.end();
}

/// How many threads of this process answer calls.
pub(super) fn answering() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|t| fs::read_to_string(t.path().join("comm")).ok());
    names.filter(|name| name.trim() == "stockade-notify").count()
}

/// None does, once a runtime is closed. A thread that was joined is still listed for a moment, while the kernel takes it
/// apart.
#[track_caller]
pub(super) fn assert_none_answers() {
    support::until(Duration::from_secs(2), "threads that answer have ended", || answering() == 0);
}

#[test]
fn listeners_can_be_handed_on() {
    let Some(rig) = Rig::new() else { return };
    let work = tempfile::tempdir().unwrap();
    if let Some(config) = caller(work.path(), "handed") {
        let c: Arc<Container> = rig.runtime.create(config.build().unwrap()).unwrap();
        let mut said = start(&c);
        assert_eq!(said.next().as_deref(), Some("0"));
        let supervisor = rig.runtime.supervisor().unwrap();
        for round in 0..5 {
            let mut listeners = c.release_seccomp_listeners().unwrap();
            assert_eq!((listeners.len(), supervisor.listeners()), (1, 0), "{round}");
            let answered = supervisor.answered();
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(supervisor.answered(), answered, "nobody answers now");
            c.adopt_seccomp_listener(listeners.remove(0)).unwrap();
            support::until(Duration::from_secs(20), "it answers again", || {
                supervisor.answered() > answered + 2
            });
        }
        drop(c.release_seccomp_listeners().unwrap());
        assert_eq!(said.next().as_deref(), Some("ENOSYS"));
        c.wait().unwrap();
        end(c);
    }
    drop(work);
    rig.end();
}

const HOST: &str = "STOCKADE_TEST_HOST";

/// Not a test by itself: the host that is killed.
#[test]
fn a_host() {
    let Some(dirs) = std::env::var_os(HOST) else { return };
    let dirs = dirs.into_string().unwrap();
    let [state, run, work, out] = dirs.split(':').map(PathBuf::from).collect::<Vec<_>>().try_into().unwrap();
    let runtime = Runtime::builder().state_dir(state).run_dir(run).open().unwrap();
    let mut config = caller(&work, "orphan").unwrap().build().unwrap();
    config = serde_json::from_value(without_kill(serde_json::to_value(config).unwrap())).unwrap();
    let c = runtime.create(config).unwrap();
    let out = fs::File::options().append(true).create(true).open(out).unwrap();
    c.start_with(StartOptions::new().stdout(out)).unwrap();
    loop {
        std::thread::park();
    }
}

fn without_kill(mut config: serde_json::Value) -> serde_json::Value {
    config["kill_on_drop"] = false.into();
    config
}

#[test]
fn a_killed_host_leaves_nobody_hanging() {
    let Some(rig) = Rig::new() else { return };
    let work = tempfile::tempdir().unwrap();
    if caller(work.path(), "orphan").is_some() {
        let out = work.path().join("out");
        let dirs = [rig.dirs.state(), rig.dirs.run(), work.path(), &out].map(|d| d.display().to_string());
        let mut host = Command::new(std::env::current_exe().unwrap());
        host.args(["--exact", "ends::a_host"]).env(HOST, dirs.join(":")).stdout(Std::null());
        let mut host = host.spawn().unwrap();
        let said = |what: &str| fs::read_to_string(&out).unwrap_or_default().contains(what);
        support::until(Duration::from_secs(60), "the container calls", || said("> 0\n"));
        host.kill().unwrap();
        host.wait().unwrap();
        support::until(Duration::from_secs(60), "its calls fail", || said("> ENOSYS\n"));
        let id = "orphan".parse().unwrap();
        let c = rig.runtime.container(&id).unwrap();
        c.wait().unwrap();
        end(c);
    }
    drop(work);
    rig.end();
}

#[test]
fn the_hosts_own_loop() {
    require_root!();
    let _ = require_fixture!("busybox");
    let Some(rig) = Rig::new() else { return };
    let builder = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run());
    let runtime = builder.notify_loop(NotifyLoop::Host).open().unwrap();
    let config = busybox("loop").intercept(Interception::new().mknod(Nodes::Usable));
    let c = runtime.create(config.build().unwrap()).unwrap();
    c.start().unwrap();
    let supervisor = runtime.supervisor().unwrap();
    assert_eq!(supervisor.dispatch().unwrap(), 0);
    let done = std::thread::scope(|s| {
        let inside = s
            .spawn(|| sh(&c, "for i in 1 2 3 4 5; do mknod /null$i c 1 3 && echo > /null$i || exit 1; done"));
        let mut turns = 0;
        while !inside.is_finished() {
            let mut fds =
                [rustix::event::PollFd::from_borrowed_fd(supervisor.as_fd(), rustix::event::PollFlags::IN)];
            let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            rustix::event::poll(&mut fds, Some(&tick)).unwrap();
            turns += supervisor.dispatch().unwrap();
        }
        assert!(turns >= 1, "{turns}");
        inside.join().unwrap()
    });
    assert_eq!(done, (0, String::new()));
    assert_eq!(supervisor.answered(), 5);
    drop(supervisor);
    end(c);
    runtime.close();
    assert_none_answers();
    rig.end();
}

/// Counts, looks at what it is given, and panics at times.
#[derive(Clone, Debug, Default)]
struct Answers(Arc<AtomicU64>);

impl Responder for Answers {
    fn respond(&self, call: &mut Call<'_>) -> Response {
        self.0.fetch_add(1, Ordering::Relaxed);
        let caller = call.caller().unwrap();
        assert_eq!(Some(caller.thread), call.thread());
        match call.name() {
            Some("chmod" | "fchmodat") => {
                let at = if call.name() == Some("chmod") { 0 } else { 1 };
                let path = call.read_text(call.args()[at], 4096).unwrap();
                match &path[..] {
                    b"/refused" => Response::Errno(77),
                    b"/kernel" => Response::Continue,
                    b"/panic" => panic!("on purpose"),
                    _ => Response::Value(0),
                }
            }
            // Hands over a descriptor in place of opening.
            Some("memfd_create") => {
                let file = tempfile::tempfile().unwrap();
                call.answer_with_fd(file.as_fd()).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_responder_of_the_hosts_answers_other_calls() {
    let Some(rig) = Rig::new() else { return };
    let answers = Answers::default();
    let builder = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run());
    let runtime = builder.responder(answers.clone()).open().unwrap();
    let policy = Policy::system_default()
        .rule(Rule::new(Action::Notify, ["chmod", "fchmodat", "memfd_create"]).unwrap());
    // Beside what is intercepted.
    let config = busybox("responder").seccomp(policy).intercept(Interception::new().mknod(Nodes::Usable));
    let c = runtime.create(config.build().unwrap()).unwrap();
    c.start().unwrap();
    let said = |script: &str| sh(&c, script);
    assert_eq!(
        said("touch /kernel /x /refused /panic; chmod 700 /kernel; chmod 700 /x; stat -c %a /kernel /x").1,
        "700\n644"
    );
    let (code, text) = said("chmod 700 /refused");
    assert!(code != 0 && text.contains("bad state"), "EBADFD is 77: {text}");
    let (code, text) = said("chmod 700 /panic");
    assert!(code != 0 && text.contains("not implemented"), "{text}");
    assert_eq!(said("mknod /null c 1 3; echo > /null").0, 0);
    assert_eq!(answers.0.load(Ordering::Relaxed), 4);
    end(c);
    runtime.close();
    rig.end();
}

fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A time is printed and decides nothing; that each call of each container is answered, and nothing grows, does.
#[test]
fn many_containers_at_once() {
    let Some(rig) = Rig::new() else { return };
    let count = support::scaled(100);
    let work = tempfile::tempdir().unwrap();
    let what = Interception::new().mknod(Nodes::Plain).sysinfo();
    let mut containers = Vec::new();
    for n in 0..count {
        let Some(config) = debian(work.path(), &format!("many-{n}")) else { break };
        containers.push(rig.run(config.ephemeral().intercept(what.clone())));
    }
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let done: Vec<Vec<u64>> = std::thread::scope(|s| {
            let all: Vec<_> = containers.iter().map(|c| s.spawn(|| inside::run(c, "load"))).collect();
            let said = all.into_iter().filter_map(|one| one.join().unwrap());
            said.map(|lines| lines[0].split(' ').map(|n| n.parse().unwrap()).collect()).collect()
        });
        if done.len() < containers.len() {
            break;
        }
        let calls: u64 = done.iter().map(|d| d[0]).sum();
        let longest = done.iter().map(|d| d[1]).max().unwrap_or(0);
        let supervisor = rig.runtime.supervisor().unwrap();
        // The commands' own listeners go with them.
        support::until(Duration::from_secs(20), "listeners of commands are gone", || {
            supervisor.listeners() == count
        });
        eprintln!(
            "{count} containers: {calls} calls, the longest took {longest} us; {} descriptors, {} KiB, {} threads",
            open_fds(),
            rss_kib(),
            answering(),
        );
        rounds.push((open_fds(), rss_kib()));
    }
    if let [first, .., last] = &rounds[..] {
        assert!(last.0 <= first.0 + 8, "descriptors: {rounds:?}");
        assert!(last.1 <= first.1 + 8 * 1024, "KiB: {rounds:?}");
    }
    containers.into_iter().for_each(end);
    drop(work);
    rig.end();
}

/// Holds a call until it is let go.
#[derive(Clone, Debug, Default)]
struct Holds(Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>);

impl Responder for Holds {
    fn respond(&self, call: &mut Call<'_>) -> Response {
        if call.name() == Some("mkdir") {
            let go = self.0.0.lock().unwrap();
            let _ = self.0.1.wait_timeout_while(go, Duration::from_secs(60), |go| !*go).unwrap();
        }
        Response::Continue
    }
}

#[test]
fn a_call_that_hangs_holds_up_its_own_container_alone() {
    for drive in [NotifyLoop::Thread, NotifyLoop::Host] {
        let Some(rig) = Rig::new() else { return };
        let holds = Holds::default();
        let builder = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run());
        let runtime = builder.responder(holds.clone()).notify_loop(drive).open().unwrap();
        let policy = Policy::system_default().rule(Rule::new(Action::Notify, ["mkdir", "rmdir"]).unwrap());
        let run = |name: &str| {
            let c = runtime.create(busybox(name).seccomp(policy.clone()).build().unwrap()).unwrap();
            c.start().unwrap();
            c
        };
        let (held, free) = (run("held"), run("free"));
        let supervisor = runtime.supervisor().unwrap();
        std::thread::scope(|s| {
            let waits = s.spawn(|| sh(&held, "mkdir /a; test -d /a"));
            let works =
                s.spawn(|| sh(&free, "for i in 1 2 3 4 5; do rmdir /none 2>/dev/null; done; echo done"));
            while !works.is_finished() {
                if drive == NotifyLoop::Host {
                    supervisor.dispatch().unwrap();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(works.join().unwrap().1, "done");
            assert!(!waits.is_finished(), "its call is held");
            *holds.0.0.lock().unwrap() = true;
            holds.0.1.notify_all();
            while !waits.is_finished() {
                if drive == NotifyLoop::Host {
                    supervisor.dispatch().unwrap();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(waits.join().unwrap().0, 0);
        });
        drop(supervisor);
        end(held);
        end(free);
        runtime.close();
        assert_none_answers();
        rig.end();
    }
}
