#!/usr/bin/env python3
"""Writes the files beside this script with NumPy and PyTorch: what npy_test.cpp and pt_test.cpp read. Contents count up from 0."""
import collections
import io
import os
import pathlib
import zipfile

import numpy as np
import torch

here = pathlib.Path(__file__).parent


def count(shape, dtype):
    return (np.arange(int(np.prod(shape))) % 2 if dtype == "?" else np.arange(int(np.prod(shape)))).reshape(shape).astype(dtype)


# ---- npy: <name>.npy
for dtype in ["<f8", "<f4", "<f2", "<i8", "<i4", "|u1", "|b1", ">f8", ">f4", ">f2", ">i8", ">i4"]:
    order = "big_" if dtype[0] == ">" else ""
    np.save(here / f"{order}{dtype[1:]}.npy", count((2, 3), "?" if dtype == "|b1" else dtype))
np.save(here / "scalar.npy", np.float64(2.5))
np.save(here / "empty.npy", np.zeros((0, 3), "<f4"))
np.save(here / "vector.npy", count((3,), "<f4"))
np.save(here / "fortran.npy", np.asfortranarray(count((2, 3, 4), "<f4")))
np.save(here / "big_fortran.npy", np.asfortranarray(count((2, 3), ">i4")))
np.save(here / "c8.npy", (count((2, 3), "<f4") + 0.5j).astype("<c8"))
np.save(here / "fortran_c16.npy", np.asfortranarray((count((2, 3), "<f8") + 0.5j).astype("<c16")))
for version in [2, 3]:
    with open(here / f"version{version}.npy", "wb") as f:
        np.lib.format.write_array(f, count((2, 3), "<f4"), version=(version, 0))
np.save(here / "u2.npy", count((2, 3), "<u2"))
np.save(here / "structured.npy", np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")]))
np.save(here / "object.npy", np.array([None, 1], dtype=object), allow_pickle=True)

# ---- npz
arrays = {"a": count((2, 3), "<f4"), "b.c": count((3,), "<i8"), "f": np.asfortranarray(count((10, 20), "<f8"))}
np.savez(here / "plain.npz", **arrays)
np.savez_compressed(here / "compressed.npz", **arrays)
with zipfile.ZipFile(here / "not_arrays.npz", "w") as z:
    z.writestr("readme.txt", "hello")

# ---- pt
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
with torch.no_grad():
    for i, p in enumerate(model.parameters()):
        p.copy_(torch.arange(p.numel()).reshape(p.shape) + 10 * i)
for protocol in [2, 4]:
    torch.save(model.state_dict(), here / f"state_dict{protocol}.pt", pickle_protocol=protocol)
torch.save(model.state_dict(), here / "legacy.pt", _use_new_zipfile_serialization=False)

base = torch.arange(12.0).reshape(3, 4)
torch.save(
    {
        "epoch": 7,
        "lr": 1e-3,
        "name": "nested",
        "nothing": None,
        "flags": (True, False),
        "big": 1 << 80,
        "shape": base.shape,
        "base": base,
        "transposed": base.t(),
        "column": base[:, 1],
        "dtypes": [torch.arange(3).to(d) for d in [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]],
        "mask": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "expanded": torch.tensor([3.0]).expand(2, 3),
        "state": {0: {"step": 1, "exp_avg": torch.ones(2)}, 1: {"exp_avg": torch.zeros(2)}},
        "parameter": torch.nn.Parameter(torch.arange(2.0)),
        "ordered": collections.OrderedDict([("z", torch.tensor([1])), ("a", torch.tensor([2]))]),
    },
    here / "nested.pt",
)
torch.save(torch.arange(4.0), here / "tensor.pt")
torch.save({"w": torch.zeros(2, dtype=torch.int8)}, here / "int8.pt")
torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, here / "complex.pt")


class Evil:
    def __reduce__(self):
        return os.system, ("echo this must never run >ran",)


torch.save({"w": torch.zeros(2), "evil": Evil()}, here / "evil.pt")
torch.save(model, here / "module.pt")
