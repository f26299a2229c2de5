//! Files with holes, in the forms that GNU tar writes.
//!
//! | form | where the map is |
//! |---|---|
//! | old GNU | type `S`: four extents in the header, 21 in each block that follows it |
//! | PAX 0.0 | records `GNU.sparse.offset` and `GNU.sparse.numbytes`, once for each extent |
//! | PAX 0.1 | one record `GNU.sparse.map` |
//! | PAX 1.0 | decimal lines before the data, filled up to a whole block |
//!
//! The data of all extents follows without gaps.

use super::number;
use super::pax::Problem;

/// More extents are refused: 32 MiB of map.
const MAX_EXTENTS: usize = 1 << 20;

/// A piece of a file that is in the archive; what lies between two is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Where the data of a file with holes goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Map {
    /// Ascending, without overlap.
    pub(super) extents: Vec<Extent>,
    /// The size of the file with its holes.
    pub(super) size: u64,
}

/// Extents as they come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extents(Vec<Extent>);

impl Extents {
    pub(super) fn add(&mut self, offset: u64, len: u64) -> Result<(), Problem> {
        let end = self.0.last().map_or(0, |e| e.offset + e.len);
        if offset < end {
            return Err("the extents of a file with holes are not in order");
        }
        if offset.checked_add(len).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err("an extent of a file with holes ends past the largest file");
        }
        if self.0.len() == MAX_EXTENTS {
            return Err("a file has more than a million holes");
        }
        self.0.push(Extent { offset, len });
        Ok(())
    }

    /// The map, once it is known how long the file is and how much data follows.
    pub(super) fn finish(self, size: u64, data: u64) -> Result<Map, Problem> {
        if i64::try_from(size).is_err() || self.0.last().is_some_and(|e| e.offset + e.len > size) {
            return Err("a file with holes is shorter than its extents");
        }
        if self.0.iter().map(|e| e.len).sum::<u64>() != data {
            return Err("the extents of a file with holes are not as long as its data");
        }
        Ok(Map { extents: self.0, size })
    }
}

/// What the PAX records of a member say about holes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PaxMap {
    /// The name, where the header has a made-up one.
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    version: (Option<u64>, Option<u64>),
    extents: Extents,
    /// An offset without its length.
    offset: Option<u64>,
    any: bool,
}

/// How to go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// No holes.
    Whole,
    /// The map is complete.
    Known(Map),
    /// The map stands before the data.
    InData,
}

