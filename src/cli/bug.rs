//! The message about a panic: that it is a bug, and what to report. No stack trace.

use std::io::Write;
use std::panic::PanicHookInfo;

/// Reports a panic on standard error.
pub fn report(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let what = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    let what = what.unwrap_or("no message");
    let place = panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
    let words = std::env::args_os().map(|word| format!("{:?}", word.to_string_lossy()));
    let command = words.skip(1).collect::<Vec<_>>().join(" ");
    // Standard error may be gone, and a panic here would abort.
    let _ = writeln!(
        std::io::stderr(),
        "error: this is a bug in meanfield {version}: {what}{place}\n\
         help: please report it with that line, the command `meanfield {command}`, and the pipeline or file that it read; \
         the store is as it was; run again to resume",
        version = env!("CARGO_PKG_VERSION"),
        what = crate::text::escaped(what),
    );
}
