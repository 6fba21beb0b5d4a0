//! Stroke characters: a class is a handful of strokes, a sample is one person's drawing of them.
//!
//! Coordinates are those of a page that spans `[-1, 1]` in both directions, y downwards.

use std::f64::consts::TAU;

use super::{Warp, hsv, to_byte};
use crate::math::random::{Stream, stream};

type Point = [f64; 2];

/// One movement of the pen through its control points.
#[derive(Debug, Clone)]
struct Stroke {
    points: Vec<Point>,
    /// A Catmull-Rom curve through the points, or straight lines with corners.
    smooth: bool,
}

/// The strokes of one class.
#[derive(Debug, Clone)]
pub(super) struct Glyph {
    strokes: Vec<Stroke>,
}

impl Glyph {
    /// Two to five strokes, most of which begin on an earlier one; their bounding box fills most of the page.
    pub(super) fn of_class(seed: u64, class: u64) -> Glyph {
        let s = &mut stream(seed, "glyph class", 0, class);
        let count = 2 + s.below(4) as usize;
        let mut strokes: Vec<Stroke> = Vec::with_capacity(count);
        for _ in 0..count {
            let start = match strokes.len() {
                n if n > 0 && s.uniform() < 0.7 => {
                    let touched = &strokes[s.below(n as u64) as usize];
                    touched.points[s.below(touched.points.len() as u64) as usize]
                }
                _ => [s.between(-0.7, 0.7), s.between(-0.7, 0.7)],
            };
            strokes.push(Stroke::random(s, start));
        }
        fit(strokes.iter_mut().flat_map(|stroke| &mut stroke.points), 0.72);
        Glyph { strokes }
    }

    /// RGB pixels of one drawing, `size * size * 3`.
    pub(super) fn draw(&self, seed: u64, class: u64, sample: u64, size: usize) -> Vec<u8> {
        let s = &mut stream(seed, "glyph sample", class, sample);
        let affine = Affine::random(s);
        let warp = Warp::random(s, 0.04);
        let width = s.between(0.055, 0.115);
        let mut ink = vec![0.0f64; size * size];
        for stroke in &self.strokes {
            let jittered: Vec<Point> =
                stroke.points.iter().map(|p| [p[0] + 0.045 * s.normal(), p[1] + 0.045 * s.normal()]).collect();
            let drawn: Vec<Point> = stroke.trace(&jittered).into_iter().map(|p| warp.apply(affine.apply(p))).collect();
            // The pen presses unevenly: thicker in the middle of the stroke, or at one of its ends.
            let (press, lean) = (s.between(-0.25, 0.25), s.between(-0.3, 0.3));
            let last = (drawn.len() - 1) as f64;
            let radius = |i: usize| {
                let t = i as f64 / last * 2.0 - 1.0;
                0.5 * width * (1.0 + press * (1.0 - 2.0 * t * t) + lean * t)
            };
            for (i, ends) in drawn.windows(2).enumerate() {
                cover(&mut ink, size, [ends[0], ends[1]], [radius(i), radius(i + 1)]);
            }
        }
        paint(s, &ink, size)
    }
}

