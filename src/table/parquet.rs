//! Parquet, decoded column by column: what is not asked for is not read, whatever its type.
//!
//! It uses the layer below polars's data frames, which refuse, and in part panic on, types that they do not support
//! (docs/decisions/0015). What a column is follows from the file's own schema and not from the Arrow schema that some
//! writers add: there a categorical is its texts, and a list of fixed size a list.

use std::fs;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use half::f16;
use polars_arrow::array::{
    Array, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, ListArray, PrimitiveArray, Utf8ViewArray,
};
use polars_arrow::datatypes::{ArrowDataType as Type, Field};
use polars_arrow::types::NativeType;
use polars_parquet::parquet::metadata::{ColumnChunkMetadata, FileMetadata};
use polars_parquet::parquet::read::deserialize_metadata;
use polars_parquet::parquet::schema::types::{ParquetType, PrimitiveLogicalType, PrimitiveType};
use polars_parquet::read::schema::parquet_to_arrow_schema;
use polars_parquet::read::{BasicDecompressor, PageReader, column_iter_to_arrays};
use polars_parquet_format::thrift::protocol::{TCompactInputProtocol, TCompactOutputProtocol};
use polars_parquet_format::{FileMetaData, PageHeader};
use serde_json::Value as Json;

use super::{Column, ColumnKind};
use crate::array::{Matrix, Values, whole};
use crate::contained::contained;
use crate::format;

/// An open file.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    metadata: FileMetadata,
    columns: Vec<Column>,
    parts: Vec<Part>,
}

/// The position and type of a column.
#[derive(Debug)]
struct Part {
    field: Field,
    /// Its leaves among those of a row group.
    leaves: Range<usize>,
    /// Whether its elements are numbers of 16 bits, which the schema has as two bytes.
    half: bool,
}

impl File {
    /// Opens the file at `path` and reads what its columns are.
    ///
    /// # Errors
    /// It is not a Parquet file, or is damaged.
    pub fn open(path: &Path) -> Result<Self, String> {
        let mut file = fs::File::open(path).map_err(|e| e.to_string())?;
        let size = file.metadata().map_err(|e| e.to_string())?.len();
        let mut start = Vec::new();
        file.by_ref().take(512).read_to_end(&mut start).map_err(|e| e.to_string())?;
        match format::recognise(&start) {
            Some(format::Known::Parquet) => {}
            Some(known) => return Err(format!("it is {known}, not a .parquet table{}", known.advice())),
            None => return Err("it does not begin as a .parquet table does".to_owned()),
        }
        let metadata = contained(|| footer(&mut file, size)).map_err(damaged)?;
        plausible(&metadata, size).map_err(damaged)?;
        let index = index_columns(&metadata);
        let (mut columns, mut parts, mut leaf) = (Vec::new(), Vec::new(), 0);
        for field in metadata.schema().fields() {
            let leaves = leaf..leaf + leaves(field).len();
            leaf = leaves.end;
            let name = field.name().to_owned();
            let (part, kind, word) = describe(field, leaves)?;
            let index = name.starts_with("__index_level_") || index.contains(&name);
            columns.push(Column { name, kind, word, index });
            parts.push(part);
        }
        Ok(File { file, metadata, columns, parts })
    }

    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub(super) fn texts(&self, column: usize) -> Result<Vec<Option<String>>, String> {
        let Column { name, kind, word, .. } = &self.columns[column];
        let expected = |row: usize, what: String| format!("column {name:?}: row {row} {what}");
        match kind {
            ColumnKind::Null => return Ok(vec![None; self.metadata.num_rows]),
            ColumnKind::Text | ColumnKind::Number => {}
            ColumnKind::List | ColumnKind::Other => {
                return Err(format!("column {name:?} is {word}, expected integers or text"));
            }
        }
        let mut texts = Vec::new();
        self.each(column, |array| {
            let first = texts.len();
            for at in 0..array.len() {
                let text =
                    if array.is_null(at) { None } else { Some(text(array, at).map_err(|e| expected(first + at, e))?) };
                texts.push(text);
            }
            Ok(())
        })?;
        self.complete(name, texts.len())?;
        Ok(texts)
    }

    pub(super) fn matrix(&self, columns: &[usize]) -> Result<Matrix, String> {
        match *columns {
            [only] if self.columns[only].kind == ColumnKind::List => self.lists(only),
            _ => self.side_by_side(columns),
        }
    }

