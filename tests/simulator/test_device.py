"""The device answers every attribute that cuda.h lists, as an H200 does."""

from __future__ import annotations

import ctypes
import re

import pytest

import simulator
from workbench.toolchain import tools


def attributes() -> dict[str, int]:
    """The attributes that the toolkit's header declares."""
    text = (tools.find_toolkit().include / "cuda.h").read_text()
    body = re.search(
        r"typedef enum CUdevice_attribute_enum \{(.*?)\} CUdevice_attribute;", text, re.S
    )
    assert body
    found: dict[str, int] = {}
    for name, value in re.findall(r"CU_DEVICE_ATTRIBUTE_(\w+)\s*=\s*(\w+)", body[1]):
        found[name] = (
            int(value) if value.isdigit() else found[value.removeprefix("CU_DEVICE_ATTRIBUTE_")]
        )
    return found


def asked(attribute: int) -> tuple[int, int]:
    """The driver's error code and its answer."""
    lib = simulator.library()
    assert lib.wbsim_cuInit(0) == 0
    answer = ctypes.c_int(-12345)
    return lib.wbsim_cuDeviceGetAttribute(ctypes.byref(answer), attribute, 0), answer.value


def test_every_attribute_of_the_header_is_answered():
    known = attributes()
    assert len(known) > 130
    silent = [name for name, value in known.items() if asked(value)[0] != 0]
    assert silent == []


def test_what_the_header_does_not_list_is_an_error():
    most = max(attributes().values())
    assert asked(most + 1)[0] == asked(0)[0] == 1  # CUDA_ERROR_INVALID_VALUE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MULTIPROCESSOR_COUNT", 132),
        ("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", 232448),
        ("CAN_TEX2D_GATHER", 1),
        ("MEM_DECOMPRESS_ALGORITHM_MASK", 0),
        ("COMPUTE_CAPABILITY_MAJOR", 9),
    ],
)
def test_some_answers(name: str, value: int):
    assert asked(attributes()[name]) == (0, value)
