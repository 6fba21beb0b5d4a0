//! A decoder of others' that panics on some damaged files, as one that returns an error.
//!
//! polars-parquet and libjpeg-turbo-rs take counts and offsets of a file for true in places. What they panic with is an error of the file, so the
//! program's panic hook, which speaks of an error of the program, stays silent meanwhile.

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
