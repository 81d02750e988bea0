/*
 * The parser of /proc/PID/maps under sanitizers, fed with damaged text:
 *
 *   maps SEED SECONDS FILE...    the files are what is damaged
 *
 *   file --damage--> memfd --ut_layout_refresh--> every function that reads a layout
 *
 * A finding ends it with a report of the sanitizer and the input in the file "input".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "api/layout.h"

enum { LONGEST = 1 << 16, MOST_FILES = 16 };

static char *files[MOST_FILES];
static size_t lengths[MOST_FILES];
static int count;
static uint64_t state;

static uint32_t draw(uint32_t limit)
{
	/* xorshift64: Marsaglia, "Xorshift RNGs", 2003. */
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % limit;
}

static void load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	files[count] = malloc(LONGEST);
	if (fd < 0 || !files[count] || (n = read(fd, files[count], LONGEST)) <= 0) {
		perror(path);
		exit(2);
	}
	lengths[count++] = n;
	close(fd);
}

static size_t damage(char *data, size_t length)
{
	static const char alphabet[] = "0123456789abcdefrwxps-: \n/[]\377";
	size_t at = length ? draw(length) : 0, size = 1 + draw(40);

	if (size > length - at)
		size = length - at;
	switch (draw(5)) {
	case 0:
		data[at] = alphabet[draw(sizeof(alphabet) - 1)];
		break;
	case 1:
		data[at] = draw(256);
		break;
	case 2: /* cut out */
		memmove(data + at, data + at + size, length - at - size);
		return length - size;
	case 3: /* say twice */
		if (length + size > LONGEST)
			break;
		memmove(data + at + size, data + at, length - at);
		return length + size;
	default:
		return at;
	}
	return length;
}

static void read_all(struct ut_layout *layout)
{
	struct ut_error error;
	uint64_t found, n, start, end, sum = 0;
	const struct ut_vma *vmas;
	uint64_t *pairs;
	uint32_t *special;

	if (ut_layout_refresh(layout, &error) < 0)
		return;
	vmas = ut_layout_vmas(layout, &found);
	const char *text = ut_layout_text(layout, &n);
	for (uint64_t i = 0; i < found; i++) {
		for (uint32_t j = 0; j < vmas[i].name_length; j++)
			sum += text[vmas[i].name + j];
		if (vmas[i].line > n || vmas[i].start >= vmas[i].end)
			abort();
		ut_layout_page_size(layout, &vmas[i], &error);
		ut_layout_query(layout, vmas[i].start, &start, &end);
	}
	pairs = malloc((found + 1) * 16);
	special = malloc((found + 1) * sizeof(*special));
	if (!pairs || !special)
		exit(2);
	n = ut_layout_mapped(layout, pairs);
	for (uint64_t i = 0; i < 2 * n; i++)
		sum += pairs[i];
	n = ut_layout_special(layout, special);
	for (uint64_t i = 0; i < n; i++)
		if (special[i] >= found)
			abort();
	free(pairs);
	free(special);
	/* So that none of it is left out by the compiler. */
	if (sum == 1)
		putchar(' ');
}

int main(int argc, char **argv)
{
	static char data[LONGEST];
	uint64_t runs = 0;
	struct timespec now;
	time_t until;
	int fd = memfd_create("maps", MFD_CLOEXEC);
	struct ut_layout *layout = ut_layout_new(fd);

	if (argc < 4 || argc - 3 > MOST_FILES || fd < 0 || !layout)
		return 2;
	state = strtoull(argv[1], NULL, 10) * 2 + 1;
	for (int i = 3; i < argc; i++)
		load(argv[i]);
	clock_gettime(CLOCK_MONOTONIC, &now);
	until = now.tv_sec + atoi(argv[2]);
	do {
		int which = draw(count);
		size_t length = lengths[which];

		memcpy(data, files[which], length);
		for (uint32_t times = 1 + draw(6); times; times--)
			length = damage(data, length);
		if (ftruncate(fd, length) ||
		    pwrite(fd, data, length, 0) != (ssize_t)length)
			return 2;
		read_all(layout);
		runs++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < until);
	ut_layout_free(layout);
	printf("%lu\n", runs);
	return 0;
}
