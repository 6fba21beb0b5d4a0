//! Coloured patterns: a class is a few warped gratings, a grid of cells and a palette; a sample is one piece of it.
//!
//! A sample differs by where it was cut (phase), how it was held (a small rotation and scale), and how it was lit.

use std::f64::consts::TAU;

use super::{Warp, hsv, to_byte};
use crate::math::random::{Stream, stream};

/// One wave of the pattern.
#[derive(Debug, Clone)]
struct Grating {
    /// Cycles over the image, and direction in radians.
    frequency: f64,
    angle: f64,
    weight: f64,
    /// How far the wave is from a sine towards a square wave, `[0, 1]`.
    hardness: f64,
}

/// The pattern of one class.
#[derive(Debug, Clone)]
pub(super) struct Texture {
    gratings: Vec<Grating>,
    /// Cells across the image, and how much their borders show.
    cells: f64,
    cell_weight: f64,
    warp: f64,
    /// Colours of the low, middle and high values: (hue, saturation, value).
    palette: [[f64; 3]; 3],
}

impl Texture {
    pub(super) fn of_class(seed: u64, class: u64) -> Texture {
        let s = &mut stream(seed, "texture class", 0, class);
        let gratings = (0..2 + s.below(2))
            .map(|i| Grating {
                frequency: s.between(1.5, 6.5),
                angle: s.between(0.0, TAU / 2.0),
                weight: if i == 0 { 1.0 } else { s.between(0.3, 1.0) },
                hardness: s.uniform(),
            })
            .collect();
        let hue = s.uniform();
        let spread = s.between(0.08, 0.5);
        Texture {
            gratings,
            cells: s.between(2.5, 6.0),
            cell_weight: if s.uniform() < 0.5 { s.between(0.6, 1.5) } else { 0.0 },
            warp: s.between(0.0, 0.12),
            palette: std::array::from_fn(|i| {
                [hue + spread * (i as f64 - 1.0), s.between(0.3, 0.9), 0.3 + 0.25 * i as f64 + s.between(-0.1, 0.15)]
            }),
        }
    }

    /// RGB pixels of one piece, `size * size * 3`.
    pub(super) fn draw(&self, seed: u64, class: u64, sample: u64, size: usize) -> Vec<u8> {
        let s = &mut stream(seed, "texture sample", class, sample);
        let (sin, cos) = s.between(-0.2, 0.2).sin_cos();
        let zoom = s.between(0.87, 1.15);
        let warp = Warp::random(s, self.warp);
        let phases: Vec<f64> = self.gratings.iter().map(|_| s.between(0.0, TAU)).collect();
        let cells = Cells::random(s, self.cells);
        let palette = self.palette.map(|[h, saturation, value]| {
            hsv(h + 0.03 * s.normal(), saturation * s.between(0.8, 1.2).min(1.0 / saturation), value)
        });
        let light = Light::random(s);
        let grain = s.between(0.01, 0.05);
        let mut pixels = Vec::with_capacity(size * size * 3);
        for i in 0..size * size {
            let p = [i % size, i / size].map(|k| (k as f64 + 0.5) / size as f64 * 2.0 - 1.0);
            let q = [zoom * (cos * p[0] - sin * p[1]), zoom * (sin * p[0] + cos * p[1])];
            let height = self.height(warp.apply(q), &phases, &cells);
            let noise = grain * s.normal();
            pixels.extend(blend(&palette, height).map(|c| to_byte(light.apply(c, p) + noise)));
        }
        pixels
    }

    /// The pattern at a point, in `[0, 1]`.
    fn height(&self, p: [f64; 2], phases: &[f64], cells: &Cells) -> f64 {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (grating, phase) in self.gratings.iter().zip(phases) {
            let (sin, cos) = grating.angle.sin_cos();
            let wave = (TAU / 2.0 * grating.frequency * (cos * p[0] + sin * p[1]) + phase).sin();
            let sharpness = 1.0 + 5.0 * grating.hardness;
            sum += grating.weight * (sharpness * wave).tanh() / sharpness.tanh();
            weights += grating.weight;
        }
        if self.cell_weight > 0.0 {
            sum += self.cell_weight * cells.at(p);
            weights += self.cell_weight;
        }
        // Waves rarely peak together: stretch the middle of the range.
        0.5 + 0.5 * (1.4 * sum / weights).tanh() / 1.4f64.tanh()
    }
}

