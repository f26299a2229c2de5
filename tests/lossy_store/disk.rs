//! A disk that keeps only what was synced for sure, and of the rest whatever does harm.
//!
//! What is assumed of a file system is what POSIX says and what every one of Linux does beyond that:
//!
//! - `fsync` of a file keeps its content, and not its name. `fsync` of a directory keeps the names in it.
//! - Names change whole: a rename is there in both directories or in none. Changes of one name keep their order; changes
//!   of different names do not.
//! - Content that was not synced is as before, or there, or cut off, or zeros.

use std::collections::{BTreeMap, BTreeSet};

use crate::trace::Op;

type Inode = usize;
/// A directory and a name in it.
type Key = (Inode, String);

pub(crate) const ROOT: Inode = 0;

/// A change of names. `None` takes one away.
#[derive(Clone, Debug)]
struct Change(Vec<(Key, Option<Inode>)>);

#[derive(Clone, Debug)]
enum Node {
    Dir,
    File { now: Vec<u8>, synced: Vec<u8> },
    Link(String),
}

/// What is found at a path after a crash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    Dir,
    File(Vec<u8>),
    Link(String),
}

/// All paths after a crash.
pub(crate) type Tree = BTreeMap<String, Entry>;

/// What becomes of content that was not synced.
#[derive(Clone, Copy, Debug)]
enum Lost {
    All,
    Nothing,
    Half,
    Zeros,
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
    now: BTreeMap<Key, Inode>,
    synced: BTreeMap<Key, Inode>,
    pending: Vec<Change>,
}

impl Disk {
    /// An empty directory that is there for sure.
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::Dir], now: BTreeMap::new(), synced: BTreeMap::new(), pending: Vec::new() }
    }

    fn find(&self, path: &str) -> Option<Inode> {
        let parts = path.split('/').filter(|p| !p.is_empty());
        parts.into_iter().try_fold(ROOT, |dir, name| self.now.get(&(dir, name.to_owned())).copied())
    }

    #[track_caller]
    fn key(&self, path: &str) -> Key {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.find(dir).unwrap_or_else(|| panic!("the trace lacks the directory of {path}"));
        (dir, name.to_owned())
    }

    fn change(&mut self, changes: Vec<(Key, Option<Inode>)>) {
        for (key, inode) in &changes {
            match inode {
                Some(inode) => self.now.insert(key.clone(), *inode),
                None => self.now.remove(key),
            };
        }
        self.pending.push(Change(changes));
    }

    fn make(&mut self, path: &str, node: Node) {
        self.nodes.push(node);
        let key = self.key(path);
        self.change(vec![(key, Some(self.nodes.len() - 1))]);
    }

    /// Does what a system call did.
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Mkdir(path) => self.make(path, Node::Dir),
            Op::Symlink(to, path) => self.make(path, Node::Link(to.clone())),
            Op::Open { path, truncate } => match self.find(path) {
                None => self.make(path, Node::File { now: Vec::new(), synced: Vec::new() }),
                Some(inode) => {
                    if let (Node::File { now, .. }, true) = (&mut self.nodes[inode], *truncate) {
                        now.clear();
                    }
                }
            },
            Op::Write { path, at, bytes } => {
                let inode =
                    self.find(path).unwrap_or_else(|| panic!("a write to {path}, which is not there"));
                if let Node::File { now, .. } = &mut self.nodes[inode] {
                    now.resize(now.len().max(at + bytes.len()), 0);
                    now[*at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
            Op::Truncate(path, len) => {
                if let Some(Node::File { now, .. }) = self.find(path).map(|inode| &mut self.nodes[inode]) {
                    now.resize(*len, 0);
                }
            }
            // What the kernel (overlayfs) or a container has made is not in the trace, and its end is no matter.
            Op::Unlink(path) => {
                if self.find(path).is_some() {
                    let key = self.key(path);
                    self.change(vec![(key, None)]);
                }
            }
            Op::Rename(from, to) => {
                if let Some(inode) = self.find(from) {
                    let (from, to) = (self.key(from), self.key(to));
                    self.change(vec![(from, None), (to, Some(inode))]);
                }
            }
            Op::Sync(path) => self.sync(path),
            Op::Said(_) => {}
        }
    }

    fn sync(&mut self, path: &str) {
        let Some(inode) = self.find(path) else { return };
        if let Node::File { now, synced } = &mut self.nodes[inode] {
            synced.clone_from(now);
            return;
        }
        let touched = |change: &Change| change.0.iter().any(|((dir, _), _)| *dir == inode);
        let wanted: BTreeSet<usize> =
            (0..self.pending.len()).filter(|&n| touched(&self.pending[n])).collect();
        let all = self.with_earlier(&wanted);
        for n in &all {
            place(&self.pending[*n], &mut self.synced);
        }
        let mut n = 0;
        self.pending.retain(|_| {
            n += 1;
            !all.contains(&(n - 1))
        });
    }

    /// These changes, and the earlier ones of the same names.
    fn with_earlier(&self, wanted: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut all = wanted.clone();
        for later in (0..self.pending.len()).rev() {
            if !all.contains(&later) {
                continue;
            }
            let names = |n: usize| self.pending[n].0.iter().map(|(key, _)| key);
            all.extend((0..later).filter(|&n| names(n).any(|key| names(later).any(|k| k == key))));
        }
        all
    }

    /// Every state that a crash can leave now. The first has only what was synced, the last everything.
    pub(crate) fn crashes(&self) -> Vec<Tree> {
        let barest = self.tree(&self.synced, Lost::All);
        let fullest = self.tree(&self.now, Lost::Nothing);
        let mut out = BTreeSet::new();
        let count = self.pending.len();
        let mut subsets: BTreeSet<BTreeSet<usize>> = BTreeSet::new();
        if count <= 10 {
            for bits in 0..1_u32 << count {
                subsets.insert((0..count).filter(|n| bits >> n & 1 != 0).collect());
            }
        } else {
            // All but few, few but all, and each beginning.
            for n in 0..=count {
                subsets.insert((0..n).collect());
                subsets.insert((n..count).collect());
                for m in 0..count {
                    subsets.insert([n, m].into_iter().filter(|n| *n < count).collect());
                    subsets.insert((0..count).filter(|k| *k != n && *k != m).collect());
                }
            }
        }
        for subset in &subsets {
            // Not all of them are possible.
            if self.with_earlier(subset) != *subset {
                continue;
            }
            let mut names = self.synced.clone();
            for n in subset {
                place(&self.pending[*n], &mut names);
            }
            for lost in [Lost::All, Lost::Nothing, Lost::Half, Lost::Zeros] {
                out.insert(self.tree(&names, lost));
            }
        }
        out.remove(&barest);
        out.remove(&fullest);
        let mut all = vec![barest];
        all.extend(out);
        if all[0] != fullest {
            all.push(fullest);
        }
        all
    }

    fn tree(&self, names: &BTreeMap<Key, Inode>, lost: Lost) -> Tree {
        let mut tree = Tree::new();
        let mut left = vec![(ROOT, String::new())];
        while let Some((dir, path)) = left.pop() {
            for ((_, name), inode) in names.range((dir, String::new())..(dir + 1, String::new())) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                let entry = match &self.nodes[*inode] {
                    Node::Dir => {
                        left.push((*inode, path.clone()));
                        Entry::Dir
                    }
                    Node::Link(to) => Entry::Link(to.clone()),
                    Node::File { now, synced } if now == synced => Entry::File(now.clone()),
                    Node::File { now, synced } => Entry::File(match lost {
                        Lost::All => synced.clone(),
                        Lost::Nothing => now.clone(),
                        Lost::Half => now[..now.len() / 2].to_vec(),
                        Lost::Zeros => vec![0; now.len()],
                    }),
                };
                tree.insert(path, entry);
            }
        }
        tree
    }
}

