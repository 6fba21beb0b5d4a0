//! L2 normalisation of each pixel's channels.

use super::buffer::Buffer;

/// Smaller norms are replaced by this, as in PyTorch's `normalize`.
const SMALLEST: f32 = 1e-12;

/// The rows of `x` divided by their L2 norms, and the norms.
pub(super) fn normalise(x: &[f32], channels: usize) -> (Buffer, Vec<f32>) {
    let mut units = Buffer::copy_of(x);
    let lengths = units
        .chunks_exact_mut(channels)
        .map(|row| {
            let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let length = squares.sqrt() as f32;
            row.iter_mut().for_each(|x| *x /= length.max(SMALLEST));
            length
        })
        .collect();
    (units, lengths)
}

/// Replaces the gradient of the unit vectors by that of the rows: `(g - (g . u) u) / length`.
pub(super) fn normalise_back(units: &[f32], lengths: &[f32], channels: usize, gradient: &mut [f32]) {
    for ((g, u), &length) in gradient.chunks_exact_mut(channels).zip(units.chunks_exact(channels)).zip(lengths) {
        // A row whose norm is below the bound is divided by a constant.
        let radial: f64 = match length > SMALLEST {
            true => g.iter().zip(u).map(|(&g, &u)| f64::from(g) * f64::from(u)).sum(),
            false => 0.0,
        };
        let inverse = length.max(SMALLEST).recip();
        g.iter_mut().zip(u).for_each(|(g, u)| *g = (*g - radial as f32 * u) * inverse);
    }
}
