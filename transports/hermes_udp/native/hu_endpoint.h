/* hu_endpoint.h -- a UDP socket and the sessions on it: many, for a listener, or one, for a client.
 *
 * Reads batches of datagrams (UDP_GRO hands over runs of them), finds their sessions, and writes
 * trains (UDP_SEGMENT takes a run in one call); where the kernel has neither, recvmmsg and sendmmsg
 * do.  Set-up datagrams are answered here without keeping state: a session is made when a cookie
 * comes back from the address it was sent to, and no answer is larger than its question.
 *
 * Time is CLOCK_MONOTONIC.  One thread at a time.
 */
#ifndef HU_ENDPOINT_H
#define HU_ENDPOINT_H

#include "hu_caster.h"
#include "hu_group.h"
#include "hu_timer.h"

/* cdef-begin -- an opaque endpoint; constants that docs/udp.md lists. */
typedef struct hu_endpoint hu_endpoint;

#define HU_COOKIE_LIFE 10000000000 /* ns in which a cookie must come back */
#define HU_RESETS_MAX  1000        /* answers to unknown sessions a second */
#define HU_GONE_MAX    4096        /* ids remembered as over, so that a replay revives none */
#define HU_EVENTS_MAX  256         /* sessions reported by one hu_endpoint_poll */
#define HU_READS_MAX   4           /* batches read by one hu_endpoint_poll */
#define HU_TRAINS_MAX  16          /* trains of one session written by one hu_endpoint_flush */
#define HU_NO_ROOM     200000      /* ns after which a socket that took nothing is tried again */
#define HU_TAP_PREFIX  20          /* bytes before a datagram on its way to a tap */
#define HU_NEW         128         /* an event beside those of hu_session.h: a session was made */

typedef struct {
    int fd;     /* a bound, non-blocking UDP socket, connected for a client; borrowed */
    int tap_fd; /* -1, or where datagrams go instead, each behind u16 family, u16 port in network
                   order and 16 bytes of address; borrowed */
    uint32_t listens;      /* 1: makes sessions for who asks */
    uint32_t sessions_max; /* as many at a time */
    uint32_t datagram;     /* bytes of the largest that is sent or offered */
    uint32_t liveness_ms;
    uint64_t window;    /* bytes kept for the application, each session */
    uint64_t copy_size; /* bytes of a session's ring of small pieces */
    uint64_t drop; /* of 2^32 datagrams, so many are not sent, and of a group's not received: for
                      measurements */
    uint64_t seed; /* chooses which */
    uint8_t secret[32];
} hu_options;

typedef struct {
    uint32_t slot;
    uint32_t flags; /* HU_READABLE and so on, HU_NEW */
    uint64_t released;
} hu_event;

typedef struct {
    uint64_t datagrams_in;
    uint64_t reads;
    uint64_t datagrams_out;
    uint64_t writes;
    uint64_t malformed;       /* not a sound datagram */
    uint64_t unknown_session; /* of a session that is none */
    uint64_t spoofed;         /* of a session, from another address */
    uint64_t requests;        /* set-ups begun */
    uint64_t bad_cookies;
    uint64_t replayed;      /* set-ups of a session that is over */
    uint64_t refused;       /* set-ups for which there was no room */
    uint64_t resets_sent;   /* */
    uint64_t resets_spared; /* not sent: HU_RESETS_MAX */
    uint64_t dropped;       /* by `drop` */
    uint64_t no_room;       /* the socket did not take a datagram */
    uint64_t no_route;      /* datagrams for which there was no way to the peer: lost */
    uint64_t shrunk;        /* a path took no datagrams so large */
    uint64_t overflows;     /* datagrams the sockets had no room for */
} hu_endpoint_counters;

/* Fills in the result: 0, -HM_ENOMEM. */
int hu_endpoint_new(const hu_options *options, hu_endpoint **endpoint);
/* Frees the sessions too; says goodbye to nobody. */
void hu_endpoint_free(hu_endpoint *endpoint);
/* Reads what is there, serves the timers, and fills in what has come of it, at most HU_EVENTS_MAX;
 * returns how many; if there are none it flushes too. */
uint32_t hu_endpoint_poll(hu_endpoint *endpoint, hu_event *events);
/* Writes what the sessions have to say.  1: something is left that can go out now. */
int hu_endpoint_flush(hu_endpoint *endpoint);
/* When hu_endpoint_poll is to be called, if nothing arrives before; UINT64_MAX: never. */
uint64_t hu_endpoint_deadline(hu_endpoint *endpoint);
/* Takes no new sessions from now on. */
void hu_endpoint_stop(hu_endpoint *endpoint);
/* Casts too from now on, to the address `group`, which stands there as in a tap's prefix: what
 * sessions call for goes to the caster, and flushing sends what it has.  It stays the caller's;
 * NULL: no more. */
void hu_endpoint_cast(hu_endpoint *endpoint, hu_caster *caster, const uint8_t *group);
/* The session in a slot; it has one from HU_NEW until hu_endpoint_drop. */
hu_session *hu_endpoint_session(const hu_endpoint *endpoint, uint32_t slot);
/* As hu_session_*, for a slot: what they change goes out with the next flush. */
uint64_t hu_endpoint_push(hu_endpoint *endpoint, uint32_t slot, const uint8_t *data, uint64_t size);
uint64_t hu_endpoint_room(const hu_endpoint *endpoint, uint32_t slot);
uint64_t hu_endpoint_readable(const hu_endpoint *endpoint, uint32_t slot, const uint8_t **data);
void hu_endpoint_consume(hu_endpoint *endpoint, uint32_t slot, uint64_t size);
void hu_endpoint_finish(hu_endpoint *endpoint, uint32_t slot);
/* The session as an `hm_medium` for one native call of the broker's, whose `receive` is -HM_EBUSY
 * when another session, or something else than bytes, waits to be polled.  What is written to it is
 * copied, and never reported as released.  0: not now, what was pushed is still under way. */
uintptr_t hu_endpoint_medium(hu_endpoint *endpoint, uint32_t slot);
/* Forgets a session; `reason` not 0: tells the peer. */
void hu_endpoint_drop(hu_endpoint *endpoint, uint32_t slot, uint32_t reason);
/* The address of a slot's peer as a tap's prefix. */
void hu_endpoint_peer(const hu_endpoint *endpoint, uint32_t slot, uint8_t *out);
void hu_endpoint_count(const hu_endpoint *endpoint, hu_endpoint_counters *counters);
/* cdef-end */

#include <netinet/in.h>
#include <sys/socket.h>

/* Tells the peer that the session is over; it stays in its slot, lost. */
void hu_endpoint_part(hu_endpoint *endpoint, uint32_t slot, uint32_t reason);
/* A session that this end has asked for; its slot, or -HM_ENOMEM. */
int hu_endpoint_adopt(hu_endpoint *endpoint, uint64_t id, const hu_setup *accepted);
/* Reads a group's socket too from now on, and calls for what is missing in the name of slot 0: for
 * a client.  Only what comes from the address that `fd` of the options is connected to is believed.
 * Both stay the caller's; when the group is lost, so is the session. */
void hu_endpoint_join(hu_endpoint *endpoint, hu_group *group, int fd);
void hu_endpoint_leave(hu_endpoint *endpoint);
/* ms of silence after which a peer is given up. */
uint32_t hu_endpoint_liveness(const hu_endpoint *endpoint);
/* Writes one datagram, past the sessions; 0 or an errno. */
int hu_endpoint_say(hu_endpoint *endpoint, const uint8_t *data, uint64_t size);

#endif
