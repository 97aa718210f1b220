/* fuzz_envelope.c -- any bytes for what says which frame stands next in a connection.
 *
 * Input: one byte of switches, then the bytes of the connection.  With REPAIR each frame gets the
 * checksum that fits, so that a mutation reaches what stands behind that test.
 *
 * Beside what the sanitizers see, these must hold:
 *   - a frame found lies within its bytes and its limits, and is one that hm_frame_check accepts;
 *   - whoever is asked for more bytes lacks at least one, and is asked for a frame within limits;
 *   - what a beginning is refused for, the whole is refused for; what it is found to be, it stays.
 */
#include <stdlib.h>
#include <string.h>

#include "hm_envelope.h"

#include "fuzz_driver.h"

enum { REPAIR = 1, SMALL = 2 };

static void must(int holds) {
    if (!holds)
        abort();
}

/* Gives the control frame or batch at `data` the checksum that fits, if what it covers is there. */
static void repair(uint8_t *data, uint64_t size) {
    uint32_t length, crc;
    memcpy(&length, data + 24, sizeof length);
    uint64_t covered = data[5] == HM_BATCH ? HM_BATCH_PREFIX : length;
    if (HM_FRAME_HEADER + covered > size)
        return;
    crc = hm_crc32c(0, data, 8);
    crc = hm_crc32c(crc, data + 16, 12);
    crc = hm_crc32c(crc, data + HM_FRAME_HEADER, covered);
    memcpy(data + 28, &crc, sizeof crc);
}

static void check(const uint8_t *data, uint64_t start, uint64_t end, uint32_t control_max,
                  uint32_t batch_max, const hm_envelope *found) {
    uint64_t size = end - start, needed;
    hm_slice slice;
    if (found->kind == 0) {
        uint64_t most = (uint64_t)(control_max > batch_max ? control_max : batch_max) + 64;
        must(found->needed > size && found->needed <= most);
    }
    if (found->kind <= 0)
        return;
    must(found->size <= size && found->size % HM_FRAME_ALIGN == 0);
    must(hm_frame_check(data + start, size, UINT32_MAX, &slice, &needed) == (int64_t)found->size);
    must(slice.type == found->kind && slice.payload_len == found->payload_len);
    if (found->kind == HM_BATCH)
        must(found->after <= found->through && found->size - HM_BATCH_HEADER <= batch_max);
    else
        must(found->payload_len <= control_max);
}

/* Asks with ever more of the frame there: the answers must not contradict the last one. */
static void check_beginnings(const uint8_t *data, uint64_t start, uint64_t end,
                             uint32_t control_max, uint32_t batch_max, const hm_envelope *whole) {
    static const uint64_t there[] = {0, 1, 3, 4, 5, 6, 31, 32, 33, 55, 56, 57, 64};
    hm_envelope found;
    for (size_t i = 0; i < sizeof there / sizeof *there && start + there[i] <= end; i++) {
        hm_envelope_next(data, start, start + there[i], control_max, batch_max, &found);
        check(data, start, start + there[i], control_max, batch_max, &found);
        must(found.kind == 0 || found.kind == whole->kind);
        must(found.kind != 0 || whole->kind != 0 || found.needed <= whole->needed);
        must(found.kind <= 0 || memcmp(&found, whole, sizeof found) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    uint32_t control_max = data[0] & SMALL ? 16 : HM_CONTROL_MAX;
    uint32_t batch_max = data[0] & SMALL ? 40 : HM_MESSAGE_MAX;
    uint8_t *copy = malloc(size > 1 ? size - 1 : 1);
    must(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    hm_envelope found = {.kind = 1};
    for (uint64_t start = 0; found.kind > 0; start += found.size) {
        if (data[0] & REPAIR && size - 1 - start >= HM_FRAME_HEADER)
            repair(copy + start, size - 1 - start);
        hm_envelope_next(copy, start, size - 1, control_max, batch_max, &found);
        check(copy, start, size - 1, control_max, batch_max, &found);
        check_beginnings(copy, start, size - 1, control_max, batch_max, &found);
    }
    free(copy);
    return 0;
}