    fn side_by_side(&self, columns: &[usize]) -> Result<Matrix, String> {
        let (rows, dim) = (self.metadata.num_rows, columns.len());
        let narrow = columns.iter().all(|&column| is_narrow(&self.parts[column].field.dtype, self.parts[column].half));
        let mut values = if narrow { Values::F32(Vec::new()) } else { Values::F64(Vec::new()) };
        for (place, &column) in columns.iter().enumerate() {
            let Column { name, kind, word, .. } = &self.columns[column];
            if *kind != ColumnKind::Number {
                return Err(format!("column {name:?} is {word}, expected numbers"));
            }
            let mut row = 0;
            self.each(column, |array| {
                if let Some(at) = (0..array.len()).find(|&at| array.is_null(at)) {
                    return Err(format!("column {name:?} has no value in row {}", row + at));
                }
                // The row count is trusted only once the first column has confirmed it.
                match (&mut values, numbers(array, narrow)?) {
                    (Values::F32(all), Values::F32(some)) => scatter(all, &some, row, place, dim),
                    (Values::F64(all), Values::F64(some)) => scatter(all, &some, row, place, dim),
                    _ => return Err(format!("column {name:?} is {word}, expected numbers")),
                }
                row += array.len();
                Ok(())
            })?;
            self.complete(name, row)?;
        }
        Ok(Matrix { values, rows, dim })
    }

    fn lists(&self, column: usize) -> Result<Matrix, String> {
        let Column { name, .. } = &self.columns[column];
        let part = &self.parts[column];
        let narrow = matches!(&part.field.dtype, Type::LargeList(item) if is_narrow(&item.dtype, part.half));
        let mut values = if narrow { Values::F32(Vec::new()) } else { Values::F64(Vec::new()) };
        let (mut rows, mut dim) = (0, None);
        self.each(column, |array| {
            let lists = array.as_any().downcast_ref::<ListArray<i64>>().ok_or_else(|| format!("column {name:?} is not a list"))?;
            let items = lists.values();
            let (found, holes) = (numbers(items.as_ref(), narrow)?, items.has_nulls());
            for (at, ends) in lists.offsets().buffer().windows(2).enumerate() {
                let row = rows + at;
                if lists.is_null(at) {
                    return Err(format!("column {name:?} has no value in row {row}"));
                }
                let range = ends[0] as usize..ends[1] as usize;
                if let Some(element) = range.clone().position(|item| holes && items.is_null(item)) {
                    return Err(format!("column {name:?} has no value in row {row} at element {element}"));
                }
                let first = *dim.get_or_insert(range.len());
                if range.len() != first {
                    let found = range.len();
                    return Err(format!("column {name:?}: row {row} has {found} numbers, row 0 has {first}, expected vectors of one length"));
                }
                match (&mut values, &found) {
                    (Values::F32(all), Values::F32(some)) => all.extend_from_slice(&some[range]),
                    (Values::F64(all), Values::F64(some)) => all.extend_from_slice(&some[range]),
                    _ => return Err(format!("column {name:?} is not a list of numbers")),
                }
            }
            rows += lists.len();
            Ok(())
        })?;
        self.complete(name, rows)?;
        Ok(Matrix { values, rows, dim: dim.unwrap_or(0) })
    }

    /// Passes the arrays of a column, one per row group, to `use_it`.
    fn each(&self, column: usize, mut use_it: impl FnMut(&dyn Array) -> Result<(), String>) -> Result<(), String> {
        let part = &self.parts[column];
        for group in &self.metadata.row_groups {
            let chunks = &group.parquet_columns()[part.leaves.clone()];
            let mut pages = Vec::with_capacity(chunks.len());
            for chunk in chunks {
                let range = chunk.byte_range();
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let mut file = &self.file;
                file.seek(SeekFrom::Start(range.start))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map_err(|e| e.to_string())?;
                contained(|| plausible_pages(&bytes, chunk)).map_err(|e| self.spoilt(column, e))?;
                pages.push(PageReader::new(Cursor::new(bytes.into()), chunk, Vec::new(), usize::MAX));
            }
            let arrays = contained(|| {
                let columns = pages.into_iter().map(|pages| BasicDecompressor::new(pages, Vec::new())).collect();
                let types = chunks.iter().map(|chunk| &chunk.descriptor().descriptor.primitive_type).collect();
                column_iter_to_arrays(columns, types, part.field.clone(), None).map_err(|e| e.to_string())
            });
            for array in arrays.map_err(|e| self.spoilt(column, e))?.0 {
                use_it(array.as_ref())?;
            }
        }
        Ok(())
    }

    fn spoilt(&self, column: usize, what: String) -> String {
        format!("column {:?}: {}", self.columns[column].name, damaged(what))
    }

