//! The smaller commands.

use std::io::Write;
use std::sync::Arc;

use stockade::container::{Container, Process};
use stockade::instance::{DeleteMode, DeleteOptions, ExecOptions, Stdio};
use stockade::{InstanceId, Signal};

use crate::args::{Dirs, Exec};
use crate::fail::Fail;
use crate::run::{code, open};
use crate::signals::Held;

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<u8, Fail> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| Fail::Other(format!("write to standard output: {e}")))?;
    Ok(0)
}

/// `stockade exec`.
pub(crate) fn exec(options: Exec) -> Result<u8, Fail> {
    let signals = Held::new()?;
    let container = find(&options.dirs, &options.name)?;
    let process = options.process;
    let mut exec = ExecOptions::new(process.args);
    exec = exec.stdin(Stdio::Inherit).stdout(Stdio::Inherit).stderr(Stdio::Inherit);
    for (name, value) in process.env {
        exec = exec.env(name, value);
    }
    exec.cwd = process.workdir;
    exec.user = process.user;
    let running: Arc<Process> = Arc::new(container.exec(exec)?);
    let (one, same) = (Arc::clone(&running), Arc::clone(&running));
    // One that has just ended takes no signals any more: nothing to be told.
    let _passing = signals.pass_on(move |s| drop(one.signal(s)), move || drop(same.signal(Signal::KILL)))?;
    code(running.wait()?)
}

/// `stockade list`.
pub(crate) fn list(dirs: Dirs) -> Result<u8, Fail> {
    let mut text = String::new();
    for instance in open(&dirs)?.list()? {
        let info = instance.info()?;
        let pid = info.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        text.push_str(&format!("{} {} {pid}\n", info.id, info.status));
    }
    print(&text)
}

/// `stockade stop`.
pub(crate) fn stop(dirs: Dirs, name: &str) -> Result<u8, Fail> {
    find(&dirs, name)?.stop()?;
    Ok(0)
}

/// `stockade delete`.
pub(crate) fn delete(dirs: Dirs, name: &str) -> Result<u8, Fail> {
    find(&dirs, name)?.delete_with(DeleteOptions::new().mode(DeleteMode::Stop))?;
    Ok(0)
}

fn find(dirs: &Dirs, name: &str) -> Result<Arc<Container>, Fail> {
    let id: InstanceId = name.parse()?;
    Ok(open(dirs)?.container(&id)?)
}