impl Stroke {
    /// A line, a corner, an arc, an S or a ring, beginning at `start`.
    fn random(s: &mut Stream, start: Point) -> Stroke {
        let heading = s.between(0.0, TAU);
        let step = |p: Point, angle: f64, length: f64| [p[0] + length * angle.cos(), p[1] + length * angle.sin()];
        match s.below(6) {
            0 => {
                let end = step(start, heading, s.between(0.8, 1.5));
                Stroke { points: vec![start, end], smooth: false }
            }
            1 => {
                let corner = step(start, heading, s.between(0.5, 1.0));
                let turn = if s.uniform() < 0.5 { 1.0 } else { -1.0 } * s.between(1.2, 2.5);
                Stroke { points: vec![start, corner, step(corner, heading + turn, s.between(0.5, 1.0))], smooth: false }
            }
            2 | 3 => {
                // An arc of 100 to 250 degrees, through five points.
                let radius = s.between(0.3, 0.7);
                let sweep = s.between(1.75, 4.4) * if s.uniform() < 0.5 { 1.0 } else { -1.0 };
                let centre = step(start, heading, radius);
                let points = (0..5).map(|i| step(centre, heading + TAU / 2.0 + sweep * f64::from(i) / 4.0, radius));
                Stroke { points: points.collect(), smooth: true }
            }
            4 => {
                let side = if s.uniform() < 0.5 { 1.0 } else { -1.0 };
                let (length, bulge) = (s.between(0.9, 1.5), s.between(0.2, 0.45));
                let along = |t: f64, across: f64| step(step(start, heading, t * length), heading + TAU / 4.0, across);
                let points = vec![
                    start,
                    along(0.25, side * bulge),
                    along(0.5, 0.0),
                    along(0.75, -side * bulge),
                    along(1.0, 0.0),
                ];
                Stroke { points, smooth: true }
            }
            _ => {
                let radius = s.between(0.15, 0.35);
                let centre = step(start, heading, radius);
                let points = (0..=6).map(|i| step(centre, heading + TAU / 2.0 + TAU * f64::from(i) / 6.0, radius));
                Stroke { points: points.collect(), smooth: true }
            }
        }
    }

    /// The curve through `points`, as a polyline fine enough for any image size.
    fn trace(&self, points: &[Point]) -> Vec<Point> {
        const PIECES: usize = 10;
        let at = |i: isize| points[i.clamp(0, points.len() as isize - 1) as usize];
        let mut line = vec![points[0]];
        for i in 0..points.len() as isize - 1 {
            let [a, b, c, d] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
            for k in 1..=PIECES {
                let t = k as f64 / PIECES as f64;
                line.push(std::array::from_fn(|axis| {
                    let [a, b, c, d] = [a[axis], b[axis], c[axis], d[axis]];
                    if !self.smooth {
                        return b + (c - b) * t;
                    }
                    b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))
                }));
            }
        }
        line
    }
}

/// Moves and scales the points so that the longer side of their bounding box spans `[-extent, extent]`.
fn fit<'a>(points: impl Iterator<Item = &'a mut Point>, extent: f64) {
    let mut points: Vec<&mut Point> = points.collect();
    let bounds = |axis: usize| {
        let values = points.iter().map(|p| p[axis]);
        values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)))
    };
    let bounds = [bounds(0), bounds(1)];
    let half = bounds.iter().map(|(low, high)| (high - low) / 2.0).fold(f64::MIN_POSITIVE, f64::max);
    for point in &mut points {
        for axis in 0..2 {
            let (low, high) = bounds[axis];
            point[axis] = (point[axis] - (low + high) / 2.0) / half * extent;
        }
    }
}

/// A small rotation, scale, shear and shift.
struct Affine {
    matrix: [[f64; 2]; 2],
    shift: Point,
}

impl Affine {
    fn random(s: &mut Stream) -> Affine {
        let (sin, cos) = s.between(-0.22, 0.22).sin_cos();
        let (sx, sy, shear) = (s.between(0.82, 1.14), s.between(0.82, 1.14), s.between(-0.2, 0.2));
        Affine {
            matrix: [[cos * sx, (cos * shear - sin) * sy], [sin * sx, (sin * shear + cos) * sy]],
            shift: [s.between(-0.13, 0.13), s.between(-0.13, 0.13)],
        }
    }

    fn apply(&self, p: Point) -> Point {
        std::array::from_fn(|row| self.matrix[row][0] * p[0] + self.matrix[row][1] * p[1] + self.shift[row])
    }
}

