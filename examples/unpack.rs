//! Unpacks an archive into a directory, which is made: `unpack ARCHIVE DIRECTORY [MAP_BASE]`.
//!
//! With `MAP_BASE`, the first of 65,536 host ids, owners are shifted into that map; else they stay as they are.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::time::Instant;

use stockade::idmap::IdMap;
use stockade::rootfs::{Unpack, UnpackIds};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (archive, target, base) = match words.as_slice() {
        [archive, target] => (archive, target, None),
        [archive, target, base] => (archive, target, Some(base.parse::<u32>()?)),
        _ => return Err("usage: unpack ARCHIVE DIRECTORY [MAP_BASE]".into()),
    };
    let ids = match base {
        Some(base) => UnpackIds::Shifted(IdMap::range(base, 65_536)?),
        None => UnpackIds::AsIs,
    };
    let start = Instant::now();
    let done = Unpack::new().ids(ids).run_file(archive, target)?;
    println!(
        "{} members, {} bytes of content from {} bytes ({}) in {:.0} ms",
        done.members,
        done.written,
        done.archive,
        done.compression,
        start.elapsed().as_secs_f64() * 1e3
    );
    for left_out in &done.skipped {
        println!("left out: {}: {:?}", left_out.path.display(), left_out.what);
    }
    Ok(())
}
