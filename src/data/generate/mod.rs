//! Image sets drawn from a seed, so that a pipeline needs no network.

mod glyphs;
mod miniature;
mod textures;

use std::io::BufWriter;
use std::path::Path;

use fs_err::{self as fs, File};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::error::DataError;
use crate::math::random::Stream;

pub use self::miniature::GeneratedLayout;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Stroke characters in the manner of Omniglot (Lake et al. 2015): a class is a few strokes, a sample one drawing.
    Glyphs,
    /// Coloured patterns: a class is a set of warped gratings and a palette, a sample one piece of that cloth.
    Textures,
}

/// An image set to draw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeneratorSpec {
    pub family: Family,
    /// Number of classes. Default 100, range `1..=1000000`.
    #[serde(default = "hundred")]
    pub classes: u32,
    /// Images of each class. Default 20, range `1..=1000000`.
    #[serde(default = "twenty")]
    pub per_class: u32,
    /// Side of an image in pixels. Default 32, range `8..=1024`.
    #[serde(default = "thirty_two")]
    pub size: u32,
    /// Default 0.
    #[serde(default)]
    pub seed: u64,
    /// Default `folder`. The other layouts take at most 1000000 images.
    #[serde(default)]
    pub layout: GeneratedLayout,
}

fn hundred() -> u32 {
    100
}

fn twenty() -> u32 {
    20
}

fn thirty_two() -> u32 {
    32
}

impl GeneratorSpec {
    /// Fields outside their ranges.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = [
            ("classes", self.classes, 1..=1_000_000),
            ("per_class", self.per_class, 1..=1_000_000),
            ("size", self.size, 8..=1024),
        ]
        .into_iter()
        .filter(|(_, value, range)| !range.contains(value))
        .map(|(field, value, range)| (field.to_owned(), format!("is {value}, expected an integer in {range:?}")))
        .collect();
        let images = u64::from(self.classes) * u64::from(self.per_class);
        if self.layout != GeneratedLayout::Folder && images > 1_000_000 {
            let message = format!("asks for {images} images with `per_class`, expected at most 1000000 in this layout");
            problems.push(("classes".to_owned(), message));
        }
        problems
    }
}

/// Draws the images as `CLASS/SAMPLE.png` (RGB, numbered from 0) into `into`, or as another layout has them, and returns
/// how many.
///
/// Image `(class, sample)` depends on the family, the seed, the size and its two numbers only: more classes or samples
/// add files and change none.
pub fn generate(spec: &GeneratorSpec, into: &Path) -> Result<u64, DataError> {
    DataError::first_of(spec.check())?;
    let count = u64::from(spec.classes) * u64::from(spec.per_class);
    if spec.layout != GeneratedLayout::Folder {
        miniature::write(spec, into)?;
        return Ok(count);
    }
    let digits = |count: u32, least: usize| (count - 1).to_string().len().max(least);
    let (class_digits, sample_digits) = (digits(spec.classes, 3), digits(spec.per_class, 2));
    (0..spec.classes).into_par_iter().try_for_each(|class| {
        let folder = into.join(format!("{class:0class_digits$}"));
        fs::create_dir_all(&folder)?;
        let draw = class_of(spec, u64::from(class));
        (0..spec.per_class).try_for_each(|sample| {
            let path = folder.join(format!("{sample:0sample_digits$}.png"));
            let file = BufWriter::new(File::create(&path)?);
            PngEncoder::new(file)
                .write_image(&draw(u64::from(sample)), spec.size, spec.size, ExtendedColorType::Rgb8)
                .map_err(|e| DataError::Encode { path: path.clone(), message: e.to_string() })
        })
    })?;
    Ok(count)
}

/// The function from a sample's number to its pixels.
fn class_of(spec: &GeneratorSpec, class: u64) -> Box<dyn Fn(u64) -> Vec<u8> + Sync> {
    let (seed, size) = (spec.seed, spec.size as usize);
    match spec.family {
        Family::Glyphs => {
            let glyph = glyphs::Glyph::of_class(seed, class);
            Box::new(move |sample| glyph.draw(seed, class, sample, size))
        }
        Family::Textures => {
            let texture = textures::Texture::of_class(seed, class);
            Box::new(move |sample| texture.draw(seed, class, sample, size))
        }
    }
}

/// A smooth random displacement of the plane: a sum of three plane waves of wavelength around 2 for each axis.
struct Warp([[f64; 4]; 6]);

impl Warp {
    /// `strength` is the standard deviation of the displacement along one axis.
    fn random(s: &mut Stream, strength: f64) -> Warp {
        // Three waves of variance a^2 / 2 each.
        let amplitude = strength * (2.0f64 / 3.0).sqrt();
        Warp(std::array::from_fn(|_| {
            let (angle, frequency) = (s.between(0.0, std::f64::consts::TAU), s.between(1.5, 4.5));
            [frequency * angle.cos(), frequency * angle.sin(), s.between(0.0, std::f64::consts::TAU), amplitude]
        }))
    }

    fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let wave = |w: &[f64; 4]| w[3] * (w[0] * x + w[1] * y + w[2]).sin();
        [x + self.0[..3].iter().map(wave).sum::<f64>(), y + self.0[3..].iter().map(wave).sum::<f64>()]
    }
}

