/*
 * /proc/PID/maps, read at every iteration and parsed only when it changed.
 *
 *	maps --pread--> text --memcmp with the last text--> same: done
 *	                                                \-> parse --> struct ut_vma[]
 *
 * Reading costs the kernel about 0.3 us a VMA, less than anything else that
 * shows an munmap(). The file is held open: it stays bound to the address space
 * that was attached, also across an exec() of the process.
 */
#define _GNU_SOURCE /* memrchr */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "api/layout.h"

#define FIRST_SIZE (64 * 1024)

struct text {
	char *data;
	uint64_t length;
	uint64_t capacity;
};

struct ut_layout {
	int maps;
	struct text text;  /* what vmas[] points into */
	struct text spare; /* where the next read goes */
	struct ut_vma *vmas;
	uint64_t count;
	uint64_t capacity;
};

struct ut_layout *ut_layout_new(int maps)
{
	struct ut_layout *layout = calloc(1, sizeof(*layout));

	if (layout)
		layout->maps = maps;
	return layout;
}

void ut_layout_free(struct ut_layout *layout)
{
	if (!layout)
		return;
	free(layout->text.data);
	free(layout->spare.data);
	free(layout->vmas);
	free(layout);
}

/*
 * Where there is a page of old system calls, its line is the last, and asking for more is
 * in vain. No path or name begins with such an address.
 */
static int is_whole(const struct text *text)
{
	static const char gate[] = "ffffffffff600000-ffffffffff601000 ";
	const char *line;

	if (!text->length || text->data[text->length - 1] != '\n')
		return 0;
	line = memrchr(text->data, '\n', text->length - 1);
	line = line ? line + 1 : text->data;
	return text->data + text->length - line > (ptrdiff_t)sizeof(gate) &&
	       !memcmp(line, gate, sizeof(gate) - 1);
}

