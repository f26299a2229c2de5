//! Calls that meet: two at once, and one beside the end of the container.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use stockade::container::Container;
use stockade::instance::{Status, StopOptions};
use stockade::{ErrorKind, ExitStatus, Result, Signal};
use support::{require_root, scaled};

use super::{LONG, exec, leaves_nothing, make, privileged, sleeper};

#[test]
fn exec_beside_the_death_of_the_first_process() {
    const ROUNDS: usize = 20;
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("dying"));
        // How long one takes here, so that some have run before the death whatever the machine.
        c.start().unwrap();
        let start = std::time::Instant::now();
        assert_eq!(c.exec(exec("exit 3")).unwrap().wait().unwrap(), ExitStatus::Exited(3));
        let one = start.elapsed().max(Duration::from_millis(1));
        c.stop().unwrap();
        let ran = AtomicUsize::new(0);
        for round in (0..ROUNDS).step_by(ROUNDS / scaled(ROUNDS)) {
            c.start().unwrap();
            let killed = AtomicBool::new(false);
            std::thread::scope(|s| {
                let (killed, ran, c) = (&killed, &ran, &c);
                s.spawn(move || {
                    for n in 0..100 {
                        match c.exec(exec("exit 3")) {
                            Ok(process) => {
                                let status = process.wait().unwrap();
                                assert!(
                                    status == ExitStatus::Exited(3) || status.shell_code() == Some(137),
                                    "round {round}, exec {n}: {status}"
                                );
                                ran.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(e) => {
                                assert!(killed.load(Ordering::SeqCst), "round {round}, exec {n}: {e}");
                                let expected = [ErrorKind::InvalidState, ErrorKind::Died];
                                assert!(expected.contains(&e.kind()), "round {round}, exec {n}: {e:?} {e}");
                                return;
                            }
                        }
                    }
                });
                std::thread::sleep(one * round as u32);
                killed.store(true, Ordering::SeqCst);
                c.kill(Signal::KILL).unwrap();
                assert_eq!(c.wait().unwrap().shell_code(), Some(137));
            });
            assert_eq!(c.status(), Status::Stopped);
        }
        assert!(ran.into_inner() > 0);
        c.delete().unwrap();
    });
}

#[test]
fn stop_beside_execs() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("busy"));
        for round in 0..scaled(10) as u64 {
            c.start().unwrap();
            std::thread::scope(|s| {
                for _ in 0..2 {
                    s.spawn(|| {
                        while let Ok(process) = c.exec(exec("sleep 1000")) {
                            // Never waited for.
                            drop(process);
                        }
                    });
                }
                std::thread::sleep(Duration::from_millis(5 * round));
                let stopped = c.stop_with(StopOptions::new().deadline(LONG));
                stopped.unwrap_or_else(|e| panic!("round {round}: {e}"));
            });
            assert_eq!(c.status(), Status::Stopped);
        }
        c.delete().unwrap();
    });
}

/// Of two calls at once one wins; the other is told why it did not.
fn race(rounds: usize, prepare: impl Fn() -> Arc<Container>, call: impl Fn(&Container) -> Result<()> + Sync) {
    let refused = [ErrorKind::Busy, ErrorKind::InvalidState, ErrorKind::NotFound];
    for round in 0..rounds {
        let c = prepare();
        let go = std::sync::Barrier::new(2);
        let results: Vec<_> = std::thread::scope(|s| {
            let both: Vec<_> = (0..2)
                .map(|_| {
                    s.spawn(|| {
                        go.wait();
                        call(&c)
                    })
                })
                .collect();
            both.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let won = results.iter().filter(|r| r.is_ok()).count();
        assert_eq!(won, 1, "round {round}: {results:?}");
        for e in results.iter().filter_map(|r| r.as_ref().err()) {
            assert!(refused.contains(&e.kind()), "round {round}: {e}");
        }
    }
}

#[test]
fn of_two_starts_or_deletes_at_once_one_wins() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("race"));
        let stopped = || {
            if c.status() == Status::Running {
                c.stop().unwrap();
            }
            c.clone()
        };
        race(30, stopped, |c| c.start());
        c.stop().unwrap();
        c.delete().unwrap();
        race(30, || make(rt, sleeper("deleted")), |c| c.delete());
    });
}

#[test]
fn two_stops_at_once_both_find_it_stopped() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("race"));
        for round in 0..scaled(30) {
            c.start().unwrap();
            let results: Vec<_> = std::thread::scope(|s| {
                let both: Vec<_> = (0..2).map(|_| s.spawn(|| c.stop())).collect();
                both.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert!(results.iter().any(Result::is_ok), "round {round}: {results:?}");
            for e in results.iter().filter_map(|r| r.as_ref().err()) {
                assert_eq!(e.kind(), ErrorKind::InvalidState, "round {round}: {e}");
            }
            assert_eq!(c.status(), Status::Stopped);
        }
        c.delete().unwrap();
    });
}
