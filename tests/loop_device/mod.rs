//! A block device of a test's own: a file of its own behind a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct LoopDevice {
    node: PathBuf,
    /// Removed with it.
    _image: tempfile::NamedTempFile,
}

impl LoopDevice {
    /// One of 16 MiB. The error is a sentence for a skip: loop devices are the machine's, so only the throw-away VM
    /// has them for a test.
    pub(crate) fn new() -> Result<Self, String> {
        if std::env::var_os("VM_LANE").is_none() {
            return Err("needs a loop device, which only the VM lane may give away".to_owned());
        }
        if !Path::new("/sys/module/loop").exists() {
            load_module();
        }
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(16 << 20).unwrap();
        let out = Command::new("losetup").args(["-f", "--show"]).arg(image.path()).output();
        let out = out.map_err(|e| format!("needs losetup: {e}"))?;
        if !out.status.success() {
            return Err(format!("needs a loop device: {}", String::from_utf8_lossy(&out.stderr).trim()));
        }
        let node = PathBuf::from(String::from_utf8(out.stdout).unwrap().trim());
        Ok(Self { node, _image: image })
    }

    pub(crate) fn node(&self) -> &Path {
        &self.node
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.node).output();
    }
}

/// With kmod, or else by hand: the lane has the modules, and not always the program.
fn load_module() {
    let script = "modprobe loop 2>/dev/null && exit
        dir=/lib/modules/$(uname -r)/kernel/drivers/block
        { xz -dc $dir/loop.ko.xz || cat $dir/loop.ko; } >/tmp/loop.ko 2>/dev/null
        busybox insmod /tmp/loop.ko; rm /tmp/loop.ko";
    let _ = Command::new("sh").args(["-c", script]).output();
}
