//! Turns the panics of third-party decoders on damaged files into errors.
//!
//! polars-parquet and libjpeg-turbo-rs trust counts and offsets of a file in places. Such a panic is an error of the file, so
//! the program's panic hook, which reports a bug in the program, stays silent during the call.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// What `decode` returns; an error too where it panics.
///
/// # Errors
/// Those of `decode`, and that it panicked.
pub(crate) fn contained<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !CONTAINED.get() {
                before(panic);
            }
        }));
    });
    CONTAINED.set(true);
    // What a panic leaves half done is dropped with it.
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    CONTAINED.set(false);
    decoded.unwrap_or_else(|_| Err("its counts or offsets contradict one another".to_owned()))
}
