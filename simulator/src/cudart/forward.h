// forward.h: one jump from a CUDA name to the simulator's function for it. A jump needs no
// signature, and both runtimes can be in one process: these names are hidden in what links them.
#pragma once

#if defined(__aarch64__)
#define WB_JUMP(to) "b " to
#else
#define WB_JUMP(to) "jmp " to "@PLT"
#endif

#define WB_LABEL(name) ".globl " name "\n.type " name ", %function\n" name ":\n"
#define WB_TEXT(name) #name
#define WB_VERSIONED(name) WB_TEXT(name)  // after the headers' macros: cuMemAlloc_v2

// Under all three names: also that of the per-thread default stream, which is the same here.
#define CUDA_CALL(name)                                                           \
  asm(".text\n" WB_LABEL(WB_VERSIONED(name)) WB_LABEL(WB_VERSIONED(name) "_ptsz") \
          WB_LABEL(WB_VERSIONED(name) "_ptds") WB_JUMP("wbsim_" #name) "\n");
