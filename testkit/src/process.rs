//! Child processes that cannot outlive the test binary.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use anyhow::Context as _;

/// A running child process; killed when dropped, and by the kernel when the test binary dies.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Dropping it ends the keeper thread.
    _keeper: mpsc::Sender<()>,
}

impl Process {
    /// Starts `program`, with arguments and environment from `configure`, and appends its output to `log`.
    ///
    /// The kernel's parent-death signal is sent when the *thread* that started the child ends, and threads of a
    /// test runtime come and go: a keeper thread that lives as long as this value starts the child.
    pub(crate) fn start(
        program: &Path,
        configure: impl FnOnce(&mut Command),
        log: &Path,
    ) -> anyhow::Result<Self> {
        let output = std::fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        configure(&mut command);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);

        let (started, child) = mpsc::channel();
        let (keeper, released) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            started.send(command.spawn()).ok();
            released.recv().ok();
        });
        let child =
            child.recv()?.with_context(|| format!("starting {} through setpriv", program.display()))?;
        Ok(Self { child, _keeper: keeper })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    pub(crate) fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("asking for a child's state")
    }

    /// SIGTERM; does not wait.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        self.signal("TERM")
    }

    /// Sends the signal of this name, such as `STOP`; does not wait.
    pub(crate) fn signal(&self, name: &str) -> anyhow::Result<()> {
        // By the shell, whose `kill` is built in: the standard library sends no other signal than SIGKILL.
        let kill = r#"kill -s "$1" "$0""#;
        let status = Command::new("sh").args(["-c", kill, &self.id().to_string(), name]).status()?;
        anyhow::ensure!(status.success(), "kill -s {name}: {status}");
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        // Both fail only if it has ended and been waited for already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
