"""Names what a program uses that the simulator lacks, in one sentence instead of a page."""

from __future__ import annotations

import re

# Names of NVIDIA's libraries, by the prefix of their functions.
_LIBRARIES = {
    "cublasLt": "cublas",
    "cublas": "cublas",
    "cudnn": "cudnn",
    "curand": "curand (its host functions; the device functions in headers work)",
    "cufft": "cufft",
    "cusparse": "cusparse",
    "cusolver": "cusolver",
    "nvrtc": "nvrtc",
    "nccl": "nccl",
    "nvjpeg": "nvjpeg",
    "nppi": "npp",
    "npps": "npp",
    "cutensor": "cutensor",
    "nvml": "nvml",
    "cupti": "cupti",
    "nvshmem": "nvshmem",
}
# Features of some runtime and driver calls, by a part of their name.
_FEATURES = (
    (r"Tex(ture|Ref|Obj)|ChannelDesc", "textures"),
    (r"Surf", "surfaces"),
    (r"Array|Mipmap", "CUDA arrays"),
    (r"Ipc", "sharing memory between processes"),
    (r"External|Semaphore", "external memory and semaphores"),
    (r"Graphics|GL|EGL|VDPAU", "graphics"),
    (r"cuMem(Create|Map|Unmap|Address|SetAccess|Release|GetAllocation)", "virtual memory mapping"),
    (r"Multicast|GreenCtx|DevResource", "several devices and partitions of one"),
    (r"cudaCDP|cudaGetParameterBuffer|cudaLaunchDevice|cudadevrt", "dynamic parallelism"),
    (r"__cudaRegisterLinkedBinary", "separate compilation of device code (-rdc=true)"),
    (r"cuLink", "linking device code at run time"),
    (r"Conditional", "conditional graph nodes"),
)
_UNDEFINED = re.compile(r"undefined reference to [`'\"]([\w:~]+)")
_HEADER = re.compile(r"fatal error: (\S+?): No such file")


def library_of(name: str) -> str | None:
    """The library that a function, a header or a -l name belongs to; None if unknown."""
    for prefix in sorted(_LIBRARIES, key=len, reverse=True):
        if name.lower().startswith(prefix.lower()):
            return _LIBRARIES[prefix]
    return None


def compile_error(log: str) -> str | None:
    """A compile error's cause, if it is an unsupported library or feature."""
    if "kernel launch from __device__ or __global__ functions" in log:
        return "not supported on the simulator: kernels that launch kernels (dynamic parallelism)"
    for header in _HEADER.findall(log):
        if library := library_of(header.split("/")[-1]):
            return f"not supported on the simulator: {library} (the program includes {header})"
    return None


def link_error(log: str) -> str | None:
    """A link error's cause, if everything undefined belongs to CUDA; else None."""
    undefined = sorted(set(_UNDEFINED.findall(log)))
    lines: dict[str, list[str]] = {}
    for name in undefined:
        what = library_of(name)
        if what is None and re.match(r"(__)?cu(da)?[A-Z]", name):
            what = next((text for pattern, text in _FEATURES if re.search(pattern, name)), "")
            what = what or "these calls"
        if what is None:
            return None  # the program's own
        lines.setdefault(what, []).append(name)
    if not lines:
        return None
    return "\n".join(
        f"not supported on the simulator: {what} ({', '.join(names)})"
        for what, names in lines.items()
    )
