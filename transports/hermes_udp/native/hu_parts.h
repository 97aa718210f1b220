/* hu_parts.h -- what the files that make up an endpoint share: nobody else includes it.
 *
 *     hu_endpoint.c  making, polling, the medium, what its owner calls
 *     hu_slots.c     sessions by slot, id and deadline, and which have something to write or report
 *     hu_peer.c      addresses
 *     hu_output.c    trains on their way to the socket; what a failed write means
 *     hu_input.c     datagrams on their way to their sessions, or to the group
 *     hu_setup.c     requests, cookies, resets: what is answered without a session
 */
#ifndef HU_PARTS_H
#define HU_PARTS_H

#include <sys/socket.h>

#include "hm_medium.h"
#include "hu_cookie.h"
#include "hu_endpoint.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define NEVER     UINT64_MAX
#define NS_PER_S  1000000000u
#define BATCH     8u     /* reads of one call */
#define READ_SIZE 65536u /* bytes of one: what the kernel joins at most */
#define NO_SLOT   UINT32_MAX
#define CONTROL   128u  /* bytes of ancillary data of one read, or of one write */
#define SMALL     1024u /* bytes of a datagram that is joined before it is written */
#define SHRUNK    1232u /* bytes of a datagram that every path should take */

typedef struct {
    uint16_t family;
    uint16_t port; /* network order */
    uint8_t address[16];
    uint32_t scope;
    int one_by_one; /* no address: the way there takes no trains */
    /* Where its datagrams come to, of a listener on all addresses: answers come from there. */
    uint8_t local[16];
    uint32_t local_interface; /* of a link-local address, else 0 */
    int has_local;
} hu_peer;

typedef struct {
    hu_session *session; /* NULL: free */
    hu_peer peer;
    uint64_t due_ns; /* as the heap knows it */
    uint32_t heap_at;
    uint32_t events;
    uint64_t released;
    uint64_t pushed_end; /* behind what hu_endpoint_push has taken */
    uint64_t silent_end; /* behind what the medium has: acknowledged, but not released */
    uint32_t id_next;    /* in the chain of its bucket */
    uint8_t dirty;       /* is on the list of those to flush */
    uint8_t eventful;    /* is on the list of those to report */
} slot;

struct hu_endpoint {
    hu_options options;
    uint64_t now_ns;
    int gso;
    int stopped;
    uint64_t blocked_ns; /* until then the socket takes nothing; 0: it does */

    slot *slots;
    uint32_t capacity;
    uint32_t used; /* slots below were in use once */
    uint32_t count;
    uint32_t *free_slots;
    uint32_t free_count;
    uint32_t *buckets; /* by id */
    uint32_t *heap;    /* slots by due_ns */
    uint32_t heap_count;
    uint32_t *dirty;
    uint32_t dirty_count;
    uint32_t *eventful;
    uint32_t eventful_count;

    uint64_t gone[HU_GONE_MAX];
    uint32_t gone_next;
    uint64_t resets_ns; /* when the last reset would have been sent, had they been spread evenly */
    uint64_t random;
    uint32_t overflows_seen;
    int in_a_row; /* the last look at the socket found something */

    hu_caster *cast; /* NULL: it does not cast */
    hu_peer cast_to;
    int cast_filled; /* it has filled the socket: the sessions have their turn before it */

    hu_group *group; /* NULL: none has been joined */
    int group_fd;
    hu_peer caster;
    uint32_t group_overflows_seen;

    hm_medium medium; /* of slot `medium_slot` */
    uint32_t medium_slot;
    hu_train *train;
    struct mmsghdr messages[BATCH];
    struct iovec iov[BATCH];
    struct sockaddr_storage names[BATCH];
    _Alignas(struct cmsghdr) uint8_t controls[BATCH][CONTROL];
    uint8_t *memory; /* BATCH * READ_SIZE */
    hu_endpoint_counters counters;
};

/* hu_slots.c */
/* Chains of ids there are for so many sessions. */
uint32_t hu_slots_buckets(uint32_t capacity);
/* Room for more, up to what is allowed; 0: no memory. */
int hu_slots_grow(hu_endpoint *endpoint);
/* NO_SLOT: there is none. */
uint32_t hu_slot_find(hu_endpoint *endpoint, uint64_t id);
void hu_slot_due(hu_endpoint *endpoint, uint32_t number, uint64_t due_ns);
/* It may have something to write. */
void hu_slot_soil(hu_endpoint *endpoint, uint32_t number);
void hu_slot_report(hu_endpoint *endpoint, uint32_t number, uint32_t events);
/* A session in a slot of its own; NO_SLOT: no memory. */
uint32_t hu_slot_admit(hu_endpoint *endpoint, uint64_t id, const hu_peer *peer,
                       const hu_setup *theirs);
void hu_slot_discharge(hu_endpoint *endpoint, uint32_t number);
void hu_slot_unlist(uint32_t *list, uint32_t *count, uint32_t number);

/* hu_peer.c */
void hu_peer_of(const struct sockaddr_storage *name, hu_peer *peer);
socklen_t hu_peer_name(const hu_peer *peer, struct sockaddr_storage *name);
/* The same address; not where it sends to. */
int hu_peer_same(const hu_peer *a, const hu_peer *b);
/* Notes where a datagram came to, if `head` says it. */
void hu_peer_came_to(hu_peer *peer, const struct cmsghdr *head);
/* Writes into `head`, which has room, that a datagram to a peer that has_local comes from there.
 * Returns the bytes of ancillary data taken. */
size_t hu_peer_from(const hu_peer *peer, struct cmsghdr *head);
void hu_peer_prefix(const hu_peer *peer, uint8_t *out);

/* hu_output.c */
/* Whether a datagram is to be lost on purpose. */
int hu_output_drops(hu_endpoint *endpoint);
/* Sends a datagram past the sessions. */
void hu_output_say(hu_endpoint *endpoint, const hu_peer *peer, uint8_t *data, uint64_t size);

/* hu_input.c */
/* Has the kernel join datagrams, and say how many it had no room for. */
void hu_input_ask(int fd);
void hu_input_ask_where(int fd);
/* 1: there may be more. */
int hu_input_read(hu_endpoint *endpoint, int fd);
void hu_input_timers(hu_endpoint *endpoint);

/* hu_setup.c */
void hu_setup_request(hu_endpoint *endpoint, const hu_peer *peer, const hu_header *header,
                      uint64_t size);
void hu_setup_confirm(hu_endpoint *endpoint, const hu_peer *peer, const hu_header *header,
                      const uint8_t *data);
void hu_setup_reset(hu_endpoint *endpoint, const hu_peer *peer, uint64_t id, uint32_t reason);

#endif
