//! Cases by hand, and rules that hold for all.

use proptest::prelude::*;

use super::*;

fn set(cpus: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    cpus.into_iter().collect()
}

fn machine(cpus: u32) -> Machine {
    Machine { usable: set(0..cpus), nodes: BTreeMap::from([(0, set(0..cpus))]) }
}

/// Two nodes with two CPUs each.
fn two_nodes() -> Machine {
    Machine { usable: set(0..4), nodes: BTreeMap::from([(0, set([0, 1])), (1, set([2, 3]))]) }
}

fn any(count: u32, has: impl IntoIterator<Item = u32>) -> Task {
    Task { want: Want::Some(Some(count), Where::Anywhere), has: set(has) }
}

fn on(nodes: &[u32], count: u32, has: impl IntoIterator<Item = u32>) -> Task {
    let nodes = nodes.iter().copied().collect();
    Task { want: Want::Some(Some(count), Where::Nodes(nodes)), has: set(has) }
}

fn balanced(count: Option<u32>, has: impl IntoIterator<Item = u32>) -> Task {
    Task { want: Want::Some(count, Where::Balanced), has: set(has) }
}

fn pinned(cpus: impl IntoIterator<Item = u32>) -> Task {
    Task { want: Want::Pinned(set(cpus)), has: set([]) }
}

fn got(machine: &Machine, tasks: &[Task]) -> Vec<Vec<u32>> {
    balance(machine, tasks).into_iter().map(|s| s.into_iter().collect()).collect()
}

#[test]
fn by_hand() {
    let two = machine(2);
    assert_eq!(got(&two, &[any(1, []), any(1, []), any(1, [])]), [[0], [1], [0]]);
    // The one on 1 has gone: of two on 0 the first moves, and nobody moves back.
    assert_eq!(got(&two, &[any(1, [0]), any(1, [0])]), [[1], [0]]);
    assert_eq!(got(&two, &[any(1, [1]), any(1, [0])]), [[1], [0]]);
    // One more is no reason to move.
    assert_eq!(got(&two, &[any(1, [1]), any(1, [1]), any(1, [0])]), [[1], [1], [0]]);
    // Pinned ones stay, and count.
    assert_eq!(got(&two, &[pinned([0]), any(1, [0]), any(1, [])]), [[0], [0], [1]]);
    assert_eq!(got(&two, &[pinned([0]), pinned([0]), any(1, [0])]), [[0], [0], [1]]);
    // More than there are is all; a CPU that has gone is given up.
    assert_eq!(got(&two, &[any(3, [])]), [[0, 1]]);
    assert_eq!(got(&machine(1), &[any(1, [1])]), [[0]]);
    assert_eq!(got(&machine(0), &[any(1, [1])]), [Vec::<u32>::new()]);
    // Fewer than before: the busier one goes.
    assert_eq!(got(&two, &[any(1, [0, 1]), pinned([0])]), [[1], [0]]);
    // A pinned CPU that nobody else may have.
    assert_eq!(got(&two, &[pinned([7]), any(2, [])]), [vec![7], vec![0, 1]]);
}

#[test]
fn nodes_restrict() {
    let m = two_nodes();
    assert_eq!(got(&m, &[on(&[1], 1, [0]), on(&[1], 3, []), on(&[9], 1, [])]), [vec![2], vec![2, 3], vec![]]);
    // A chain: the first can go only to 1, the second from there.
    let m = Machine { usable: set(0..3), nodes: BTreeMap::from([(0, set([0, 1])), (1, set([1, 2]))]) };
    let tasks = [pinned([0]), on(&[0], 1, [0]), on(&[1], 1, [1])];
    assert_eq!(got(&m, &tasks), [[0], [1], [2]]);
    // All of a node.
    let all = Task { want: Want::Some(None, Where::Nodes(BTreeSet::from([1]))), has: set([]) };
    assert_eq!(got(&two_nodes(), &[all]), [[2, 3]]);
}

#[test]
fn balanced_ones_take_the_least_used_node_and_stay() {
    let m = two_nodes();
    assert_eq!(got(&m, &[balanced(Some(1), []), balanced(Some(1), [])]), [[0], [2]]);
    assert_eq!(got(&m, &[pinned([0]), balanced(Some(2), [])]), [vec![0], vec![2, 3]]);
    assert_eq!(got(&m, &[balanced(Some(1), [3]), balanced(Some(1), [3])]), [[2], [3]]);
    // More than a node has.
    assert_eq!(got(&m, &[balanced(Some(3), [])])[0].len(), 3);
    assert_eq!(got(&m, &[any(2, [0, 1]), balanced(None, [])]), [[0, 1], [2, 3]]);
    // Nothing said of nodes.
    let flat = Machine { nodes: BTreeMap::new(), ..machine(2) };
    assert_eq!(got(&flat, &[balanced(Some(1), [])]), [[0]]);
}

