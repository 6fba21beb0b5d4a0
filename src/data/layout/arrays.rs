//! Images in a NumPy array, labels in another.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use npyz::{DType, NpyFile, NpyHeader, Order, TypeChar};

use super::{Found, Image};
use crate::data::decode::Rgb;
use crate::data::error::DataError;

/// Reads the labels; the images are entries `FILE.npy[I]`, which [`image`] reads. Classes come in the order of their
/// numbers.
pub(super) fn read(root: &Path, images: &str, labels: &str) -> Result<Found, DataError> {
    let path = root.join(images);
    let mut file = File::open(&path).map_err(DataError::io("open", &path))?;
    let shape = header(&mut file).map_err(|message| DataError::Content { path, message })?;
    let path = root.join(labels);
    let wrong = |message: String| DataError::Content { path: path.clone(), message };
    let numbers = integers(File::open(&path).map_err(DataError::io("open", &path))?).map_err(wrong)?;
    if numbers.len() as u64 != shape.images {
        return Err(wrong(format!(
            "it holds {} labels, expected {}, one for each image of {images}",
            numbers.len(),
            shape.images
        )));
    }
    if !images.ends_with(".npy") {
        return Err(wrong(format!("expected images in a file whose name ends in .npy, found {images:?}")));
    }
    let image = |i| Image { path: format!("{images}[{i}]"), split: None, group: None };
    let classes = Found::by_class(numbers.into_iter().enumerate().map(|(i, label)| (label, image(i))), i64::to_string);
    Ok(Found { root: root.to_owned(), classes, ..Found::default() })
}

/// The file and the index of a path `FILE.npy[I]`.
pub(in crate::data) fn element(path: &str) -> Option<(&str, u64)> {
    let (file, index) = path.strip_suffix(']')?.rsplit_once('[')?;
    Some((file, index.parse().ok()?)).filter(|_| file.ends_with(".npy"))
}

/// Reads image `index` of an array.
pub(in crate::data) fn image(path: &Path, index: u64) -> Result<Rgb, String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let shape = header(&mut file)?;
    if index >= shape.images {
        return Err(format!("there is no image {index}; the array has {}", shape.images));
    }
    let bytes = shape.bytes();
    let mut pixels = vec![0; bytes as usize];
    file.seek(SeekFrom::Start(shape.start + index * bytes)).map_err(|e| e.to_string())?;
    file.read_exact(&mut pixels).map_err(|e| e.to_string())?;
    Ok(Rgb { width: shape.width, height: shape.height, pixels })
}

/// Where the pixels of an array lie.
struct Shape {
    /// The byte at which they begin.
    start: u64,
    images: u64,
    height: u32,
    width: u32,
}

impl Shape {
    /// Bytes of one image.
    fn bytes(&self) -> u64 {
        u64::from(self.height) * u64::from(self.width) * 3
    }
}

/// Reads the header of an array of images; the file must be as long as it says.
fn header(file: &mut File) -> Result<Shape, String> {
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let header = NpyHeader::from_reader(&mut *file).map_err(|e| e.to_string())?;
    let start = file.stream_position().map_err(|e| e.to_string())?;
    let expected = "expected unsigned bytes of shape (N, H, W, 3) in C order";
    let DType::Plain(kind) = header.dtype() else { return Err(format!("it has fields; {expected}")) };
    let &[images, height, width, 3] = header.shape() else {
        return Err(format!("its shape is {:?}; {expected}", header.shape()));
    };
    if (kind.type_char(), kind.size_field()) != (TypeChar::Uint, 1) {
        return Err(format!("its elements are {kind}; {expected}"));
    }
    if header.order() != Order::C {
        return Err(format!("it is in Fortran order; {expected} (numpy.ascontiguousarray)"));
    }
    let side = |n: u64| u32::try_from(n).ok().filter(|n| (1..=1 << 16).contains(n));
    let (Some(height), Some(width)) = (side(height), side(width)) else {
        return Err(format!("its images have {height} x {width} pixels, expected 1 to 65536 a side"));
    };
    let pixels = images.checked_mul(u64::from(height) * u64::from(width) * 3).filter(|&bytes| bytes <= size - start);
    if pixels.is_none() {
        return Err(format!("it has {size} bytes, fewer than its shape {:?} needs", header.shape()));
    }
    Ok(Shape { start, images, height, width })
}

fn integers(file: File) -> Result<Vec<i64>, String> {
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let mut file = NpyFile::new(BufReader::new(file)).map_err(|e| e.to_string())?;
    if file.shape().len() != 1 {
        return Err(format!("its shape is {:?}, expected (N)", file.shape()));
    }
    // A header may claim any length; memory is only taken for what the file can hold.
    let width = file.dtype().num_bytes().unwrap_or(0) as u64;
    if file.shape()[0].checked_mul(width).is_none_or(|bytes| bytes > size) {
        return Err(format!("it has {size} bytes, fewer than its shape {:?} needs", file.shape()));
    }
    let kind = file.dtype().descr();
    macro_rules! try_each {
        ($($integer:ty),*) => {
            $(file = match file.try_data::<$integer>() {
                Ok(data) => {
                    return data.map(|x| x.map(i64::from)).collect::<Result<_, _>>().map_err(|e| e.to_string());
                }
                Err(file) => file,
            };)*
        };
    }
    try_each!(i64, i32, u8, u32, i16, u16, i8);
    drop(file);
    Err(format!("its elements are {kind}, expected integers of at most 64 bits with a sign"))
}
