//! The engine alone: plans without namespaces, which any user may run.

mod helper;
mod random;

use std::os::fd::AsFd;
use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::exit::ExitStatus;
use crate::op::Deadline;

const DEADLINE: Duration = Duration::from_secs(10);

fn shell(plan: &mut Plan, script: &str) {
    plan.reset_signals();
    plan.marker();
    plan.close_others();
    let argv: Vec<Vec<u8>> = ["sh", "-c", script].map(|s| s.as_bytes().to_vec()).to_vec();
    plan.exec(b"sh", &[b"/bin/sh".to_vec()], &argv, &[b"PATH=/bin:/usr/bin".to_vec()]);
}

/// A child without namespaces.
fn bare(strategy: Strategy<'_>) -> Spec<'_> {
    Spec { strategy, namespaces: 0, cgroup: None, ambient: 0, own_memory_first: false }
}

fn start(strategy: Strategy<'_>, plan: &Plan) -> crate::Result<Running> {
    let mut started = launch(&bare(strategy))?;
    started.send(&mut plan.clone(), &[])?;
    started.wait_exec(plan, Deadline::after(DEADLINE), None)
}

/// Nothing that the host does to such a child may reach the host itself.
#[test]
fn a_child_that_is_to_have_memory_of_its_own_has_it() {
    const ROUNDS: usize = 500;
    let stage2 = Stage2::new().unwrap();
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let other = (own.trim().parse::<i32>().unwrap() + 1).min(1000).to_string();
    for round in 0..support::scaled(ROUNDS) {
        let spec = Spec { own_memory_first: true, ..bare(Strategy::Exec(&stage2)) };
        let started = launch(&spec).unwrap();
        std::fs::write(format!("/proc/{}/oom_score_adj", started.child().unwrap().id()), &other).unwrap();
        drop(started);
        assert_eq!(std::fs::read_to_string("/proc/self/oom_score_adj").unwrap(), own, "round {round}");
    }
}

fn both(check: impl Fn(Strategy<'_>)) {
    check(Strategy::Exec(&Stage2::new().unwrap()));
    check(Strategy::Fork);
}

#[test]
fn runs_a_program_and_tells_how_it_ended() {
    both(|strategy| {
        for (script, want) in [
            ("exit 7", ExitStatus::Exited(7)),
            ("kill -9 $$", ExitStatus::Signaled { signal: 9, core_dumped: false }),
        ] {
            let mut plan = Plan::new(0);
            shell(&mut plan, script);
            let running = start(strategy, &plan).unwrap();
            assert_eq!(running.child.wait(Deadline::after(DEADLINE), None).unwrap(), want, "{strategy:?}");
        }
    });
}

#[test]
fn resets_ignored_signals_and_the_mask() {
    // Rust programs ignore SIGPIPE; the payload must not.
    both(|strategy| {
        let mut plan = Plan::new(0);
        shell(
            &mut plan,
            "grep -q '^SigIgn:.0*$' /proc/self/status && grep -q '^SigBlk:.0*$' /proc/self/status",
        );
        let status = start(strategy, &plan).unwrap().child.wait(Deadline::after(DEADLINE), None).unwrap();
        assert!(status.success(), "{strategy:?}: {status}");
    });
}

#[test]
fn a_failed_op_comes_back_with_its_step_object_and_errno() {
    both(|strategy| {
        let mut plan = Plan::new(0);
        plan.chdir("enter", "/no/such/place");
        shell(&mut plan, "true");
        let e = start(strategy, &plan).unwrap_err();
        assert_eq!((e.step(), e.what(), e.errno()), ("enter", Some("/no/such/place"), Some(libc::ENOENT)));
    });
}

#[test]
fn a_missing_program_is_told_from_one_that_cannot_run() {
    both(|strategy| {
        for (path, kind) in [
            ("/no/such/program", ErrorKind::PayloadNotFound),
            ("/etc/passwd", ErrorKind::PayloadNotExecutable),
            ("/etc", ErrorKind::PayloadNotExecutable),
        ] {
            let mut plan = Plan::new(0);
            plan.marker();
            plan.exec::<Vec<u8>>(path.as_bytes(), &[path.into()], &[path.into()], &[]);
            let e = start(strategy, &plan).unwrap_err();
            assert_eq!((e.kind(), e.what()), (kind, Some(path)), "{e}");
        }
    });
}

#[test]
fn a_child_that_dies_without_a_word_is_no_success() {
    both(|strategy| {
        let mut plan = Plan::new(0);
        plan.chdir("enter", "/");
        shell(&mut plan, "true");
        plan.inject(0, 0);
        let e = start(strategy, &plan).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Died, "{e}");
    });
}

#[test]
fn a_plan_longer_than_a_message_arrives() {
    both(|strategy| {
        let mut plan = Plan::new(0);
        plan.marker();
        let long = format!("LONG={}", "x".repeat(100_000));
        plan.exec(b"sh", &[b"/bin/sh".to_vec()], &["sh", "-c", "test ${#LONG} = 100000"], &[&long]);
        let status = start(strategy, &plan).unwrap().child.wait(Deadline::after(DEADLINE), None).unwrap();
        assert!(status.success());
    });
}

#[test]
fn a_child_that_waits_for_its_plan_is_ended_by_the_deadline_and_by_drop() {
    both(|strategy| {
        let plan = Plan::new(0);
        let started = launch(&bare(strategy)).unwrap();
        let e = started.wait_exec(&plan, Deadline::after(Duration::from_millis(50)), None).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Timeout);
        // Ended and reaped: a child of ours would be in this list.
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
        assert_eq!(children.trim(), "");
    });
}

