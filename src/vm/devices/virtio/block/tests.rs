//! Requests as a driver makes them, and as one makes them that means harm.

use std::path::PathBuf;

use super::*;
use crate::error::ErrorKind;
use crate::vm::devices::virtio::rig::flag::{INDIRECT, NEXT, WRITE};
use crate::vm::devices::virtio::rig::{FREE, Rig, bytes};
use crate::vm::disk::Disk;

const SIZE: u64 = 64 * SECTOR;
const HEADER: u64 = FREE;
const STATUS: u64 = FREE + 16;
const DATA: u64 = FREE + 0x1000;

struct Fixture {
    rig: Rig,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn fixture(features: u64, read_only: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let content: Vec<u8> = (0..SIZE).map(|n| (n / SECTOR) as u8).collect();
    std::fs::write(&path, content).unwrap();
    let disk = Disk::new(&path).with_id("serial");
    let disk = if read_only { disk.read_only() } else { disk };
    let device = Block::new(OpenDisk::open(&disk, 0).unwrap(), 0);
    Fixture { rig: Rig::new(Box::new(device), features), path, _dir: dir }
}

impl Fixture {
    fn header(&self, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.rig.put(HEADER, &header);
        self.rig.put(STATUS, &[0xee]);
    }

    /// Makes a request with data of that length, which the device writes or reads; gives status and written bytes.
    fn request(&mut self, kind: u32, sector: u64, len: u32, flag: u16) -> (u8, u32) {
        self.header(kind, sector);
        self.rig.describe(0, 0, (HEADER, 16, NEXT, 1));
        self.rig.describe(0, 1, (DATA, len, NEXT | flag, 2));
        self.rig.describe(0, 2, (STATUS, 1, WRITE, 0));
        self.submit(0)
    }

    fn submit(&mut self, head: u16) -> (u8, u32) {
        self.rig.offer(0, head);
        assert_eq!(self.rig.ring_for(0).unwrap(), None);
        let used = self.rig.used(0);
        assert_eq!((used.len(), used[0].0), (1, u32::from(head)));
        assert!(self.rig.interrupted());
        (self.rig.get(STATUS, 1)[0], used[0].1)
    }

