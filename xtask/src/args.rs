//! The few options that tasks take.

use std::str::FromStr;

use crate::Result;

/// The words after the task's name, taken out one by one.
#[derive(Debug)]
pub struct Args {
    words: Vec<String>,
}

impl Args {
    pub fn new(words: &[String]) -> Self {
        Self { words: words.to_vec() }
    }

    /// Takes the switch out; whether it was there.
    pub fn switch(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|word| word != name);
        self.words.len() != before
    }

    /// Takes the option `name VALUE` out.
    pub fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(at) = self.words.iter().position(|word| word == name) else { return Ok(None) };
        self.words.remove(at);
        if at == self.words.len() {
            return Err(format!("{name} needs a value"));
        }
        let value = self.words.remove(at);
        value.parse().map(Some).map_err(|_| format!("{name} does not take `{value}`"))
    }

    /// What is left: names, and no option.
    pub fn rest(self) -> Result<Vec<String>> {
        match self.words.iter().find(|word| word.starts_with('-')) {
            None => Ok(self.words),
            Some(word) => Err(format!("unexpected `{word}`")),
        }
    }

    /// Checks that nothing is left.
    pub fn done(self) -> Result {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(format!("unexpected `{word}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::new(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_taken_out_in_any_order() {
        let mut a = args("--n 7 --json");
        assert!(a.switch("--json"));
        assert_eq!(a.value("--n"), Ok(Some(7_u32)));
        assert_eq!(a.value::<u32>("--n"), Ok(None));
        assert_eq!(a.done(), Ok(()));
    }

    #[test]
    fn wrong_options_are_named() {
        assert!(args("--n").value::<u32>("--n").is_err());
        assert!(args("--n x").value::<u32>("--n").is_err_and(|e| e.contains('x')));
        assert!(args("--what").done().is_err_and(|e| e.contains("--what")));
        assert!(args("name --what").rest().is_err_and(|e| e.contains("--what")));
        assert_eq!(args("one two").rest(), Ok(vec!["one".to_owned(), "two".to_owned()]));
    }
}