    /// A column must have as many rows as the file says.
    fn complete(&self, name: &str, rows: usize) -> Result<(), String> {
        match self.metadata.num_rows {
            expected if expected == rows => Ok(()),
            expected => Err(format!("column {name:?} has {rows} rows, expected {expected}: the file is damaged")),
        }
    }
}

fn damaged(what: String) -> String {
    format!("the file is damaged: {what}; write or fetch it again")
}

/// The metadata at the end of a file of `size` bytes. polars-parquet allocates what its lists claim, 182 GiB from a file of
/// 12 KiB, so it gets only what a stricter reader has read and rewritten.
fn footer(file: &mut fs::File, size: u64) -> Result<FileMetadata, String> {
    let mut end = [0; 8];
    file.seek(SeekFrom::Start(size.saturating_sub(8)))
        .and_then(|_| file.read_exact(&mut end))
        .map_err(|e| e.to_string())?;
    let [length @ .., b'P', b'A', b'R', b'1'] = end else { return Err("it does not end with PAR1".to_owned()) };
    let length = u64::from(u32::from_le_bytes(length));
    let Some(start) = (size - 8).checked_sub(length) else {
        return Err(format!("a footer of {length} bytes in a file of {size}"));
    };
    let mut bytes = vec![0; length as usize];
    file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes)).map_err(|e| e.to_string())?;
    // The reader counts eight bytes for each element of a list, which takes at least one.
    let mut input = TCompactInputProtocol::new(bytes.as_slice(), 16 * bytes.len());
    let checked = FileMetaData::read_from_in_protocol(&mut input).map_err(|e| format!("its footer: {e}"))?;
    let mut bytes = Vec::with_capacity(bytes.len());
    checked.write_to_out_protocol(&mut TCompactOutputProtocol::new(&mut bytes)).map_err(|e| e.to_string())?;
    deserialize_metadata(bytes.into()).map_err(|e| e.to_string())
}

/// Refuses impossible counts and offsets before the decoder allocates memory for them.
fn plausible(metadata: &FileMetadata, size: u64) -> Result<(), String> {
    // A run of equal values takes a few bytes, so there may be far more values than bytes, but there is a bound: as
    // texts they take less than a GiB.
    let most = (1 << 24) + (size << 8);
    let count = |count: i64| u64::try_from(count).is_ok_and(|count| count <= most);
    let mut rows = 0_u64;
    for group in &metadata.row_groups {
        rows = rows.saturating_add(group.num_rows() as u64);
        for chunk in group.parquet_columns() {
            if chunk.byte_range().end > size {
                return Err(format!("a column ends after its {size} bytes"));
            }
            if !count(chunk.num_values()) {
                return Err(format!("a column of {} values", chunk.num_values()));
            }
        }
    }
    match metadata.num_rows as u64 {
        expected if expected != rows => Err(format!("it says that it has {expected} rows, and its parts have {rows}")),
        rows if rows > most => Err(format!("it says that it has {rows} rows")),
        _ => Ok(()),
    }
}

/// Refuses the pages of a column chunk whose headers claim more values than the chunk has, or more bytes than their compressed
/// form can hold, before the decoder allocates memory for them.
fn plausible_pages(bytes: &[u8], chunk: &ColumnChunkMetadata) -> Result<(), String> {
    let values = chunk.num_values();
    let (mut rest, mut seen) = (Cursor::new(bytes), 0);
    while seen < values {
        let mut protocol = TCompactInputProtocol::new(&mut rest, bytes.len());
        let page = PageHeader::read_from_in_protocol(&mut protocol).map_err(|e| format!("a page header: {e}"))?;
        let size = i64::from(page.compressed_page_size);
        let count = match (&page.data_page_header, &page.data_page_header_v2) {
            (Some(page), _) => i64::from(page.num_values),
            (None, Some(page)) => i64::from(page.num_values),
            (None, None) => 0,
        };
        // Gzip stores at most 1,032 bytes in one; other codecs are above that only for pages of equal bytes.
        let most = (1 << 26) + size.saturating_mul(1 << 10);
        if size < 0 || i64::from(page.uncompressed_page_size) > most {
            return Err(format!("a page of {size} bytes, and {} when decompressed", page.uncompressed_page_size));
        }
        if !(0..=values - seen).contains(&count) {
            return Err(format!("a page of {count} values in a column of {values}"));
        }
        if let Some(dictionary) = &page.dictionary_page_header
            && i64::from(dictionary.num_values) > i64::from(page.uncompressed_page_size)
        {
            return Err(format!("a dictionary of {} values", dictionary.num_values));
        }
        seen += count;
        let next = rest.position() + size as u64;
        if next > bytes.len() as u64 {
            return Err("a page ends after its column".to_owned());
        }
        rest.set_position(next);
    }
    Ok(())
}

