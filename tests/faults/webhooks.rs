//! A service that is told of everything by webhooks, and is not always well.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tests::{Receiver, Reply, World};

/// The service, and the file that names it.
pub(crate) struct Listener {
    /// Events, by their IDs, that it has said it has.
    taken: Arc<Mutex<HashSet<String>>>,
    file: PathBuf,
    _receiver: Receiver,
}

/// How long the last deliveries may take once nothing is broken any more. What the service has refused comes again after some
/// seconds.
const DELIVERED_WITHIN: Duration = Duration::from_secs(120);

impl Listener {
    /// Listens, and has its queue declared.
    pub(crate) async fn open(world: &World) -> Self {
        let (receiver, taken) = (Receiver::start().await, Arc::<Mutex<HashSet<String>>>::default());
        let shared = Arc::clone(&taken);
        let refused = Mutex::new(HashSet::new());
        receiver.answers(move |received| {
            let id = received.event()["id"].to_string();
            let mut taken = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
            // One in twenty is not taken at first; not twice, since the third attempt is made after minutes.
            if !taken.contains(&id) && refused.len() <= taken.len() / 20 && refused.insert(id.clone()) {
                return if refused.len().is_multiple_of(3) { Reply::HangsUp } else { Reply::status(503) };
            }
            taken.insert(id);
            Reply::status(204)
        });
        let text = format!(
            "[[endpoint]]\nname = \"listener\"\nurl = \"{}\"\ntypes = [\"#\"]\nallow_private = true\n\
             keys = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]\n",
            receiver.url()
        );
        let file = std::env::temp_dir().join(format!("overdue-{}-endpoints.toml", world.vhost));
        std::fs::write(&file, text).expect("the file is written");
        let listener = Self { taken, file, _receiver: receiver };
        let declared = world.overdue(&["topology", "declare", "--webhooks", listener.file()]).await;
        assert!(declared.status.success(), "{declared:?}");
        listener
    }

    /// The file of endpoints.
    pub(crate) fn file(&self) -> &str {
        self.file.to_str().expect("a path")
    }

    /// How many different events it has been sent, once they are as many as there are facts, or none comes any more.
    pub(crate) async fn taken(&self, facts: u64) -> u64 {
        let count = || self.taken.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        let deadline = tokio::time::Instant::now() + DELIVERED_WITHIN;
        while count() < facts && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        count()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
