/* hm_index.c -- the records of a segment's index, and the search in them. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>

#include "log_internal.h"

#define RECORD_BODY 48 /* bytes the CRC covers besides the count */

uint32_t hm_record_crc_body(const hm_record *record) {
    return hm_crc32c(0, record, RECORD_BODY);
}

uint64_t hm_record_count_crc(uint32_t body_crc, uint32_t count) {
    uint32_t crc = hm_crc32c(body_crc, &count, sizeof count);
    return (uint64_t)count | (uint64_t)(crc ? crc : 1) << 32;
}

int hm_record_check(const hm_record *record) {
    uint64_t count_crc = atomic_load_explicit(&record->count_crc, memory_order_relaxed);
    if (count_crc == 0) {
        return -HM_EEMPTY;
    }
    uint64_t wanted = hm_record_count_crc(hm_record_crc_body(record), (uint32_t)count_crc);
    return count_crc == wanted && record->reserved == 0 ? 0 : -HM_ECRC;
}

static void uncharge(hm_segment *segment, uint64_t bytes) {
    pthread_mutex_lock(&segment->pool->lock);
    segment->pool->disk_used -= bytes;
    segment->disk_bytes -= bytes;
    pthread_mutex_unlock(&segment->pool->lock);
}

int hm_index_room(hm_segment *segment, uint64_t count) {
    assert(segment->record_count <= segment->record_capacity);
    if (segment->record_count + count <= segment->record_capacity) {
        return 0;
    }
    uint64_t have = segment->record_capacity * sizeof(hm_record);
    uint64_t need = (segment->record_count + count) * sizeof(hm_record) - have;
    uint64_t chunk = segment->pool->index_chunk;
    uint64_t more = (need + chunk - 1) / chunk * chunk;
    if (have + more > segment->index_reserved) {
        more = segment->index_reserved - have;
    }
    assert(more >= need);
    int error = hm_segment_charge(segment, more);
    if (error) {
        return error;
    }
    if (segment->index_fd >= 0) {
        error = hm_file_allocate(segment->index_fd, have, more);
        if (error) {
            uncharge(segment, more);
            return error;
        }
    }
    segment->record_capacity += more / sizeof(hm_record);
    return 0;
}

hm_record *hm_index_add(hm_segment *segment, const hm_origin *origin, uint64_t sequence,
                        uint64_t position, uint64_t time_ns, uint32_t count) {
    assert(segment->record_count < segment->record_capacity);
    assert(!segment->heap_records);
    hm_record *record = &segment->records[segment->record_count];
    memcpy(record->publisher, origin->publisher, sizeof record->publisher);
    record->publisher_first = origin->first_sequence;
    record->first_sequence = sequence;
    record->position = position;
    record->time_ns = time_ns;
    record->reserved = 0;
    /* release: a process killed anywhere leaves frames and body in place before the word that makes
     * them count; pairs with the reads of whoever maps the file next. */
    atomic_store_explicit(&record->count_crc,
                          hm_record_count_crc(hm_record_crc_body(record), count),
                          memory_order_release);
    segment->record_count++;
    return record;
}

/* First index in [0, count) whose field is > value (or >= with `inclusive`). */
#define BOUND(segment, field, test, value)                                                         \
    uint64_t low = 0, high = (segment)->record_count;                                              \
    while (low < high) {                                                                           \
        uint64_t middle = low + (high - low) / 2;                                                  \
        if ((segment)->records[middle].field test(value)) {                                        \
            low = middle + 1;                                                                      \
        } else {                                                                                   \
            high = middle;                                                                         \
        }                                                                                          \
    }

uint64_t hm_index_by_position(const hm_segment *segment, uint64_t position) {
    BOUND(segment, position, <=, position)
    return low ? low - 1 : 0;
}

uint64_t hm_index_by_sequence(const hm_segment *segment, uint64_t sequence) {
    BOUND(segment, first_sequence, <=, sequence)
    return low ? low - 1 : 0;
}

uint64_t hm_index_by_time(const hm_segment *segment, uint64_t time_ns) {
    BOUND(segment, time_ns, <, time_ns)
    return low;
}