/// The columns that pandas says are indexes, in the metadata that it adds.
fn index_columns(metadata: &FileMetadata) -> Vec<String> {
    let notes = metadata.key_value_metadata().iter().flatten();
    let pandas = notes.filter(|note| note.key == "pandas").find_map(|note| note.value.as_deref());
    let pandas: Json = pandas.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    // A range index is an object that describes it, not a column.
    pandas["index_columns"].as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
}

/// The leaves of a column, of which a struct has several.
fn leaves(field: &ParquetType) -> Vec<&PrimitiveType> {
    match field {
        ParquetType::PrimitiveType(leaf) => vec![leaf],
        ParquetType::GroupType { fields, .. } => fields.iter().flat_map(leaves).collect(),
    }
}

fn describe(field: &ParquetType, at: Range<usize>) -> Result<(Part, ColumnKind, String), String> {
    let logical = match leaves(field)[..] {
        [leaf] => leaf.logical_type,
        _ => None,
    };
    let schema = parquet_to_arrow_schema(std::slice::from_ref(field));
    let Some(arrow) = schema.iter_values().next().cloned() else {
        return Err(format!("column {:?} has no content", field.name()));
    };
    let half = logical == Some(PrimitiveLogicalType::Float16);
    let (kind, word) = match &arrow.dtype {
        _ if logical == Some(PrimitiveLogicalType::Unknown) => (ColumnKind::Null, "null".to_owned()),
        Type::LargeList(item) => {
            let (kind, word) = scalar(&item.dtype, half);
            (if kind == ColumnKind::Number { ColumnKind::List } else { ColumnKind::Other }, format!("lists of {word}"))
        }
        scalar_type => scalar(scalar_type, half),
    };
    Ok((Part { field: arrow, leaves: at, half }, kind, word))
}

/// What a value other than a list is.
fn scalar(dtype: &Type, half: bool) -> (ColumnKind, String) {
    let (kind, word) = match dtype {
        Type::Utf8View => (ColumnKind::Text, "text"),
        Type::BinaryView => (ColumnKind::Text, "bytes"),
        Type::Boolean => (ColumnKind::Number, "bool"),
        Type::Int8 => (ColumnKind::Number, "int8"),
        Type::Int16 => (ColumnKind::Number, "int16"),
        Type::Int32 => (ColumnKind::Number, "int32"),
        Type::Int64 => (ColumnKind::Number, "int64"),
        Type::UInt8 => (ColumnKind::Number, "uint8"),
        Type::UInt16 => (ColumnKind::Number, "uint16"),
        Type::UInt32 => (ColumnKind::Number, "uint32"),
        Type::UInt64 => (ColumnKind::Number, "uint64"),
        Type::Float32 => (ColumnKind::Number, "float32"),
        Type::Float64 => (ColumnKind::Number, "float64"),
        Type::Decimal(..) => (ColumnKind::Number, "decimals"),
        Type::FixedSizeBinary(2) if half => (ColumnKind::Number, "float16"),
        Type::FixedSizeBinary(_) => (ColumnKind::Other, "raw bytes"),
        Type::Date32 | Type::Date64 => (ColumnKind::Other, "dates"),
        Type::Time32(_) | Type::Time64(_) => (ColumnKind::Other, "times of day"),
        Type::Timestamp(..) => (ColumnKind::Other, "timestamps"),
        Type::Struct(_) => (ColumnKind::Other, "structs"),
        Type::LargeList(_) => (ColumnKind::Other, "lists"),
        _ => (ColumnKind::Other, "of a type that is not read"),
    };
    (kind, word.to_owned())
}

/// Whether 32 bits hold every number of the type exactly.
fn is_narrow(dtype: &Type, half: bool) -> bool {
    half || matches!(dtype, Type::Float32 | Type::Boolean | Type::Int8 | Type::Int16 | Type::UInt8 | Type::UInt16)
}

fn primitive<T: NativeType>(array: &dyn Array) -> Option<&[T]> {
    array.as_any().downcast_ref::<PrimitiveArray<T>>().map(|array| array.values().as_slice())
}

