//! The store on real directories.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::Durability::{Durable, Ephemeral};
use super::*;
use crate::exit::ExitStatus;

mod runs;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Rec {
    text: String,
}

fn rec(text: &str) -> Rec {
    Rec { text: text.into() }
}

fn id(s: &str) -> InstanceId {
    s.parse().unwrap()
}

fn run_record() -> RunRecord {
    RunRecord {
        pid: 42,
        start_time_ticks: Some(7),
        pidfd_inode: Some(9),
        boot_id: "b".into(),
        cgroup_path: Some("a/b".into()),
        cgroup_id: None,
        started_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        exit: None,
        skipped: Vec::new(),
        host_links: Vec::new(),
        updating: false,
    }
}

struct Dirs {
    base: TempDir,
}

impl Dirs {
    fn new() -> Self {
        Self { base: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.base.path().join("state")
    }

    fn run(&self) -> PathBuf {
        self.base.path().join("run")
    }

    fn store(&self) -> Store {
        Store::open(&self.state(), &self.run()).unwrap()
    }

    /// Opens the store until it has cleaned up to this: a process that another test has just forked can hold
    /// the lock until it runs its program.
    fn reopen_until(&self, tree: &[&str]) {
        for _ in 0..2000 {
            drop(self.store());
            if self.tree() == tree {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.tree(), tree);
    }

    /// Every path below the two `instances` directories, sorted.
    fn tree(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (label, dir) in [("run", self.run()), ("state", self.state())] {
            let mut left = vec![(label.to_owned(), dir.join("instances"))];
            while let Some((shown, path)) = left.pop() {
                for entry in std::fs::read_dir(path).into_iter().flatten() {
                    let entry = entry.unwrap();
                    let shown = format!("{shown}/{}", entry.file_name().display());
                    if entry.file_type().unwrap().is_dir() {
                        left.push((shown.clone(), entry.path()));
                    }
                    out.push(shown);
                }
            }
        }
        out.sort();
        out
    }
}

#[test]
fn a_durable_instance_lives_in_both_directories() {
    let dirs = Dirs::new();
    let store = dirs.store();
    let web = id("web");
    store.create_instance(&web, Durable, &rec("one")).unwrap();
    store.save_run(&web, Durable, &run_record()).unwrap();
    assert_eq!(
        dirs.tree(),
        [
            "run/default",
            "run/default/web",
            "run/default/web/run.json",
            "state/default",
            "state/default/web",
            "state/default/web/record.json"
        ]
    );
    let file = dirs.state().join("instances/default/web/record.json");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"schema\":2,\"record\":{\"text\":\"one\"}}\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o700);

    store.save(&web, Durable, &rec("two")).unwrap();
    drop(store);
    let store = dirs.store();
    let stored = store.load::<Rec>(&web).unwrap();
    assert_eq!((stored.durability, stored.record), (Durable, rec("two")));
    assert_eq!(store.load_run(&web).unwrap(), Some(run_record()));
    store.remove(&web, Durable).unwrap();
    assert_eq!(dirs.tree(), ["run/default", "state/default"]);
    assert_eq!(store.load::<Rec>(&web).unwrap_err().kind(), ErrorKind::NotFound);
    drop(store);
    dirs.reopen_until(&[]);
}

#[test]
fn an_ephemeral_instance_never_touches_the_state_directory() {
    let dirs = Dirs::new();
    let store = dirs.store();
    let job = id("ci/job-1");
    store.create_instance(&job, Ephemeral, &rec("job")).unwrap();
    let mut run = run_record();
    store.save_run(&job, Ephemeral, &run).unwrap();
    run.exit = Some(ExitStatus::Exited(3));
    store.save_run(&job, Ephemeral, &run).unwrap();
    assert_eq!(store.load_run(&job).unwrap(), Some(run));
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&job));
    assert_eq!(store.load::<Rec>(&job).unwrap().durability, Ephemeral);
    assert_eq!(std::fs::read_dir(dirs.state().join("instances")).unwrap().count(), 0);
    store.remove(&job, Ephemeral).unwrap();
    assert_eq!(dirs.tree(), ["run/ci"]);
    let gone = store.save_run(&job, Ephemeral, &run_record()).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(dirs.tree(), ["run/ci"]);
}

