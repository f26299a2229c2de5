//! The members of a tar archive, one after the other: v7, ustar, GNU and PAX.
//!
//! The layout of headers is that of the `tar` crate. The walk from header to header is ours: that crate reads
//! extension headers of any size into memory, and splits PAX records at line breaks, so that a file capability can
//! hide a `size`.

use tar::{GnuExtSparseHeader, Header};

use super::input::Input;
use super::member::{BLOCK, Extensions, Kind, Member, Refusal, Role, data_size, member, role};
use super::number;
use super::pax::{Problem, Records};
use super::sparse::{Extents, Form, Map, PaxMap};
use crate::error::{Error, ErrorKind, Result};

/// Longer extension headers are refused: they are held in memory. Linux allows 64 KiB for an attribute.
const MAX_EXTENSION: u64 = 4 * 1024 * 1024;

/// An archive that is being read.
pub(super) struct Archive<'a, 'w> {
    pub(super) input: Input<'a, 'w>,
    global: Records,
    /// What is left of the present member's content.
    data: u64,
    /// What fills it up to a whole block.
    padding: u64,
    /// The member read last, for messages.
    last: Option<Vec<u8>>,
}

impl<'a, 'w> Archive<'a, 'w> {
    pub(super) fn new(input: Input<'a, 'w>) -> Self {
        Self { input, global: Records::default(), data: 0, padding: 0, last: None }
    }

