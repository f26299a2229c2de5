//! What is kept on disk: durable records and run records.
//!
//! Two directories, each with `instances/PROJECT/NAME/`: the state directory holds `record.json` of a durable
//! instance; the run directory, on tmpfs, holds `run.json` of a run, and `record.json` of an ephemeral instance. The
//! record of a run is the target of a symbolic link: made in one system call, whole or not at all.
//! Both belong to one user and nobody else may write to them.
//!
//! An instance comes and goes whole. It is built under a temporary name beside the projects and then renamed
//! to its place; since a place always holds a record, `rename(2)` refuses one that is taken, and that refusal is
//! the claim on the name. It is removed by renaming it away first. So no crash leaves half an instance, only
//! temporary names, which nobody reads and which the next [`Store::open`] removes when no other store is open
//! (each holds a shared `flock(2)`). Files are replaced in the same way.
//!
//! The path is the identity: a record's own idea of its name does not count after a [`Store::rename`].

mod area;
mod file;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod run;
mod tree;

#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::area::Area;
pub(crate) use self::run::{RunRecord, boot_id, millis};
use crate::error::{Error, ErrorKind, Result};
use crate::name::InstanceId;
use crate::op::Between;
use crate::sys::lock::Lock;

/// The version of the records' format that this crate writes, and the newest that it reads. Older ones are upgraded as
/// they are read ([`file::UPGRADES`]); the file changes with the next write.
pub(crate) const SCHEMA: u32 = 2;

const RECORD: &str = "record.json";
const RUN: &str = "run.json";
/// The last output of the instance's console, in the directory of its runs.
pub(crate) const CONSOLE: &str = "console";

/// Where an instance's record lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// In the state directory; survives a reboot. Every write is synced.
    Durable,
    /// In the run directory alone; ends with the run.
    Ephemeral,
}

/// One of the two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    State,
    Run,
}

/// A record as it was found.
#[derive(Debug)]
pub(crate) struct Stored<T> {
    pub(crate) durability: Durability,
    pub(crate) record: T,
}

/// The records of all instances of a runtime.
///
/// Calls on different instances do not disturb each other. Two calls that change the same instance must not
/// run at once: the action lock sees to that.
#[derive(Debug)]
pub(crate) struct Store {
    state: Area,
    run: Area,
    between: Arc<Between>,
    /// One rename at a time: they share the lock on the names.
    renames: Mutex<()>,
}

/// How long a rename waits for another runtime that looks through all names.
const NAMES: std::time::Duration = std::time::Duration::from_secs(10);

impl Store {
    /// Opens both directories, makes them where they are missing (mode 0700), and removes what a crash left.
    pub(crate) fn open(state_dir: &Path, run_dir: &Path) -> Result<Self> {
        let (state, run) = (Area::top(state_dir)?, Area::top(run_dir)?);
        let between = Between::join(run.fd.as_fd(), run_dir)?;
        let (token, crashed) = (between.token(), between.crashed());
        let state = Area::open(&state, true, token, crashed)?;
        let run = Area::open(&run, false, token, crashed)?;
        Ok(Self { state, run, between: Arc::new(between), renames: Mutex::default() })
    }

    /// What this store shares with the others on the same run directory.
    pub(crate) fn between(&self) -> &Arc<Between> {
        &self.between
    }

    fn home(&self, durability: Durability) -> &Area {
        match durability {
            Durability::Durable => &self.state,
            Durability::Ephemeral => &self.run,
        }
    }

    /// Makes a new instance with its first record. Of several callers with one name, one wins.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken, by a durable or an ephemeral instance. Whatever the error,
    /// nothing is left behind.
    pub(crate) fn create_instance(
        &self,
        id: &InstanceId,
        durability: Durability,
        record: &impl Serialize,
    ) -> Result<()> {
        let place = place_of(id)?;
        let bytes = file::encode(record)?;
        let home = self.home(durability);
        let temp = home.temp_name();
        home.make_dir(&temp)?;
        let made = home
            .write_new(&format!("{temp}/{RECORD}"), &bytes)
            .and_then(|()| home.sync_dir(&temp))
            .and_then(|()| self.publish(durability, &temp, &place));
        if made.is_err() {
            // The first error is the one to report; the next `open` tries again.
            if home.remove_temp(&temp).is_err() {
                self.between.leave_untidy();
            }
        }
        made
    }

