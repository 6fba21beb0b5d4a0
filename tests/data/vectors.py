#!/usr/bin/env python3
"""Writes the tables and tensors below tests/data/vectors that only Python's libraries write: python3 tests/data/vectors.py

Needs numpy, pandas, pyarrow and torch. Every file holds the same four vectors of length 2, of two classes.
"""

import datetime
import decimal
import pathlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

HERE = pathlib.Path(__file__).parent / "vectors"
VECTORS = np.array([[1.0, 2.5], [-3.0, 4.0], [5.0, 6.0], [0.5, -0.25]], "f4")
CODES = [0, 0, 1, 1]
NAMES = ["cat", "cat", "dog", "dog"]


def frame(prefix="f"):
    table = pd.DataFrame(VECTORS, columns=[f"{prefix}{i}" for i in range(2)])
    table["label"] = pd.Categorical(NAMES)
    return table


def pandas_frames():
    shuffled = frame().iloc[[3, 1, 0, 2]]
    shuffled.insert(0, "image_id", np.arange(4) + 1000)
    shuffled["score"] = [0.5, 0.25, 0.5, 0.25]
    shuffled.to_parquet(HERE / "shuffled.parquet")
    frame().set_index(pd.Index([7, 5, 4, 1], name="row")).to_parquet(HERE / "named_index.parquet")
    plain = pd.DataFrame(VECTORS)
    plain.columns = plain.columns.astype(str)
    plain["label"] = np.array(CODES, "i1")
    plain.to_parquet(HERE / "numbers.parquet")


def types():
    """Every type that holds vectors, every one that holds labels, and some that hold neither, in one table."""
    rows, halves = VECTORS.tolist(), [[np.float16(x) for x in row] for row in VECTORS]
    integer = pa.array(CODES)
    columns = {
        "v_list": pa.array(rows, pa.list_(pa.float32())),
        "v_fixed": pa.array(rows, pa.list_(pa.float32(), 2)),
        "v_large": pa.array(rows, pa.large_list(pa.float64())),
        "v_half": pa.array(halves, pa.list_(pa.float16())),
        "v_fixed_half": pa.array(halves, pa.list_(pa.float16(), 2)),
        "i_int8": pa.array([[1, 2], [3, -4], [5, 6], [7, 8]], pa.list_(pa.int8())),
        "x_lists": pa.array([[row] for row in rows], pa.list_(pa.list_(pa.float32()))),
        "x_null_row": pa.array([rows[0], None, rows[2], rows[3]], pa.list_(pa.float32())),
        "x_null_element": pa.array([rows[0], [None, 1.0], rows[2], rows[3]], pa.list_(pa.float32())),
        "x_ragged": pa.array([rows[0], [1.0], rows[2], rows[3]], pa.list_(pa.float32())),
        "l_float": pa.array([0.0, 0.0, 1.0, 1.0]),
        "l_half": pa.array([np.float16(x) for x in CODES]),
        "l_decimal": integer.cast(pa.decimal128(20, 0)),
        "t_text": pa.array(NAMES),
        "t_large": pa.array(NAMES, pa.large_string()),
        "t_view": pa.array(NAMES, pa.string_view()),
        "t_bytes": pa.array([name.encode() for name in NAMES]),
        "t_dictionary": pa.array(NAMES).dictionary_encode(),
        "b_bool": pa.array([False, False, True, True]),
        "n_null": pa.array([0, None, 1, 1]),
        "n_nan": pa.array([0.0, float("nan"), 1.0, 1.0]),
        "n_fraction": pa.array([0.0, 0.5, 1.0, 1.0]),
        "n_decimal": pa.array([decimal.Decimal("0.50")] * 4),
        "o_struct": pa.array([{"bytes": b"1", "path": "a.jpg"}] * 4),
        "o_date": pa.array([datetime.date(2024, 1, 1)] * 4),
        "o_timestamp": pa.array([datetime.datetime(2024, 1, 1)] * 4),
        "o_time": pa.array([datetime.time(1, 2, 3)] * 4),
        "o_map": pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64())),
        "o_null": pa.nulls(4),
    }
    for kind in ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]:
        columns[f"l_{kind}"] = integer.cast(getattr(pa, kind)())
    pq.write_table(pa.table(columns), HERE / "types.parquet")


def codecs():
    """One column for each way to compress, with pages of the second version."""
    ways = ["snappy", "gzip", "brotli", "lz4", "zstd", "none"]
    columns = {way: pa.array(VECTORS.tolist(), pa.list_(pa.float32())) for way in ways}
    compression = {f"{way}.list.element": way for way in ways}
    pq.write_table(pa.table(columns), HERE / "codecs.parquet", compression=compression, data_page_version="2.0", row_group_size=3)


def tensors():
    vectors, labels = torch.tensor(VECTORS), torch.tensor(CODES)
    torch.save({"embeddings": vectors.half(), "labels": labels, "epoch": 3}, HERE / "dict.pt")
    torch.save({"embeddings": vectors.double(), "labels": labels + 2**24}, HERE / "wide.pt")
    torch.save({"embeddings": vectors, "labels": NAMES}, HERE / "list.pt")
    torch.save(vectors, HERE / "bare.pt")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    pandas_frames()
    types()
    codecs()
    tensors()
