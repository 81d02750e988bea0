/* Lists of stretches of address space: the spans of a collector and what it leaves alone.
 */
#include <stdlib.h>

#include "spans.h"

int spans_append(struct spans *spans, uint64_t start, uint64_t end)
{
	if (spans->count && spans->data[spans->count - 1].end == start) {
		spans->data[spans->count - 1].end = end;
		return 0;
	}
	if (spans->count == spans->capacity) {
		uint64_t capacity = spans->capacity ? spans->capacity * 2 : 64;
		struct span *data = realloc(spans->data, capacity * sizeof(*data));

		if (!data)
			return -1;
		spans->data = data;
		spans->capacity = capacity;
	}
	spans->data[spans->count++] = (struct span){start, end};
	return 0;
}

int spans_set(struct spans *spans, const uint64_t *pairs, uint64_t count)
{
	spans->count = 0;
	for (uint64_t i = 0; i < count; i++)
		if (spans_append(spans, pairs[2 * i], pairs[2 * i + 1]))
			return -1;
	return 0;
}

int spans_cut(struct spans *spans, uint64_t start, uint64_t end)
{
	struct spans kept = {0};
	int err = 0;

	if (start >= end || !spans_touch(spans, start, end))
		return 0;
	for (uint64_t i = 0; i < spans->count; i++) {
		struct span span = spans->data[i];

		if (span.start < min_u64(start, span.end))
			err |= spans_append(&kept, span.start, min_u64(start, span.end));
		if (max_u64(end, span.start) < span.end)
			err |= spans_append(&kept, max_u64(end, span.start), span.end);
	}
	if (err) {
		free(kept.data);
		return -1;
	}
	free(spans->data);
	*spans = kept;
	return 0;
}

int spans_outside(const struct spans *spans, uint64_t start, uint64_t end,
                  struct spans *out)
{
	for (uint64_t i = spans_find(spans, start); start < end; i++) {
		uint64_t stop = end, after = end;

		if (i < spans->count && spans->data[i].start < end) {
			stop = max_u64(spans->data[i].start, start);
			after = min_u64(spans->data[i].end, end);
		}
		if (start < stop && spans_append(out, start, stop))
			return -1;
		start = after;
	}
	return 0;
}

int spans_merge(const struct spans *one, const struct spans *other, struct spans *out)
{
	for (uint64_t i = 0, j = 0; i < one->count || j < other->count;) {
		int first = j == other->count ||
		            (i < one->count && one->data[i].start < other->data[j].start);
		const struct span *span = first ? &one->data[i++] : &other->data[j++];

		if (spans_append(out, span->start, span->end))
			return -1;
	}
	return 0;
}

uint64_t spans_find(const struct spans *spans, uint64_t address)
{
	uint64_t low = 0, high = spans->count;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (spans->data[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int spans_touch(const struct spans *spans, uint64_t start, uint64_t end)
{
	uint64_t i = spans_find(spans, start);

	return i < spans->count && spans->data[i].start < end;
}
