//! Less of the same where a round takes long.

/// The rounds that a test makes: `count`, or as many per cent of it as `STOCKADE_TEST_SCALE` says, and at least one.
///
/// For tests that do one thing many times, in the emulated machine of `cargo xtask test`. What the test then says of
/// itself is the count that this returns.
///
/// # Panics
/// When the variable holds no number from 1 to 100.
pub fn scaled(count: usize) -> usize {
    match std::env::var("STOCKADE_TEST_SCALE") {
        Ok(text) => of(count, &text),
        Err(_) => count,
    }
}

fn of(count: usize, text: &str) -> usize {
    let percent = text.parse::<usize>().ok().filter(|p| (1..=100).contains(p));
    let percent = percent.unwrap_or_else(|| panic!("STOCKADE_TEST_SCALE takes 1 to 100, not `{text}`"));
    (count * percent / 100).max(1)
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn a_part_is_taken_and_never_nothing() {
        assert_eq!((of(1000, "10"), of(5, "10"), of(7, "100")), (100, 1, 7));
        for wrong in ["0", "101", "x", ""] {
            assert!(std::panic::catch_unwind(|| of(1, wrong)).is_err(), "{wrong}");
        }
    }
}
