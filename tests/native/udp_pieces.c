/* udp_pieces.c -- trains of the udp transport out of very many small pieces of memory.
 *
 * For many sizes of datagrams and pieces: no train has more pieces than one system call takes, and
 * what it carries is, datagram for datagram, the stream from where the one before ended.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hu_session.h"

#define RING   4096
#define PIECES 3000 /* of one session: fewer than HU_CHUNKS_MAX */

static uint8_t stream[RING + 64 * PIECES];

static uint64_t check_train(const hu_train *train, uint32_t count, uint64_t at) {
    static uint8_t out[HU_DATAGRAM_MAX];
    assert(train->pieces <= HU_PIECES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        hu_header header;
        uint64_t size = hu_train_copy(train, i, out);
        assert(hu_header_decode(out, size, &header) == 0);
        assert(header.type == HU_DATA && header.position == at);
        assert(memcmp(out + HU_HEADER, stream + at, size - HU_HEADER) == 0);
        at += size - HU_HEADER;
    }
    return at;
}

/* Returns the most pieces that a train had. */
static uint32_t send_all(hu_train *train, uint32_t datagram, uint64_t piece) {
    hu_session_options options = {.id = 1,
                                  .window = 4096,
                                  .copy_size = RING,
                                  .datagram = datagram,
                                  .peer_window = UINT32_MAX,
                                  .liveness_ms = 1000,
                                  .patience_ms = 1000};
    uint64_t now_ns = 1000000000, at = 0, end = RING;
    uint32_t count, most = 0;
    hu_session *session = hu_session_new(&options, now_ns);
    assert(session != NULL);
    uint64_t copied = hu_session_push(session, stream, RING, 1);
    assert(copied == RING); /* so that what follows can only be referred to */
    for (uint32_t i = 0; i < PIECES; i++) {
        uint64_t taken = hu_session_push(session, stream + end, piece, 0);
        assert(taken == piece);
        end += piece;
    }
    while (at < end && (count = hu_session_emit(session, train, now_ns)) > 0) {
        at = check_train(train, count, at);
        most = train->pieces > most ? train->pieces : most;
        hu_header header = {.session = 1, .received = at, .window = UINT32_MAX, .type = HU_STATUS};
        hu_session_input(session, &header, NULL, 0, now_ns);
        now_ns += 1000000;
    }
    assert(at == end);
    hu_session_free(session);
    return most;
}

int main(void) {
    uint32_t fullest = 0;
    hu_bind((uintptr_t)hm_api_get());
    hu_train *train = hu_train_new();
    assert(train != NULL);
    for (size_t i = 0; i < sizeof stream; i++)
        stream[i] = (uint8_t)(i * 2654435761u >> 24);
    for (uint32_t datagram = HU_DATAGRAM_MIN; datagram < 400; datagram++)
        for (uint64_t piece = 1; piece <= 16; piece += 3) {
            uint32_t most = send_all(train, datagram, piece);
            fullest = most > fullest ? most : fullest;
        }
    hu_train_free(train);
    printf("at most %u pieces\n", fullest);
    return 0;
}
