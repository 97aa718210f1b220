/* hu_wire.h -- the datagrams of the udp transport: layouts, and what makes one valid.
 *
 * Every datagram begins with the same header, little-endian:
 *
 *     offset size field     meaning
 *      0     2    magic     "HU"
 *      2     1    version   1
 *      3     1    type      HU_DATA and so on
 *      4     4    crc       CRC-32C of the whole datagram but this field
 *      8     8    session   who it belongs to; during set-up the client's nonce
 *     16     8    position  DATA: of the payload's first byte; else: behind the last byte ever sent
 *     24     8    received  of the other direction: all before it has arrived
 *     32     4    window    bytes that may be sent from `received` on
 *     36     4    stamp     the sender's clock, microseconds, never 0
 *     40     4    echo      the newest stamp that came and how long it was held; 0: none is new
 *     44     2    flags     HU_FIN and so on; unknown ones are ignored
 *     46     2    stream    0: the connection's own; others are for multicast
 *
 * Everything in it is absolute, so that losing a datagram loses nothing that the next does not say.
 * DATA goes on with payload, STATUS with missing ranges, BEACON with hu_beacon's fields and
 * entries, the datagrams of the set-up with hu_setup's fields and zeros.  All numbers are foreign:
 * hu_header_decode checks what can be checked without knowing the session, the engine the rest.
 *
 * Multicast: `stream` is 1, `session` the id of the cast.  DATA and BEACON go to a group; there
 * `received` is the oldest position that is still repeated, and a beacon's `position` the end of
 * the group's stream.  In a subscriber's STATUS, which goes to the unicast address, `session` is
 * that of its unicast session and `received` how far it has the group's stream.
 */
#ifndef HU_WIRE_H
#define HU_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "hm_api.h"

/* cdef-begin -- numbers of the protocol. */
#define HU_VERSION      1
#define HU_HEADER       48    /* bytes */
#define HU_RANGE        12    /* bytes of a missing range: u64 position, u32 length */
#define HU_SETUP        40    /* bytes of the set-up's fields */
#define HU_DATAGRAM_MIN 256   /* bytes, the least a path must carry */
#define HU_DATAGRAM_MAX 65507 /* bytes, the most UDP over IPv4 carries */

#define HU_BEACON_FIXED   32         /* bytes of a beacon's fields before the pattern */
#define HU_BEACON_ENTRY   13         /* bytes of an entry before the stream's name */
#define HU_BEACON_STREAMS 64         /* entries of a beacon */
#define HU_NAME_MAX       255        /* bytes of a pattern, and of a stream's name */
#define HU_HISTORY_MIN    65536      /* bytes of a group's stream that are kept, at least */
#define HU_HISTORY_MAX    1073741824 /* and at most: receivers have a window as large */
#define HU_GROUP_STREAM   1          /* `stream` of all that belongs to a group */

enum {
    HU_DATA = 1,      /* bytes of the stream */
    HU_STATUS = 2,    /* what has arrived and what is missing; also the keep-alive */
    HU_RESET = 3,     /* the session is over, or never was; `window` is HU_BYE and so on */
    HU_REQUEST = 4,   /* a client would like a session; as large as its datagrams are to be */
    HU_CHALLENGE = 5, /* a cookie, to be brought back; as large as the request */
    HU_CONFIRM = 6,   /* the cookie */
    HU_ACCEPT = 7,    /* the session's id */
    HU_BEACON = 8,    /* multicast: where a group's stream stands */
};
enum {
    HU_FIN = 1,          /* the payload ends the stream */
    HU_PROBE = 2,        /* answer at once */
    HU_REPEAT = 4,       /* the payload was sent before */
    HU_FIN_RECEIVED = 8, /* everything up to the end of the other stream has arrived */
};
enum {
    HU_BYE = 1,     /* closed in order, or not wanted any more */
    HU_UNKNOWN = 2, /* no such session: the peer has restarted, or given up */
    HU_REFUSED = 3, /* no room for another session */
    HU_SILENT = 4,  /* nothing was heard for too long; never sent, only found */
    HU_GONE = 5,    /* nobody listens there; never sent, only found */
};

typedef struct {
    uint64_t session;
    uint64_t position;
    uint64_t received;
    uint32_t window;
    uint32_t stamp;
    uint32_t echo;
    uint16_t flags;
    uint16_t stream;
    uint8_t type;
} hu_header;

typedef struct {
    uint64_t position;
    uint64_t size;
} hu_range;

