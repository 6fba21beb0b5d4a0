//! Multi-head self-attention (Vaswani et al. 2017), softmax(Q K' / sqrt(d)) V, one block of queries at a time.
//!
//! The probabilities of all pairs of tokens are never stored. The backward pass recomputes them from the map of
//! queries, keys and values, which is kept anyway: one more product in addition to four saves `heads * T^2` elements
//! per image and layer, which in ViT-S/16 would add a fifth to what a block keeps otherwise at 197 tokens, and over
//! half at 577. Whole rows of them are computed at once, so that not even their sums need be kept.
//!
//! Work is partitioned by shapes alone, and each sum is computed by one thread in one order.

use rayon::prelude::*;

use super::buffer::{Buffer, scratch};
use super::product::{Finish, LANES, Product, ROWS, Sizes};
use crate::math::real::Real;
use crate::math::simd::vectorise;

/// Maximum queries per block. Forward, few, since a block is a task; backward, as many as keep their scores in the L2
/// cache, since each block adds to the gradients of all keys and values.
const QUERIES: usize = 4 * ROWS;
const BACK_QUERIES: usize = 16 * ROWS;

/// The shapes of one attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub tokens: usize,
    pub heads: usize,
    /// Channels of a query, a key or a value of one head.
    pub size: usize,
}

/// Queries, keys and values, in the order in which the map stores them.
const PARTS: usize = 3;

impl Heads {
    /// Output channels.
    fn channels(self) -> usize {
        self.heads * self.size
    }

    /// Input channels: the stride between the tokens of one query, key or value.
    fn row(self) -> usize {
        PARTS * self.channels()
    }

