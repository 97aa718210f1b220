/* fuzz_log.c -- any bytes for a segment and its index: what recovery and verification make of them.
 *
 * Input: one byte of switches, two bytes with the length of the index, the index, the segment file.
 * With REPAIR header, seal and records get the checksums that fit, so that a mutation reaches what
 * stands behind them.  Every input is walked in memory; the first, and one in RARE, are written to
 * a directory, opened twice, read from end to end, appended to and verified.
 *
 * Beside what the sanitizers see, these must hold:
 *   - damaged ranges lie in order within the segment, and every frame outside them is sound, each
 * with its predecessor's sequence plus one;
 *   - reading an opened log comes to its tail, whatever stands in between, and gives sound frames
 * only;
 *   - what was opened can be appended to, and opening it again finds the same messages and that
 * one.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hm_log.h"
#include "hm_verify.h"

#include "../../../hermes/native/src/log/log_internal.h"

#include "fuzz_driver.h"

#define RARE  2000 /* inputs for each that goes through the file system: a thousand times slower */
#define FIRST 8    /* these do in any case: the corpus */
#define BASE  7    /* sequence the corpus begins with */

enum { REPAIR = 1, UNSEALED = 2, NO_MARKS = 4, KNOWN_NEXT = 8 };

#define must(holds) must_at(holds, __LINE__)

static void must_at(int holds, int line) {
    if (!holds) {
        fprintf(stderr, "line %d does not hold\n", line);
        abort();
    }
}

static void repair(uint8_t *segment, uint64_t size, hm_record *records, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        uint32_t messages = hm_record_count(&records[i]);
        uint64_t word = hm_record_count_crc(hm_record_crc_body(&records[i]), messages);
        if (records[i].count_crc)
            atomic_store(&records[i].count_crc, word);
    }
    if (size < HM_LOG_SEGMENT_HEADER)
        return;
    uint32_t crc = hm_crc32c(0, segment, 56);
    memcpy(segment + 56, &crc, sizeof crc);
    crc = hm_crc32c(crc, segment + HM_SEAL_OFFSET, 40);
    memcpy(segment + HM_SEAL_OFFSET + 40, &crc, sizeof crc);
}

static void check_sound(const hm_walk *walk, uint64_t offset, uint64_t end, uint64_t *sequence) {
    while (offset < end) {
        int64_t size = hm_walk_check(walk, offset, *sequence);
        must(size > 0);
        offset += (uint64_t)size;
        ++*sequence;
    }
    must(offset == end);
}

static void walk_memory(const uint8_t *segment, uint64_t size, const hm_record *slots,
                        uint64_t count, uint8_t switches) {
    uint64_t unsound, covered, position = 0;
    hm_record *marks = malloc((count + 1) * sizeof *marks);
    hm_header header = {0};
    hm_seal seal;
    must(marks != NULL);
    if (size >= HM_LOG_SEGMENT_HEADER && hm_header_decode(segment, &header) == 0)
        position = header.base_position;
    uint64_t kept = hm_records_sift(slots, count, BASE, position, marks, &unsound, &covered);
    hm_walk walk = {.map = segment,
                    .end = size,
                    .base_sequence = BASE,
                    .base_position = position,
                    .next_sequence = switches & KNOWN_NEXT ? covered : UINT64_MAX,
                    .marks = marks,
                    .mark_count = switches & NO_MARKS ? 0 : kept};
    if (!(switches & UNSEALED) && hm_seal_decode(segment, header.crc, &seal) == 0 &&
        seal.end <= size && seal.end >= HM_LOG_SEGMENT_HEADER) {
        walk.end = seal.end;
        walk.next_sequence = seal.next_sequence;
        walk.sealed = true;
    }
    hm_walk_run(&walk);
    uint64_t offset = HM_LOG_SEGMENT_HEADER, sequence = BASE;
    for (uint32_t i = 0; i < walk.damage_count; i++) {
        const hm_damage *damage = &walk.damage[i];
        uint64_t begin = damage->position - position + HM_LOG_SEGMENT_HEADER;
        uint64_t end = damage->end - position + HM_LOG_SEGMENT_HEADER;
        must(begin >= offset && end > begin && end <= walk.end);
        check_sound(&walk, offset, begin, &sequence);
        must(damage->first_sequence == sequence && damage->next_sequence > sequence);
        sequence = damage->next_sequence;
        offset = end;
    }
    check_sound(&walk, offset, walk.offset, &sequence);
    must(sequence == walk.expected && walk.offset <= walk.end);
    must(walk.expected <= walk.next_sequence || walk.messages == 0);
    free(walk.damage);
    free(marks);
}

/* ---- through the file system ---- */

