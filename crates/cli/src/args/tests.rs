use super::*;

fn of(words: &[&str]) -> Result<Command, Fail> {
    parse(words.iter().map(OsString::from))
}

fn run_of(words: &[&str]) -> Run {
    match of(words).unwrap() {
        Command::Run(run) => *run,
        other => panic!("{other:?}"),
    }
}

fn refused(words: &[&str]) -> String {
    match of(words).unwrap_err() {
        Fail::Usage { text, .. } => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn there_is_one_root_file_system() {
    assert_eq!(run_of(&["run", "--image", "a.tar.zst", "sh"]).root, Root::Image("a.tar.zst".into()));
    assert_eq!(run_of(&["run", "--host", "sh"]).root, Root::Host);
    assert!(refused(&["run", "--image", "a", "--rootfs", "b", "sh"]).contains("two root file systems"));
    assert!(refused(&["run", "--image=a", "--host", "sh"]).contains("two root file systems"));
    assert!(refused(&["run", "sh"]).contains("--image FILE"));
}

#[test]
fn a_run_with_everything() {
    let r = run_of(&[
        "run",
        "--rootfs=/r",
        "--name",
        "n",
        "-eA=1",
        "--env",
        "B=2",
        "-w",
        "/w",
        "-u5:6",
        "--net=host",
        "--memory",
        "2M",
        "--pids=9",
        "-v",
        "/a:/b:ro",
        "--read-only",
        "--resource-views",
        "--rm",
        "--no-seccomp",
        "--run-dir",
        "/x",
        "--state-dir=/y",
        "--cgroup",
        "/c",
        "--",
        "sh",
        "-c",
        "--help",
    ]);
    assert_eq!(r.root, Root::Dir("/r".into()));
    assert_eq!(r.name.as_deref(), Some("n"));
    assert_eq!(r.process.env, [("A".into(), "1".into()), ("B".into(), "2".into())]);
    assert_eq!(r.process.workdir.as_deref(), Some("/w".as_ref()));
    assert_eq!(r.process.user, Some(User::new(5, 6)));
    assert_eq!((r.network, r.memory, r.pids), (Network::Host, Some(2 << 20), Some(9)));
    assert!(
        r.volumes[0].read_only && r.switches.read_only && r.switches.no_seccomp && r.switches.resource_views
    );
    assert!(!r.switches.privileged);
    let dirs = Dirs { run: Some("/x".into()), state: Some("/y".into()), cgroup: Some("/c".into()) };
    assert_eq!(r.dirs, dirs);
    assert_eq!(r.process.args, ["sh", "-c", "--help"]);
}

#[test]
fn options_end_with_the_first_plain_word() {
    let r = run_of(&["run", "--host", "ls", "-l", "--", "x"]);
    assert_eq!(r.root, Root::Host);
    assert_eq!(r.process.args, ["ls", "-l", "--", "x"]);
    let Command::Exec(e) = of(&["exec", "-e", "A=b", "web", "--", "ls", "-l"]).unwrap() else { panic!() };
    assert_eq!((e.name.as_str(), e.process.args), ("web", vec!["ls".into(), "-l".into()]));
    let Command::Exec(e) = of(&["exec", "web", "ls"]).unwrap() else { panic!() };
    assert_eq!(e.process.args, ["ls"]);
}

#[test]
fn what_is_wrong_is_named() {
    for (words, named) in [
        (&[][..], "say what to do"),
        (&["fly"], "`fly`"),
        (&["run"], "root file system"),
        (&["run", "--host"], "which command"),
        (&["run", "--host", "--", ""], "empty"),
        (&["run", "--host", "--rootfs", "/r", "x"], "two root file systems"),
        (&["run", "--host=1", "x"], "--host takes no value"),
        (&["run", "--hots", "x"], "--hots"),
        (&["run", "-x", "x"], "-x"),
        (&["run", "--rootfs"], "--rootfs needs a value"),
        (&["run", "--net", "bridge"], "bridge"),
        (&["run", "--memory", "much"], "`much`"),
        (&["run", "--pids", "-1"], "`-1`"),
        (&["run", "--privileged=yes"], "--privileged takes no value"),
        (&["run", "-v", "/a"], "`/a`"),
        (&["run", "-u", "root"], "`root`"),
        (&["run", "-e", "hunter2"], "NAME=VALUE"),
        (&["exec", "--", "ls"], "which container"),
        (&["exec", "web"], "which command"),
        (&["stop"], "which container"),
        (&["stop", "a", "b"], "`b`"),
        (&["list", "a"], "`a`"),
        (&["delete", "-f", "a"], "-f"),
    ] {
        let text = refused(words);
        assert!(text.contains(named), "{words:?}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn help_and_version() {
    for verb in ["run", "exec", "list", "stop", "delete"] {
        assert!(matches!(of(&[verb, "--help"]), Ok(Command::Help(text)) if text.contains(verb)), "{verb}");
    }
    assert!(matches!(of(&["--help"]), Ok(Command::Help(help::TOP))));
    assert!(matches!(of(&["--version"]), Ok(Command::Version)));
}
