//! Signals that end a run: the first asks running cells to stop and prints the summary, the second kills the cells, and
//! shortly after it the process ends whatever it waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
use signal_hook::low_level::emulate_default_handler;

use super::failure::Failure;

/// Ctrl-C, the end of a session, and the warnings of batch systems: Slurm sends USR1 or TERM, Grid Engine USR1, USR2 or
/// XCPU.
const ENDING: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU];

/// How long the run may take to end after the second signal.
const PATIENCE: Duration = Duration::from_secs(3);

/// The signals received so far.
#[derive(Debug, Default)]
pub struct Signals {
    /// How many signals asked the run to end.
    pub count: AtomicUsize,
    first: AtomicI32,
    over: AtomicBool,
}

impl Signals {
    /// Handles the signals, whose default action would end the process at once. A SIGHUP that is ignored, as under
    /// `nohup`, stays ignored.
    pub fn watch() -> Result<Arc<Signals>, Failure> {
        let state = Arc::new(Signals::default());
        let taken: Vec<i32> = ENDING.into_iter().filter(|signal| *signal != SIGHUP || !ignored(SIGHUP)).collect();
        let cannot = |error| Failure::broken(format!("cannot watch for signals: {error}"));
        let mut signals = signal_hook::iterator::Signals::new(&taken).map_err(cannot)?;
        let seen = state.clone();
        let watch = move || {
            // The parent process may have blocked them.
            let _ =
                taken.iter().filter_map(|signal| Signal::try_from(*signal).ok()).collect::<SigSet>().thread_unblock();
            signals.forever().for_each(|signal| seen.take(signal));
        };
        std::thread::Builder::new().spawn(watch).map_err(cannot)?;
        Ok(state)
    }

    fn take(&self, signal: i32) {
        let _ = self.first.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
        match self.count.fetch_add(1, Ordering::Relaxed) {
            _ if self.over.load(Ordering::Relaxed) => end_by(signal),
            0 => {}
            1 => {
                // Killed cells end quickly. A third signal, or a failure to start a thread, ends the process without
                // waiting for them.
                let later = std::thread::Builder::new().spawn(move || {
                    std::thread::sleep(PATIENCE);
                    end_by(signal);
                });
                if later.is_err() {
                    end_by(signal);
                }
            }
            _ => end_by(signal),
        }
    }

    /// The run is over: from now on, a signal ends the process at once.
    pub fn leave(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// The first signal.
    pub fn first(&self) -> Option<i32> {
        Some(self.first.load(Ordering::Relaxed)).filter(|signal| *signal > 0)
    }
}

fn end_by(signal: i32) {
    let _ = emulate_default_handler(signal);
}

/// Whether this process was started to ignore a signal.
fn ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.unwrap_or_default() >> (signal - 1) & 1 == 1
}
