//! The matrix product that every convolution and linear layer uses.
//!
//! It works on the operands in place: the rows of the left side may overlap and have any stride, so that the patches of
//! a convolution need not be written out first. What follows a product in a network (bias, residual, ReLU) is applied
//! while the sums are still in registers.

use pulp::{Arch, Simd, WithSimd};

/// Columns of the result per pass; the right side is packed in panels of this width.
pub(super) const LANES: usize = 32;

/// Maximum rows of the result in registers at a time: of 32 registers, 28 hold sums and the others their inputs.
pub(super) const ROWS: usize = 14;

/// The operations on a sum before it is written.
#[derive(Clone, Copy, Default)]
pub(super) struct Finish<'a> {
    /// Added to each row; padded to whole panels.
    pub bias: Option<&'a [f32]>,
    /// Added element by element, in the layout of the result.
    pub residual: Option<&'a [f32]>,
    /// Negative values become 0.
    pub relu: bool,
    /// Adds to the output instead of overwriting it.
    pub add: bool,
}

impl Finish<'_> {
    /// The operations for some of the terms, among them the first or the last: those after a product are applied with
    /// the last.
    pub fn of_terms(self, first: bool, last: bool) -> Self {
        let finish = if last { self } else { Finish { add: self.add, ..Finish::default() } };
        Finish { add: finish.add || !first, ..finish }
    }
}

/// `c[row, lane] = sum over run and depth of a[run, depth, row] * b[run, depth, lane]`.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub rows: usize,
    /// Runs of `depth` terms; within each, the terms have a constant stride.
    pub runs: usize,
    pub depth: usize,
    /// Strides in `a` of runs, terms and rows.
    pub a_run: usize,
    pub a_depth: usize,
    pub a_row: usize,
    /// Stride of rows in `c`.
    pub c_row: usize,
    /// Columns that exist: `LANES`, or fewer in the last panel.
    pub lanes: usize,
}

/// One panel of a product.
pub(super) struct Product<'a> {
    pub sizes: Sizes,
    pub a: &'a [f32],
    /// `runs * depth * LANES`, with any values in columns beyond `lanes`.
    pub b: &'a [f32],
    pub c: &'a mut [f32],
    /// `bias` starts at the panel's first column, `residual` has the layout of `c`.
    pub finish: Finish<'a>,
}

impl Product<'_> {
    /// Multiplies, with the widest vectors that the machine has.
    // Never inlined: the tiles of every instruction set would be compiled at each place anew.
    #[inline(never)]
    pub fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes, a, b, c, finish } = self;
        let Sizes { rows, runs, depth, lanes, .. } = sizes;
        if rows == 0 || lanes == 0 || runs * depth == 0 {
            return;
        }
        let last = (runs - 1) * sizes.a_run + (depth - 1) * sizes.a_depth + (rows - 1) * sizes.a_row;
        assert!(last < a.len(), "the left operand is too short");
        assert!(runs * depth * LANES <= b.len(), "the right operand is too short");
        assert!(lanes <= LANES && (rows - 1) * sizes.c_row + lanes <= c.len(), "the result is too short");
        assert!(finish.bias.is_none_or(|bias| bias.len() >= LANES), "the bias is too short");
        assert!(
            finish.residual.is_none_or(|residual| (rows - 1) * sizes.c_row + lanes <= residual.len()),
            "the residual is too short"
        );
        // The right side is processed in blocks that stay in the L1 cache while all rows pass.
        let block = depth.div_ceil(depth.div_ceil(BLOCK)).max(1);
        let group = if depth <= BLOCK { (BLOCK / depth).max(1) } else { 1 };
        for run in (0..runs).step_by(group) {
            for start in (0..depth).step_by(block) {
                let part = Sizes { runs: group.min(runs - run), depth: block.min(depth - start), ..sizes };
                let (first, last) = (run + start == 0, run + group >= runs && start + block >= depth);
                let finish = finish.of_terms(first, last);
                let a = &a[run * sizes.a_run + start * sizes.a_depth..];
                let b = &b[(run * depth + start) * LANES..];
                // SAFETY: the assertions bound every index of every block.
                unsafe { rows_of(simd, part, a, b, c, finish) };
            }
        }
    }
}

/// Terms of the right side that stay in the L1 cache: 24 KiB.
const BLOCK: usize = 192;

/// All rows of one block of terms.
///
/// # Safety
/// `a` and `b` must hold every element that `sizes` reaches.
#[inline(always)]
unsafe fn rows_of<S: Simd>(simd: S, sizes: Sizes, a: &[f32], b: &[f32], c: &mut [f32], finish: Finish<'_>) {
    // 16 registers hold 6 rows.
    let most = if S::REGISTER_COUNT >= 32 { ROWS } else { 6 };
    let blocks = sizes.rows.div_ceil(most);
    let mut row = 0;
    for block in 0..blocks {
        // As even as possible: a short last block would leave the multipliers idle.
        let count = (sizes.rows - row).div_ceil(blocks - block);
        for lane in (0..sizes.lanes).step_by(2 * S::F32_LANES) {
            let tile = Tile {
                sizes,
                // SAFETY: the caller guarantees all rows.
                a: unsafe { a.as_ptr().add(row * sizes.a_row) },
                // SAFETY: 2 * F32_LANES divides LANES on every instruction set (1, 4, 8 or 16 lanes).
                b: unsafe { b.as_ptr().add(lane) },
                c: &mut c[row * sizes.c_row + lane..],
                bias: finish.bias.map(|bias| &bias[lane..]),
                residual: finish.residual.map(|residual| &residual[row * sizes.c_row + lane..]),
                finish,
                lanes: sizes.lanes - lane,
            };
            macro_rules! rows {
                ($($n:literal)*) => {
                    match count {
                        // The guard keeps tiles of more rows than the registers hold from being compiled.
                        $($n if $n <= most => unsafe { tile.run::<S, $n>(simd) },)*
                        _ => unreachable!("blocks have at most {ROWS} rows"),
                    }
                };
            }
            rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        }
        row += count;
    }
}