/// The least sum of squared loads that any assignment has: what is as even as can be.
fn least_cost(machine: &Machine, tasks: &[Task]) -> usize {
    fn choices(area: &[u32], count: usize) -> Vec<Vec<u32>> {
        if count == 0 {
            return vec![Vec::new()];
        }
        let mut out = Vec::new();
        for (n, first) in area.iter().enumerate() {
            for mut rest in choices(&area[n + 1..], count - 1) {
                rest.push(*first);
                out.push(rest);
            }
        }
        out
    }
    fn go(load: &mut BTreeMap<u32, usize>, tasks: &[(Vec<u32>, usize)]) -> usize {
        let Some(((area, count), rest)) = tasks.split_first() else {
            return load.values().map(|l| l * l).sum();
        };
        let mut best = usize::MAX;
        for choice in choices(area, *count) {
            choice.iter().for_each(|cpu| *load.get_mut(cpu).unwrap() += 1);
            best = best.min(go(load, rest));
            choice.iter().for_each(|cpu| *load.get_mut(cpu).unwrap() -= 1);
        }
        best
    }
    let mut load: BTreeMap<u32, usize> = machine.usable.iter().map(|c| (*c, 0)).collect();
    let mut free = Vec::new();
    for (task, area) in tasks.iter().zip(areas(machine, tasks)) {
        match &task.want {
            Want::Pinned(set) => set.iter().for_each(|c| {
                load.entry(*c).and_modify(|l| *l += 1);
            }),
            Want::Some(count, _) => {
                let count = count.map_or(area.len(), |n| area.len().min(n as usize));
                free.push((area.into_iter().collect(), count));
            }
        }
    }
    go(&mut load, &free)
}

fn loads(machine: &Machine, sets: &[BTreeSet<u32>]) -> Vec<usize> {
    machine.usable.iter().map(|cpu| sets.iter().filter(|s| s.contains(cpu)).count()).collect()
}

/// Nodes that share a CPU, which no machine has, make for long chains; to choose among them makes no sense.
fn tasks() -> impl Strategy<Value = (Machine, Vec<Task>)> {
    let apart = BTreeMap::from([(0, set([0, 1])), (1, set([2])), (2, set([3, 9]))]);
    let shared = BTreeMap::from([(0, set([0, 1])), (1, set([1, 2])), (2, set([3, 9]))]);
    prop_oneof![Just((apart, 1)), Just((shared, 0))].prop_flat_map(|(nodes, balanced)| {
        let machine = Machine { usable: set(0..4), nodes };
        (Just(machine), proptest::collection::vec(task(4, balanced), 0..5))
    })
}

fn task(cpus: u32, balanced: u32) -> impl Strategy<Value = Task> {
    let has = proptest::collection::btree_set(0..cpus + 1, 0..4);
    let place = prop_oneof![
        3 => Just(Where::Anywhere),
        2 => proptest::collection::btree_set(0..3_u32, 1..3).prop_map(Where::Nodes),
        balanced => Just(Where::Balanced),
    ];
    let want = prop_oneof![
        1 => proptest::collection::btree_set(0..cpus, 1..3).prop_map(Want::Pinned),
        4 => (1..4_u32, place).prop_map(|(n, place)| Want::Some(Some(n), place)),
    ];
    (want, has).prop_map(|(want, has)| Task { want, has })
}

proptest! {
    #[test]
    fn loads_are_as_even_as_can_be_and_stay((machine, tasks) in tasks()) {
        let sets = balance(&machine, &tasks);
        for ((task, area), set) in tasks.iter().zip(areas(&machine, &tasks)).zip(&sets) {
            prop_assert!(set.is_subset(&area));
            match &task.want {
                Want::Pinned(wanted) => prop_assert_eq!(set, wanted),
                Want::Some(count, _) => {
                    let count = count.map_or(area.len(), |n| n as usize);
                    prop_assert_eq!(set.len(), count.min(area.len()));
                }
            }
        }
        let cost: usize = loads(&machine, &sets).iter().map(|l| l * l).sum();
        prop_assert_eq!(cost, least_cost(&machine, &tasks));
        // Once more changes nothing.
        let again: Vec<Task> = tasks.iter().zip(&sets).map(|(t, s)| Task { has: s.clone(), ..t.clone() }).collect();
        prop_assert_eq!(balance(&machine, &again), sets);
    }

    #[test]
    fn without_restrictions_loads_differ_by_one_at_most(
        cpus in 1..17_u32,
        counts in proptest::collection::vec((1..9_u32, proptest::collection::btree_set(0..20_u32, 0..6)), 0..40),
    ) {
        let tasks: Vec<Task> = counts.into_iter().map(|(n, has)| any(n, has)).collect();
        let machine = machine(cpus);
        let sets = balance(&machine, &tasks);
        let loads = loads(&machine, &sets);
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
        // One that goes makes others move at most as often as it had CPUs.
        if let Some((_, rest)) = tasks.split_first() {
            let rest: Vec<Task> = rest.iter().zip(&sets[1..]).map(|(t, s)| Task { has: s.clone(), ..t.clone() }).collect();
            let after = balance(&machine, &rest);
            let moved: usize = after.iter().zip(&sets[1..]).map(|(a, b)| a.difference(b).count()).sum();
            prop_assert!(moved <= sets[0].len(), "{moved} moves");
        }
    }
}
