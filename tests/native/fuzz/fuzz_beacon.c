/* fuzz_beacon.c -- any bytes as a beacon of a multicast group.
 *
 * The input is a whole datagram.  Magic, type and checksum are set right first, or nothing behind
 * them would be reached; each is decoded once as it came, too.
 *
 * Beside what the sanitizers see, these must hold of every beacon that is accepted:
 *   - its positions are in order, and no sum of them with its history overflows;
 *   - it has a legal pattern;
 *   - written again it is the same, byte for byte.
 */
#include <stdlib.h>
#include <string.h>

#include "hu_wire.h"

#include "fuzz_driver.h"

static void must(int holds) {
    if (!holds)
        abort();
}

static void check(const hu_header *header, const hu_beacon *beacon) {
    must(header->received <= beacon->oldest && beacon->oldest <= beacon->join);
    must(beacon->join <= header->position && header->position <= INT64_MAX);
    must(header->position - header->received <= beacon->history);
    must(beacon->history >= HU_HISTORY_MIN && beacon->history <= HU_HISTORY_MAX);
    must(hu_core->pattern_check(beacon->pattern, beacon->pattern_size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static hu_beacon_entry entries[HU_BEACON_STREAMS];
    static hu_beacon beacon;
    static uint8_t again[HU_DATAGRAM_MAX];
    hu_header header;
    hu_bind((uintptr_t)hm_api_get());
    hu_header_decode(data, size, &header);
    if (size < HU_HEADER)
        return 0;
    uint8_t *exact = malloc(size);
    must(exact != NULL);
    memcpy(exact, data, size);
    memcpy(exact, "HU\1\10", 4);
    hu_seal(exact, size);
    const uint8_t *body = exact + HU_HEADER;
    uint64_t length = size - HU_HEADER;
    if (hu_header_decode(exact, size, &header) == 0 &&
        hu_beacon_decode(&header, body, length, &beacon, entries) == 0) {
        check(&header, &beacon);
        must(hu_beacon_encode(again, sizeof again, &beacon, entries) == length);
        must(memcmp(again, body, length) == 0);
    }
    free(exact);
    return 0;
}
