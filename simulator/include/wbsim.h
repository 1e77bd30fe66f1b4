// wbsim.h: what the simulator offers to bindings and to Python, in addition to the CUDA runtime
// calls that it replaces.
//
// There is one simulator per process. Calls are thread-safe; launches run one at a time, on all
// cores. Strings returned stay valid until the calling thread's next call of the same function.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WBSIM_EXPORT __attribute__((visibility("default")))

// What a kernel may do with a registered tensor. An output counts as uninitialised until it is
// written.
enum wbsim_role { WBSIM_IN = 0, WBSIM_OUT = 1, WBSIM_INOUT = 2 };

// Makes [first, first + bytes) known to the memory check as tensor `name`; `text` describes it in
// reports ("float32 [1024, 64]"). The bytes are all those the view spans. Registrations of the same
// address nest.
WBSIM_EXPORT void wbsim_register_tensor(const void* first, size_t bytes, const char* name,
                                        const char* text, int role);
WBSIM_EXPORT void wbsim_unregister_tensor(const void* first, const char* name);

// The finding that made this thread's last failing launch fail, as readable text, or NULL.
// Taking it also clears the CUDA error that came with it.
WBSIM_EXPORT const char* wbsim_take_report(void);
// This thread's last finding, taken or not, as JSON, or NULL.
WBSIM_EXPORT const char* wbsim_last_finding_json(void);
// Announces a host that takes reports itself: findings are no longer printed, and errors are no
// longer sticky.
WBSIM_EXPORT void wbsim_attach(void);

// Settings, as text: "checks" ("memcheck", "all" or ""), "order" (ascending, descending, random),
// "seed", "instruction_limit" (warp instructions of one block), "threads". NULL means the value was
// accepted; otherwise the text says what was expected. A process starts with the settings in the
// environment variable WORKBENCH_SIMULATOR="order=random seed=1".
WBSIM_EXPORT const char* wbsim_set(const char* name, const char* value);
WBSIM_EXPORT const char* wbsim_get(const char* name);  // NULL: no such setting

// After how many seconds a launch shows its progress, if stderr is a terminal.
WBSIM_EXPORT void wbsim_progress_after(double seconds);
// The checks of this thread's launches, as for "checks", whatever the process's; NULL: the process's
// again. Answers like wbsim_set.
WBSIM_EXPORT const char* wbsim_set_checks_of_thread(const char* checks);

// Launch records: every launch between start and stop, as a JSON array. Recordings nest: each start
// returns a token, and the stop with that token returns all launches since. addresses: also count
// sectors, wavefronts and everything else that depends on addresses.
WBSIM_EXPORT uint64_t wbsim_record_start(int addresses);
WBSIM_EXPORT const char* wbsim_record_stop(uint64_t token);

// The PTX of a module, by the number that a record has; NULL if it was replaced or unloaded.
WBSIM_EXPORT const char* wbsim_module_ptx(uint64_t number);

// Gives a loaded library's module other device code: the module is the one whose kernels and
// variables are all in the PTX. The host code stays, so it must be that of the same source but for
// the bodies of device functions. Variables get their initial values. `before` becomes the PTX that
// the module had. NULL, or why it failed: then nothing has changed.
WBSIM_EXPORT const char* wbsim_replace_ptx(const char* library, const char* ptx,
                                           const char** before);

// For tests: loads a module from PTX text or a fat binary of `bytes` bytes, decodes its kernels and
// launches each for a short time, first plainly, then with all checks and counters. What was wrong,
// or NULL.
WBSIM_EXPORT const char* wbsim_try_module(const void* image, size_t bytes);

// For tests: how many rows of the opcode table accept an instruction with this opcode and these
// modifiers, "add.f32".
WBSIM_EXPORT int wbsim_count_rows(const char* form);

#ifdef __cplusplus
}
#endif
