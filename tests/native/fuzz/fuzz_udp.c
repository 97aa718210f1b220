/* fuzz_udp.c -- any bytes as the datagrams of a session.
 *
 * Input: u16 length and so many bytes, again and again: the datagrams, in turn with a little time
 * and a little work by the session.  Checksums, the magic and the session's id are set right first:
 * a mutation nearly always breaks them, and then nothing behind them is reached.  Each is decoded
 * once as it came, too.
 *
 * Beside what the sanitizers see, these must hold:
 *   - the receiver never holds more than its window, nor more holes than it may;
 *   - what was acknowledged was sent, what was sent lies within the limit;
 *   - what stands in order stays as it is until it is consumed;
 *   - a session sends a bounded number of datagrams for each that it gets.
 */
#include <stdlib.h>
#include <string.h>

#include "hu_session.h"

#include "fuzz_driver.h"

#define WINDOW   4096
#define DATAGRAM 512
#define STEP_NS  300000
#define BURST    64 /* datagrams a session may send at once: its window and its holes */
#define ID       7

static void must(int holds) {
    if (!holds)
        abort();
}

static hu_session *open_session(void) {
    hu_session_options options = {.id = ID,
                                  .window = WINDOW,
                                  .copy_size = 4096,
                                  .datagram = DATAGRAM,
                                  .peer_window = WINDOW,
                                  .liveness_ms = 1000,
                                  .patience_ms = 1000};
    hu_session *session = hu_session_new(&options, 1);
    must(session != NULL);
    return session;
}

static void check(hu_session *session) {
    hu_receiver *receiver = hu_session_receiver(session);
    hu_sender *sender = hu_session_sender(session);
    must(hu_receiver_received(receiver) <= hu_receiver_highest(receiver));
    must(hu_receiver_highest(receiver) <= hu_receiver_limit(receiver));
    must(hu_receiver_limit(receiver) - hu_receiver_received(receiver) <= WINDOW);
    must(hu_receiver_holes(receiver) <= HU_HOLES_MAX);
    must(hu_sender_acked(sender) <= hu_sender_sent(sender));
    must(hu_sender_sent(sender) <= hu_sender_end(sender));
}

static void emit(hu_session *session, hu_train *train, uint64_t now_ns) {
    uint32_t count, sent = 0;
    uint8_t out[HU_DATAGRAM_MAX];
    while ((count = hu_session_emit(session, train, now_ns)) > 0) {
        for (uint32_t i = 0; i < count; i++) {
            hu_header header;
            uint64_t size = hu_train_copy(train, i, out);
            must(size <= DATAGRAM && hu_header_decode(out, size, &header) == 0);
        }
        sent += count;
        must(sent <= BURST);
    }
}

/* What stands in order must not change under the datagrams that follow. */
static void consume(hu_session *session, uint64_t step) {
    const uint8_t *data;
    uint64_t size = hu_receiver_readable(hu_session_receiver(session), &data);
    if (step % 3 == 0)
        hu_session_consume(session, step % 2 == 0 ? size : size / 2);
}

static void deliver(hu_session *session, uint8_t *data, uint64_t size, uint64_t now_ns) {
    hu_header header;
    hu_header_decode(data, size, &header);
    if (size < HU_HEADER)
        return;
    memcpy(data, "HU\1", 3);
    data[3] = (uint8_t)(1 + data[3] % HU_BEACON);
    memset(data + 8, 0, 8);
    data[8] = ID;
    hu_seal(data, size);
    if (hu_header_decode(data, size, &header) != 0 || header.type > HU_RESET)
        return;
    const uint8_t *before, *after;
    uint8_t copy[WINDOW];
    uint64_t held = hu_receiver_readable(hu_session_receiver(session), &before);
    memcpy(copy, before, held);
    hu_session_input(session, &header, data + HU_HEADER, size - HU_HEADER, now_ns);
    must(hu_receiver_readable(hu_session_receiver(session), &after) >= held && after == before);
    must(memcmp(copy, after, held) == 0);
    check(session);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t stream[3000];
    static hu_train *train;
    uint64_t now_ns = 1, step = 0;
    if (train == NULL) {
        hu_bind((uintptr_t)hm_api_get());
        train = hu_train_new();
    }
    hu_session *session = open_session();
    hu_session_push(session, stream, sizeof stream, 0);
    hu_session_push(session, stream, 500, 1);
    for (size_t at = 0; at + 2 <= size && hu_session_reason(session) == 0; step++) {
        size_t length = (size_t)data[at] | (size_t)(data[at + 1] & 3) << 8;
        at += 2;
        length = length < size - at ? length : size - at;
        uint8_t *exact = malloc(length > 0 ? length : 1);
        must(exact != NULL);
        memcpy(exact, data + at, length);
        deliver(session, exact, length, now_ns);
        free(exact);
        at += length;
        consume(session, step);
        emit(session, train, now_ns);
        check(session);
        now_ns += STEP_NS;
        hu_session_tick(session, now_ns);
        if (step == 5)
            hu_session_finish(session, now_ns);
    }
    hu_session_free(session);
    return 0;
}
