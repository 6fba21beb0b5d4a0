"""Writes the weight files of this folder with PyTorch, and expected.json with their values.

    python make.py        # in this folder; needs torch and safetensors (made with torch 2.15, safetensors 0.8)

The hostile files are put together by hand. None of them is ever loaded here.
"""

import collections
import io
import json
import pickle
import struct
import zipfile

import safetensors.torch
import torch

OrderedDict = collections.OrderedDict
torch.manual_seed(0)


def tensors():
    """One tensor of each element type and of each layout that a state dict may hold."""
    wide = torch.tensor([[0.5, -1.25, 3e-41], [65504.0, 1 / 3, -0.0]], dtype=torch.float64)
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8
    shared = torch.linspace(-1, 1, 10)
    return OrderedDict(
        [
            ("f64", wide),
            ("f32", torch.tensor([float("inf"), float("-inf"), 1e-45, 3.4e38, 0.1])),
            ("f16", torch.tensor([6e-8, -6e-5, 65504.0, float("inf"), 1 / 3], dtype=torch.float16)),
            ("bf16", torch.tensor([1e-40, -3e38, 1 / 3], dtype=torch.bfloat16)),
            ("i64", torch.tensor([-(2**40), 7, 2**24 + 1])),
            ("i32", torch.tensor([[-(2**31)], [2**31 - 1]], dtype=torch.int32)),
            ("i16", torch.tensor([-32768, 32767], dtype=torch.int16)),
            ("i8", torch.tensor([-128, 127], dtype=torch.int8)),
            ("u8", torch.tensor([0, 255], dtype=torch.uint8)),
            ("bool", torch.tensor([True, False, True])),
            ("scalar", torch.tensor(-2.5)),
            ("count", torch.tensor(12345)),
            ("empty", torch.zeros(0, 3)),
            ("transposed", base.permute(2, 0, 1)),
            ("sliced", base[1, 1:, ::2]),
            ("channels_last", torch.arange(36.0).reshape(1, 3, 3, 4).to(memory_format=torch.channels_last)),
            ("expanded", torch.tensor([[1.5], [2.5]]).expand(2, 3)),
            ("shared.head", shared[:4]),
            ("shared.tail", shared[3:]),
            ("parameter", torch.nn.Parameter(torch.tensor([[9.0, 8.0]]))),
        ]
    )


def bits(tensor):
    """The elements as 32-bit floats, bit for bit; row-major."""
    flat = tensor.detach().contiguous().to(torch.float32).reshape(-1)
    return flat.view(torch.int32).tolist()


def described(state):
    return [{"name": name, "shape": list(value.shape), "bits": bits(value)} for name, value in state.items()]


def zipped(name, folder, pickled, entries):
    """A file laid out as PyTorch's archives are."""
    with zipfile.ZipFile(name, "w", zipfile.ZIP_STORED) as archive:
        for entry, content in {"data.pkl": pickled, "byteorder": b"little", **entries, "version": b"3\n"}.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{entry}"), content)


def text(string):
    """SHORT_BINSTRING, as Python 2 wrote strings."""
    return b"U" + bytes([len(string)]) + string.encode()


def python2(name):
    """A file as PyTorch 0.3 wrote it under Python 2, as far as PyTorch's loader tells: views, pairs in a list."""

    def tensor(offset, view):
        view = b"N" if view is None else text("view") + b"K" + bytes([view[0]]) + b"K" + bytes([view[1]]) + b"\x87"
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("77") + text("cpu") + b"K\x06" + view + b"tQ"
        return b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K" + bytes([offset]) + b"K\x01K\x02\x86K\x02K\x01\x86tR"

    pair = lambda key, value: b"](" + text(key) + value + b"e"
    body = b"\x80\x02ccollections\nOrderedDict\n](" + pair("a", tensor(1, None)) + pair("b", tensor(1, (2, 4))) + b"e\x85R."
    machine = pickle.dumps({"protocol_version": 1001, "little_endian": True}, protocol=2)
    with open(name, "wb") as file:
        file.write(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2) + machine + body)
        file.write(b"\x80\x02](" + text("77") + b"e." + struct.pack("<q6f", 6, 0, 1, 2, 3, 4, 5))