/// RGB in `[0, 1]` of a hue (turns), a saturation and a value.
fn hsv(hue: f64, saturation: f64, value: f64) -> [f64; 3] {
    [5.0, 3.0, 1.0].map(|n| {
        let k = (n + hue.rem_euclid(1.0) * 6.0) % 6.0;
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

fn to_byte(x: f64) -> u8 {
    (x.clamp(0.0, 1.0) * 255.0).round() as u8
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const FAMILIES: [Family; 2] = [Family::Glyphs, Family::Textures];

    fn spec(family: Family) -> GeneratorSpec {
        GeneratorSpec { family, classes: 6, per_class: 3, size: 16, seed: 11, layout: GeneratedLayout::Folder }
    }

    fn files(spec: &GeneratorSpec, threads: usize) -> BTreeMap<String, Vec<u8>> {
        let room = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let count = pool.install(|| generate(spec, room.path())).unwrap();
        let files: BTreeMap<_, _> = walkdir::WalkDir::new(room.path())
            .into_iter()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| {
                let name = entry.path().strip_prefix(room.path()).unwrap().to_str().unwrap().to_owned();
                (name, fs::read(entry.path()).unwrap())
            })
            .collect();
        assert_eq!(count, files.len() as u64);
        files
    }

    #[test]
    fn the_bytes_depend_on_the_seed_and_not_on_the_threads() {
        for family in FAMILIES {
            let one = files(&spec(family), 1);
            assert!(one == files(&spec(family), 2) && one == files(&spec(family), 4));
            assert_eq!(one.keys().next().map(String::as_str), Some("000/00.png"));
            let other = files(&GeneratorSpec { seed: 12, ..spec(family) }, 1);
            assert!(one.iter().all(|(name, bytes)| other[name] != *bytes), "{family:?}");
        }
    }

    #[test]
    fn more_classes_and_samples_change_no_file_that_was_there() {
        for family in FAMILIES {
            let few = files(&spec(family), 2);
            let many = files(&GeneratorSpec { classes: 8, per_class: 5, ..spec(family) }, 2);
            assert_eq!(many.len(), 40);
            assert!(few.iter().all(|(name, bytes)| many[name] == *bytes), "{family:?}");
        }
    }

    /// Samples of one class must resemble one another more than those of other classes, on average, in the shape of
    /// their grey values' spectrum; and never be copies.
    #[test]
    fn samples_of_a_class_differ_and_classes_differ_more() {
        for family in FAMILIES {
            let spec = GeneratorSpec { size: 32, ..spec(family) };
            let images: Vec<Vec<Vec<f64>>> = (0..12)
                .map(|class| {
                    let draw = class_of(&spec, class);
                    (0..8).map(|sample| spectrum(&draw(sample), 32)).collect()
                })
                .collect();
            let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
            let (mut within, mut between) = (Vec::new(), Vec::new());
            for (c, class) in images.iter().enumerate() {
                for (other, others) in images.iter().enumerate() {
                    for (i, a) in class.iter().enumerate() {
                        for b in others.iter().skip(if c == other { i + 1 } else { 0 }) {
                            if c == other { &mut within } else { &mut between }.push(distance(a, b));
                        }
                    }
                }
            }
            assert!(within.iter().all(|&d| d > 0.0), "{family:?} repeats a sample");
            let mean = |d: &[f64]| d.iter().sum::<f64>() / d.len() as f64;
            assert!(mean(&between) > 1.1 * mean(&within), "{family:?}: {} {}", mean(&between), mean(&within));
        }
    }

    /// Magnitudes of the lowest 2-d Fourier coefficients of each channel: the same wherever the drawing is.
    fn spectrum(pixels: &[u8], size: usize) -> Vec<f64> {
        let mut out = Vec::new();
        for channel in 0..3 {
            for (u, v) in (0..6).flat_map(|u| (-5i32..6).map(move |v| (u, v))) {
                let (mut re, mut im) = (0.0, 0.0);
                for (i, pixel) in pixels.chunks_exact(3).enumerate() {
                    let phase = std::f64::consts::TAU / size as f64
                        * (f64::from(u) * (i % size) as f64 + f64::from(v) * (i / size) as f64);
                    re += f64::from(pixel[channel]) * phase.cos();
                    im += f64::from(pixel[channel]) * phase.sin();
                }
                out.push(re.hypot(im).ln_1p());
            }
        }
        out
    }

    #[test]
    fn hues_are_those_of_the_colour_wheel() {
        for (hue, expected) in [(0.0, [1.0, 0.0, 0.0]), (1.0 / 3.0, [0.0, 1.0, 0.0]), (2.0 / 3.0, [0.0, 0.0, 1.0])] {
            let rgb = hsv(hue, 1.0, 1.0);
            assert!(rgb.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-12), "{rgb:?}");
        }
        assert_eq!(hsv(0.3, 0.0, 0.5), [0.5; 3]);
    }

    #[test]
    fn specs_are_read_strictly_and_ranges_checked() {
        let spec: GeneratorSpec = serde_json::from_str(r#"{"family": "glyphs"}"#).unwrap();
        assert_eq!((spec.classes, spec.per_class, spec.size, spec.seed), (100, 20, 32, 0));
        assert!(spec.check().is_empty());
        let error =
            serde_json::from_str::<GeneratorSpec>(r#"{"family": "glyphs", "sizes": 3}"#).unwrap_err().to_string();
        assert!(error.starts_with("unknown field `sizes`, expected one of `family`"), "{error}");
        let wrong = GeneratorSpec { classes: 0, per_class: 0, size: 7, ..spec };
        let fields: Vec<_> = wrong.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["classes", "per_class", "size"]);
        let room = tempfile::tempdir().unwrap();
        assert!(matches!(generate(&wrong, room.path()), Err(DataError::Parameter { .. })));
    }
}
