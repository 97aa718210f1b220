/* fuzz_ack.c -- any bytes as the payload of an acknowledgement.
 *
 * Beside what the sanitizers see: what is read is within its limits, and reads the same when it is
 * written again.
 */
#include <stdlib.h>

#include "hm_ack.h"

#include "fuzz_driver.h"

static void must(int holds) {
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint32_t publisher, again_publisher;
    uint64_t sequence, again_sequence;
    uint8_t out[HM_ACK_MAX];
    if (size == 0 || !hm_ack_parse(data, (uint32_t)size, &publisher, &sequence))
        return 0;
    must(sequence <= INT64_MAX);
    uint32_t written = hm_ack_encode(out, publisher, sequence);
    must(hm_ack_parse(out, written, &again_publisher, &again_sequence));
    must(again_publisher == publisher && again_sequence == sequence);
    return 0;
}