    /// The next member; what was not read of the last one's content is passed over. `None` at the end mark, after
    /// which the rest was read too, so that the checksum of compressed data was looked at.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        let result = self.advance();
        match &result {
            Ok(Some(member)) => self.last = Some(member.path.clone()),
            Ok(None) => {}
            Err(_) => {
                let place = match &self.last {
                    Some(last) => format!("after `{}`", shown(last)),
                    None => "at the beginning".to_owned(),
                };
                return result.map_err(|e| if e.what().is_some() { e } else { e.object(place) });
            }
        }
        result
    }

    fn advance(&mut self) -> Result<Option<Member>> {
        let mut before = Extensions::default();
        let mut any = false;
        loop {
            self.pass(self.data + self.padding)?;
            (self.data, self.padding) = (0, 0);
            let Some(block) = self.block()? else {
                return Err(bad("it ends without its end mark: it is cut off"));
            };
            if block == [0; BLOCK] {
                if any {
                    return Err(bad("it ends after the extension header of a member"));
                }
                self.drain()?;
                return Ok(None);
            }
            let role = role(&block).map_err(bad)?;
            let pax_size = before.pax.as_ref().filter(|_| role == Role::Member).and_then(|p| p.size);
            self.set_data(data_size(&block, pax_size).map_err(bad)?)?;
            let twice = || bad("a member has two extension headers of one kind");
            match role {
                Role::LongName if before.name.is_some() => return Err(twice()),
                Role::LongLink if before.link.is_some() => return Err(twice()),
                Role::Pax if before.pax.is_some() => return Err(twice()),
                Role::LongName => before.name = Some(until_zero(self.extension()?)),
                Role::LongLink => before.link = Some(until_zero(self.extension()?)),
                Role::Pax => before.pax = Some(Records::parse(&self.extension()?).map_err(bad)?),
                Role::PaxGlobal => {
                    let data = self.extension()?;
                    self.global.add_global(&data).map_err(bad)?;
                    continue;
                }
                Role::Label => continue,
                Role::Member => return self.member(&block, before).map(Some),
            }
            any = true;
        }
    }

    fn member(&mut self, block: &[u8; BLOCK], mut before: Extensions) -> Result<Member> {
        let mut holes = before.pax.as_mut().map(|p| std::mem::take(&mut p.sparse)).unwrap_or_default();
        if let (Some(pax), Some(name)) = (&mut before.pax, holes.name.take()) {
            pax.path = Some(name);
        }
        let mut member = member(block, before, &self.global, self.data).map_err(|refusal| match refusal {
            Refusal::Bad(problem) => bad(problem),
            Refusal::Type(other) => Error::new(ErrorKind::Unsupported, "read the archive").detail(format!(
                "a member has the type `{}`, which is not known",
                char::from(other).escape_default()
            )),
        })?;
        let old_gnu = block[156] == b'S';
        if !old_gnu && !holes.is_some() {
            return Ok(member);
        }
        let name = shown(&member.path);
        let Kind::File(map) = &mut member.kind else {
            return Err(bad("has holes and is no file").object(name));
        };
        if old_gnu && holes.is_some() {
            return Err(bad("has two maps of its holes").object(name));
        }
        *map = Some(if old_gnu {
            self.old_map(block)?
        } else {
            match holes.form(self.data).map_err(bad)? {
                Form::Known(map) => map,
                Form::InData | Form::Whole => {
                    let extents = PaxMap::read(|| self.line(), bad)?;
                    // The map is filled up to a whole block. The content before it was whole blocks too.
                    let read = member.data - self.data;
                    self.skip_data(read.next_multiple_of(BLOCK as u64) - read)?;
                    extents.finish(holes.size().map_err(bad)?, self.data).map_err(bad)?
                }
            }
        });
        member.data = self.data;
        Ok(member)
    }

    /// The map of the old GNU form, whose further blocks stand between header and content.
    fn old_map(&mut self, block: &[u8; BLOCK]) -> Result<Map> {
        let number = |field: &[u8]| {
            number::field(field)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or(bad("an extent of a file with holes is no number"))
        };
        let gnu =
            Header::from_byte_slice(block).as_gnu().ok_or(bad("a file with holes has no GNU header"))?;
        let mut extents = Extents::default();
        let mut add = |offset: &[u8], len: &[u8]| {
            // An unused place. A used one may say 0 and 0, which means nothing either.
            if len[0] == 0 { Ok(()) } else { extents.add(number(offset)?, number(len)?).map_err(bad) }
        };
        gnu.sparse.iter().try_for_each(|e| add(&e.offset, &e.numbytes))?;
        let mut more = gnu.isextended[0] != 0;
        while more {
            let block = self.block()?.ok_or_else(cut_off)?;
            let mut next = GnuExtSparseHeader::new();
            next.as_mut_bytes().copy_from_slice(&block);
            next.sparse.iter().try_for_each(|e| add(&e.offset, &e.numbytes))?;
            more = next.isextended[0] != 0;
        }
        extents.finish(number(&gnu.realsize)?, self.data).map_err(bad)
    }

    /// A decimal line at the head of the content.
    fn line(&mut self) -> Result<u64> {
        let mut text = Vec::new();
        loop {
            match self.content(1)?.first() {
                Some(b'\n') => break,
                Some(digit) if text.len() < 20 => text.push(*digit),
                _ => return Err(bad("the map of a file with holes is no list of numbers")),
            }
        }
        number::decimal(&text).ok_or(bad("the map of a file with holes is no list of numbers"))
    }

    fn set_data(&mut self, size: u64) -> Result<()> {
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        // What is announced and too much need not be begun.
        self.input.watch.total_bytes(self.input.position().saturating_add(size))
    }

    /// The next piece of the member's content, `max` bytes at most; empty at its end.
    pub(super) fn content(&mut self, max: u64) -> Result<&[u8]> {
        let max = max.min(self.data);
        let found = self.input.next(max)?;
        if found.is_empty() && max > 0 {
            return Err(cut_off());
        }
        self.data -= found.len() as u64;
        Ok(found)
    }

    fn skip_data(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let found = self.content(count)?.len() as u64;
            if found == 0 {
                return Err(bad("a file with holes ends in its map"));
            }
            count -= found;
        }
        Ok(())
    }

    /// The content of an extension header.
    fn extension(&mut self) -> Result<Vec<u8>> {
        if self.data > MAX_EXTENSION {
            return Err(Error::new(ErrorKind::Exhausted, "read the archive").detail(format!(
                "an extension header has {} bytes; {MAX_EXTENSION} are allowed",
                self.data
            )));
        }
        let mut out = Vec::new();
        while self.data > 0 {
            out.extend_from_slice(self.content(MAX_EXTENSION)?);
        }
        Ok(out)
    }

    /// Passes over bytes, which must be there.
    fn pass(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            match self.input.next(count)?.len() as u64 {
                0 => return Err(cut_off()),
                n => count -= n,
            }
        }
        Ok(())
    }

    /// The next block; `None` where the archive ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut done = 0;
        while done < BLOCK {
            let found = self.input.next((BLOCK - done) as u64)?;
            if found.is_empty() {
                return if done == 0 { Ok(None) } else { Err(cut_off()) };
            }
            block[done..done + found.len()].copy_from_slice(found);
            done += found.len();
        }
        Ok(Some(block))
    }

    fn drain(&mut self) -> Result<()> {
        while !self.input.next(u64::MAX)?.is_empty() {}
        Ok(())
    }
}

fn until_zero(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|b| *b == 0) {
        name.truncate(end);
    }
    name
}

pub(super) fn bad(problem: Problem) -> Error {
    Error::new(ErrorKind::Corrupt, "read the archive").detail(problem)
}

fn cut_off() -> Error {
    bad("it is cut off")
}

/// A name out of an archive for a message: without control characters, and not endless.
pub(super) fn shown(name: &[u8]) -> String {
    const MAX: usize = 200;
    let text = String::from_utf8_lossy(&name[..name.len().min(MAX)]);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    if name.len() > MAX {
        out.push_str("...");
    }
    out
}
