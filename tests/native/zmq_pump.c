/* zmq_pump.c -- the ZeroMQ plugin's map and pump with a libzmq of our own, on any bytes.
 *
 *     zmq_pump ROUNDS SEED
 *
 * Each round makes messages of random parts, has the pump receive them, feeds what it wrote to the
 * pump that sends, which is refused and resumed at random, and wants back frame for frame what went
 * in.  Then it makes frames with property blocks that no map ever wrote: their parts must lie
 * within the frame.
 */
#include "../../transports/hermes_zmq/native/hz_map.c"
#include "../../transports/hermes_zmq/native/hz_pump.c"

#include <stdio.h>

#define QUEUE_MAX  64
#define PARTS_EACH 6

static uint64_t seed;

static uint32_t below(uint32_t bound) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % bound);
}

static void must(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

/* ---- a libzmq ---- */

typedef struct {
    uint8_t *data;
    size_t size;
    int more;
} fake_part;

static fake_part in[QUEUE_MAX * PARTS_EACH], out[QUEUE_MAX * PARTS_EACH];
static uint32_t in_count, in_next, out_count;
static int failure;
static int dropping; /* the rest of a message whose peer has gone */
static int looked;   /* since the last attempt to send */

typedef struct {
    uint8_t *data;
    size_t size;
    int more;
} fake_msg;

_Static_assert(sizeof(fake_msg) <= 64, "fits");

static fake_msg *fake(const hz_zmq_msg *message) {
    return (fake_msg *)(uintptr_t)message;
}
static int msg_init(hz_zmq_msg *message) {
    memset(message, 0, sizeof *message);
    return 0;
}
static int msg_init_size(hz_zmq_msg *message, size_t size) {
    *fake(message) = (fake_msg){malloc(size > 0 ? size : 1), size, 0};
    return 0;
}
static void *msg_data(hz_zmq_msg *message) {
    return fake(message)->data;
}
static size_t msg_size(const hz_zmq_msg *message) {
    return fake(message)->size;
}
static int msg_more(const hz_zmq_msg *message) {
    return fake(message)->more;
}
static int msg_close(hz_zmq_msg *message) {
    free(fake(message)->data);
    memset(message, 0, sizeof *message);
    return 0;
}
static int no(int code) {
    failure = code;
    return -1;
}
static int msg_recv(hz_zmq_msg *message, void *socket, int flags) {
    (void)socket, (void)flags;
    if (in_next == in_count)
        return no(EAGAIN);
    if (below(20) == 0)
        return no(EINTR);
    const fake_part *part = &in[in_next++];
    *fake(message) = (fake_msg){malloc(part->size > 0 ? part->size : 1), part->size, part->more};
    memcpy(fake(message)->data, part->data, part->size);
    return (int)part->size;
}
/* As libzmq does: within a message a part is refused only when the peer has gone. Then the parts
 * before it are taken back, and those behind it are dropped. */
static int put(const void *data, size_t size, int flags) {
    int more = (flags & ZMQ_SNDMORE) != 0;
    int within = out_count > 0 && out[out_count - 1].more;
    looked = 0;
    if (below(8) == 0)
        return no(EINTR);
    if (dropping) {
        dropping = more;
        return (int)size;
    }
    if (below(4) == 0) {
        for (; within && out_count > 0 && out[out_count - 1].more; out_count--)
            free(out[out_count - 1].data);
        dropping = within && more;
        return no(below(8) == 0 ? EHOSTUNREACH : EAGAIN);
    }
    must(out_count < QUEUE_MAX * PARTS_EACH, "no more comes out than went in");
    fake_part *part = &out[out_count++];
    *part = (fake_part){malloc(size > 0 ? size : 1), size, (flags & ZMQ_SNDMORE) != 0};
    if (size > 0)
        memcpy(part->data, data, size);
    return (int)size;
}
static int zmq_put(void *socket, const void *data, size_t size, int flags) {
    (void)socket;
    return put(data, size, flags);
}
static int msg_send(hz_zmq_msg *message, void *socket, int flags) {
    (void)socket;
    int sent = put(fake(message)->data, fake(message)->size, flags);
    if (sent >= 0)
        msg_close(message);
    return sent;
}
static int getsockopt_(void *socket, int option, void *value, size_t *size) {
    (void)socket, (void)option, (void)size;
    looked = 1;
    *(int *)value = in_next < in_count ? ZMQ_POLLIN : 0;
    return 0;
}
static int error_(void) {
    return failure;
}

static const hz_zmq ZMQ = {
    .msg_init = msg_init,
    .msg_init_size = msg_init_size,
    .msg_data = msg_data,
    .msg_size = msg_size,
    .msg_more = msg_more,
    .msg_recv = msg_recv,
    .msg_send = msg_send,
    .msg_close = msg_close,
    .send = zmq_put,
    .getsockopt = getsockopt_,
    .error = error_,
};

/* ---- rounds ---- */

static size_t fill(uint8_t *data, int first) {
    static const char *topics[] = {"md.xnas.AAPL", "a",        "_zmq.raw", "_zmq",
                                   "a..b",         "a.*",      ".",        "md.a some words",
                                   "x y",          "no-space", " ",        "\xff\xfe"};
    if (first && below(3) > 0) {
        const char *topic = topics[below(sizeof topics / sizeof *topics)];
        memcpy(data, topic, strlen(topic));
        return strlen(topic);
    }
    static const uint32_t bounds[] = {1, 8, 300, 3000, 70000};
    size_t size = below(bounds[below(5)]);
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)below(256);
    return size;
}

