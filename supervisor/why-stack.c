/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/why-stack.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/cleanup.h"

#ifdef HAVE_LIBDW
#include <dlfcn.h>
#include <elfutils/libdwfl.h>
#endif

static const char *base_name(const char *path)
{
        const char *slash = strrchr(path, '/');

        return slash && slash[1] ? slash + 1 : path;
}

/* ---- without tables */

/* The innermost: "file+0x12", of what is mapped there. */
static void put_innermost(pid_t pid, Stack *stack)
{
        char path[64], line[512];
        FILE *f;

        (void)snprintf(path, sizeof(path), "/proc/%d/maps", pid);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f)) {
                uint64_t begin, end, offset;
                int at = 0;

                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %*s %n", &begin, &end, &offset, &at) != 3 || stack->pc < begin || stack->pc >= end)
                        continue;
                line[strcspn(line, "\n")] = '\0';
                (void)snprintf(stack->frames[stack->n++], STACK_FRAME_MAX, "%.90s+0x%" PRIx64, at && line[at] ? base_name(line + at) : "?", stack->pc - begin + offset);
                break;
        }
        if (f)
                (void)fclose(f);
}

#ifdef HAVE_LIBDW

/* ---- libdw, loaded when it is needed: nobody else of us has use for it */

#define FUNCTIONS(F)                                                                                                                                 \
        F(dwfl_begin) F(dwfl_end) F(dwfl_report_begin) F(dwfl_report_end) F(dwfl_linux_proc_report) F(dwfl_linux_proc_find_elf) F(dwfl_attach_state)          \
                F(dwfl_getthread_frames) F(dwfl_frame_pc) F(dwfl_addrmodule) F(dwfl_module_addrinfo) F(dwfl_module_info) F(dwfl_thread_state_registers) F(dwfl_thread_state_register_pc)

static struct {
#define DECLARE(name) __typeof__(&name) name;
        FUNCTIONS(DECLARE)
#undef DECLARE
        bool tried, there;
} lib;

