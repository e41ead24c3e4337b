"""Raw files of datasets, and arrays kept of them: damaged, forged, too large.

Good files are those of the loaders' own tests, as small; what is done to them is the
first step of a case, and the loader must say so or read what is there.
"""

import bz2
import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import os
import pathlib
import pickle
import random
import tarfile
import zipfile
from typing import Any

import numpy as np

from fuzzing import mutating
from fuzzing.judging import CANARY
from permfl_jax.errors import InputError

_CATEGORIES = [f"intent_{number}" for number in range(77)]
_KINDS = ("femnist", "banking77", "cifar100", "idx", "emnist", "cache", "rows", "text")
GIGABYTES = 1


class _Executed:
    """Unpickled, it makes a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def prepare(folder: pathlib.Path) -> dict[str, Any]:
    """One folder of good raw files for each kind, and a few bombs."""
    rng = np.random.default_rng(0)
    for kind in _KINDS:
        (folder / kind).mkdir()
    _leaf(folder / "femnist", rng)
    _csv(folder / "banking77")
    x = rng.integers(0, 256, (10, 3074), dtype=np.uint8)
    x[:, 0] = x[:, 1] = np.arange(10)
    _tar(folder / "cifar100/cifar-100-binary.tar.xz", _records(x))
    (folder / "idx/images.gz").write_bytes(_idx(x[:, :12].reshape(10, 4, 3)))
    with zipfile.ZipFile(folder / "emnist/gzip.zip", "w") as archive:
        for name, values in (
            ("images-idx3", x[:, :784]),
            ("labels-idx1", x[:, 0] % 10),
        ):
            values = values.reshape(-1, 28, 28) if "3" in name else values
            member = f"gzip/emnist-digits-train-{name}-ubyte.gz"
            archive.writestr(member, _idx(values))
    arrays = {"x": x[:6, :784].reshape(6, 28, 28, 1), "y": np.arange(6, dtype=np.int32)}
    owners = np.array([0, 0, 1, 1, 2, 2], np.int32)
    made = np.array(["none"])
    np.savez(folder / "cache/femnist.npz", **arrays, device=owners, made_from=made)
    _rows(folder / "rows/partition.npz")
    (folder / "text/input.txt").write_text("Me:\n" + "Now is the winter.\n" * 70)
    _bombs(folder)
    return {"folder": str(folder)}


def _leaf(folder, rng):
    for number in (0, 1):
        x = (rng.integers(0, 256, (2, 784)) / 255).tolist()
        name = f"u{number}"
        content = {
            "users": [name],
            "num_samples": [2],
            "user_data": {name: {"x": x, "y": [3, 61]}},
        }
        (folder / f"all_data_{number}.json").write_text(json.dumps(content))


def _csv(folder):
    (folder / "categories.json").write_text(json.dumps(_CATEGORIES))
    rows = "".join(f'"where, is {n}?",{name}\n' for n, name in enumerate(_CATEGORIES))
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text(f"text,category\n{rows}")


def _rows(path):
    from permfl_jax.partitions import ownership

    parts = [[np.arange(3), np.arange(3, 5)] for _ in range(3)]
    with open(path, "wb") as file:
        ownership.save(file, ownership.Ownership(*parts, team=np.zeros(2, np.int32)))


def _records(x):
    return {"train.bin": x[:6].tobytes(), "test.bin": x[6:].tobytes()}


def _tar(path, members, prefix="cifar-100-binary/", pack="xz", kind=tarfile.REGTYPE):
    with tarfile.open(path, f"w:{pack}") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{prefix}{name}")
            info.size, info.type = len(content), kind
            info.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            archive.addfile(info, io.BytesIO(content))


def _idx(values, header=None):
    if header is None:
        header = bytes([0, 0, 8, values.ndim])
        header += np.array(values.shape, ">u4").tobytes()
    return gzip.compress(header + np.ascontiguousarray(values).tobytes())


def _bombs(folder):
    """Small files that unpack to 3 and 1 gigabytes."""
    # Members of gzip may follow each other.
    (folder / "bomb.gz").write_bytes(gzip.compress(bytes(2**24)) * 192)
    told, size = io.BytesIO(), 2**30
    fields = {"descr": "|u1", "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(told, fields)
    with zipfile.ZipFile(
        folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as archive:
        for name in ("x", "team"):  # honest about its size
            with archive.open(f"{name}.npy", "w") as file:
                file.write(told.getvalue())
                for _ in range(size // 2**24 if name == "x" else 0):
                    file.write(bytes(2**24))


def draw(rng: random.Random, world: dict[str, Any]) -> list[Any]:
    """The kind of data, then what is done to its files."""
    kind = rng.choice(_KINDS)
    folder = pathlib.Path(world["folder"]) / kind
    names = sorted(path.name for path in folder.iterdir())
    texts = {
        name: json.loads((folder / name).read_text())
        for name in names
        if name.endswith(".json")
    }
    steps = [[kind, "", ""]]
    if rng.random() < 0.4:
        steps.append([rng.choice(names), "forge", rng.choice(list(_FORGERIES[kind]))])
    more = rng.choice((0, 1, 1, 2, 4)) if len(steps) > 1 else 1
    return steps + [mutating.damage(rng, names, texts) for _ in range(more)]


def _forged_idx(path, number):
    values = np.zeros((2, 3), np.uint8)
    headers = {
        "large": bytes([0, 0, 8, 3]) + b"\x7f\xff\xff\xff" * 3,
        "negative": bytes([0, 0, 8, 2]) + b"\xff\xff\xff\xff" * 2,
        "many": bytes([0, 0, 8, 255]),
        "none": bytes([0, 0, 8, 0]),
        "magic": bytes([1, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]),
        "floats": bytes([0, 0, 13, 2, 0, 0, 0, 2, 0, 0, 0, 3]),
        "empty": b"",
        "zero": bytes([0, 0, 8, 2, 0, 0, 0, 0, 127, 255, 255, 255]),
        "flat": bytes([0, 0, 8, 1, 0, 0, 0, 6]),
    }
    path.write_bytes(_idx(values if number != "empty" else values[:0], headers[number]))


def _forged_tar(path, number):
    good = _records(np.zeros((10, 3074), np.uint8))
    if number == "upwards":
        _tar(path, {"../../executed": b"x"} | good, prefix="cifar-100-binary/../../")
    elif number in ("symlink", "device", "hard link", "pipe"):
        kinds = {"symlink": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}
        kinds |= {"hard link": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
        _tar(path, dict.fromkeys(good, b""), kind=kinds[number])
    elif number == "claims":
        info = tarfile.TarInfo("cifar-100-binary/train.bin")
        info.size = 2**43
        path.write_bytes(lzma.compress(info.tobuf()))
    elif number == "pax":
        info = tarfile.TarInfo("a")
        info.type, info.size = tarfile.XHDTYPE, 2**40
        path.write_bytes(lzma.compress(info.tobuf() + b"9999999 path=x\n" * 99))
    elif number == "long name":
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
        path.write_bytes(lzma.compress(info.tobuf() + b"x" * 2000))
    elif number == "sparse":
        info = tarfile.TarInfo("cifar-100-binary/train.bin")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 6 * 3074
        path.write_bytes(lzma.compress(info.tobuf() + bytes(20000)))
    elif number == "many":
        _tar(path, {f"m{n}": b"" for n in range(1500)} | good)
    elif number == "other packing":
        path.write_bytes(bz2.compress(lzma.decompress(path.read_bytes())))
    elif number == "gzip":
        _tar(path, good, pack="gz")
    else:  # bombs
        path.unlink()
        path.symlink_to(path.parents[1] / "prepared_bomb.gz")


def _forged_npz(path, number):
    """An array that is something else than its file says."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    first = sorted(arrays)[0]
    name = "x" if "x" in arrays else "team"
    if number == "pickle":
        arrays[name] = np.array([_Executed(str(path.parents[1] / CANARY))], object)
        with open(path, "wb") as file:
            np.savez(file, **arrays)
        return
    if number == "all pickle":
        path.write_bytes(pickle.dumps(_Executed(str(path.parents[1] / CANARY))))
        return
    if number == "bomb":
        path.unlink()
        path.symlink_to(path.parents[1] / "prepared_bomb.npz")
        return
    changes: dict[str, Any] = {
        "floats": lambda a: a.astype(float) if a.dtype.kind in "iu" else a,
        "unsigned": lambda a: a.astype("u8") if a.dtype.kind in "iu" else a,
        "negative": lambda a: -a.astype("i8") if a.dtype.kind in "iu" else a,
        "scalar": lambda a: a.ravel()[0],
        "empty": lambda a: a[:0],
        "deep": lambda a: a.reshape(a.shape + (1,) * 20),
        "texts": lambda a: a.astype("U9"),
        "dates": lambda a: np.zeros(a.shape, "M8[s]"),
        "fields": lambda a: np.zeros(a.shape, [("a", "i4"), ("b", "f8")]),
        "huge numbers": lambda a: a.astype("i8") + 2**62 if a.dtype.kind in "iu" else a,
        "backwards": lambda a: a[::-1],
        "swapped bytes": lambda a: a.astype(a.dtype.newbyteorder(">")),
    }
    if number in changes:
        for each in (first, name, *list(arrays)[:2]):
            arrays[each] = changes[number](arrays[each])
        np.savez(path, **arrays)
        return
    _forged_header(path, arrays, name, number)