    fn file(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

#[test]
fn sectors_are_read_and_written() {
    let mut f = fixture(feature::FLUSH, false);
    assert_eq!(f.request(0, 5, 1024, WRITE), (0, 1025));
    assert_eq!(f.rig.get(DATA, 1024), [vec![5; 512], vec![6; 512]].concat());
    f.rig.put(DATA, &[0xaa; 512]);
    assert_eq!(f.request(1, 63, 512, 0), (0, 1));
    assert_eq!(f.request(4, 0, 0, 0), (0, 1));
    assert_eq!((f.file().len() as u64, f.file()[63 * 512..].to_vec()), (SIZE, vec![0xaa; 512]));
    assert_eq!(f.request(8, 0, 20, WRITE), (0, 21));
    assert_eq!(&f.rig.get(DATA, 8), b"serial\0\0");
    let mut config = [0; 8];
    f.rig.device.read_config(0, &mut config);
    assert_eq!(u64::from_le_bytes(config), 64);
    f.rig.device.read_config(u64::MAX, &mut config);
}

#[test]
fn a_chain_in_a_table_of_its_own_is_the_same() {
    let mut f = fixture(feature::FLUSH, false);
    f.header(0, 1);
    let table = FREE + 0x8000;
    let chain = [(HEADER, 16, NEXT, 1), (DATA, 100, NEXT | WRITE, 2), (DATA + 100, 412, NEXT | WRITE, 3)];
    for (n, descriptor) in (0_u64..).zip(chain) {
        f.rig.put(table + n * 16, &bytes(descriptor));
    }
    f.rig.put(table + 48, &bytes((STATUS, 1, WRITE, 0)));
    f.rig.describe(0, 7, (table, 64, INDIRECT, 0));
    assert_eq!(f.submit(7), (0, 513));
    assert_eq!(f.rig.get(DATA, 512), [1; 512]);
}

#[test]
fn what_is_outside_of_the_disk_or_half_a_sector_is_an_error() {
    let mut f = fixture(feature::FLUSH, false);
    let before = f.file();
    let cases = [
        (0, 64, 512, WRITE),
        (0, 63, 1024, WRITE),
        (0, u64::MAX, 512, WRITE),
        (0, 1 << 55, 512, WRITE),
        (0, 0, 511, WRITE),
        (1, 64, 512, 0),
        (1, u64::MAX - 1, 1024, 0),
        (1, 0, 100, 0),
        // Data of the wrong kind.
        (0, 0, 512, 0),
        (1, 0, 512, WRITE),
    ];
    for (kind, sector, len, flag) in cases {
        let (status, written) = f.request(kind, sector, len, flag);
        // A read of nothing at all is none that does harm.
        assert_eq!((status, written), (1, 1), "{kind} {sector} {len} {flag}");
    }
    for kind in [2, 3, 5, 9, 10, 12, 14, u32::MAX] {
        assert_eq!(f.request(kind, 0, 512, WRITE), (2, 1), "{kind}");
    }
    assert_eq!(f.file(), before);
}

#[test]
fn a_disk_that_is_read_only_stays_as_it_is() {
    let mut f = fixture(0, true);
    let before = f.file();
    assert!(f.rig.device.features() & feature::READ_ONLY != 0);
    assert_eq!(f.request(0, 1, 512, WRITE), (0, 513));
    for kind in [1, 11, 13] {
        assert_eq!(f.request(kind, 0, 512, 0), (1, 1));
    }
    assert_eq!((f.request(4, 0, 0, 0), f.file()), ((0, 1), before));
}

#[test]
fn ranges_are_freed_and_made_zero() {
    let range = |sector: u64, sectors: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    for features in [feature::FLUSH, 0] {
        let mut f = fixture(features, false);
        f.rig.put(DATA, &[range(2, 3, 1), range(10, 1, 0)].concat());
        assert_eq!(f.request(13, 0, 32, 0), (0, 1));
        let file = f.file();
        let zero = |sector: usize| file[sector * 512..(sector + 1) * 512].iter().all(|b| *b == 0);
        let zeroes: Vec<usize> = (1..64).filter(|s| zero(*s)).collect();
        assert_eq!((zeroes, file.len() as u64), (vec![2, 3, 4, 10], SIZE));
        f.rig.put(DATA, &range(20, 8, 0));
        assert_eq!(f.request(11, 0, 16, 0), (0, 1));
        assert_eq!(f.file()[21 * 512], 0);
        let before = f.file();
        let bad = [
            (range(63, 2, 0), 1),
            (range(u64::MAX, 1, 0), 1),
            (range(0, u32::MAX, 0), 1),
            (range(0, 1, 2), 2),
            (range(0, 1, 0)[..15].to_vec(), 1),
            (Vec::new(), 1),
            // The first one is good, and yet not done.
            ([range(30, 1, 0), range(64, 1, 0)].concat(), 1),
            (range(0, 1, 0).repeat(65), 1),
        ];
        for (bytes, status) in bad {
            f.rig.put(DATA, &bytes);
            assert_eq!(f.request(13, 0, bytes.len() as u32, 0), (status, 1), "{bytes:?}");
        }
        assert_eq!(f.file(), before);
    }
}

#[test]
fn chains_that_cannot_be_come_back_untouched() {
    let mut f = fixture(feature::FLUSH, false);
    let table = FREE + 0x8000;
    let cases: [&[(u64, u32, u16, u16)]; 10] = [
        // No place for an answer.
        &[(HEADER, 16, 0, 0)],
        &[(HEADER, 16, NEXT, 1), (DATA, 512, 0, 0)],
        // In a circle.
        &[(HEADER, 16, NEXT, 1), (DATA, 512, NEXT, 0)],
        &[(HEADER, 16, NEXT, 0)],
        // Outside of memory, and over its end.
        &[(u64::MAX - 15, 16, NEXT, 1), (STATUS, 1, WRITE, 0)],
        &[(HEADER, 16, NEXT, 1), ((8 << 20) - 1, 512, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)],
        // To be read behind to be written.
        &[(STATUS, 1, WRITE | NEXT, 1), (HEADER, 16, 0, 0)],
        // A descriptor that is not there.
        &[(HEADER, 16, NEXT, 999)],
        // A table that is no table, and one in a table.
        &[(table, 15, INDIRECT, 0)],
        &[(table, 16, INDIRECT, 0)],
    ];
    f.rig.put(table, &bytes((table, 16, INDIRECT, 0)));
    for chain in cases {
        f.header(1, 0);
        for (n, descriptor) in (0..).zip(chain) {
            f.rig.describe(0, n, *descriptor);
        }
        f.rig.offer(0, 0);
        f.rig.ring_for(0).unwrap();
        assert_eq!(f.rig.used(0), [(0, 0)], "{chain:?}");
    }
    // A header that is too short has an answer.
    f.rig.describe(0, 0, (HEADER, 15, NEXT, 1));
    f.rig.describe(0, 1, (STATUS, 1, WRITE, 0));
    assert_eq!(f.submit(0), (1, 1));
    // A table of 65,535 descriptors.
    for n in 0..65_535_u64 {
        f.rig.put(table + n * 16, &bytes((DATA, 1, NEXT, n as u16 + 1)));
    }
    f.rig.describe(0, 0, (table, 65_535 * 16, INDIRECT, 0));
    f.rig.offer(0, 0);
    f.rig.ring_for(0).unwrap();
    assert_eq!(f.rig.used(0), [(0, 0)]);
    // An index that jumps is a damaged ring.
    f.rig.claim(0, 40_000);
    assert!(f.rig.ring_for(0).is_err());
}

#[test]
fn one_call_takes_a_bounded_number_of_requests() {
    let mut f = fixture(feature::FLUSH, false);
    f.header(0, 0);
    f.rig.describe(0, 0, (HEADER, 16, NEXT, 1));
    f.rig.describe(0, 1, (STATUS, 1, WRITE, 0));
    let mut served = 0;
    for _ in 0..6 {
        (0..200).for_each(|_| f.rig.offer(0, 0));
        assert_eq!(f.rig.ring_for(0).unwrap(), None);
        served += f.rig.used(0).len();
    }
    assert_eq!(served, 1200);
}

#[test]
fn a_disk_that_shrinks_or_is_none_is_an_error() {
    let mut f = fixture(feature::FLUSH, false);
    let open = |path: &PathBuf| OpenDisk::open(&Disk::new(path), 0).unwrap_err();
    let taken = open(&f.path);
    assert_eq!((taken.kind(), taken.what()), (ErrorKind::Busy, f.path.to_str()));
    assert_eq!(OpenDisk::open(&Disk::new(&f.path).read_only(), 0).unwrap_err().kind(), ErrorKind::Busy);
    std::fs::File::options().write(true).open(&f.path).unwrap().set_len(10 * 512).unwrap();
    assert_eq!(f.request(0, 9, 512, WRITE), (0, 513));
    for (kind, sector, len, flag) in
        [(0, 10, 512, WRITE), (0, 9, 1024, WRITE), (1, 10, 512, 0), (1, 63, 512, 0)]
    {
        assert_eq!(f.request(kind, sector, len, flag), (1, 1), "{kind} {sector}");
    }
    assert_eq!(f.file().len(), 5120);
    drop(f);

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let image = [&b"QFI\xfb"[..], &[0; 508]].concat();
    for (path, why) in [
        (dir.path().join("none"), "No such file"),
        (dir.path().to_owned(), "directory"),
        (at("empty", b""), "0 bytes"),
        (at("odd", &[0; 513]), "513 bytes"),
        (at("qcow", &image), "QEMU"),
        (PathBuf::from("/dev/null"), "neither"),
    ] {
        let e = open(&path);
        assert!(e.to_string().contains(why) && e.to_string().contains(path.to_str().unwrap()), "{e}");
    }
    let shared = at("shared", &[0; 512]);
    let one = OpenDisk::open(&Disk::new(&shared).read_only(), 0).unwrap();
    let two = OpenDisk::open(&Disk::new(&shared).read_only(), 1).unwrap();
    assert_eq!((one.id()[..5].to_vec(), two.sectors()), (b"disk0".to_vec(), 1));
}