    /// The factor of the scores.
    fn scale(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// Stride between the scores of consecutive queries.
    fn pitch(self) -> usize {
        let pitch = self.tokens.next_multiple_of(LANES);
        // Rows at strides of whole pages compete for the same few cache sets.
        if pitch.is_multiple_of(1024) { pitch + LANES } else { pitch }
    }

    /// Elements of the packed right side of a product whose result has one column per token.
    fn by_token(self) -> usize {
        self.size * self.tokens.next_multiple_of(LANES)
    }

    /// Elements of the packed right side of a product whose result has one column per channel, with inner dimension
    /// `terms`.
    fn by_channel(self, terms: usize) -> usize {
        terms * self.size.next_multiple_of(LANES)
    }

    /// Equal blocks of at most `most` queries.
    fn block(self, most: usize) -> usize {
        self.tokens.div_ceil(self.tokens.div_ceil(most))
    }

    /// `rows` tokens of a head's queries (`part` 0), keys (1) or values (2), from `first` on; `x` is one image.
    fn part(self, x: &[f32], part: usize, head: usize, first: usize) -> &[f32] {
        &x[first * self.row() + part * self.channels() + head * self.size..]
    }
}

/// The result (`N x T x C`) for `x` (`N x T x 3C`: queries, keys and values, each with its heads concatenated).
pub(super) fn forward(heads: Heads, x: &[f32]) -> Buffer {
    let Heads { tokens, size, .. } = heads;
    let (channels, row) = (heads.channels(), heads.row());
    let images = x.len() / (tokens * row);
    let (keys, values) = (heads.by_token(), heads.by_channel(tokens));
    let mut packed = Buffer::new(images * heads.heads * (keys + values));
    packed.par_chunks_mut(keys + values).enumerate().for_each(|(index, packed)| {
        let (x, head) = (&x[index / heads.heads * tokens * row..], index % heads.heads);
        let (to_keys, to_values) = packed.split_at_mut(keys);
        pack_transposed(heads.part(x, 1, head, 0), row, [tokens, size], heads.scale(), to_keys);
        pack(heads.part(x, 2, head, 0), row, [tokens, size], 1.0, to_values);
    });
    let mut y = Buffer::new(images * tokens * channels);
    let block = heads.block(QUERIES);
    let tasks: Vec<(usize, usize, &mut [f32])> = y
        .chunks_mut(tokens * channels)
        .enumerate()
        .flat_map(|(image, y)| y.chunks_mut(block * channels).enumerate().map(move |(b, y)| (image, b * block, y)))
        .collect();
    tasks.into_par_iter().for_each(|(image, first, y)| {
        let count = y.len() / channels;
        let x = &x[image * tokens * row..][..tokens * row];
        scratch(count * heads.pitch(), |scores| {
            for head in 0..heads.heads {
                let packed = &packed[(image * heads.heads + head) * (keys + values)..][..keys + values];
                probabilities(heads, heads.part(x, 0, head, first), &packed[..keys], scores);
                let shape = [count, tokens, size];
                multiply(shape, scores, [heads.pitch(), 1], &packed[keys..], &mut y[head * size..], channels, false);
            }
        });
    });
    y
}

/// Writes the probabilities of all tokens for some queries to `scores` (rows at `pitch`, zeros after the last token).
fn probabilities(heads: Heads, queries: &[f32], keys: &[f32], scores: &mut [f32]) {
    let (pitch, tokens) = (heads.pitch(), heads.tokens);
    // Whole panels, which the product writes faster than partial ones.
    let shape = [scores.len() / pitch, heads.size, tokens.next_multiple_of(LANES)];
    multiply(shape, queries, [heads.row(), 1], keys, scores, pitch, false);
    let whole = tokens.next_multiple_of(LANES);
    vectorise(
        #[inline(always)]
        || {
            for row in scores.chunks_exact_mut(pitch) {
                // Whole vectors are faster than a remainder loop, and the exponential of this is 0.
                row[tokens..].fill(f32::NEG_INFINITY);
                softmax(&mut row[..whole]);
            }
        },
    );
}

/// Number of parallel partial sums and maxima.
const SIDE: usize = 16;

/// Replaces a row, of whole vectors, by its softmax. A NaN makes the whole row NaN.
#[inline(always)]
fn softmax(row: &mut [f32]) {
    let mut most = [f32::NEG_INFINITY; SIDE];
    for chunk in row.as_chunks::<SIDE>().0 {
        for lane in 0..SIDE {
            most[lane] = if chunk[lane] > most[lane] { chunk[lane] } else { most[lane] };
        }
    }
    let most = fold(most, |a, b| if b > a { b } else { a });
    let mut sums = [0.0; SIDE];
    for chunk in row.as_chunks_mut::<SIDE>().0 {
        for lane in 0..SIDE {
            chunk[lane] = Real::exp(chunk[lane] - most);
            sums[lane] += chunk[lane];
        }
    }
    let share = 1.0 / fold(sums, |a, b| a + b);
    row.iter_mut().for_each(|x| *x *= share);
}

/// Reduces by halving: a short dependency chain, unlike a sequential reduction.
#[inline(always)]
fn fold(mut lanes: [f32; SIDE], both: impl Fn(f32, f32) -> f32) -> f32 {
    let mut left = SIDE / 2;
    while left > 0 {
        for lane in 0..left {
            lanes[lane] = both(lanes[lane], lanes[lane + left]);
        }
        left /= 2;
    }
    lanes[0]
}

/// The gradient of `x` from that of the result.
pub(super) fn backward(heads: Heads, x: &[f32], dy: &[f32]) -> Buffer {
    let Heads { tokens, size, .. } = heads;
    let (image, channels) = (tokens * heads.row(), heads.channels());
    let mut dx = Buffer::new(x.len());
    dx.par_chunks_mut(image).zip(x.par_chunks(image)).zip(dy.par_chunks(tokens * channels)).for_each(
        |((dx, x), dy)| {
            // Each head separately, since their columns are interleaved in the map; an image's are still in the cache
            // afterwards.
            let mut parts = Buffer::new(image);
            let part = tokens * PARTS * size;
            parts.par_chunks_mut(part).enumerate().for_each(|(head, dx)| head_backward(heads, head, x, dy, dx));
            for (head, dx_head) in parts.chunks_exact(part).enumerate() {
                for (dx, from) in dx.chunks_exact_mut(heads.row()).zip(dx_head.chunks_exact(PARTS * size)) {
                    for (dx, from) in dx.chunks_exact_mut(channels).zip(from.chunks_exact(size)) {
                        dx[head * size..][..size].copy_from_slice(from);
                    }
                }
            }
        },
    );
    dx
}

/// Writes the gradients of one head's queries, keys and values (`T x 3 d`) to `dx`.
///
/// With the probabilities `P` and the gradients `G` of the result: those of the values are `P' G`, of the probabilities
/// `D = G V'`, of the scores `S = P (D - sum(P D))`, of the queries `S K` and of the keys `S' Q`, both times the scale.
fn head_backward(heads: Heads, head: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let Heads { tokens, size, .. } = heads;
    let (row, pitch, channels, scale) = (heads.row(), heads.pitch(), heads.channels(), heads.scale());
    let block = heads.block(BACK_QUERIES);
    let sizes = [
        heads.by_token(),
        heads.by_token(),
        heads.by_channel(tokens),
        heads.by_channel(block),
        heads.by_channel(block),
        block * pitch,
        block * pitch,
    ];
    scratch(sizes.iter().sum(), |mut rest| {
        let [keys, values, flat_keys, queries, gradients, scores, slopes] = sizes.map(|len| {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(len);
            rest = others;
            part
        });
        pack_transposed(heads.part(x, 1, head, 0), row, [tokens, size], scale, keys);
        pack_transposed(heads.part(x, 2, head, 0), row, [tokens, size], 1.0, values);
        pack(heads.part(x, 1, head, 0), row, [tokens, size], scale, flat_keys);
        for first in (0..tokens).step_by(block) {
            let count = block.min(tokens - first);
            let (scores, slopes) = (&mut scores[..count * pitch], &mut slopes[..count * pitch]);
            let (own, dy) = (heads.part(x, 0, head, first), &dy[first * channels + head * size..]);
            let add = first > 0;
            pack(own, row, [count, size], scale, queries);
            pack(dy, channels, [count, size], 1.0, gradients);
            probabilities(heads, own, keys, scores);
            multiply([tokens, count, size], scores, [1, pitch], gradients, &mut dx[2 * size..], PARTS * size, add);
            multiply([count, size, tokens.next_multiple_of(LANES)], dy, [channels, 1], values, slopes, pitch, false);
            back_to_scores(scores, slopes, pitch, tokens);
            let to = &mut dx[first * PARTS * size..];
            multiply([count, tokens, size], slopes, [pitch, 1], flat_keys, to, PARTS * size, false);
            multiply([tokens, count, size], slopes, [1, pitch], queries, &mut dx[size..], PARTS * size, add);
        }
    });
}

/// Replaces the gradients of the probabilities by those of the scores.
fn back_to_scores(probabilities: &[f32], slopes: &mut [f32], pitch: usize, tokens: usize) {
    // After the last token both are 0.
    let whole = tokens.next_multiple_of(LANES);
    vectorise(
        #[inline(always)]
        || {
            for (slopes, row) in slopes.chunks_exact_mut(pitch).zip(probabilities.chunks_exact(pitch)) {
                let (slopes, row) = (slopes[..whole].as_chunks_mut::<SIDE>().0, row[..whole].as_chunks::<SIDE>().0);
                let mut sums = [0.0; SIDE];
                for (slopes, row) in slopes.iter().zip(row) {
                    for lane in 0..SIDE {
                        sums[lane] += slopes[lane] * row[lane];
                    }
                }
                let mean = fold(sums, |a, b| a + b);
                for (slopes, row) in slopes.iter_mut().zip(row) {
                    slopes.iter_mut().zip(row).for_each(|(slope, p)| *slope = p * (*slope - mean));
                }
            }
        },
    );
}

/// `c = a b` or `c += a b` for `[rows, terms, columns]`: `a` with given strides of rows and terms, `b` packed, `c` with
/// the row stride `c_row`.
fn multiply(
    [rows, depth, columns]: [usize; 3],
    a: &[f32],
    [a_row, a_depth]: [usize; 2],
    b: &[f32],
    c: &mut [f32],
    c_row: usize,
    add: bool,
) {
    for (panel, b) in b.chunks_exact(depth * LANES).take(columns.div_ceil(LANES)).enumerate() {
        let first = panel * LANES;
        let lanes = LANES.min(columns - first);
        Product {
            sizes: Sizes { rows, runs: 1, depth, a_run: 0, a_depth, a_row, c_row, lanes },
            a,
            b,
            c: &mut c[first..],
            finish: Finish { add, ..Finish::default() },
        }
        .run();
    }
}

/// Packs `rows x columns` elements, times `scale`, as the right side of a product with `rows` terms.
fn pack(from: &[f32], distance: usize, [rows, columns]: [usize; 2], scale: f32, to: &mut [f32]) {
    for (panel, to) in to.chunks_exact_mut(rows * LANES).take(columns.div_ceil(LANES)).enumerate() {
        let first = panel * LANES;
        let lanes = LANES.min(columns - first);
        for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks(distance)) {
            to[..lanes].iter_mut().zip(&from[first..]).for_each(|(to, from)| *to = scale * from);
            to[lanes..].fill(0.0);
        }
    }
}

/// Packs the transpose of `rows x columns` elements, times `scale`, as the right side of a product of `columns` terms.
fn pack_transposed(from: &[f32], distance: usize, [rows, columns]: [usize; 2], scale: f32, to: &mut [f32]) {
    for (panel, to) in to.chunks_exact_mut(columns * LANES).enumerate() {
        let first = panel * LANES;
        let lanes = LANES.min(rows - first);
        if lanes < LANES {
            to.fill(0.0);
        }
        for (lane, from) in from.chunks(distance).skip(first).take(lanes).enumerate() {
            to[lane..].iter_mut().step_by(LANES).zip(&from[..columns]).for_each(|(to, from)| *to = scale * from);
        }
    }
}