/// The numbers of an array, in 32 bits if `narrow`; anything where it is null.
fn numbers(array: &dyn Array, narrow: bool) -> Result<Values, String> {
    let unexpected = || format!("the decoder gave {:?}", array.dtype());
    macro_rules! all {
        ($from:ty, $narrow:ty) => {
            primitive::<$from>(array).map(|values| Values::F32(values.iter().map(|&x| <$narrow>::from(x)).collect()))
        };
        ($from:ty) => {
            primitive::<$from>(array).map(|values| Values::F64(values.iter().map(|&x| x as f64).collect()))
        };
    }
    let values = match array.dtype() {
        Type::Float32 => primitive::<f32>(array).map(|values| Values::F32(values.to_vec())),
        Type::Int8 => all!(i8, f32),
        Type::Int16 => all!(i16, f32),
        Type::UInt8 => all!(u8, f32),
        Type::UInt16 => all!(u16, f32),
        Type::Int32 => all!(i32),
        Type::Int64 => all!(i64),
        Type::UInt32 => all!(u32),
        Type::UInt64 => all!(u64),
        Type::Float64 => primitive::<f64>(array).map(|values| Values::F64(values.to_vec())),
        Type::Decimal(_, scale) => {
            let unit = 10.0_f64.powi(i32::try_from(*scale).unwrap_or(i32::MAX));
            primitive::<i128>(array).map(|values| Values::F64(values.iter().map(|&x| x as f64 / unit).collect()))
        }
        Type::Boolean => array
            .as_any()
            .downcast_ref::<BooleanArray>()
            .map(|array| Values::F32(array.values_iter().map(|x| f32::from(u8::from(x))).collect())),
        Type::FixedSizeBinary(2) => array.as_any().downcast_ref::<FixedSizeBinaryArray>().map(|array| {
            let halves = array.values().as_slice().as_chunks().0.iter();
            Values::F32(halves.map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect())
        }),
        _ => None,
    };
    let values = values.ok_or_else(unexpected)?;
    Ok(if narrow { values } else { Values::F64(values.wide()) })
}

/// The value at `at`, which is not null, as text.
fn text(array: &dyn Array, at: usize) -> Result<String, String> {
    let any = array.as_any();
    macro_rules! digits {
        ($integer:ty) => {
            primitive::<$integer>(array).map(|values| Ok(values[at].to_string()))
        };
    }
    let text = match array.dtype() {
        Type::Utf8View => any.downcast_ref::<Utf8ViewArray>().map(|array| Ok(array.value(at).to_owned())),
        Type::BinaryView => any
            .downcast_ref::<BinaryViewArray>()
            .map(|array| String::from_utf8(array.value(at).to_vec()).map_err(|_| "is no UTF-8 text".to_owned())),
        Type::Boolean => any.downcast_ref::<BooleanArray>().map(|array| Ok(array.value(at).to_string())),
        Type::Int8 => digits!(i8),
        Type::Int16 => digits!(i16),
        Type::Int32 => digits!(i32),
        Type::Int64 => digits!(i64),
        Type::UInt8 => digits!(u8),
        Type::UInt16 => digits!(u16),
        Type::UInt32 => digits!(u32),
        Type::UInt64 => digits!(u64),
        Type::Decimal(_, scale) => primitive::<i128>(array).map(|values| {
            let unit = 10_i128.checked_pow(u32::try_from(*scale).unwrap_or(u32::MAX));
            match unit.filter(|unit| values[at] % unit == 0) {
                Some(unit) => Ok((values[at] / unit).to_string()),
                None => Err("is a decimal that is not whole, expected an integer or a text".to_owned()),
            }
        }),
        Type::Float32 => primitive::<f32>(array).map(|values| whole(f64::from(values[at]))),
        Type::Float64 => primitive::<f64>(array).map(|values| whole(values[at])),
        Type::FixedSizeBinary(2) => any.downcast_ref::<FixedSizeBinaryArray>().map(|array| {
            let bytes = array.value(at).first_chunk().copied().unwrap_or_default();
            whole(f64::from(f16::from_le_bytes(bytes).to_f32()))
        }),
        _ => None,
    };
    text.unwrap_or_else(|| Err(format!("is {:?}", array.dtype())))
}

/// Puts the elements of a column from `row` on into their places in rows of `dim`.
fn scatter<T: Copy + Default>(all: &mut Vec<T>, some: &[T], row: usize, place: usize, dim: usize) {
    let end = (row + some.len()) * dim;
    if all.len() < end {
        all.resize(end, T::default());
    }
    for (slot, &value) in all[row * dim..].iter_mut().skip(place).step_by(dim).zip(some) {
        *slot = value;
    }
}