/* The fields of a set-up datagram, behind the header:
 *
 *     offset size field       meaning
 *      0     8    cookie      proves that the client gets what is sent to its address
 *      8     8    session     ACCEPT: the id
 *     16     4    issued_s    when the cookie was made, in the server's seconds
 *     20     4    window      bytes the sender of this can hold for its application
 *     24     4    datagram    bytes of the largest datagram it takes
 *     28     4    liveness_ms after how long without a word it gives the other side up
 *     32     8    reserved    0
 */
typedef struct {
    uint64_t cookie;
    uint64_t session;
    uint32_t issued_s;
    uint32_t window;
    uint32_t datagram;
    uint32_t liveness_ms;
} hu_setup;

/* Where a group's stream stands.  Borders are positions at which an envelope of the wire protocol
 * begins; all numbers unaligned:
 *
 *     offset size field       meaning
 *      0     8    join        the newest border: where who comes late begins
 *      8     8    oldest      the oldest border that is kept: where who has lost too much goes on
 *     16     4    history     bytes kept; a power of two
 *     20     4    receivers   unicast sessions there are, which spread their calls by it
 *     24     2    datagram    bytes of the largest datagram sent to the group
 *     26     2    streams     entries that follow the pattern
 *     28     1    pattern     bytes of the pattern, at least 1
 *     29     3                0
 *     32          the pattern of the topics that are cast
 *
 * and for each stream of the broker's, as far as there is room for it:
 *
 *      0     8    through     the last sequence of it that stands before `join`
 *      8     4    index       what batches call it
 *     12     1    name        bytes of the name, at least 1
 *     13          the name
 *
 * Nothing follows.  received <= oldest <= join <= position <= received + history.
 */
typedef struct {
    uint64_t join;
    uint64_t oldest;
    uint32_t history;
    uint32_t receivers;
    uint16_t datagram;
    uint16_t streams;
    uint8_t pattern_size;
    uint8_t pattern[HU_NAME_MAX];
} hu_beacon;

typedef struct {
    uint64_t through;
    uint32_t index;
    uint8_t name_size;
    uint8_t name[HU_NAME_MAX];
} hu_beacon_entry;

/* Uses the core's table (hm_api.h) at this address from now on; before anything else here. */
void hu_bind(uintptr_t api);
/* Writes the header, with the CRC 0. */
void hu_header_encode(uint8_t *out, const hu_header *header);
/* Reads and checks a datagram: length, magic, version, type, CRC, that positions do not overflow
 * and what follows has a possible size.  0, or -HM_E*. */
int hu_header_decode(const uint8_t *data, uint64_t size, hu_header *header);
/* Sets the CRC of a datagram that stands in one piece. */
void hu_seal(uint8_t *data, uint64_t size);
void hu_range_encode(uint8_t *out, const hu_range *range);
void hu_range_decode(const uint8_t *data, hu_range *range);
void hu_setup_encode(uint8_t *out, const hu_setup *setup);
/* `data` stands behind the header of a datagram that was decoded. */
void hu_setup_decode(const uint8_t *data, hu_setup *setup);
/* Writes a beacon with those of `beacon->streams` entries for which there is room, the first ones;
 * returns its bytes.  `capacity`: room for the pattern, at least. */
uint64_t hu_beacon_encode(uint8_t *out, uint64_t capacity, const hu_beacon *beacon,
                          const hu_beacon_entry *entries);
/* `data` stands behind the header of a BEACON that was decoded.  `entries`: room for
 * HU_BEACON_STREAMS; as many as `beacon->streams` says are filled in.  0, or -HM_E* if anything
 * above does not hold or the pattern is none; the names may be any bytes. */
int hu_beacon_decode(const hu_header *header, const uint8_t *data, uint64_t size, hu_beacon *beacon,
                     hu_beacon_entry *entries);
/* cdef-end */

/* The core's functions. */
extern const hm_api *hu_core;

/* CRC in parts: begin with hu_crc_header, go on over the payload, store with hu_crc_store. */
static inline uint32_t hu_crc_header(const uint8_t *header) {
    return hu_core->crc32c(hu_core->crc32c(0, header, 4), header + 8, HU_HEADER - 8);
}
void hu_crc_store(uint8_t *header, uint32_t crc);

/* A clock as a header's `stamp` has it. */
static inline uint32_t hu_stamp(uint64_t now_ns) {
    uint32_t stamp = (uint32_t)(now_ns / 1000);
    return stamp == 0 ? 1 : stamp;
}

#endif