#[test]
fn the_sibling_is_our_child_and_the_joiner_is_reaped() {
    both(|strategy| {
        let mut plan = Plan::new(0);
        plan.clone_sibling(0, None, strategy.is_fork());
        let first = plan.barrier(1);
        plan.dup_to("set output", Fd::Slot(first), 1);
        shell(&mut plan, "echo hello; exit 3");
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut started = launch(&bare(strategy)).unwrap();
        started.send(&mut plan, &[]).unwrap();
        let deadline = Deadline::after(DEADLINE);
        started.wait_sibling(&plan, deadline, None).unwrap();
        started.go(&[write.as_fd()]).unwrap();
        drop(write);
        let running = started.wait_exec(&plan, deadline, None).unwrap();
        assert_eq!(running.child.wait(deadline, None).unwrap(), ExitStatus::Exited(3));
        let mut buf = [0_u8; 16];
        let n = rustix::io::read(&read, &mut buf).unwrap();
        assert_eq!(&buf[..n], b"hello\n");
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
        assert_eq!(children.trim(), "");
    });
}

#[test]
fn every_op_of_a_plan_reports_its_own_failure() {
    let mut whole = Plan::new(0);
    whole.umask(0o22);
    whole.chdir("enter", "/");
    whole.setsid();
    shell(&mut whole, "true");
    both(|strategy| {
        for op in 0..whole.len() {
            let mut plan = whole.clone();
            plan.inject(op, libc::EDOM);
            let e = start(strategy, &plan).unwrap_err();
            let want = whole.step(op as u32).unwrap().0;
            assert_eq!((e.step(), e.errno()), (want, Some(libc::EDOM)), "{strategy:?} op {op}");
        }
    });
}

#[test]
fn a_failure_before_the_hosts_word_is_told_as_it_is() {
    both(|strategy| {
        let mut plan = Plan::new(0);
        plan.clone_sibling(0, None, strategy.is_fork());
        plan.chdir("enter", "/no/such/place");
        plan.barrier(0);
        shell(&mut plan, "true");
        let mut started = launch(&bare(strategy)).unwrap();
        started.send(&mut plan, &[]).unwrap();
        if let Err(e) = started.wait_sibling(&plan, Deadline::after(DEADLINE), None) {
            // Its word came before that of its maker.
            assert_eq!((e.step(), e.errno()), ("enter", Some(libc::ENOENT)), "{strategy:?}");
            return;
        }
        // The sibling has ended by then, and its end of the socket is closed.
        let gone_on = loop {
            match started.go(&[]) {
                Ok(()) => std::thread::yield_now(),
                Err(e) if e.errno() == Some(libc::EAGAIN) => std::thread::yield_now(),
                refused => break refused,
            }
        };
        let refused = gone_on.as_ref().unwrap_err().errno();
        assert!(matches!(refused, Some(libc::EPIPE | libc::ECONNRESET)), "{refused:?}");
        let e = started.or_its_own(&plan, gone_on).unwrap_err();
        assert_eq!((e.step(), e.errno()), ("enter", Some(libc::ENOENT)), "{strategy:?}");
    });
}