    /// Moves a finished directory to its place. On failure it is back under its temporary name.
    fn publish(&self, durability: Durability, temp: &str, place: &str) -> Result<()> {
        let home = self.home(durability);
        if !home.claim(temp, place)? {
            if self.holder(place)?.is_some() || durability == Durability::Durable {
                return Err(self.taken(place));
            }
            // Neither directory has a record: what stands there is of a durable instance that is gone.
            self.run.discard(place)?;
            if !home.claim(temp, place)? {
                return Err(self.taken(place));
            }
        }
        // Whoever published in the other directory meanwhile looks here too, so one of the two sees the other.
        let settled = self.check_sole(durability, place).and_then(|()| home.sync_parent(place));
        if settled.is_err() {
            // Not there any more when the other one has cleared the place; its own error is the one to report.
            let _ = home.take_back(place, temp);
        }
        settled
    }

    /// Fails where the other directory has an instance of this name; removes a dead one's run directory.
    fn check_sole(&self, durability: Durability, place: &str) -> Result<()> {
        let other = match durability {
            Durability::Durable => &self.run,
            Durability::Ephemeral => &self.state,
        };
        if other.exists(&format!("{place}/{RECORD}"))? {
            return Err(self.taken(place));
        }
        if durability == Durability::Durable {
            self.run.discard(place)?;
        }
        Ok(())
    }

    /// Which directory has the record of an instance, if one has.
    fn holder(&self, place: &str) -> Result<Option<Durability>> {
        let record = format!("{place}/{RECORD}");
        if self.state.exists(&record)? {
            return Ok(Some(Durability::Durable));
        }
        Ok(self.run.exists(&record)?.then_some(Durability::Ephemeral))
    }

    fn taken(&self, place: &str) -> Error {
        Error::new(ErrorKind::AlreadyExists, "claim the name of an instance").object(place)
    }

    /// Reads the record of an instance.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` where it cannot be read; `Unsupported` where a newer version wrote it.
    pub(crate) fn load<T: DeserializeOwned>(&self, id: &InstanceId) -> Result<Stored<T>> {
        let record = format!("{}/{RECORD}", place_of(id)?);
        for (area, durability) in [(&self.state, Durability::Durable), (&self.run, Durability::Ephemeral)] {
            if let Some(record) = area.load(&record)? {
                return Ok(Stored { durability, record });
            }
        }
        Err(not_found("read the record of an instance", id))
    }

    /// The record of an instance of one kind, in part or whole, if it is there.
    pub(crate) fn find<T: DeserializeOwned>(
        &self,
        id: &InstanceId,
        durability: Durability,
    ) -> Result<Option<T>> {
        self.home(durability).load(&format!("{}/{RECORD}", place_of(id)?))
    }

    /// Replaces the record of an instance that is there.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` where a newer version wrote the present one. After an error the old record
    /// stands, except when only the last sync failed.
    pub(crate) fn save(
        &self,
        id: &InstanceId,
        durability: Durability,
        record: &impl Serialize,
    ) -> Result<()> {
        let place = place_of(id)?;
        let bytes = file::encode(record)?;
        let home = self.home(durability);
        let path = format!("{place}/{RECORD}");
        if !home.exists(&path)? {
            return Err(not_found("write the record of an instance", id));
        }
        home.refuse_newer(&path)?;
        home.replace(&path, &bytes)?;
        home.sync_dir(&place)
    }