static void make_messages(void) {
    static uint8_t data[70000];
    uint32_t messages = below(12);
    in_count = in_next = 0;
    for (uint32_t i = 0; i < messages; i++) {
        uint32_t parts = 1 + below(PARTS_EACH);
        for (uint32_t j = 0; j < parts; j++) {
            size_t size = fill(data, j == 0);
            in[in_count] = (fake_part){malloc(size > 0 ? size : 1), size, j + 1 < parts};
            memcpy(in[in_count++].data, data, size);
        }
    }
}

static void forget(fake_part *parts, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        free(parts[i].data);
}

static void send_all(hz_pump *sender, const uint8_t *batch, uint64_t size) {
    hz_sent sent;
    for (uint64_t at = 0; at < size; at += sent.consumed) {
        hz_pump_send(sender, 1, batch + at, size - at, &sent);
        must(sent.why != HZ_DAMAGED && sent.why != HZ_CONTROL, "sound");
        must(sent.why != HZ_FAILED || sent.error == EHOSTUNREACH, "a failure is told");
        must(sent.odd == 0, "what we wrote makes sense");
        must(sent.why != HZ_BLOCKED || !looked, "the news of room is not taken unused");
    }
}

static void there_and_back(hz_pump *receiver, hz_pump *sender) {
    static uint8_t batch[1 << 20];
    hz_received received;
    uint64_t after = 0;
    make_messages();
    out_count = 0;
    do {
        uint64_t capacity = below(4) == 0 ? 200000 : sizeof batch;
        hz_pump_receive(receiver, 1, batch, capacity, 1 + below(300000), 1 + below(8), 7, after, 9,
                        &received);
        after += received.messages;
        must(received.oversized == 0 && received.crowded == 0, "nothing is refused");
        send_all(sender, batch, received.size);
        if (received.why == HZ_ROOM && received.size == 0) {
            must(received.needed <= sizeof batch, "what is asked for is there");
            hz_pump_receive(receiver, 1, batch, sizeof batch, 1 << 20, 1, 7, after, 9, &received);
            after += received.messages;
            send_all(sender, batch, received.size);
            received.why = HZ_MORE;
        }
    } while (received.why != HZ_EMPTY);
    must(in_count == out_count, "as many parts");
    for (uint32_t i = 0; i < in_count; i++) {
        must(in[i].size == out[i].size && in[i].more == out[i].more, "the same parts");
        must(memcmp(in[i].data, out[i].data, in[i].size) == 0, "the same bytes");
    }
    forget(in, in_count);
    forget(out, out_count);
}

/* A frame whose property block is half ours, half anybody's. */
static void strange_frame(hz_map *map) {
    static const char *names[] = {MORE, SINGLE, WHOLE, TOPIC, PARTS, "x"};
    static hz_message message;
    uint8_t block[4096], payload[64];
    uint32_t size = hm_properties_begin(block);
    for (uint32_t left = below(5); left > 0; left--) {
        const char *name = names[below(6)];
        uint32_t lengths[4] = {below(3) * 8, below(40), below(70), 64 - below(3)};
        size = hm_properties_put(block, size, name, (uint32_t)strlen(name), lengths, below(17));
    }
    for (uint32_t left = below(3); left > 0; left--)
        block[below(size)] = (uint8_t)below(256);
    size -= below(4) == 0 ? below(size) : 0;
    memset(payload, 'p', sizeof payload);
    uint64_t whole = hm_frame_size(1, size, sizeof payload);
    uint8_t *frame = malloc(whole);
    int64_t taken = hm_frame_encode(frame, whole, HM_MESSAGE, (const uint8_t *)"t", 1, block, size,
                                    payload, below(65), 1, 1);
    if (taken > 0) {
        int odd;
        must(hz_map_out(map, frame, (uint64_t)taken, &message, &odd) == taken, "sound");
        must(message.count > 0 && message.count <= HZ_PARTS_MAX, "parts");
        for (uint32_t i = 0; i < message.count; i++)
            must(message.parts[i].data >= frame &&
                     message.parts[i].data + message.parts[i].size <= frame + taken,
                 "within the frame");
    }
    for (uint32_t i = below(8); taken > 0 && i > 0; i--) {
        int odd;
        frame[below((uint32_t)taken)] ^= (uint8_t)(1 + below(255));
        hz_map_out(map, frame, below((uint32_t)taken + 1), &message, &odd);
    }
    free(frame);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    unsigned long rounds = strtoul(argv[1], NULL, 10);
    seed = strtoul(argv[2], NULL, 10);
    hz_map *map = hz_map_new((uintptr_t)hm_api_get(), 1, HZ_MULTIPART, NULL, 0, 1 << 20);
    hz_map *fixed =
        hz_map_new((uintptr_t)hm_api_get(), 1, HZ_BARE, (const uint8_t *)"w", 1, 1 << 20);
    must(map != NULL && fixed != NULL, "memory");
    for (unsigned long round = 0; round < rounds; round++) {
        hz_map *used = below(4) == 0 ? fixed : map;
        hz_pump *receiver = hz_pump_new_with(&ZMQ, used), *sender = hz_pump_new_with(&ZMQ, used);
        there_and_back(receiver, sender);
        hz_pump_free(receiver);
        hz_pump_free(sender);
        for (int i = 0; i < 20; i++)
            strange_frame(map);
    }
    hz_map_free(map);
    hz_map_free(fixed);
    printf("%lu rounds\n", rounds);
    return 0;
}
