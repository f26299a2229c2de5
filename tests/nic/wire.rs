//! A network of the test's own that stands for the host's.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The host's end of things: a network namespace that only the calling thread is in, with a bridge `br0`.
pub(crate) struct Wire;

impl Wire {
    /// Runs `test` in one, in a thread of its own.
    pub(crate) fn with(test: impl FnOnce(&Self) + Send) {
        std::thread::scope(|scope| {
            let ran = scope.spawn(|| {
                // SAFETY: a plain number; of this thread alone.
                let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
                assert_eq!(unshared, 0, "{}", std::io::Error::last_os_error());
                let wire = Self;
                wire.ip("link set lo up");
                wire.ip("link add br0 type bridge");
                wire.ip("addr add 10.77.0.1/24 dev br0");
                wire.ip("link set br0 up");
                // Without the wait for others with the same address.
                std::fs::write("/proc/sys/net/ipv6/conf/br0/accept_dad", "0").unwrap();
                wire.ip("addr add fd77::1/64 dev br0");
                test(&wire);
            });
            if let Err(panic) = ran.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// The output of busybox's `ip`, which must succeed.
    #[track_caller]
    pub(crate) fn ip(&self, args: &str) -> String {
        let (ok, text) = self.run(&format!("ip {args}"));
        assert!(ok, "ip {args}: {text}");
        text
    }

    /// Runs an applet of busybox here.
    pub(crate) fn run(&self, command: &str) -> (bool, String) {
        let busybox = support::fixture("busybox").unwrap().join("bin/busybox");
        let out = Command::new(busybox).args(command.split(' ')).output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.success(), text)
    }

    #[track_caller]
    pub(crate) fn pings(&self, address: &str) {
        let (ok, text) = self.run(&format!("ping -c 1 -W 20 {address}"));
        assert!(ok, "{address}: {text}");
    }

    /// The names of all links but the loopback device and `br0`.
    pub(crate) fn links(&self) -> Vec<String> {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let names = text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
        // Where their modules are loaded every namespace has some of these.
        let fallback =
            ["tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"];
        names.filter(|n| n != "lo" && n != "br0" && !fallback.contains(&n.as_str())).collect()
    }
}

/// Answers every question for an IPv4 address with the same one.
pub(crate) struct Dns {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

impl Dns {
    /// On port 53 of `at`, in the calling thread's network.
    pub(crate) fn start(at: IpAddr, answer: [u8; 4]) -> Self {
        let socket = UdpSocket::bind((at, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut answered = 0;
            let mut buf = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buf) else { continue };
                if let Some(reply) = reply(&buf[..len], answer) {
                    socket.send_to(&reply, from).unwrap();
                    answered += 1;
                }
            }
            answered
        });
        Self { stop, thread: Some(thread) }
    }

    /// How many questions it answered.
    pub(crate) fn end(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// The answer to one question (RFC 1035): an address for type A, nothing for other types.
fn reply(query: &[u8], address: [u8; 4]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    let question = query.get(12..end + 5)?;
    let is_a = query.get(end + 1..end + 3)? == [0, 1];
    let mut out = query[..2].to_vec();
    out.extend_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    out.extend_from_slice(question);
    if is_a {
        out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend_from_slice(&address);
    }
    Some(out)
}