/// A jittered grid of points; the plane belongs to the nearest one (Worley's cellular noise).
struct Cells {
    across: f64,
    offset: [f64; 2],
    jitter: Vec<[f64; 2]>,
}

/// Side of the square of random offsets that repeats over the plane; more cells than any image shows.
const PERIOD: i64 = 16;

impl Cells {
    fn random(s: &mut Stream, across: f64) -> Cells {
        Cells {
            across,
            offset: [s.between(0.0, PERIOD as f64), s.between(0.0, PERIOD as f64)],
            jitter: (0..PERIOD * PERIOD).map(|_| [s.between(0.1, 0.9), s.between(0.1, 0.9)]).collect(),
        }
    }

    /// 1 in the middle of a cell, -1 on the border between two.
    fn at(&self, p: [f64; 2]) -> f64 {
        let q: [f64; 2] = std::array::from_fn(|axis| p[axis] * 0.5 * self.across + self.offset[axis]);
        let home = q.map(|x| x.floor() as i64);
        let (mut nearest, mut second) = (f64::MAX, f64::MAX);
        for (dx, dy) in (-2..=2).flat_map(|dx| (-2..=2).map(move |dy| (dx, dy))) {
            let cell = [home[0] + dx, home[1] + dy];
            let jitter = self.jitter[(cell[0].rem_euclid(PERIOD) * PERIOD + cell[1].rem_euclid(PERIOD)) as usize];
            let distance = (cell[0] as f64 + jitter[0] - q[0]).hypot(cell[1] as f64 + jitter[1] - q[1]);
            if distance < nearest {
                (nearest, second) = (distance, nearest);
            } else {
                second = second.min(distance);
            }
        }
        (2.0 * (second - nearest) / 0.6 - 1.0).min(1.0)
    }
}

/// Exposure, contrast and a slope of brightness across the image.
struct Light {
    exposure: f64,
    contrast: f64,
    slope: [f64; 2],
}

impl Light {
    fn random(s: &mut Stream) -> Light {
        Light {
            exposure: s.between(-0.08, 0.08),
            contrast: s.between(0.8, 1.15),
            slope: [s.between(-0.1, 0.1), s.between(-0.1, 0.1)],
        }
    }

    fn apply(&self, value: f64, p: [f64; 2]) -> f64 {
        0.5 + self.contrast * (value - 0.5) + self.exposure + self.slope[0] * p[0] + self.slope[1] * p[1]
    }
}

/// The colour at `height`, linear between the three of the palette.
fn blend(palette: &[[f64; 3]; 3], height: f64) -> [f64; 3] {
    let at = (height * 2.0).clamp(0.0, 2.0);
    let low = (at as usize).min(1);
    let t = at - low as f64;
    std::array::from_fn(|c| palette[low][c] + t * (palette[low + 1][c] - palette[low][c]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_stay_in_the_unit_range_and_use_it() {
        for class in 0..50 {
            let texture = Texture::of_class(3, class);
            let s = &mut stream(3, "test", 0, class);
            let phases = vec![0.3; texture.gratings.len()];
            let cells = Cells::random(s, texture.cells);
            let heights: Vec<f64> = (0..900)
                .map(|i| {
                    texture.height([f64::from(i % 30) / 15.0 - 1.0, f64::from(i / 30) / 15.0 - 1.0], &phases, &cells)
                })
                .collect();
            let (low, high) = heights.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            assert!(low >= 0.0 && high <= 1.0 && high - low > 0.5, "class {class}: {low} {high}");
        }
    }

    #[test]
    fn cells_are_high_inside_and_low_on_their_borders() {
        let cells = Cells::random(&mut stream(1, "test", 0, 0), 4.0);
        let values: Vec<f64> =
            (0..2500).map(|i| cells.at([f64::from(i % 50) / 25.0 - 1.0, f64::from(i / 50) / 25.0 - 1.0])).collect();
        assert!(values.iter().all(|v| (-1.0..=1.0).contains(v)));
        assert!(values.iter().any(|&v| v < -0.8) && values.iter().any(|&v| v > 0.8));
    }

    #[test]
    fn a_blend_meets_the_palette_at_its_ends_and_middle() {
        let palette = [[0.0; 3], [0.2, 0.4, 0.6], [1.0; 3]];
        for (height, expected) in [(0.0, palette[0]), (0.5, palette[1]), (1.0, palette[2]), (0.25, [0.1, 0.2, 0.3])] {
            assert!(blend(&palette, height).iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-12));
        }
    }
}