def legacy_around(body):
    machine = pickle.dumps({"protocol_version": 1001, "little_endian": True}, protocol=2)
    head = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2) + machine
    return head + body + pickle.dumps([], protocol=2)


state = tensors()
torch.save(state, "plain.pth")
torch.save(state, "plain_protocol_5.pth", pickle_protocol=5)
torch.serialization.set_crc32_options(False)
torch.save(state, "plain_no_checksums.pth")
torch.serialization.set_crc32_options(True)
torch.save(state, "plain_legacy.pth", _use_new_zipfile_serialization=False)
safetensors.torch.save_file(
    {name: value.detach().contiguous().clone() for name, value in state.items()}, "plain.safetensors", {"made by": "make.py"}
)

network = torch.nn.Sequential(OrderedDict(conv=torch.nn.Conv2d(2, 3, 1), bn=torch.nn.BatchNorm2d(3)))
optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
network(torch.randn(4, 2, 2, 2)).sum().backward()
optimiser.step()
wrapped = OrderedDict((f"module.{name}", value) for name, value in network.state_dict().items())
wrapped._metadata = network.state_dict()._metadata
checkpoint = {
    "epoch": 3,
    "arch": "tiny",
    "state_dict": wrapped,
    "best": torch.tensor(0.75),
    "optimizer": optimiser.state_dict(),
    "rate": 0.1,
    "shape": torch.Size([1, 2]),
    "dtype": torch.float32,
    "done": False,
    "nothing": None,
    7: [1, 2**70],
}
torch.save(checkpoint, "nested.pth")
torch.save(checkpoint, "nested_legacy.pth", _use_new_zipfile_serialization=False)

batch_norm = OrderedDict((f"bn.{name}", torch.randn(1, 5)) for name in ["weight", "bias", "running_mean", "running_var"])
torch.save(batch_norm, "batch_norm_legacy.pth", _use_new_zipfile_serialization=False)
python2("python2_legacy.pth")

with open("expected.json", "w") as file:
    old = torch.load("python2_legacy.pth", weights_only=False)
    sets = {"plain": state, "nested": network.state_dict(), "batch_norm": batch_norm, "python2": old}
    json.dump({name: described(tensors) for name, tensors in sets.items()}, file, separators=(",", ":"))
    file.write("\n")

# Files that are refused.
with zipfile.ZipFile("plain.pth") as archive:
    entries = {entry.filename.split("/", 1)[1]: archive.read(entry) for entry in archive.infolist()}
pickled = entries.pop("data.pkl")
zipped("big_endian.pth", "plain", pickled, {"byteorder": b"big"})
with zipfile.ZipFile("deflated.pth", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(zipfile.ZipInfo("plain/data.pkl"), pickled, zipfile.ZIP_DEFLATED)

SYSTEM = b"\x80\x02cposix\nsystem\nX\x0b\x00\x00\x00touch owned\x85R."
with open("hostile_legacy.pth", "wb") as file:
    file.write(legacy_around(SYSTEM))
zipped("hostile.pth", "hostile", b"\x80\x02}X\x01\x00\x00\x00a" + SYSTEM[2:-1] + b"s.", {})
zipped("hostile_stack_global.pth", "hostile", b"\x80\x04\x8c\x08builtins\x94\x8c\x04eval\x94\x93\x8c\x011\x85R.", {})
zipped("hostile_inst.pth", "hostile", b"\x80\x02(X\x01\x00\x00\x00aiposix\nsystem\n.", {})
zipped("script.pt", "script", b"\x80\x02}.", {"constants.pkl": b"\x80\x02).", "code/__torch__.py": b""})
torch.save({"epoch": 1, "nets": [torch.ones(2)]}, "no_tensors.pth")
whole = io.BytesIO()
torch.save(torch.nn.Linear(1, 1), whole)
with open("module.pth", "wb") as file:
    file.write(whole.getvalue())
