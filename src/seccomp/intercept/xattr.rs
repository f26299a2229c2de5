//! `setxattr(2)` and `lsetxattr(2)` of the one attribute by which a directory of an overlay's layer hides the one below.
//!
//! The kernel asks for `CAP_SYS_ADMIN` of the host for everything named `trusted.`; what the caller has to have here is that
//! capability in the container, over a directory that belongs to somebody in the container.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::Interceptor;
use super::acting::{AT_FDCWD, Actor, Found, O_PATH, OPEN_HOW, WITHIN, inspect, open_how};
use crate::caps::{CapSet, Capability};
use crate::seccomp::hands::{Arg, Batch, HOME};
use crate::seccomp::notify::{Call, Response};

/// What a link at the end of the path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// What it leads to.
    Follow,
    /// Itself.
    NoFollow,
}

const NAME: &[u8] = b"trusted.overlay.opaque";
const NAME_MAX: usize = 255;

pub(super) fn answer(of: &Interceptor, call: &mut Call<'_>, form: Form) -> Result<Response, Errno> {
    let [path, name, value, size, flags, _] = call.args();
    if size != 1 || flags as u32 > 2 || call.text(name, NAME_MAX)? != NAME {
        return Ok(Response::Continue);
    }
    let mut byte = [0];
    call.peek_exact(value, &mut byte)?;
    let caller = call.who()?;
    if byte != *b"y" || !of.subject.has(&caller) || !caller.has(Capability::SysAdmin) {
        return Ok(Response::Continue);
    }
    let path = call.text(path, 4095)?;
    let actor = Actor::open(call, caller, libc::AT_FDCWD, &path)?;
    let nofollow = if form == Form::NoFollow { libc::O_NOFOLLOW as u64 } else { 0 };
    call.hands().with(|hands| {
        let mut batch = Batch::new(2);
        // What searches the way is what the caller could do itself, without capabilities.
        actor.enter(&mut batch, hands, CapSet::EMPTY);
        let path = batch.text(&path);
        // Of a file it means nothing, and a file could be a FIFO or a device.
        let how = open_how(&mut batch, O_PATH | libc::O_DIRECTORY as u64 | nofollow);
        let (_, dir) = batch.open(libc::SYS_openat2, &[AT_FDCWD, path, how, OPEN_HOW]);
        let asked = inspect(&mut batch, dir);
        actor.leave(&mut batch, hands);
        batch.send_back(dir);
        let done = hands.run(&batch, &actor.places(), WITHIN)?;
        done.up_to(asked)?;
        let found = Found::parse(&done.out).ok_or(Errno::IO)?;
        let dir = done.fd.ok_or(Errno::IO)?;
        if !found.is(libc::S_IFDIR) || !actor.reaches(&of.subject, &found) {
            return Ok(Response::Continue);
        }
        let mut batch = Batch::new(1);
        let (here, name, value) = (batch.text(b"."), batch.text(NAME), batch.text(b"y"));
        batch.call(libc::SYS_fchdir, &[Arg::Slot(1)]);
        let args = [here, name, value, Arg::Number(1), Arg::Number(flags & 3)];
        let set = batch.call(libc::SYS_setxattr, &args);
        batch.undo(libc::SYS_fchdir, &[HOME]);
        match hands.run(&batch, &[dir.as_fd()], WITHIN)?.up_to(set) {
            Ok(_) => Ok(Response::Value(0)),
            Err(errno) => Ok(Response::errno(errno)),
        }
    })
}