impl PaxMap {
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        const BAD: Problem = "a record of a file with holes is no number";
        let number = || number::decimal(value).ok_or(BAD);
        self.any = true;
        match key {
            b"major" => self.version.0 = Some(number()?),
            b"minor" => self.version.1 = Some(number()?),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"name" if value.is_empty() || value.contains(&0) => return Err("`GNU.sparse.name` is no name"),
            b"name" => self.name = Some(value.to_vec()),
            b"offset" if self.offset.is_some() => return Err(BAD),
            b"offset" => self.offset = Some(number()?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or("an extent of a file with holes has no offset")?;
                self.extents.add(offset, number()?)?;
            }
            b"map" => {
                let mut numbers = value.split(|b| *b == b',').map(|n| number::decimal(n).ok_or(BAD));
                self.extents = Extents::default();
                while let Some(offset) = numbers.next() {
                    self.extents.add(offset?, numbers.next().ok_or(BAD)??)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether any record speaks of holes.
    pub(super) fn is_some(&self) -> bool {
        self.any
    }

    /// What the records amount to, for a member with this much data.
    pub(super) fn form(&mut self, data: u64) -> Result<Form, Problem> {
        if !self.any {
            return Ok(Form::Whole);
        }
        match self.version {
            (Some(1), Some(0)) => Ok(Form::InData),
            (None | Some(0), _) => {
                let size = self.size.ok_or("a file with holes has no size")?;
                if self.offset.is_some() {
                    return Err("an extent of a file with holes has no length");
                }
                std::mem::take(&mut self.extents).finish(size, data).map(Form::Known)
            }
            _ => Err("a file with holes is written in an unknown form"),
        }
    }

    /// The map of PAX 1.0: `line` gives the next number of the data's head.
    pub(super) fn read<E>(
        mut line: impl FnMut() -> Result<u64, E>,
        problem: impl Fn(Problem) -> E,
    ) -> Result<Extents, E> {
        // Counted down, not allocated: the count is anybody's. `add` has the limit.
        let mut extents = Extents::default();
        for _ in 0..line()? {
            let offset = line()?;
            extents.add(offset, line()?).map_err(&problem)?;
        }
        Ok(extents)
    }

    /// The size of the file with its holes.
    pub(super) fn size(&self) -> Result<u64, Problem> {
        self.size.ok_or("a file with holes has no size")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(records: &[(&str, &str)]) -> Result<PaxMap, Problem> {
        let mut map = PaxMap::default();
        records.iter().try_for_each(|(k, v)| map.take(k.as_bytes(), v.as_bytes()))?;
        Ok(map)
    }

    fn known(extents: &[(u64, u64)], size: u64) -> Form {
        let extents = extents.iter().map(|&(offset, len)| Extent { offset, len }).collect();
        Form::Known(Map { extents, size })
    }

    #[test]
    fn both_old_forms_of_pax_are_understood() {
        let mut v00 = pax(&[
            ("size", "100"),
            ("numblocks", "2"),
            ("offset", "0"),
            ("numbytes", "10"),
            ("offset", "50"),
            ("numbytes", "5"),
        ])
        .unwrap();
        assert_eq!(v00.form(15), Ok(known(&[(0, 10), (50, 5)], 100)));
        let mut v01 = pax(&[("map", "0,10,50,5"), ("size", "100"), ("name", "x")]).unwrap();
        assert_eq!(v01.form(15), Ok(known(&[(0, 10), (50, 5)], 100)));
        assert_eq!(v01.name.as_deref(), Some(&b"x"[..]));
        assert_eq!(PaxMap::default().form(7), Ok(Form::Whole));
        assert_eq!(pax(&[("major", "1"), ("minor", "0")]).unwrap().form(0), Ok(Form::InData));
    }

    #[test]
    fn maps_that_make_no_sense_are_refused() {
        for records in [
            &[("map", "0,10,5,5"), ("size", "100")][..],
            &[("map", "0"), ("size", "1")],
            &[("map", ""), ("size", "1")],
            &[("map", "0,x"), ("size", "1")],
            &[("map", "9223372036854775807,1"), ("size", "1")],
            &[("map", "18446744073709551615,1"), ("size", "1")],
            &[("numbytes", "1")],
            &[("offset", "1"), ("offset", "2")],
            &[("name", "")],
        ] {
            assert!(pax(records).is_err(), "{records:?}");
        }
        for (records, data) in [
            (&[("map", "0,15"), ("size", "14")][..], 15),
            (&[("map", "0,15"), ("size", "100")], 14),
            (&[("map", "0,15")], 15),
            (&[("size", "18446744073709551615")], 0),
            (&[("offset", "1"), ("size", "9")], 0),
            (&[("major", "1"), ("minor", "1")], 0),
            (&[("major", "2"), ("minor", "0")], 0),
            (&[("major", "1")], 0),
        ] {
            assert!(pax(records).unwrap().form(data).is_err(), "{records:?}");
        }
    }

    #[test]
    fn the_newest_form_counts_its_extents_first() {
        let read = |numbers: &[u64]| {
            let mut numbers = numbers.iter().copied();
            PaxMap::read(|| numbers.next().ok_or("ended"), |problem| problem)
        };
        let found = read(&[2, 0, 10, 50, 5]).unwrap().finish(60, 15).unwrap();
        assert_eq!(found.extents.len(), 2);
        assert!(read(&[2, 0, 10]).is_err());
        assert!(read(&[u64::MAX]).is_err());
        assert!(read(&[2, 5, 10, 0, 5]).is_err());
    }
}
