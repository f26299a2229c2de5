//! Restarting: an end and a start as one action.

use super::handle::Container;
use super::init::Wish;
use super::stop::Ask;
use crate::error::Result;
use crate::instance::{RestartMode, RestartOptions, StartOptions};
use crate::op::{Action, Deadline};

impl Container {
    /// Restarts it by force with default options.
    ///
    /// # Errors
    /// As [`restart_with`](Self::restart_with).
    pub fn restart(&self) -> Result<()> {
        self.restart_with(RestartOptions::default())
    }

    /// Ends the run and starts the next one; see
    /// [`Instance::restart_with`](crate::instance::Instance::restart_with). Its streams are then null.
    ///
    /// # Errors
    /// As there.
    pub fn restart_with(&self, options: RestartOptions) -> Result<()> {
        let deadline = Deadline::from(options.deadline);
        let done = self.begin(Action::Restart).and_then(|guard| {
            let cancel = options.cancel.as_ref();
            self.live()?;
            match options.mode {
                RestartMode::Graceful(grace) => {
                    let _part = guard.nested(Action::Shutdown);
                    let ask = Ask { wish: Wish::Reboot, ..Ask::default() };
                    self.shutdown_locked(&ask, deadline.at_most(grace), cancel)?;
                }
                _ => {
                    let _part = guard.nested(Action::Stop);
                    self.stop_locked(deadline, cancel)?;
                }
            }
            let _part = guard.nested(Action::Start);
            let deadline = deadline.remaining();
            let start = StartOptions { deadline, cancel: options.cancel.clone(), ..StartOptions::default() };
            self.start_locked(start).map(drop)
        });
        self.named(Action::Restart, done)
    }
}
