"""Reference ladders: algorithms in Python, to read and to run; not what the kernels are tested by.

attention: from softmax to FlashAttention-2, a function per algorithm (``python -m
reference.attention``). attention_triton: FlashAttention-2 as a Triton kernel.
"""