static void write_file(const char *directory, const char *suffix, const void *data, uint64_t size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%020d.%s", directory, BASE, suffix);
    FILE *file = fopen(path, "wb");
    must(file && fwrite(data, 1, size, file) == size && fclose(file) == 0);
}

static hm_log *open_log(const char *directory) {
    hm_log_options options = {.segment_bytes = 8192, .message_max = HM_MESSAGE_MAX};
    hm_log_report report;
    hm_log *log = NULL;
    int error = hm_log_open(directory, &options, NULL, &report, &log);
    must(error == 0 || error == -HM_EVERSION);
    return log;
}

static uint64_t read_all(hm_log *log) {
    hm_log_status status;
    hm_range range;
    uint64_t messages = 0, size;
    hm_log_status_get(log, &status);
    uint64_t at = status.start_position, expected = status.first_sequence;
    for (int kind; (kind = hm_log_read(log, at, 3000, &range)) != 0;) {
        must(kind == 1 || (kind == -HM_EDAMAGED && range.position > at));
        if (kind == 1) {
            hm_segment *segment = hm_log_pin(log, range.segment);
            hm_walk walk = {.map = hm_segment_memory(segment, &size) + range.offset,
                            .end = range.size};
            must(range.first_sequence == expected);
            check_sound(&walk, 0, range.size, &expected);
            must(expected == range.next_sequence);
            messages += range.next_sequence - range.first_sequence;
            hm_segment_release(segment);
        }
        must(range.first_sequence >= expected || kind == 1);
        expected = kind == 1 ? expected : range.first_sequence;
        at = kind == 1 ? at + range.size : range.position;
    }
    must(at == status.end_position && expected == status.next_sequence);
    hm_log_locate(log, status.first_sequence + messages / 2, &range);
    hm_log_locate_time(log, 1000, &range);
    return messages;
}

static void append_one(hm_log *log) {
    uint8_t frame[64];
    uint64_t sequence, position;
    uint32_t appended;
    int64_t size = hm_frame_encode(frame, sizeof frame, HM_MESSAGE, (const uint8_t *)"t", 1, NULL,
                                   0, (const uint8_t *)"x", 1, 0, 0);
    must(hm_log_append(log, frame, (uint64_t)size, 1, NULL, 1, &sequence, &position, &appended) ==
         0);
}

static void remove_all(const char *directory) {
    DIR *stream = opendir(directory);
    must(stream != NULL);
    for (struct dirent *at; (at = readdir(stream));)
        if (at->d_name[0] != '.')
            unlinkat(dirfd(stream), at->d_name, 0);
    closedir(stream);
}

static void open_files(const uint8_t *segment, uint64_t size, const void *index,
                       uint64_t index_size) {
    static char directory[64];
    hm_verification *verification = NULL;
    if (directory[0] == 0) {
        snprintf(directory, sizeof directory, "/tmp/hermes-fuzz-XXXXXX");
        must(mkdtemp(directory) != NULL);
    }
    write_file(directory, "log", segment, size);
    if (index_size)
        write_file(directory, "index", index, index_size);
    if (hm_verify(directory, 1, NULL, &verification) == 0)
        hm_verification_free(verification);
    hm_log *log = open_log(directory);
    if (log) {
        hm_log_status before, after;
        uint64_t messages = read_all(log);
        append_one(log);
        must(read_all(log) == messages + 1);
        hm_log_status_get(log, &before);
        must(hm_log_close(log) == 0);
        log = open_log(directory);
        hm_log_status_get(log, &after);
        must(after.next_sequence == before.next_sequence);
        must(read_all(log) == messages + 1);
        must(hm_log_close(log) == 0);
    }
    remove_all(directory);
    rmdir(directory);
    directory[0] = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint64_t inputs;
    if (size < 3)
        return 0;
    uint64_t index_size = (uint64_t)(data[1] | data[2] << 8);
    index_size = index_size < size - 3 ? index_size : size - 3;
    uint64_t count = index_size / sizeof(hm_record), segment_size = size - 3 - index_size;
    hm_record *records = aligned_alloc(64, (count + 1) * sizeof *records);
    uint8_t *segment = aligned_alloc(8, (segment_size + 8) / 8 * 8);
    must(records && segment);
    memcpy(records, data + 3, count * sizeof *records);
    memcpy(segment, data + 3 + index_size, segment_size);
    if (data[0] & REPAIR)
        repair(segment, segment_size, records, count);
    if (segment_size >= HM_LOG_SEGMENT_HEADER)
        walk_memory(segment, segment_size, records, count, data[0]);
    if (inputs < FIRST || inputs % RARE == 0)
        open_files(segment, segment_size, records, count * sizeof *records);
    inputs++;
    free(records);
    free(segment);
    return 0;
}
