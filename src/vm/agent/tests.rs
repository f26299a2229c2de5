//! Agents that are none: the host's side against a guest that hangs, lies and floods.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::wire::*;
use super::*;

#[test]
fn every_message_is_read_as_it_was_written() {
    let boot = Boot {
        version: VERSION,
        token: vec![1; 32],
        root: Some(RootDevice { device: b"/dev/vda".to_vec(), filesystem: b"ext4".to_vec(), mode: 2 }),
        hostname: b"a".to_vec(),
        init: Init::Command(vec![b"x".to_vec()]),
        env: vec![],
        modules: vec![b"m".to_vec(), vec![]],
    };
    let bytes = encode(&boot);
    assert_eq!(receive::<Boot>(&bytes[..]).unwrap(), boot);
    for len in 0..bytes.len() {
        assert!(receive::<Boot>(&bytes[..len]).is_err());
    }
    let longer = [&bytes[4..], &[0]].concat();
    assert_eq!(decode::<Boot>(&longer), None);
    for request in
        [Request::State, Request::Time(u64::MAX), Request::Shutdown, Request::Freeze, Request::Thaw]
    {
        assert_eq!(receive::<Request>(&encode(&request)[..]).unwrap(), request);
    }
    // Lengths that lie take no memory.
    assert_eq!(decode::<Vec<u64>>(&[0xff; 8]), None);
    assert!(receive::<Vec<u8>>(&[0xff; 8][..]).is_err());
}

proptest! {
    #[test]
    fn no_bytes_confuse_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(reply) = decode::<Reply>(&bytes) {
            prop_assert_eq!(decode::<Reply>(&encode(&reply)[4..]), Some(reply));
        }
        let _ = decode::<Open>(&bytes);
        let _ = decode::<Hello>(&bytes);
        let _ = decode::<Boot>(&bytes);
    }
}

/// A stream whose other side is given.
fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

#[test]
fn an_agent_that_hangs_or_lies_is_an_error_in_time() {
    const STEP: &str = "ask";
    let soon = || Deadline::after(Duration::from_millis(60));
    let (ours, mut theirs) = pair();
    let begin = Instant::now();
    let silent = io::receive::<Reply>(&Timed::new(&ours, soon(), None), STEP).unwrap_err();
    assert_eq!(silent.kind(), ErrorKind::Timeout);
    theirs.write_all(&encode(&Reply::Done)[..3]).unwrap();
    let half = io::receive::<Reply>(&Timed::new(&ours, soon(), None), STEP).unwrap_err();
    assert_eq!(half.kind(), ErrorKind::Timeout);
    assert!(begin.elapsed() < Duration::from_secs(20));
    let (ours, mut theirs) = pair();
    theirs.write_all(&[1, 0, 0, 0, 99]).unwrap();
    let nonsense = io::receive::<Reply>(&Timed::new(&ours, soon(), None), STEP).unwrap_err();
    assert_eq!(nonsense.kind(), ErrorKind::Corrupt);
    theirs.write_all(&[0xff; 4]).unwrap();
    let endless = io::receive::<Reply>(&Timed::new(&ours, soon(), None), STEP).unwrap_err();
    assert_eq!(endless.kind(), ErrorKind::Corrupt);
    drop(theirs);
    let gone = io::receive::<Reply>(&Timed::new(&ours, soon(), None), STEP).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Died);
    // One that takes nothing.
    let (ours, _theirs) = pair();
    let long = vec![0_u8; 1 << 20];
    let full = (0..100).find_map(|_| io::send(&Timed::new(&ours, soon(), None), &long, STEP).err());
    assert_eq!(full.unwrap().kind(), ErrorKind::Timeout);
    let cancel = Cancel::new().unwrap();
    cancel.cancel();
    let (ours, _theirs) = pair();
    let given_up = io::receive::<Reply>(&Timed::new(&ours, Deadline::none(), Some(&cancel)), STEP);
    assert_eq!(given_up.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn only_who_knows_the_token_is_the_agent() {
    let host = Arc::new(VsockHost::new().unwrap());
    let agent = Agent::new([7; TOKEN], Arc::clone(&host));
    let soon = || Deadline::after(Duration::from_millis(100));
    let report = |hello: Hello| {
        let mut stream = host.take(PORT).unwrap();
        stream.write_all(&encode(&hello)).unwrap();
        stream
    };
    let hello = |token: u8, version: u32| Hello { version, token: vec![token; TOKEN], kernel: vec![] };
    assert_eq!(agent.wait(soon(), None).unwrap_err().kind(), ErrorKind::Timeout);
    let mut stranger = report(hello(8, VERSION));
    assert_eq!(agent.wait(soon(), None).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
    let _newer = report(hello(7, VERSION + 1));
    let e = agent.wait(soon(), None).unwrap_err();
    assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("version 2"), "{e}");
    let real = report(hello(7, VERSION));
    agent.wait(soon(), None).unwrap();
    assert!(agent.is_there());
    drop(real);
    assert!(!agent.is_there());
    host.close();
    assert_eq!(agent.wait(soon(), None).unwrap_err().kind(), ErrorKind::InvalidState);
}

#[test]
fn failures_of_the_guest_read_like_others_and_their_text_is_tame() {
    let failure = |step: &str, errno| {
        failed(Failure { step: step.as_bytes().to_vec(), object: b"no\x1b[2Jsuch\n".to_vec(), errno })
    };
    let none = failure("execute", libc::ENOENT);
    assert_eq!((none.kind(), none.what()), (ErrorKind::PayloadNotFound, Some("no?[2Jsuch?")));
    assert_eq!(failure("execute", libc::EACCES).kind(), ErrorKind::PayloadNotExecutable);
    assert_eq!(failure("change the directory", libc::ENOENT).kind(), ErrorKind::NotFound);
    for errno in [0, -1, i32::MIN, i32::MAX] {
        assert!(failure("x", errno).errno().is_some());
    }
    assert!(text(&[b'a'; 10_000]).len() <= 256);
}
