use std::path::PathBuf;

use crate::World;

/// A file of endpoints, for `--webhooks`; deleted in the end.
pub struct EndpointFile(PathBuf);

/// A key of an endpoint.
pub const ENDPOINT_KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

impl EndpointFile {
    /// With these endpoints.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn with(world: &World, endpoints: &[String]) -> Self {
        let path = std::env::temp_dir().join(format!("overdue-{}-endpoints.toml", world.vhost));
        std::fs::write(&path, endpoints.join("\n")).expect("the file can be written");
        Self(path)
    }

    /// Where it is.
    ///
    /// # Panics
    /// If the path is not UTF-8.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for EndpointFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An endpoint for the file, with more settings of its own.
#[must_use]
pub fn endpoint(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[endpoint]]\nname = \"{name}\"\nurl = \"{url}\"\ntypes = [\"order.*\", \"timer.#\"]\nkeys = [\"{ENDPOINT_KEY}\"]\nallow_private = true\n{more}\n"
    )
}
