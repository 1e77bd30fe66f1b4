"""A character GPT whose attention is a rung of the ladder; and attention alone.

    python gpt.py part4                                  FlashAttention on the CPU, beside PyTorch
    python gpt.py part4 --inference -m shakes128         text, through that rung
    python gpt.py cpu_simd -N 4096                       any other rung
    python gpt.py flash_mma --target simulator -N 256    a CUDA kernel
    python gpt.py 4Daccess                               what an index means in memory
    python gpt.py train --data FILE --out DIR            a model of your own

docs/gpt.md explains the parts, one by one.
"""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing
from gpt.cli import main
from workbench.toolchain import command

if __name__ == "__main__":
    command.run(main)
