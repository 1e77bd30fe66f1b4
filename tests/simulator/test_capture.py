"""Captures that nobody can end, because the stream they began in is gone."""

from __future__ import annotations

import ctypes

import simulator

GLOBAL = 0
UNMATCHED = 903  # cudaErrorStreamCaptureUnmatched


def test_a_capture_without_its_first_stream_is_over():
    lib = simulator.library()
    first, second, fork, graph, memory = (ctypes.c_void_p() for _ in range(5))
    assert lib.wbsim_cudaStreamCreate(ctypes.byref(first)) == 0
    assert lib.wbsim_cudaStreamCreate(ctypes.byref(second)) == 0
    assert lib.wbsim_cudaEventCreate(ctypes.byref(fork)) == 0
    assert lib.wbsim_cudaStreamBeginCapture(first, GLOBAL) == 0
    assert lib.wbsim_cudaEventRecord(fork, first) == 0
    assert lib.wbsim_cudaStreamWaitEvent(second, fork, 0) == 0
    assert lib.wbsim_cudaStreamDestroy(first) == 0
    assert lib.wbsim_cudaMalloc(ctypes.byref(memory), 64) == 0  # no capture forbids it
    assert lib.wbsim_cudaFree(memory) == 0
    assert lib.wbsim_cudaStreamEndCapture(second, ctypes.byref(graph)) == UNMATCHED
    assert lib.wbsim_cudaStreamDestroy(second) == 0
    assert lib.wbsim_cudaEventDestroy(fork) == 0
    lib.wbsim_cudaGetLastError()