#[test]
fn a_name_is_claimed_once() {
    let dirs = Dirs::new();
    let store = dirs.store();
    for (first, second) in
        [(Durable, Durable), (Durable, Ephemeral), (Ephemeral, Durable), (Ephemeral, Ephemeral)]
    {
        store.create_instance(&id("a"), first, &rec("first")).unwrap();
        store.save_run(&id("a"), first, &run_record()).unwrap();
        let before = dirs.tree();
        let e = store.create_instance(&id("a"), second, &rec("second")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{first:?} {second:?}");
        let left: Vec<_> = dirs.tree().into_iter().filter(|p| !before.contains(p)).collect();
        assert!(left.iter().all(|p| p == "state/default"), "{left:?}");
        assert_eq!(store.load::<Rec>(&id("a")).unwrap().record, rec("first"));
        assert!(store.load_run(&id("a")).unwrap().is_some());
        store.remove(&id("a"), first).unwrap();
    }
}

#[test]
fn of_many_callers_one_wins() {
    let dirs = Dirs::new();
    let stores = [dirs.store(), dirs.store()];
    for round in 0..20 {
        let name = id(&format!("x{round}"));
        let wins = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let (store, name) = (&stores[n % 2], &name);
                    s.spawn(move || store.create_instance(name, Ephemeral, &rec("x")))
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .filter(|r| match r {
                    Ok(()) => true,
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e}");
                        false
                    }
                })
                .count()
        });
        assert_eq!(wins, 1);
    }
    assert!(dirs.tree().iter().all(|p| !p.contains(".tmp")));
}

#[test]
fn durable_and_ephemeral_racers_never_both_win() {
    let dirs = Dirs::new();
    let store = dirs.store();
    for round in 0..40 {
        let name = id(&format!("x{round}"));
        let (a, b) = std::thread::scope(|s| {
            let a = s.spawn(|| store.create_instance(&name, Durable, &rec("x")));
            let b = s.spawn(|| store.create_instance(&name, Ephemeral, &rec("x")));
            (a.join().unwrap(), b.join().unwrap())
        });
        assert!(a.is_err() || b.is_err());
        for e in [a.err(), b.err()].into_iter().flatten() {
            assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e}");
        }
    }
    assert!(dirs.tree().iter().all(|p| !p.contains(".tmp")));
}

#[test]
fn rename_takes_everything_along_or_nothing() {
    let dirs = Dirs::new();
    let store = dirs.store();
    for kind in [Durable, Ephemeral] {
        let (a, b, taken) = (id("a"), id("other/b"), id("taken"));
        store.create_instance(&a, kind, &rec("a")).unwrap();
        store.save_run(&a, kind, &run_record()).unwrap();
        for holder in [Durable, Ephemeral] {
            store.create_instance(&taken, holder, &rec("t")).unwrap();
            let e = store.rename(&a, &taken, kind).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::AlreadyExists);
            assert_eq!(store.load::<Rec>(&a).unwrap().record, rec("a"));
            assert_eq!(store.load::<Rec>(&taken).unwrap().record, rec("t"));
            store.remove(&taken, holder).unwrap();
        }
        assert_eq!(store.rename(&a, &a, kind).unwrap_err().kind(), ErrorKind::AlreadyExists);
        store.rename(&a, &b, kind).unwrap();
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&b));
        assert_eq!(store.load::<Rec>(&b).unwrap().record, rec("a"));
        assert!(store.load_run(&b).unwrap().is_some() && store.load_run(&a).unwrap().is_none());
        assert_eq!(store.rename(&a, &id("c"), kind).unwrap_err().kind(), ErrorKind::NotFound);
        store.remove(&b, kind).unwrap();
    }
}

#[test]
fn what_a_crash_leaves_is_ignored_and_then_removed() {
    let dirs = Dirs::new();
    let other = dirs.store();
    other.create_instance(&id("alive"), Durable, &rec("x")).unwrap();
    for (area, what) in [(dirs.state(), ".tmp-00ff-1"), (dirs.run(), ".tmp-00ff-2")] {
        let dir = area.join("instances").join(what);
        std::fs::create_dir_all(dir.join("upper/etc")).unwrap();
        std::fs::write(dir.join("record.json"), "{\"sch").unwrap();
        std::fs::write(area.join("instances/.tmp-00ff-3"), "").unwrap();
    }
    let second = dirs.store();
    assert_eq!(second.list().unwrap(), [id("alive")]);
    assert_eq!(dirs.tree().iter().filter(|p| p.contains("/.tmp-00ff")).count(), 10, "others may own them");
    drop((other, second));
    dirs.reopen_until(&["state/default", "state/default/alive", "state/default/alive/record.json"]);
    assert_eq!(dirs.store().list().unwrap(), [id("alive")]);
}

