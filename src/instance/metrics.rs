//! What an instance uses, and what happens to it.

use crate::cgroup::{Events, PressureTrigger, PressureWatch, Stats, StatsReader};
use crate::error::Result;

/// The figures of a running instance. Had from [`Instance::metrics`](crate::instance::Instance::metrics); no method is
/// an action, so they work at any time beside one.
///
/// Errors that every method may give: [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run,
/// [`Unsupported`](crate::ErrorKind::Unsupported) where it has no control group of its own.
///
/// ```no_run
/// # let runtime = stockade::Runtime::open()?;
/// # let web = runtime.get(&"web".parse()?)?;
/// if let Some(metrics) = web.metrics() {
///     let stats = metrics.stats()?;
///     println!("{:?} of CPU time", stats.cpu.unwrap_or_default().usage);
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
pub trait Metrics {
    /// All its statistics, read once.
    ///
    /// # Errors
    /// Those above.
    fn stats(&self) -> Result<Stats>;

    /// Its statistics to be read again and again, through descriptors that stay open. It is for the present run: once that
    /// has ended it gives [`NotFound`](crate::ErrorKind::NotFound).
    ///
    /// # Errors
    /// Those above.
    fn stats_reader(&self) -> Result<StatsReader>;

    /// What happens to it from now on: limits that act, freeze and thaw, the end of its last process.
    ///
    /// # Errors
    /// Those above.
    fn resource_events(&self) -> Result<Events>;

    /// A report when waiting for a resource takes too much of its time.
    ///
    /// # Errors
    /// Those above, and those of [`Cgroup::watch_pressure`](crate::cgroup::Cgroup::watch_pressure).
    fn watch_pressure(&self, trigger: PressureTrigger) -> Result<PressureWatch>;
}