fn place(change: &Change, into: &mut BTreeMap<Key, Inode>) {
    for (key, inode) in &change.0 {
        match inode {
            Some(inode) => into.insert(key.clone(), *inode),
            None => into.remove(key),
        };
    }
}

/// The model itself loses what it should, and keeps what it should.
#[test]
fn the_disk_loses_what_was_not_synced() {
    let mut disk = Disk::new();
    let ops = [
        Op::Mkdir("d".into()),
        Op::Open { path: "d/new".into(), truncate: false },
        Op::Write { path: "d/new".into(), at: 0, bytes: b"text".to_vec() },
    ];
    ops.iter().for_each(|op| disk.apply(op));
    let file = |tree: &Tree, path: &str| tree.get(path).cloned();
    let all = disk.crashes();
    assert!(all.contains(&Tree::new()), "nothing was synced");
    let contents: BTreeSet<_> = all.iter().filter_map(|tree| file(tree, "d/new")).collect();
    let want = [&b""[..], b"te", b"text", b"\0\0\0\0"].map(|text| Entry::File(text.to_vec()));
    assert_eq!(contents, BTreeSet::from(want));

    disk.apply(&Op::Sync("d/new".into()));
    assert!(disk.crashes().contains(&Tree::new()), "the name was not synced");
    assert!(
        disk.crashes().iter().filter_map(|t| file(t, "d/new")).all(|e| e == Entry::File(b"text".to_vec()))
    );
    disk.apply(&Op::Rename("d/new".into(), "d/file".into()));
    disk.apply(&Op::Sync("d".into()));
    assert!(disk.crashes().contains(&Tree::new()), "the directory's own name was not synced");
    disk.apply(&Op::Sync(String::new()));
    let whole = disk.crashes();
    assert_eq!(whole.len(), 1);
    assert!(whole.iter().all(|tree| tree.contains_key("d/file") && !tree.contains_key("d/new")));
    disk.apply(&Op::Unlink("d/file".into()));
    assert_eq!(disk.crashes().len(), 2, "there or not");
}