#[test]
fn a_dead_run_directory_does_not_haunt_a_new_instance() {
    let dirs = Dirs::new();
    let store = dirs.store();
    for kind in [Durable, Ephemeral] {
        store.create_instance(&id("a"), Durable, &rec("x")).unwrap();
        store.save_run(&id("a"), Durable, &run_record()).unwrap();
        std::fs::remove_dir_all(dirs.state().join("instances/default/a")).unwrap();
        assert_eq!(store.list().unwrap(), []);
        store.create_instance(&id("a"), kind, &rec("y")).unwrap();
        assert_eq!(store.load_run(&id("a")).unwrap(), None);
        store.remove(&id("a"), kind).unwrap();
    }
}

#[test]
fn a_newer_record_is_refused_and_stays() {
    let dirs = Dirs::new();
    let store = dirs.store();
    store.create_instance(&id("a"), Durable, &rec("x")).unwrap();
    store.save_run(&id("a"), Durable, &run_record()).unwrap();
    let newer = "{\"schema\":3,\"record\":{\"words\":[]}}";
    let record = dirs.state().join("instances/default/a/record.json");
    let run = dirs.run().join("instances/default/a/run.json");
    std::fs::write(&record, newer).unwrap();
    std::fs::remove_file(&run).unwrap();
    symlink(newer, &run).unwrap();
    for e in [
        store.load::<Rec>(&id("a")).unwrap_err(),
        store.save(&id("a"), Durable, &rec("y")).unwrap_err(),
        store.load_run(&id("a")).unwrap_err(),
        store.save_run(&id("a"), Durable, &run_record()).unwrap_err(),
    ] {
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().contains("schema version 3") && e.what().is_some(), "{e}");
    }
    assert_eq!(std::fs::read_to_string(record).unwrap(), newer);
    assert_eq!(std::fs::read_link(run).unwrap(), Path::new(newer));
}

