//! The console: that nobody has to read it, and what is kept of it.

use stockade::container::SystemConfig;
use stockade::instance::Status;
use support::until;

use super::image::{Image, SOON};
use super::rig::{Rig, end, sh};

#[test]
fn a_console_that_nobody_reads_stops_nobody_and_its_end_is_kept() {
    let Some(rig) = Rig::new() else { return };
    // Ten times what a terminal holds, and more than is kept.
    let script = "yes 'a line of the console' | head -c 1000000; echo; echo the last one; exec sleep 1000";
    let image = Image::script(script);
    let c = rig.run(image.system("web").system_with(SystemConfig::new().console_log(10_000)));
    until(SOON, "all is written", || c.console_log().unwrap().ends_with(b"the last one\r\n"));
    let log = c.console_log().unwrap();
    assert_eq!(log.len(), 10_000);
    let lines: Vec<&[u8]> = log.split(|b| *b == b'\n').collect();
    assert!(lines[1..lines.len() - 3].iter().all(|line| *line == b"a line of the console\r"), "{log:?}");
    // Terminals too, and what nobody keeps.
    assert_eq!(
        sh(&c, "yes | head -c 300000 > /dev/tty2; yes | head -c 300000 > /dev/tty4; echo done").1,
        "done"
    );
    c.stop().unwrap();
    assert_eq!(c.console_log().unwrap(), log);
    c.start().unwrap();
    c.stop().unwrap();
    end(c);
    drop(image);
    rig.end();
}

#[test]
fn a_console_that_everybody_has_closed_is_there_again() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script("exec < /dev/null > /dev/null 2>&1; while :; do sleep 1; done");
    let c = rig.run(image.system("web"));
    for n in 0..5 {
        assert_eq!(sh(&c, &format!("echo {n} > /dev/console; echo ok")).1, "ok");
        until(SOON, "it is kept", || c.console_log().unwrap().ends_with(format!("{n}\r\n").as_bytes()));
    }
    assert_eq!(c.console_log().unwrap(), b"0\r\n1\r\n2\r\n3\r\n4\r\n");
    assert_eq!(c.status(), Status::Running);
    end(c);
    drop(image);
    rig.end();
}

#[test]
fn a_container_may_keep_nothing_and_have_no_terminals() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script("yes | head -c 300000; exec sleep 1000");
    let c = rig.run(image.system("web").system_with(SystemConfig::new().console_log(0).ttys(0)));
    until(SOON, "it has written all", || sh(&c, "cat /proc/1/comm").1 == "sleep");
    assert_eq!(sh(&c, "ls /dev/tty[0-9] 2>/dev/null | wc -l; ls /dev/pts").1, "0\n0\nptmx");
    assert!(c.console_log().is_err());
    end(c);
    drop(image);
    rig.end();
}
