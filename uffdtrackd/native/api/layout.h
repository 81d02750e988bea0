#pragma once
#include <stdint.h>
#include "api/error.h"

/* One line of /proc/PID/maps (proc_pid_maps(5)). */
struct ut_vma {
	uint64_t start;
	uint64_t end;
	uint64_t offset; /* bytes into the file */
	uint64_t inode;
	uint32_t major;
	uint32_t minor;
	uint32_t flags;       /* UT_VMA_* */
	uint32_t name;        /* index of the path or [name] in the text */
	uint32_t name_length; /* 0: none */
	uint32_t line;        /* index of the line in the text */
};

#define UT_VMA_READ   1
#define UT_VMA_WRITE  2
#define UT_VMA_EXEC   4
#define UT_VMA_SHARED 8

/* The address space as maps last showed it. c/layout.c says how it is kept cheap. */
struct ut_layout;

struct ut_layout *ut_layout_new(int maps);
void ut_layout_free(struct ut_layout *layout);

/* Reads maps again. 1: something changed, 0: byte for byte the same, -1: *error. */
int ut_layout_refresh(struct ut_layout *layout, struct ut_error *error);

const char *ut_layout_text(const struct ut_layout *layout, uint64_t *length);
uint64_t ut_layout_count(const struct ut_layout *layout);
const struct ut_vma *ut_layout_vmas(const struct ut_layout *layout, uint64_t *count);

/*
 * Bytes in a page of a VMA, by PROCMAP_QUERY (Linux 6.11, commit ed5d583a88a9); 0 where
 * the kernel has none, -1 with *error where no VMA is mapped that begins there and shows
 * the same file: of vma start, inode, major and minor are looked at.
 */
int64_t ut_layout_page_size(const struct ut_layout *layout, const struct ut_vma *vma,
                            struct ut_error *error);

/*
 * The VMA that holds the byte at address as it is now, not as maps was read. 1: found,
 * 0: nothing is mapped there, -1: this kernel (before 6.11) cannot be asked.
 */
int ut_layout_query(const struct ut_layout *layout, uint64_t address, uint64_t *start,
                    uint64_t *end);

/*
 * What is mapped, as sorted merged pairs [start, end), into out (room for one
 * run a VMA). Returns how many pairs.
 */
uint64_t ut_layout_mapped(const struct ut_layout *layout, uint64_t *out);

/*
 * Indices of the VMAs that are more than plain private anonymous memory (they
 * have a file, a special name, or are shared), into out (room for count of
 * VMAs). Returns how many: a heap of 60 000 VMAs costs Python nothing.
 */
uint64_t ut_layout_special(const struct ut_layout *layout, uint32_t *out);
