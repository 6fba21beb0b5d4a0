//! Running a loop with the vector instructions of this machine.

use pulp::{Arch, Simd, WithSimd};

/// Runs `loops` compiled for the best instruction set of the machine. The closure and everything it calls must be
/// marked `#[inline(always)]`, or it stays compiled for the baseline instruction set.
#[inline(always)]
pub fn vectorise(loops: impl FnMut()) {
    Arch::new().dispatch(Loops(loops));
}

/// `FnMut`, not `FnOnce` like pulp's own implementation for closures: that is called through a shim, which is not
/// inlined.
struct Loops<F>(F);

impl<F: FnMut()> WithSimd for Loops<F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        (self.0)();
    }
}
