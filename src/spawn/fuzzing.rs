//! Plans and records of children, decoded and not run.

use super::plan::{At, Plan};
use super::{interp, report};

/// The text of a plan, and how many strings its child would give to the kernel.
pub(crate) fn plan(bytes: &[u8]) -> Option<String> {
    let mut words = vec![0_u64; bytes.len().div_ceil(8)];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_ne_bytes(whole);
    }
    let strings = interp::lists(&mut words, bytes.len());
    let plan = Plan::decode(bytes);
    assert!(plan.is_some() || strings.is_err(), "the child takes a plan that the host cannot read");
    let plan = plan?;
    let ops = plan.ops().len();
    assert!(size_of_val(plan.ops()) <= bytes.len());
    for op in 0..=ops {
        assert_eq!(plan.step(op as u32).is_some(), op < ops);
    }
    let text = plan.dump();
    assert!(text.lines().count() >= ops);
    let _ = (plan.opens_host_paths(), plan.makes_sibling());
    Some(format!("{text}{strings:?}"))
}

/// The error that a child's record stands for.
pub(crate) fn record(bytes: &[u8]) -> Option<String> {
    let record = report::decode(bytes)?;
    let mut plan = Plan::new(0);
    let object = plan.text("/a");
    for code in 0..0x80 {
        let object = if code % 2 == 0 { object } else { At(u32::MAX) };
        plan.push("decoded", object, code, [0; 5]);
    }
    let text = report::error(&plan, &record).to_string();
    assert!(!text.is_empty());
    Some(text)
}
