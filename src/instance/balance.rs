//! Which CPUs each instance gets: pure, and the same for the same input.
//!
//! A CPU's load is the number of instances that have it, pinned ones included. Each instance keeps the CPUs that it has
//! as far as they are still its; what it lacks it takes where the load is least. Then single CPUs change hands, along
//! chains of instances where no single change helps, while that lowers a load by more than it raises another. Where
//! there is no such chain the loads are as even as they can be (it is a minimum-cost flow without a cycle of negative
//! cost), and nothing was moved that was even already.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The CPUs that can be given out, and on which nodes they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) usable: BTreeSet<u32>,
    /// The CPUs of each node, those that are not usable too. Empty where the machine says nothing of nodes.
    pub(crate) nodes: BTreeMap<u32, BTreeSet<u32>>,
}

/// Where an instance's CPUs may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    Anywhere,
    Nodes(BTreeSet<u32>),
    /// As few nodes as have enough, the least used ones.
    Balanced,
}

/// What an instance wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// These, whatever the load.
    Pinned(BTreeSet<u32>),
    /// Any so many; `None` for all.
    Some(Option<u32>, Where),
}

/// An instance: what it wants, and what it has.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) want: Want,
    pub(crate) has: BTreeSet<u32>,
}

/// Gives each task its CPUs. An empty set is for one that there are none for.
pub(crate) fn balance(machine: &Machine, tasks: &[Task]) -> Vec<BTreeSet<u32>> {
    let mut board = Board { load: machine.usable.iter().map(|cpu| (*cpu, 0)).collect(), seats: Vec::new() };
    let fixed: Vec<bool> = tasks.iter().map(|t| matches!(t.want, Want::Pinned(_))).collect();
    let areas = areas(machine, tasks);
    for (task, area) in tasks.iter().zip(areas) {
        let (count, has) = match &task.want {
            Want::Pinned(set) => (set.len(), set.clone()),
            Want::Some(count, _) => {
                let count = count.map_or(area.len(), |n| area.len().min(n as usize));
                (count, task.has.intersection(&area).copied().collect())
            }
        };
        board.add(Seat { area, count, has });
    }
    for n in (0..tasks.len()).filter(|n| !fixed[*n]) {
        board.trim(n);
    }
    for n in (0..tasks.len()).filter(|n| !fixed[*n]) {
        board.fill(n);
    }
    while board.shift(&fixed) {}
    board.seats.into_iter().map(|seat| seat.has).collect()
}

/// Where each task may be, as CPUs.
fn areas(machine: &Machine, tasks: &[Task]) -> Vec<BTreeSet<u32>> {
    let usable_of = |nodes: &BTreeSet<u32>| -> BTreeSet<u32> {
        let cpus = nodes.iter().filter_map(|n| machine.nodes.get(n)).flatten();
        cpus.filter(|cpu| machine.usable.contains(cpu)).copied().collect()
    };
    // How many have a CPU of a node, each once for each CPU.
    let mut used: BTreeMap<u32, usize> = machine.nodes.keys().map(|n| (*n, 0)).collect();
    let mut charge = |cpus: &BTreeSet<u32>| {
        for (node, of) in &machine.nodes {
            *used.entry(*node).or_default() += cpus.intersection(of).count();
        }
        used.clone()
    };
    let mut now = charge(&BTreeSet::new());
    for task in tasks {
        match &task.want {
            Want::Pinned(set) => now = charge(set),
            Want::Some(..) => now = charge(&task.has.intersection(&machine.usable).copied().collect()),
        }
    }
    let mut out = Vec::new();
    for task in tasks {
        out.push(match &task.want {
            Want::Pinned(set) => set.clone(),
            Want::Some(_, Where::Anywhere) => machine.usable.clone(),
            Want::Some(_, Where::Nodes(nodes)) => usable_of(nodes),
            Want::Some(count, Where::Balanced) => {
                let count = count.unwrap_or(1) as usize;
                let (nodes, fresh) = chosen(machine, &now, task, count, &usable_of);
                let area = usable_of(&nodes);
                if area.is_empty() {
                    machine.usable.clone()
                } else {
                    if fresh {
                        now = charge(&area.iter().copied().take(count).collect());
                    }
                    area
                }
            }
        });
    }
    out
}