def _forged_header(path, arrays, name, number):
    np.savez(path, **arrays)
    headers = {
        "claims": "{'descr': '<i8', 'fortran_order': False, 'shape': (2199023255552,)}",
        "minus": "{'descr': '<i8', 'fortran_order': False, 'shape': (-5,), }",
        "nothing": "{'descr': '<i8', 'fortran_order': False, 'shape': (0, 9999999999)}",
        "code": "__import__('os').system('touch executed')",
        "brackets": "(" * 9000,
        "wide": "{'descr': '|V99999999', 'fortran_order': False, 'shape': (999,), }",
        "no shape": "{'descr': '<i8', 'fortran_order': False, 'shape': 5, }",
        "floats shape": "{'descr': '<i8', 'fortran_order': False, 'shape': (1.5,), }",
        "object": "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "odd type": "{'descr': [('a', '<i8', (99999, 99999))], 'fortran_order': 1, "
        "'shape': (2,), }",
        "true": "{'descr': '<i8', 'fortran_order': False, 'shape': (True,), }",
    }
    text = headers[number].encode()
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(48)
    with zipfile.ZipFile(path) as archive:
        old = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in old.items():
            archive.writestr(each, member if each == f"{name}.npy" else content)


def _forged_csv(path, number):
    texts = {
        "quote": 'text,category\n"' + "x" * 200_000,
        "wide": "text,category\n" + "," * 100_000,
        "zero": "text,category\na\0b,intent_1\n",
        "long": "text,category\n" + "x" * 140_000 + ",intent_1\n",
        "lines": "text,category\r\r\n\n\n",
        "formula": 'text,category\n=cmd|"/c x"!A1,intent_1\n',
        "none": "text,category\n",
        "names": json.dumps([*_CATEGORIES[:76], "\n".join("ab") * 900]),
        "same": json.dumps(["intent_1"] * 77),
        "deep": "[" * 100_000,
        "digits": "[" + "1" * 10_000 + "]",
    }
    path.write_text(texts[number])


def _forged_leaf(path, number):
    content: dict[str, Any] = json.loads(path.read_text())
    (name,) = content["users"]
    own = content["user_data"][name]
    changes: dict[str, Any] = {
        "outside": {"x": [[2.0] * 784] * 2},
        "not finite": {"x": [[float("nan")] * 784] * 2},
        "huge": {"x": [[10**400] * 784] * 2},
        "ragged": {"x": [[0.0] * 784, [0.0]]},
        "label": {"y": [62, -1]},
        "half": {"y": [0.5, 1]},
        "true": {"y": [True, False]},
        "texts": {"y": ["1", "2"]},
        "none": {"x": [], "y": []},
    }
    if number == "name":
        content = json.loads(
            json.dumps(content).replace(f'"{name}"', '"' + "x\\n" * 900 + '"')
        )
    elif number == "count":
        content["num_samples"] = [10**30]
    else:
        own |= changes[number]
    path.write_text(json.dumps(content))


def _forged_zip(path, number):
    labels = _idx(np.zeros(10, np.uint8))
    names = [
        f"gzip/emnist-digits-train-{n}-ubyte.gz" for n in ("images-idx3", "labels-idx1")
    ]
    with zipfile.ZipFile(path, "w") as archive:
        if number == "upwards":
            archive.writestr("../../executed", "x")
        elif number == "packing":
            info = zipfile.ZipInfo(names[0])
            archive.writestr(info, labels)
        elif number == "flat":
            archive.writestr(names[0], labels)
            archive.writestr(names[1], labels)
        elif number == "pictures":
            archive.writestr(names[0], _idx(np.zeros((10, 28, 28), np.uint8)))
            archive.writestr(names[1], _idx(np.zeros((3, 3), np.uint8)))
        elif number == "bomb":
            archive.write(path.parents[1] / "prepared_bomb.gz", names[0])
    if number == "locked":  # says that it is encrypted
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(names[0], labels)
        content = bytearray(path.read_bytes())
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
    elif number == "method":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(names[0], labels)
        content = bytearray(path.read_bytes())
        content[8], content[content.index(b"PK\x01\x02") + 10] = 99, 99
        path.write_bytes(content)


_TARS = ("upwards", "symlink", "device", "hard link", "pipe", "claims", "pax", "bomb")
_ARRAYS = ("pickle", "all pickle", "bomb", "floats", "unsigned", "negative", "scalar")
_ARRAYS += ("empty", "deep", "texts", "dates", "fields", "huge numbers", "backwards")
_ARRAYS += ("swapped bytes", "claims", "minus", "nothing", "code", "brackets", "wide")
_ARRAYS += ("no shape", "floats shape", "object", "odd type", "true")
_FORGERIES: dict[str, tuple[str, ...]] = {
    "femnist": (
        "outside",
        "not finite",
        "huge",
        "ragged",
        "label",
        "half",
        "true",
        "texts",
        "none",
        "name",
        "count",
    ),
    "banking77": (
        "quote",
        "wide",
        "zero",
        "long",
        "lines",
        "formula",
        "none",
        "names",
        "same",
        "deep",
        "digits",
    ),
    "cifar100": (*_TARS, "long name", "sparse", "many", "other packing", "gzip"),
    "idx": (
        "large",
        "negative",
        "many",
        "none",
        "magic",
        "floats",
        "empty",
        "zero",
        "flat",
        "bomb",
    ),
    "emnist": ("upwards", "packing", "flat", "pictures", "bomb", "locked", "method"),
    "cache": _ARRAYS,
    "rows": _ARRAYS,
    "text": ("long",),
}


def perform(
    steps: list[Any], world: dict[str, Any], folder: pathlib.Path
) -> str | None:
    """Damages a copy of the good files and loads them."""
    kind = steps[0][0]
    if kind not in _KINDS:
        return None
    prepared = pathlib.Path(world["folder"])
    own = folder / kind
    own.mkdir()
    for path in (prepared / kind).iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    for name in ("bomb.gz", "bomb.npz"):
        (folder / f"prepared_{name}").symlink_to(prepared / name)
    for step in steps[1:]:
        if step[1] != "forge":
            mutating.apply(folder, [f"{kind}/{step[0]}", *step[1:]])
        elif (own / step[0]).is_file() and not (own / step[0]).is_symlink():
            _forge(kind, own / step[0], step[2])
    try:
        _load(kind, own, folder / "prepared")
    except InputError:
        assert _left(kind, folder) is None, _left(kind, folder)
        raise
    return _left(kind, folder)


def _forge(kind, path, number):
    if kind == "idx" and number == "bomb":
        path.unlink()
        path.symlink_to(path.parents[1] / "prepared_bomb.gz")
    elif kind == "text":
        path.write_text("x" * 10_000)
    else:
        {
            "femnist": _forged_leaf,
            "banking77": _forged_csv,
            "cifar100": _forged_tar,
            "idx": _forged_idx,
            "emnist": _forged_zip,
            "cache": _forged_npz,
            "rows": _forged_npz,
        }[kind](path, number)


def _left(kind, folder):
    """What a failed or finished loading may leave: a whole file, or none."""
    out = folder / "prepared"
    names = sorted(os.listdir(out)) if out.is_dir() else []
    if kind != "cache" and set(names) - {f"{kind}.npz"}:
        return f"left {names}"
    if (folder / CANARY).exists():
        return "executed what it read"
    return None


def _load(kind, own, out):
    from permfl_jax import data
    from permfl_jax.data import cifar100, emnist_digits, idx, shakespeare, tfds_images
    from permfl_jax.partitions import ownership

    options = data.SourceOptions(
        data_dir=str(out), manual_dir=str(own.parent), text_features=16
    )
    if kind == "idx":
        idx.read_idx_file(own / "images.gz")
    elif kind == "emnist":
        emnist_digits.read_split({"gzip.zip": own / "gzip.zip"}, "train")
    elif kind == "rows":
        ownership.load(own / "partition.npz")
    elif kind == "cache":
        out.mkdir()
        os.rename(own / "femnist.npz", out / "femnist.npz") if os.path.lexists(
            own / "femnist.npz"
        ) else None
        data.load("femnist", dataclasses.replace(options, manual_dir=None))
    elif kind == "cifar100":
        cifar100.NUM_PICTURES = {"train": 6, "test": 4}
        source = dataclasses.replace(
            cifar100.SOURCE,
            **{"num_train": 6, "num_test": 4, "train_pixel_sum": None},
            test_pixel_sum=None,
        )
        if (own / source.archive).exists():  # else it would be downloaded
            tfds_images.load(source, options)
    elif kind == "text":
        good = b"Me:\n" + b"Now is the winter.\n" * 70
        changed = {"size": len(good), "sha256": hashlib.sha256(good).hexdigest()}
        file = dataclasses.replace(shakespeare.FILE, **changed, folder="text")
        if (own / "input.txt").exists():
            file.read(options)
    else:
        data.load(kind, options)
