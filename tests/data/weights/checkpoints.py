"""Writes checkpoints as people save them, and hostile ones, into the folder `checkpoints`.

    python checkpoints.py        # in this folder; needs torch and numpy (made with torch 2.15, numpy 2)

All are of a network of two tensors, `conv1.weight` and `bn1.bias`, whose first element tells which set of weights it is.
The hostile files are put together by hand. None of them is ever loaded here.
"""

import argparse
import collections
import datetime
import os
import pathlib
import types
import warnings
import zipfile

import numpy
import torch

warnings.simplefilter("ignore")
os.makedirs("checkpoints", exist_ok=True)


def state(first=1.0, prefix=""):
    return collections.OrderedDict(
        [
            (prefix + "conv1.weight", torch.tensor([[first, 2.0], [3.0, 4.0]])),
            (prefix + "bn1.bias", torch.tensor([first, 6.0])),
        ]
    )


def save(name, value, **options):
    torch.save(value, f"checkpoints/{name}", **options)


# Wrappers: one set of weights in each.
save("module.pth", state(prefix="module."))
save("compiled.pth", state(prefix="_orig_mod."))
save("compiled_ddp.pth", state(prefix="_orig_mod.module."))
save("ddp_compiled.pth", state(prefix="module._orig_mod."))
save("averaged.pth", {"n_averaged": torch.tensor(5), **state(prefix="module.")})
save(
    "lightning.ckpt",
    {
        "state_dict": {**state(prefix="model."), "criterion.proxies": torch.ones(2, 2)},
        "epoch": 1,
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 1e-4, "config": types.SimpleNamespace(a=1), "path": pathlib.PurePosixPath("/x")},
    },
)
save("oml.ckpt", {"state_dict": state(prefix="extractor.model.")})
save("namespace.pth", {"model": state(), "args": argparse.Namespace(lr=1e-3, data="x", device=torch.device("cpu"))})
save("numpy.pth", {"model": state(), "best": numpy.float64(0.5), "history": numpy.arange(3.0), "epoch": numpy.int64(3)})
save("model_state.pth", {"model_state": state()})
save("params.pth", {"params": state()})
save("backbone_head.pth", {"backbone": state(), "head": {"weight": torch.ones(5, 4)}})
save("deep.pth", {"a": {"b": {"c": state()}}})
parameter = torch.nn.Parameter(torch.ones(2))
optimiser = torch.optim.AdamW([parameter])
parameter.sum().backward()
optimiser.step()
save(
    "extras.pth",
    {
        "net": state(),
        "optimizer": optimiser.state_dict(),
        "optimizer_by_name": {"conv1.weight": {"exp_avg": torch.ones(2, 2)}},
        "scaler": {"scale": 65536.0},
        "rng": torch.get_rng_state(),
        "time": datetime.datetime(2024, 1, 1),
        "path": pathlib.PurePosixPath("/x"),
        "defaults": collections.defaultdict(int, {"a": 1}),
        "counts": collections.Counter("abca"),
        "tags": {"a", "b"},
        "frozen": frozenset([1]),
        "complex": 1j,
        "slice": slice(1, 2),
        "dtype": numpy.dtype("float32"),
        "size": torch.Size([1]),
        "dtypes": [torch.float8_e4m3fn, torch.float32],
    },
)
save("protocol_4.pth", {"model": state(), "args": argparse.Namespace(a=1), "tags": {1, 2}}, pickle_protocol=4)
save("namespace_legacy.pth", {"model": state(), "args": argparse.Namespace(a=1)}, _use_new_zipfile_serialization=False)
save("inner.pth", {"layer1._orig_mod." + name: value for name, value in state().items()})

# Several sets of weights in one.
save("student_teacher.pth", {"student": state(1.0, "module.backbone."), "teacher": state(2.0, "backbone."), "epoch": 1})
save("ema.pth.tar", {"state_dict": state(1.0), "state_dict_ema": state(2.0), "epoch": 2})
save("query_key.pth", {"state_dict": {**state(1.0, "module.encoder_q."), **state(2.0, "module.encoder_k.")}})
twice = state()
save("aliases.pth", {"state_dict": twice, "model": {"backbone." + name: value for name, value in twice.items()}})

save("twice.pth", {"ema": twice, "state_dict": twice})

# What is no weights.
save("list.pth", list(state().values()))
save("tensor.pt", torch.ones(4, 2))
save("int_keys.pth", dict(enumerate(state().values())))
save("arrays.pth", {"state_dict": {name: value.numpy() for name, value in state().items()}})
save("complex.pth", {"a": torch.ones(3, dtype=torch.complex64)})
save("complex_legacy.pth", {"a": torch.ones(3, dtype=torch.complex64), "b": torch.ones(1)}, _use_new_zipfile_serialization=False)
save("float8.pth", {"a": torch.ones(3).to(torch.float8_e4m3fn)})
save("quantised.pth", {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)})
save("sparse.pth", {"a": torch.eye(3).to_sparse()})
save("meta.pth", {"a": torch.ones(3, device="meta")})
save("one_sparse.pth", {**state(), "bn1.bias": torch.eye(2).to_sparse()})
numpy.savez("checkpoints/arrays.npz", **{name: value.numpy() for name, value in state().items()})


def hostile(name, pickled):
    with zipfile.ZipFile(f"checkpoints/{name}", "w", zipfile.ZIP_STORED) as archive:
        for entry, content in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}.items():
            archive.writestr(zipfile.ZipInfo(f"hostile/{entry}"), content)


def text(string):
    return b"X" + len(string).to_bytes(4, "little") + string.encode()


# Beside the weights, as the state of an object, as an attribute of a harmless module, among the arguments of a harmless class,
# as the class of NEWOBJ, and under a name that only protocol 4 can write.
BEGIN = b"\x80\x04}" + text("model") + b"}s" + text("args")
hostile("hostile_beside.pth", BEGIN + b"csubprocess\nPopen\n" + text("touch owned") + b"\x85Rs.")
hostile("hostile_state.pth", BEGIN + b"cargparse\nNamespace\n)\x81}" + text("a") + b"cbuiltins\nexec\n" + text("1") + b"\x85Rsbs.")
hostile("hostile_attribute.pth", BEGIN + text("torch") + text("serialization.os.system") + b"\x93" + text("id") + b"\x85Rs.")
hostile("hostile_argument.pth", BEGIN + b"cfunctools\npartial\ncos\nsystem\n" + text("id") + b"\x86Rs.")
hostile("hostile_newobj.pth", BEGIN + b"ctypes\nFunctionType\n)\x81s.")
hostile("hostile_default.pth", BEGIN + b"ccollections\ndefaultdict\ncwebbrowser\nopen\n\x85Rs.")
hostile("hostile_import.pth", BEGIN + b"cbuiltins\n__import__\n" + text("os") + b"\x85Rs.")
hostile("hostile_numpy.pth", BEGIN + b"cnumpy.testing._private.utils\nrunstring\n" + text("1") + b"\x85Rs.")