static int read_text(int fd, struct text *text, struct ut_error *error)
{
	text->length = 0;
	for (;;) {
		ssize_t n;

		if (text->capacity - text->length < FIRST_SIZE / 2) {
			uint64_t capacity =
				text->capacity ? text->capacity * 2 : FIRST_SIZE;
			char *data = realloc(text->data, capacity);

			if (!data)
				return ut_fail(error, "read maps", ENOMEM, 0, 0, 0);
			text->data = data;
			text->capacity = capacity;
		}
		n = pread(fd, text->data + text->length, text->capacity - text->length,
		          text->length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ut_fail(error, "read maps", errno, 0, 0, 0);
		if (n == 0)
			return 0;
		text->length += n;
		if (is_whole(text))
			return 0;
	}
}

static const char *number(const char *at, const char *end, unsigned int base,
                          uint64_t *ret)
{
	uint64_t value = 0;

	for (; at < end; at++) {
		unsigned int digit;

		if (*at >= '0' && *at <= '9')
			digit = *at - '0';
		else if (base == 16 && *at >= 'a' && *at <= 'f')
			digit = *at - 'a' + 10;
		else
			break;
		value = value * base + digit;
	}
	*ret = value;
	return at;
}

/* "start-end perms offset major:minor inode      name", one space between all but the
 * last. */
static int parse_line(const char *text, const char *at, const char *end,
                      struct ut_vma *vma)
{
	const char *line = at;
	uint64_t major, minor;

	at = number(at, end, 16, &vma->start);
	if (at == end || *at++ != '-')
		return -1;
	at = number(at, end, 16, &vma->end);
	if (end - at < 6 || vma->end <= vma->start)
		return -1;
	vma->flags =
		(at[1] == 'r' ? UT_VMA_READ : 0) | (at[2] == 'w' ? UT_VMA_WRITE : 0) |
		(at[3] == 'x' ? UT_VMA_EXEC : 0) | (at[4] == 's' ? UT_VMA_SHARED : 0);
	at = number(at + 6, end, 16, &vma->offset);
	if (at == end)
		return -1;
	at = number(at + 1, end, 16, &major);
	if (at == end)
		return -1;
	at = number(at + 1, end, 16, &minor);
	if (at == end)
		return -1;
	at = number(at + 1, end, 10, &vma->inode);
	while (at < end && *at == ' ')
		at++;
	vma->major = major;
	vma->minor = minor;
	vma->line = line - text;
	vma->name = at - text;
	vma->name_length = end - at;
	return 0;
}

static int parse(struct ut_layout *layout, struct ut_error *error)
{
	const char *text = layout->text.data, *at = text,
		   *end = text + layout->text.length;

	layout->count = 0;
	while (at < end) {
		const char *stop = memchr(at, '\n', end - at);

		if (!stop)
			stop = end;
		if (layout->count == layout->capacity) {
			uint64_t capacity = layout->capacity ? layout->capacity * 2 : 256;
			struct ut_vma *vmas =
				realloc(layout->vmas, capacity * sizeof(*vmas));

			if (!vmas)
				return ut_fail(error, "parse maps", ENOMEM, 0, 0, 0);
			layout->vmas = vmas;
			layout->capacity = capacity;
		}
		if (parse_line(text, at, stop, &layout->vmas[layout->count]))
			return ut_fail(error, "parse maps", EINVAL, 0, 0, 0);
		layout->count++;
		at = stop + 1;
	}
	return 0;
}

int ut_layout_refresh(struct ut_layout *layout, struct ut_error *error)
{
	struct text fresh;

	if (read_text(layout->maps, &layout->spare, error))
		return -1;
	fresh = layout->spare;
	if (layout->vmas && fresh.length == layout->text.length &&
	    !memcmp(fresh.data, layout->text.data, fresh.length))
		return 0;
	layout->spare = layout->text;
	layout->text = fresh;
	return parse(layout, error) ? -1 : 1;
}

const char *ut_layout_text(const struct ut_layout *layout, uint64_t *length)
{
	*length = layout->text.length;
	return layout->text.data;
}

uint64_t ut_layout_count(const struct ut_layout *layout)
{
	return layout->count;
}

const struct ut_vma *ut_layout_vmas(const struct ut_layout *layout, uint64_t *count)
{
	*count = layout->count;
	return layout->vmas;
}

/* struct procmap_query of <linux/fs.h>. */
struct vma_query {
	uint64_t size;
	uint64_t query_flags;
	uint64_t query_addr;
	uint64_t vma_start;
	uint64_t vma_end;
	uint64_t vma_flags;
	uint64_t vma_page_size;
	uint64_t vma_offset;
	uint64_t inode;
	uint32_t dev_major;
	uint32_t dev_minor;
	uint32_t vma_name_size;
	uint32_t build_id_size;
	uint64_t vma_name_addr;
	uint64_t build_id_addr;
};

#define IOCTL_PROCMAP_QUERY _IOWR('f', 17, struct vma_query)

int64_t ut_layout_page_size(const struct ut_layout *layout, const struct ut_vma *vma,
                            struct ut_error *error)
{
	struct vma_query query = {.size = sizeof(query), .query_addr = vma->start};

	if (!ioctl(layout->maps, IOCTL_PROCMAP_QUERY, &query)) {
		if (query.vma_start == vma->start && query.inode == vma->inode &&
		    query.dev_major == vma->major && query.dev_minor == vma->minor)
			return query.vma_page_size;
		errno = ENOENT;
	}
	if (errno == ENOTTY)
		return 0;
	return ut_fail(error, "PROCMAP_QUERY", errno, 0, vma->start, 0);
}

int ut_layout_query(const struct ut_layout *layout, uint64_t address, uint64_t *start,
                    uint64_t *end)
{
	struct vma_query query = {.size = sizeof(query), .query_addr = address};

	if (ioctl(layout->maps, IOCTL_PROCMAP_QUERY, &query))
		return errno == ENOENT ? 0 : -1;
	*start = query.vma_start;
	*end = query.vma_end;
	return 1;
}

uint64_t ut_layout_mapped(const struct ut_layout *layout, uint64_t *out)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < layout->count; i++) {
		const struct ut_vma *vma = &layout->vmas[i];

		/* A VMA that grew between two reads may overlap the line before it. */
		if (n && out[2 * n - 1] >= vma->start) {
			if (out[2 * n - 1] < vma->end)
				out[2 * n - 1] = vma->end;
		} else {
			out[2 * n] = vma->start;
			out[2 * n + 1] = vma->end;
			n++;
		}
	}
	return n;
}

uint64_t ut_layout_special(const struct ut_layout *layout, uint32_t *out)
{
	const char *text = layout->text.data;
	uint64_t n = 0;

	for (uint64_t i = 0; i < layout->count; i++) {
		const struct ut_vma *vma = &layout->vmas[i];
		const char *name = text + vma->name;

		if (vma->flags & UT_VMA_SHARED || vma->inode ||
		    (vma->name_length && strncmp(name, "[heap]", 6) &&
		     strncmp(name, "[stack]", 7) && strncmp(name, "[anon", 5)))
			out[n++] = i;
	}
	return n;
}