bool stacks_unwind(void)
{
        void *handle;

        if (lib.tried)
                return lib.there;
        lib.tried = true;
        handle = dlopen("libdw.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!handle)
                return false;
        lib.there = true;
#define FIND(name)                                                                                                                                   \
        {                                                                                                                                            \
                void *symbol = dlsym(handle, #name);                                                                                                 \
                memcpy(&lib.name, &symbol, sizeof(symbol));                                                                                          \
                lib.there = lib.there && symbol;                                                                                                     \
        }
        FUNCTIONS(FIND)
#undef FIND
        return lib.there;
}

typedef struct Unwind {
        Dwfl *dwfl;
        pid_t pid;
        Stack *stack;
        uint64_t last; /* pc of the outermost frame so far */
        bool outermost; /* that is where threads begin */
} Unwind;

static size_t peek(pid_t pid, uint64_t address, void *buffer, size_t size)
{
        struct iovec here = {buffer, size}, there = {(void *)(uintptr_t)address, size};
        ssize_t n = process_vm_readv(pid, &here, 1, &there, 1, 0);

        return n < 0 ? 0 : (size_t)n;
}

static pid_t on_next_thread(Dwfl *dwfl, void *userdata, void **thread)
{
        Unwind *u = userdata;

        (void)dwfl;
        if (*thread)
                return 0;
        *thread = u;
        return u->stack->tid;
}

static bool on_get_thread(Dwfl *dwfl, pid_t tid, void *userdata, void **thread)
{
        (void)dwfl;
        (void)tid;
        *thread = userdata;
        return true;
}

static bool on_memory(Dwfl *dwfl, Dwarf_Addr address, Dwarf_Word *ret, void *userdata)
{
        Unwind *u = userdata;

        (void)dwfl;
        return peek(u->pid, address, ret, sizeof(*ret)) == sizeof(*ret);
}

static bool on_registers(Dwfl_Thread *thread, void *userdata)
{
        Unwind *u = userdata;
        Dwarf_Word sp = u->stack->sp;

#if defined(__x86_64__)
        if (!lib.dwfl_thread_state_registers(thread, 7, 1, &sp))
                return false;
        sp = u->stack->pc;
        if (!lib.dwfl_thread_state_registers(thread, 16, 1, &sp))
                return false;
#elif defined(__aarch64__)
        if (!lib.dwfl_thread_state_registers(thread, 31, 1, &sp))
                return false;
#else
        (void)sp;
        return false;
#endif
        lib.dwfl_thread_state_register_pc(thread, u->stack->pc);
        return true;
}

static void put_frame(Unwind *u, uint64_t pc, bool innermost, bool guessed)
{
        Dwfl_Module *module = lib.dwfl_addrmodule(u->dwfl, pc);
        Stack *stack = u->stack;
        char *text = stack->frames[stack->n];
        const char *file = NULL, *symbol;
        Dwarf_Addr begin = 0;
        GElf_Off offset = 0;
        GElf_Sym sym;

        if (stack->n >= STACK_FRAMES_MAX)
                return;
        u->last = pc;
        if (module)
                file = lib.dwfl_module_info(module, NULL, &begin, NULL, NULL, NULL, NULL, NULL);
        symbol = module ? lib.dwfl_module_addrinfo(module, innermost ? pc : pc - 1, &offset, &sym, NULL, NULL, NULL) : NULL;
        if (symbol)
                (void)snprintf(text, STACK_FRAME_MAX, "%.70s%s (%.40s)", symbol, guessed ? "?" : "", file ? base_name(file) : "?");
        else if (module)
                (void)snprintf(text, STACK_FRAME_MAX, "%.60s+0x%" PRIx64 "%s", file ? base_name(file) : "?", (uint64_t)(pc - begin), guessed ? "?" : "");
        else
                (void)snprintf(text, STACK_FRAME_MAX, "0x%" PRIx64 "%s", pc, guessed ? "?" : "");
        for (char *p = text; *p; p++)
                if ((unsigned char)*p < ' ' || *p == 0x7f)
                        *p = '?';
        u->outermost = stack->n > 0 && (!module || strncmp(text, "_start", 6) == 0 || strncmp(base_name(file ? file : ""), "libc.", 5) == 0); /* clone, start_thread */
        stack->n++;
}

static int on_frame(Dwfl_Frame *frame, void *userdata)
{
        Unwind *u = userdata;
        Dwarf_Addr pc;
        bool is_activation;

        if (!lib.dwfl_frame_pc(frame, &pc, &is_activation))
                return DWARF_CB_ABORT;
        put_frame(u, pc, is_activation || u->stack->n == 0, false);
        return u->stack->n < STACK_FRAMES_MAX ? DWARF_CB_OK : DWARF_CB_ABORT;
}

/* ---- what the tables do not tell */

#define SCAN_BYTES 4096
#define SCAN_FRAMES_MAX 6

#if defined(__x86_64__)
/* Is there a call right before? Only such an address is one to return to. */
static bool follows_call(pid_t pid, uint64_t address)
{
        unsigned char code[7];

        if (peek(pid, address - sizeof(code), code, sizeof(code)) != sizeof(code))
                return false;
        if (code[2] == 0xe8)
                return true;
        for (size_t i = 0; i < 6; i++) /* call through a register or memory: ff /2 */
                if (code[i] == 0xff && (code[i + 1] & 0x38) == 0x10)
                        return true;
        return false;
}

static void scan(Unwind *u)
{
        uint64_t words[SCAN_BYTES / 8];
        size_t n = peek(u->pid, u->stack->sp, words, sizeof(words)) / 8, found = 0, from = 0;

        for (size_t i = 0; i < n && u->stack->n > 1; i++)
                if (words[i] == u->last) /* it lies there for its frame's return */
                        from = i + 1;
        for (size_t i = from; i < n && found < SCAN_FRAMES_MAX && u->stack->n < STACK_FRAMES_MAX; i++)
                if (lib.dwfl_addrmodule(u->dwfl, words[i]) && follows_call(u->pid, words[i])) {
                        put_frame(u, words[i], false, true);
                        found = u->outermost ? SCAN_FRAMES_MAX : found + 1;
                }
}
#else
static void scan(Unwind *u)
{
        (void)u;
}
#endif

/* Nothing but what is mapped: no other files are looked for, here or elsewhere. */
static int find_no_debuginfo(Dwfl_Module *module, void **userdata, const char *name, Dwarf_Addr base, const char *file, const char *link, GElf_Word crc, char **ret)
{
        (void)module, (void)userdata, (void)name, (void)base, (void)file, (void)link, (void)crc, (void)ret;
        return -1;
}

static bool unwind_all(pid_t pid, Stack *stacks, size_t n)
{
        static const Dwfl_Thread_Callbacks threads = {.next_thread = on_next_thread, .get_thread = on_get_thread, .memory_read = on_memory, .set_initial_registers = on_registers};
        Dwfl_Callbacks callbacks = {.find_debuginfo = find_no_debuginfo};
        Unwind u = {.pid = pid, .stack = stacks};
        bool attached;

        if (!stacks_unwind())
                return false;
        callbacks.find_elf = lib.dwfl_linux_proc_find_elf;
        u.dwfl = lib.dwfl_begin(&callbacks);
        if (!u.dwfl)
                return false;
        lib.dwfl_report_begin(u.dwfl);
        attached = lib.dwfl_linux_proc_report(u.dwfl, pid) == 0 && lib.dwfl_report_end(u.dwfl, NULL, NULL) == 0 &&
                lib.dwfl_attach_state(u.dwfl, NULL, pid, &threads, &u);
        for (size_t i = 0; attached && i < n; i++) {
                u.stack = &stacks[i];
                (void)lib.dwfl_getthread_frames(u.dwfl, u.stack->tid, on_frame, &u);
                if (u.stack->n > 0 && !u.outermost)
                        scan(&u);
        }
        lib.dwfl_end(u.dwfl);
        return attached;
}

#else

bool stacks_unwind(void)
{
        return false;
}

static bool unwind_all(pid_t pid, Stack *stacks, size_t n)
{
        (void)pid, (void)stacks, (void)n;
        return false;
}

#endif

void stacks_read(pid_t pid, Stack *stacks, size_t n)
{
        (void)unwind_all(pid, stacks, n);
        for (size_t i = 0; i < n; i++)
                if (stacks[i].n == 0 && stacks[i].pc)
                        put_innermost(pid, &stacks[i]);
}