#[test]
fn an_unreadable_record_is_corrupt_and_named() {
    let dirs = Dirs::new();
    let store = dirs.store();
    store.create_instance(&id("a"), Durable, &rec("x")).unwrap();
    let record = dirs.state().join("instances/default/a/record.json");
    let check = |what: &str| {
        let e = store.load::<Rec>(&id("a")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{what}: {e}");
        assert!(e.what().is_some_and(|w| w.ends_with("default/a/record.json")), "{what}: {e}");
        assert_eq!(store.list().unwrap(), [id("a")]);
    };
    for text in [
        "",
        "{",
        "[]",
        "{\"record\":{\"text\":\"x\"}}",
        "{\"schema\":0,\"record\":{\"text\":\"x\"}}",
        "{\"schema\":\"1\",\"record\":{\"text\":\"x\"}}",
        "{\"schema\":1}",
        "{\"schema\":1,\"record\":{\"text\":7}}",
        "{\"schema\":1,\"record\":{\"text\":\"x\"}} trailing",
    ] {
        std::fs::write(&record, text).unwrap();
        check(text);
    }
    std::fs::remove_file(&record).unwrap();
    symlink("/etc/passwd", &record).unwrap();
    check("symbolic link");
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    check("directory");
    std::fs::remove_dir(&record).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &record,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    check("pipe");
    store.remove(&id("a"), Durable).unwrap();
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn an_empty_run_record_is_one_being_made() {
    let dirs = Dirs::new();
    let store = dirs.store();
    store.create_instance(&id("a"), Ephemeral, &rec("x")).unwrap();
    std::fs::write(dirs.run().join("instances/default/a/run.json"), "").unwrap();
    assert_eq!(store.load_run(&id("a")).unwrap(), None);
}

#[test]
fn directories_that_others_can_change_are_refused() {
    let dirs = Dirs::new();
    dirs.store();
    for sub in ["state", "run", "state/instances", "run/instances"] {
        let path = dirs.base.path().join(sub);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o770)).unwrap();
        let e = Store::open(&dirs.state(), &dirs.run()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        assert!(e.to_string().contains(sub) && e.way_out().is_some(), "{e}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    }
    let link = dirs.base.path().join("link");
    symlink(dirs.state(), &link).unwrap();
    let e = Store::open(&link, &dirs.run()).unwrap_err();
    assert!(e.to_string().contains("symbolic link"), "{e}");
    let e = Store::open(Path::new("relative"), &dirs.run()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let dirs = Dirs::new();
    std::fs::create_dir(dirs.state()).unwrap();
    if std::os::unix::fs::chown(dirs.state(), Some(12345), None).is_err() {
        support::skip("giving a directory away needs CAP_CHOWN");
        return;
    }
    let e = Store::open(&dirs.state(), &dirs.run()).unwrap_err();
    assert!(e.to_string().contains("belongs to user 12345"), "{e}");
}

#[test]
fn removal_takes_deep_and_locked_trees_and_follows_no_link() {
    let dirs = Dirs::new();
    let store = dirs.store();
    let outside = dirs.base.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("keep"), "").unwrap();
    store.create_instance(&id("a"), Durable, &rec("x")).unwrap();
    let top = dirs.state().join("instances/default/a");
    symlink(&outside, top.join("link")).unwrap();
    // Deeper than a path can be long.
    let mut fd = rustix::fs::open(&top, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let long = "d".repeat(200);
    for _ in 0..100 {
        rustix::fs::mkdirat(&fd, long.as_str(), rustix::fs::Mode::RWXU).unwrap();
        fd = crate::sys::fd::open_dir(std::os::fd::AsFd::as_fd(&fd), long.as_str()).unwrap();
    }
    for n in 0..300 {
        std::fs::create_dir_all(top.join(format!("wide/{n}/sub"))).unwrap();
        std::fs::write(top.join(format!("wide/{n}/file")), "x").unwrap();
    }
    std::fs::set_permissions(top.join("wide"), PermissionsExt::from_mode(0o000)).unwrap();
    store.remove(&id("a"), Durable).unwrap();
    assert_eq!(dirs.tree(), ["state/default"]);
    assert!(outside.join("keep").exists());
}

#[test]
fn snapshots_have_no_records_yet() {
    let store = Dirs::new().store();
    let e = store.create_instance(&id("p/a/snap"), Durable, &rec("x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
}

#[test]
fn the_boot_id_is_the_kernels() {
    let id = boot_id().unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(boot_id().unwrap(), id);
}

/// A process of its own, since filling a disk needs a mount, and that a mount namespace.
#[test]
fn on_a_full_disk_nothing_is_left_and_the_old_record_stands() {
    const MARK: &str = "STOCKADE_TEST_SMALL_DISK";
    if std::env::var_os(MARK).is_some() {
        return full_disk(Path::new("/mnt"));
    }
    let script = "mount -t tmpfs -o size=16k,mode=700 small /mnt && exec \"$0\" --exact \
                  store::tests::on_a_full_disk_nothing_is_left_and_the_old_record_stands --nocapture";
    let out = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(MARK, "1")
        .output();
    let text = match &out {
        Ok(o) => format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr)),
        Err(e) => e.to_string(),
    };
    if !text.contains("running 1 test") {
        support::skip(format!("no mount namespace with a small tmpfs: {text}"));
        return;
    }
    assert!(out.is_ok_and(|o| o.status.success()) && text.contains("1 passed"), "{text}");
}

fn full_disk(disk: &Path) {
    let big = rec(&"x".repeat(100_000));
    for kind in [Durable, Ephemeral] {
        let base = tempfile::tempdir_in("/tmp").unwrap();
        let (state, run) = (base.path().join("state"), base.path().join("run"));
        let (state, run) = match kind {
            Durable => (disk.join("state"), run),
            Ephemeral => (state, disk.join("run")),
        };
        let store = Store::open(&state, &run).unwrap();
        store.create_instance(&id("a"), kind, &rec("old")).unwrap();
        let names = |path: &Path| std::fs::read_dir(path.join("instances")).unwrap().count();
        for e in [
            store.create_instance(&id("b"), kind, &big).unwrap_err(),
            store.save(&id("a"), kind, &big).unwrap_err(),
        ] {
            assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
            assert!(e.to_string().contains("free space") && e.errno() == Some(libc::ENOSPC), "{e}");
            assert_eq!((names(&state) + names(&run), store.list().unwrap()), (1, vec![id("a")]));
        }
        assert_eq!(store.load::<Rec>(&id("a")).unwrap().record, rec("old"));
        let mut run_rec = run_record();
        if kind == Ephemeral {
            run_rec.cgroup_path = Some("x".repeat(100_000));
            assert_eq!(store.save_run(&id("a"), kind, &run_rec).unwrap_err().kind(), ErrorKind::Exhausted);
            assert_eq!(store.load_run(&id("a")).unwrap(), None);
        }
        store.remove(&id("a"), kind).unwrap();
        drop(store);
        std::fs::remove_dir_all(if kind == Durable { state } else { run }).unwrap();
    }
}