    /// Removes an instance with everything in its directories.
    ///
    /// # Errors
    /// `NotFound`. When a file of it cannot be removed, the instance is gone all the same, and the error names
    /// the directory.
    pub(crate) fn remove(&self, id: &InstanceId, durability: Durability) -> Result<()> {
        let place = place_of(id)?;
        if durability == Durability::Durable {
            self.run.discard(&place)?;
        }
        match self.home(durability).discard(&place) {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_found("remove the record of an instance", id)),
            Err(e) => {
                self.between.leave_untidy();
                Err(e)
            }
        }
    }

    /// Gives a stopped instance another identity, with everything in its directories.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` where the new name is taken. After an error the old name stands.
    pub(crate) fn rename(&self, id: &InstanceId, new: &InstanceId, durability: Durability) -> Result<()> {
        let _one = self.renames.lock().unwrap_or_else(PoisonError::into_inner);
        let end = std::time::Instant::now() + NAMES;
        while !self.between.try_names(Lock::Shared)? {
            if std::time::Instant::now() >= end {
                return Err(Error::new(ErrorKind::Busy, "rename an instance")
                    .detail("another runtime has looked through all names for ten seconds"));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let renamed = self.rename_alone(id, new, durability);
        self.between.release_names();
        renamed
    }

    fn rename_alone(&self, id: &InstanceId, new: &InstanceId, durability: Durability) -> Result<()> {
        let (from, to) = (place_of(id)?, place_of(new)?);
        let home = self.home(durability);
        if !home.exists(&format!("{from}/{RECORD}"))? {
            return Err(not_found("rename an instance", id));
        }
        if from == to || !home.claim(&from, &to)? {
            return Err(self.taken(&to));
        }
        let settled = self
            .check_sole(durability, &to)
            .and_then(|()| home.sync_parent(&to))
            .and_then(|()| if id.project == new.project { Ok(()) } else { home.sync_parent(&from) });
        if let Err(e) = settled {
            home.take_back(&to, &from)?;
            return Err(e);
        }
        if durability == Durability::Durable && self.run.exists(&from)? {
            self.run.claim(&from, &to)?;
        }
        Ok(())
    }

    /// Every instance that has a record, sorted.
    pub(crate) fn list(&self) -> Result<Vec<InstanceId>> {
        let mut ids = self.state.list(RECORD)?;
        ids.append(&mut self.run.list(RECORD)?);
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Writes the record of the present run where there is none; says whether that was so.
    ///
    /// # Errors
    /// `NotFound` for an ephemeral instance that is gone.
    pub(crate) fn note_run(&self, id: &InstanceId, durability: Durability, run: &RunRecord) -> Result<bool> {
        let place = place_of(id)?;
        let bytes = file::encode(run)?;
        let path = format!("{place}/{RUN}");
        match self.run.note(&path, &bytes) {
            Err(e) if durability == Durability::Durable && e.kind() == ErrorKind::NotFound => {
                self.run.make_place(&place)?;
                self.run.note(&path, &bytes)
            }
            noted => noted,
        }
    }

    /// Writes the record of the present run, in place of another if there is one.
    ///
    /// # Errors
    /// `NotFound` for an ephemeral instance that is gone. After an error the old run record stands, if any.
    pub(crate) fn save_run(&self, id: &InstanceId, durability: Durability, run: &RunRecord) -> Result<()> {
        if self.note_run(id, durability, run)? {
            return Ok(());
        }
        let path = format!("{}/{RUN}", place_of(id)?);
        self.run.refuse_newer(&path)?;
        self.run.replace_note(&path, &file::encode(run)?)
    }

    /// Removes the record of a run that did not come to be.
    pub(crate) fn clear_run(&self, id: &InstanceId) -> Result<()> {
        self.run.unlink(&format!("{}/{RUN}", place_of(id)?))
    }

    /// Reads the record of the present or last run; `None` where there was none since the machine started.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_run(&self, id: &InstanceId) -> Result<Option<RunRecord>> {
        self.run.load_note(&format!("{}/{RUN}", place_of(id)?))
    }

    /// Instances that are gone but for a directory of their runs: a crash between two steps of a rename or of a
    /// deletion leaves them.
    pub(crate) fn list_dead_runs(&self) -> Result<Vec<InstanceId>> {
        self.run.places(|place| Ok(self.holder(place)?.is_none()))
    }

    /// Removes what [`list_dead_runs`](Self::list_dead_runs) found. The caller has the lock on the name.
    pub(crate) fn remove_dead_run(&self, id: &InstanceId) -> Result<()> {
        let place = place_of(id)?;
        // Not by moving the directory away: a new instance may take its place at any moment. That has a record from the
        // first, and no run yet, as a start needs the lock.
        if self.holder(&place)?.is_none() {
            self.run.unlink(&format!("{place}/{CONSOLE}"))?;
            self.run.unlink(&format!("{place}/{RUN}"))?;
            self.run.remove_if_empty(&place);
        }
        Ok(())
    }

    /// The path of a directory of an instance, for messages and for what takes no descriptor.
    pub(crate) fn instance_path(&self, id: &InstanceId, place: Place) -> Result<PathBuf> {
        Ok(self.area(place).path(&place_of(id)?))
    }

    fn area(&self, place: Place) -> &Area {
        match place {
            Place::State => &self.state,
            Place::Run => &self.run,
        }
    }
}

/// The instance's directory, below `instances/`.
fn place_of(id: &InstanceId) -> Result<String> {
    if id.snapshot.is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "find the record of an instance")
            .object(id.to_string())
            .detail("snapshots are not kept yet"));
    }
    Ok(format!("{}/{}", id.project, id.name))
}

fn not_found(step: &'static str, id: &InstanceId) -> Error {
    Error::new(ErrorKind::NotFound, step).object(id.to_string())
}
