//! The runtime's server of resource views.

use std::sync::OnceLock;

use super::Inner;
use crate::error::Result;
use crate::views::Server;

/// It, once a container needed it.
#[derive(Debug, Default)]
pub(crate) struct Views(OnceLock<Server>);

impl Views {
    /// Ends it, where it was ever needed.
    pub(super) fn close(&self) {
        if let Some(server) = self.0.get() {
            server.close();
        }
    }
}

impl Inner {
    pub(crate) fn view_server(&self) -> Result<&Server> {
        if let Some(made) = self.views.0.get() {
            return Ok(made);
        }
        let made = Server::new()?;
        Ok(self.views.0.get_or_init(|| made))
    }

    /// Ends what is served for a container, if anything is.
    pub(crate) fn end_views(&self, owner: &str) {
        if let Some(server) = self.views.0.get() {
            server.remove(owner);
        }
    }
}