/// A tile of sums in registers.
struct Tile<'a> {
    sizes: Sizes,
    a: *const f32,
    b: *const f32,
    c: &'a mut [f32],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    finish: Finish<'a>,
    lanes: usize,
}

/// Expands the body once for each row count up to `$count`: sums that a loop indexes, even one that is unrolled later,
/// may end up in memory instead of registers, depending on the order of the compiler's passes.
macro_rules! for_rows {
    ($count:ident, $row:ident, $body:block) => { for_rows!(@ $count $row $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13) };
    (@ $count:ident $row:ident $body:block $($index:literal)*) => {
        $(if $index < $count {
            const $row: usize = $index;
            $body
        })*
    };
}

impl Tile<'_> {
    /// # Safety
    /// `a` and `b` must be valid for every element that `sizes` reaches with `COUNT` rows.
    #[inline(always)]
    unsafe fn run<S: Simd, const COUNT: usize>(mut self, simd: S) {
        let sizes = self.sizes;
        let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
        for_rows!(COUNT, ROW, {
            let at = ROW * sizes.c_row;
            fetch(&self.c[at..]);
            if let Some(residual) = self.residual {
                fetch(&residual[at..]);
            }
        });
        // SAFETY: the caller guarantees all offsets; vectors are read unaligned.
        unsafe {
            // Loops with the test at the end: with a test at the head the compiler moves the sums between registers.
            let mut b = self.b;
            let mut run = 0;
            loop {
                let mut a = self.a.wrapping_add(run * sizes.a_run);
                let mut left = sizes.depth;
                loop {
                    let low = b.cast::<S::f32s>().read_unaligned();
                    let high = b.add(S::F32_LANES).cast::<S::f32s>().read_unaligned();
                    for_rows!(COUNT, ROW, {
                        let value = simd.splat_f32s(*a.wrapping_add(ROW.wrapping_mul(sizes.a_row)));
                        sums[ROW][0] = simd.mul_add_e_f32s(value, low, sums[ROW][0]);
                        sums[ROW][1] = simd.mul_add_e_f32s(value, high, sums[ROW][1]);
                    });
                    a = a.wrapping_add(sizes.a_depth);
                    b = b.wrapping_add(LANES);
                    left -= 1;
                    if left == 0 {
                        break;
                    }
                }
                run += 1;
                if run == sizes.runs {
                    break;
                }
            }
        }
        for_rows!(COUNT, ROW, { self.write(simd, ROW * sizes.c_row, sums[ROW]) });
    }

    /// Writes one row's sums, after `finish`, to element `at` of the result.
    #[inline(always)]
    fn write<S: Simd>(&mut self, simd: S, at: usize, sums: [S::f32s; 2]) {
        let finish = self.finish;
        if self.lanes < 2 * S::F32_LANES {
            let mut values = [0.0; LANES];
            for (half, &sum) in sums.iter().enumerate() {
                store(&mut values[half * S::F32_LANES..][..S::F32_LANES], sum);
            }
            for (lane, out) in self.c[at..][..self.lanes].iter_mut().enumerate() {
                let mut value = values[lane] + self.bias.map_or(0.0, |bias| bias[lane]);
                value += self.residual.map_or(0.0, |residual| residual[at + lane]);
                value += if finish.add { *out } else { 0.0 };
                // Not `max`, which would drop NaN.
                *out = if finish.relu && value < 0.0 { 0.0 } else { value };
            }
            return;
        }
        for (half, &sum) in sums.iter().enumerate() {
            let lane = half * S::F32_LANES;
            let mut value = sum;
            if let Some(bias) = self.bias {
                value = simd.add_f32s(value, load::<S>(&bias[lane..][..S::F32_LANES]));
            }
            if let Some(residual) = self.residual {
                value = simd.add_f32s(value, load::<S>(&residual[at + lane..][..S::F32_LANES]));
            }
            let out = &mut self.c[at + lane..][..S::F32_LANES];
            if finish.add {
                value = simd.add_f32s(value, load::<S>(out));
            }
            if finish.relu {
                // Not `max`, which would drop NaN.
                let zero = simd.splat_f32s(0.0);
                value = simd.select_f32s(simd.less_than_f32s(value, zero), zero, value);
            }
            store(out, value);
        }
    }
}

/// Prefetches a row of a tile: results are far away in memory, and the sums take long enough to hide the latency.
#[inline(always)]
fn fetch(row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in [0, LANES / 2] {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch accesses nothing, so any address is valid.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(line).cast()) };
    }
}

#[inline(always)]
fn load<S: Simd>(from: &[f32]) -> S::f32s {
    assert_eq!(from.len(), S::F32_LANES);
    // SAFETY: the slice has the length of a vector, whose every bit pattern is valid.
    unsafe { from.as_ptr().cast::<S::f32s>().read_unaligned() }
}

#[inline(always)]
fn store<V: Copy>(to: &mut [f32], value: V) {
    assert_eq!(size_of_val(to), size_of::<V>());
    // SAFETY: the slice has the length of the vector, whose elements are f32.
    unsafe { to.as_mut_ptr().cast::<V>().write_unaligned(value) }
}