/// The nodes of a task that leaves them open, and whether they are others than it has.
fn chosen(
    machine: &Machine,
    used: &BTreeMap<u32, usize>,
    task: &Task,
    count: usize,
    usable_of: &impl Fn(&BTreeSet<u32>) -> BTreeSet<u32>,
) -> (BTreeSet<u32>, bool) {
    let is_home =
        |of: &BTreeSet<u32>| task.has.iter().any(|cpu| of.contains(cpu) && machine.usable.contains(cpu));
    let home: BTreeSet<u32> = machine.nodes.iter().filter(|(_, of)| is_home(of)).map(|(n, _)| *n).collect();
    let size = |node: u32| usable_of(&BTreeSet::from([node])).len();
    let one_will_do = machine.nodes.keys().any(|n| size(*n) >= count);
    if usable_of(&home).len() >= count && (home.len() == 1 || !home.is_empty() && !one_will_do) {
        return (home, false);
    }
    let mut order: Vec<u32> = machine.nodes.keys().copied().filter(|n| size(*n) > 0).collect();
    // Use for each CPU, compared without a fraction.
    order.sort_by(|a, b| {
        let (ua, ub) = (used.get(a).copied().unwrap_or(0), used.get(b).copied().unwrap_or(0));
        (ua * size(*b)).cmp(&(ub * size(*a))).then(a.cmp(b))
    });
    // One that is large enough, before several.
    if let Some(one) = order.iter().find(|n| size(**n) >= count) {
        return (BTreeSet::from([*one]), true);
    }
    let mut nodes = BTreeSet::new();
    for node in order {
        if usable_of(&nodes).len() >= count {
            break;
        }
        nodes.insert(node);
    }
    (nodes, true)
}

#[derive(Debug)]
struct Seat {
    area: BTreeSet<u32>,
    count: usize,
    has: BTreeSet<u32>,
}

#[derive(Debug)]
struct Board {
    load: BTreeMap<u32, usize>,
    seats: Vec<Seat>,
}

impl Board {
    fn add(&mut self, seat: Seat) {
        for cpu in &seat.has {
            // One that is pinned to a CPU that nobody else may have counts nowhere.
            if let Some(load) = self.load.get_mut(cpu) {
                *load += 1;
            }
        }
        self.seats.push(seat);
    }

    fn load(&self, cpu: u32) -> usize {
        self.load.get(&cpu).copied().unwrap_or(0)
    }

    fn change(&mut self, n: usize, from: Option<u32>, to: Option<u32>) {
        if let Some(cpu) = from
            && self.seats[n].has.remove(&cpu)
            && let Some(load) = self.load.get_mut(&cpu)
        {
            *load -= 1;
        }
        if let Some(cpu) = to
            && self.seats[n].has.insert(cpu)
        {
            *self.load.entry(cpu).or_default() += 1;
        }
    }

    /// Takes away what is too much, where the load is greatest.
    fn trim(&mut self, n: usize) {
        while self.seats[n].has.len() > self.seats[n].count {
            let most = self.seats[n].has.iter().copied().max_by_key(|cpu| (self.load(*cpu), *cpu));
            self.change(n, most, None);
        }
    }

    /// Gives what is lacking, where the load is least.
    fn fill(&mut self, n: usize) {
        while self.seats[n].has.len() < self.seats[n].count {
            let seat = &self.seats[n];
            let free = seat.area.difference(&seat.has).copied();
            let Some(least) = free.min_by_key(|cpu| (self.load(*cpu), *cpu)) else { return };
            self.change(n, None, Some(least));
        }
    }

    /// Moves load from one CPU to another that has less by two or more. Says whether it did.
    fn shift(&mut self, fixed: &[bool]) -> bool {
        let Some(least) = self.load.values().copied().min() else { return false };
        let mut sources: Vec<u32> =
            self.load.keys().copied().filter(|cpu| self.load(*cpu) >= least + 2).collect();
        sources.sort_by_key(|cpu| (std::cmp::Reverse(self.load(*cpu)), *cpu));
        for from in sources {
            if let Some(chain) = self.chain(from, fixed) {
                for (n, from, to) in chain {
                    self.change(n, Some(from), Some(to));
                }
                return true;
            }
        }
        false
    }

    /// The shortest chain of moves to the CPU with the least load that can be reached: who moves, from where, to where.
    fn chain(&self, from: u32, fixed: &[bool]) -> Option<Vec<(usize, u32, u32)>> {
        let mut came: BTreeMap<u32, (usize, u32)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        let mut best: Option<u32> = None;
        while let Some(here) = queue.pop_front() {
            for (n, seat) in self.seats.iter().enumerate() {
                if fixed[n] || !seat.has.contains(&here) {
                    continue;
                }
                for to in seat.area.difference(&seat.has).copied() {
                    if to == from || came.contains_key(&to) {
                        continue;
                    }
                    came.insert(to, (n, here));
                    queue.push_back(to);
                    if best.is_none_or(|b| self.load(to) < self.load(b)) {
                        best = Some(to);
                    }
                }
            }
        }
        let mut to = best.filter(|b| self.load(*b) + 2 <= self.load(from))?;
        let mut chain = Vec::new();
        while to != from {
            let (n, here) = came.get(&to).copied()?;
            chain.push((n, here, to));
            to = here;
        }
        Some(chain)
    }
}

#[cfg(test)]
#[path = "balance/tests.rs"]
mod tests;
