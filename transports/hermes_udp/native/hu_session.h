/* hu_session.h -- one end of a session: a sender, a receiver, and what they tell each other.
 *
 * Fed with datagrams that hu_header_decode has found sound and whose address is the peer's; emits
 * trains of datagrams.  Every datagram it sends says how far the other direction has come, so that
 * where both ends have something to say nothing else is needed.
 *
 *     OPEN -- hu_session_finish --> FINISHING -- all acknowledged --> FLUSHED
 *       any of them -- reset, or silence --> LOST
 *
 * Sans-IO: time is an argument.  One thread at a time.
 */
#ifndef HU_SESSION_H
#define HU_SESSION_H

#include "hu_receiver.h"
#include "hu_sender.h"

/* cdef-begin -- opaque session and train; constants that docs/udp.md lists. */
typedef struct hu_session hu_session;
typedef struct hu_train hu_train;

#define HU_ACK_DELAY    250000   /* ns an acknowledgement waits for something to travel with */
#define HU_ACK_BYTES    32768    /* bytes received after which it does not */
#define HU_STATUS_MAX   1408     /* bytes of a status datagram */
#define HU_KEEPALIVES   5        /* words within the time after which we would be given up */
#define HU_LIVENESS     10000    /* ms of silence after which a peer is given up */
#define HU_LIVENESS_MIN 100      /* ms */
#define HU_LIVENESS_MAX 3600000  /* ms */
#define HU_RTT_MAX      60000000 /* us: a larger one is not believed */
#define HU_TRAIN_MAX    64       /* datagrams of a train: what one UDP_SEGMENT call takes */

enum {                   /* what a datagram, or time, has brought; a bit set */
       HU_READABLE = 1,  /* bytes stand in order */
       HU_RELEASED = 2,  /* bytes of ours were acknowledged */
       HU_WIDER = 4,     /* the peer's window has moved */
       HU_ENDED = 8,     /* the peer has sent its last byte, and all have arrived */
       HU_FLUSHED = 16,  /* it has all of ours, and knows that they are all */
       HU_LOST = 32,     /* it is over: hu_session_reason says why */
       HU_MALFORMED = 64 /* something in the datagram is impossible */
};

typedef struct {
    uint64_t id;
    uint64_t window;      /* bytes we can hold for the application; a power of two */
    uint64_t copy_size;   /* bytes of the sender's ring; a power of two */
    uint32_t datagram;    /* bytes of the datagrams we send */
    uint32_t peer_window; /* bytes the peer can hold */
    uint32_t liveness_ms; /* silence after which we give the peer up */
    uint32_t patience_ms; /* silence after which the peer gives us up */
} hu_session_options;

typedef struct {
    uint64_t sent;     /* datagrams, of all kinds */
    uint64_t received; /* likewise, sound ones */
    uint64_t statuses_sent;
    uint64_t nacks_sent; /* status datagrams that call for ranges */
    uint64_t nacks_received;
    uint64_t keepalives;     /* sent because nothing else was */
    uint64_t impossible;     /* datagrams that claim what can't be */
    uint64_t echoes_ignored; /* of stamps that were never sent, or too old */
} hu_session_counters;

/* NULL: no memory. */
hu_session *hu_session_new(const hu_session_options *options, uint64_t now_ns);
void hu_session_free(hu_session *session);
/* A datagram of this session, decoded; `data` stands behind the header.  A bit set of events. */
uint32_t hu_session_input(hu_session *session, const hu_header *header, const uint8_t *data,
                          uint64_t size, uint64_t now_ns);
/* Serves liveness; HU_LOST or 0. */
uint32_t hu_session_tick(hu_session *session, uint64_t now_ns);
/* Takes bytes to send, as hu_sender_push. */
uint64_t hu_session_push(hu_session *session, const uint8_t *data, uint64_t size, int copy);
/* Bytes were taken from the receiver: tells the peer if it waits for that. */
void hu_session_consume(hu_session *session, uint64_t size);
/* Nothing will be pushed any more. */
void hu_session_finish(hu_session *session, uint64_t now_ns);
/* The next datagrams to send, all of them but the last of the same size; how many, 0: none now. */
uint32_t hu_session_emit(hu_session *session, hu_train *train, uint64_t now_ns);
/* Of the last train only the first `count` datagrams were sent. */
void hu_session_unsend(hu_session *session, const hu_train *train, uint32_t count);
/* When to call hu_session_tick and hu_session_emit again, if nothing happens before. */
uint64_t hu_session_deadline(const hu_session *session, uint64_t now_ns);
/* Over, for HU_BYE and so on. */
void hu_session_lose(hu_session *session, uint32_t reason);
/* Bytes of the datagrams we send; the path takes none so large: smaller ones from now on. */
uint32_t hu_session_datagram(const hu_session *session);
void hu_session_shrink(hu_session *session, uint32_t datagram);
uint32_t hu_session_reason(const hu_session *session);
uint64_t hu_session_id(const hu_session *session);
/* HU_ENDED, HU_FLUSHED and HU_LOST as they hold now. */
uint32_t hu_session_state(const hu_session *session);
hu_sender *hu_session_sender(hu_session *session);
hu_receiver *hu_session_receiver(hu_session *session);
void hu_session_count(const hu_session *session, hu_session_counters *counters);

hu_train *hu_train_new(void);
void hu_train_free(hu_train *train);
/* Copies datagram `index` to `out`, which has HU_DATAGRAM_MAX bytes; its size. */
uint64_t hu_train_copy(const hu_train *train, uint32_t index, uint8_t *out);
/* cdef-end */

#include <sys/uio.h>

#define HU_PIECES_MAX 1024 /* what one sendmsg takes */

struct hu_train {
    uint32_t count;
    uint32_t pieces;
    uint64_t size;         /* bytes in all */
    uint64_t segment_size; /* bytes of each datagram but the last */
    hu_span span;          /* what of the stream it carries */
    struct iovec iov[HU_PIECES_MAX];
    uint32_t first[HU_TRAIN_MAX]; /* piece with which each datagram begins */
    uint8_t headers[HU_TRAIN_MAX][HU_HEADER];
    uint8_t body[HU_STATUS_MAX];
};

/* An empty train, and one more piece of its last datagram. */
void hu_train_begin(hu_train *train);
void hu_train_put(hu_train *train, const void *data, uint64_t size);

#endif
