use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::eventually;

/// The program itself, running as its users run it. Ends with the test.
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// The program that was built together with the tests, which are in `target/<profile>/deps`, or with the bench, which is in
/// `target/<profile>`.
pub(crate) fn binary() -> PathBuf {
    let ours = std::env::current_exe().expect("the path of the tests");
    let found = ours.ancestors().skip(1).take(2).map(|directory| directory.join("overdue")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("overdue is missing beside {}: `make test` builds it", ours.display()))
}

impl Process {
    /// Starts `command` with its log in a file.
    pub(crate) fn spawn(mut command: Command, name: &str) -> Self {
        let log = std::env::temp_dir().join(format!("overdue-test-{}-{name}.log", uuid::Uuid::now_v7().simple()));
        let file = File::create(&log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        Self { child, log }
    }

    /// Waits until the log says `text`.
    pub async fn says(&self, text: &str) {
        eventually(&format!("the log says {text:?}"), async || self.log_text().contains(text)).await;
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process ID.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id().expect("it is running")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Where it serves HTTP, once it does: `http://127.0.0.1:port`.
    ///
    /// # Panics
    /// If it does not within a minute.
    pub async fn http_base(&self) -> String {
        self.says("address=").await;
        let log = self.log_text();
        let address = log.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        format!("http://{}", address.expect("an address"))
    }

    /// Ends it as a crash would: SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the process can be killed");
    }

    /// Sends SIGTERM.
    pub async fn terminate(&self) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.expect("kill").success());
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(Duration::from_secs(60), self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it did not end; its log:\n{}", self.log_text())).expect("a status")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the program\n{}", self.log_text());
        }
        let _ = std::fs::remove_file(&self.log);
    }
}