/// Raises the ink of the pixels near one segment to their coverage by it; `radii` at its two ends.
fn cover(ink: &mut [f64], size: usize, [a, b]: [Point; 2], radii: [f64; 2]) {
    let pixel = 2.0 / size as f64;
    let reach = radii[0].max(radii[1]) + pixel;
    let index = |x: f64| ((x + 1.0) / pixel).clamp(0.0, size as f64) as usize;
    let range = |axis: usize| index(a[axis].min(b[axis]) - reach)..(index(a[axis].max(b[axis]) + reach) + 1).min(size);
    let d = [b[0] - a[0], b[1] - a[1]];
    let length2 = (d[0] * d[0] + d[1] * d[1]).max(f64::MIN_POSITIVE);
    for row in range(1) {
        for column in range(0) {
            let p = [(column as f64 + 0.5) * pixel - 1.0 - a[0], (row as f64 + 0.5) * pixel - 1.0 - a[1]];
            let t = ((p[0] * d[0] + p[1] * d[1]) / length2).clamp(0.0, 1.0);
            let distance = (p[0] - t * d[0]).hypot(p[1] - t * d[1]);
            let radius = radii[0] + t * (radii[1] - radii[0]);
            let coverage = ((radius - distance) / pixel + 0.5).clamp(0.0, 1.0);
            let value = &mut ink[row * size + column];
            *value = value.max(coverage);
        }
    }
}

/// Ink of a random dark colour on light paper, unevenly lit, with grain and a few specks.
fn paint(s: &mut Stream, ink: &[f64], size: usize) -> Vec<u8> {
    let pen = hsv(s.uniform(), s.between(0.0, 0.8), s.between(0.0, 0.4));
    let paper = hsv(s.uniform(), s.between(0.0, 0.12), s.between(0.82, 1.0));
    let (slope_x, slope_y, grain) = (s.between(-0.08, 0.08), s.between(-0.08, 0.08), s.between(0.01, 0.05));
    let strength = s.between(0.75, 1.0);
    let mut specks = vec![0.0; ink.len()];
    for _ in 0..s.below(4) {
        let at = [s.between(-1.0, 1.0), s.between(-1.0, 1.0)];
        cover(&mut specks, size, [at, at], [s.between(0.01, 0.04); 2]);
    }
    let mut pixels = Vec::with_capacity(ink.len() * 3);
    for (i, (&ink, &speck)) in ink.iter().zip(&specks).enumerate() {
        let (x, y) = ((i % size) as f64 / size as f64 - 0.5, (i / size) as f64 / size as f64 - 0.5);
        let light = 1.0 + 2.0 * (slope_x * x + slope_y * y);
        let noise = grain * s.normal();
        let depth = strength * ink.max(0.6 * speck);
        pixels.extend((0..3).map(|c| to_byte((paper[c] + (pen[c] - paper[c]) * depth) * light + noise)));
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_passes_through_its_points_and_lines_stay_straight() {
        let points = vec![[0.0, 0.0], [0.5, 0.5], [1.0, 0.0]];
        for smooth in [false, true] {
            let line = Stroke { points: points.clone(), smooth }.trace(&points);
            assert_eq!((line.len(), line[0], line[20]), (21, points[0], points[2]));
            assert!((line[10][0] - 0.5).abs() <= 1e-12 && (line[10][1] - 0.5).abs() <= 1e-12);
            let bend = (line[5][1] - line[5][0]).abs();
            assert_eq!(bend > 1e-3, smooth, "{bend}");
        }
    }

    #[test]
    fn coverage_is_the_area_of_a_wide_stroke() {
        let size = 64;
        let mut ink = vec![0.0; size * size];
        cover(&mut ink, size, [[-0.5, 0.1], [0.5, 0.1]], [0.2, 0.2]);
        // A rectangle of 1.0 by 0.4 and a disc of radius 0.2, in units where a pixel has area (2/64)^2.
        let expected = (0.4 + TAU / 2.0 * 0.04) / (2.0f64 / 64.0).powi(2);
        let area: f64 = ink.iter().sum();
        assert!((area / expected - 1.0).abs() <= 0.01, "{area} {expected}");
    }

    #[test]
    fn glyphs_stay_on_the_page_and_fill_it() {
        for class in 0..200 {
            let glyph = Glyph::of_class(5, class);
            assert!((2..=5).contains(&glyph.strokes.len()));
            let points = || glyph.strokes.iter().flat_map(|stroke| stroke.points.iter().flatten());
            let furthest = points().fold(0.0f64, |m, v| m.max(v.abs()));
            assert!((furthest - 0.72).abs() <= 1e-9, "{furthest}");
        }
    }
}
