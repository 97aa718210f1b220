/* hu_dial.h -- a client's way to a session: it asks, proves its address, and finds the largest
 * datagrams that the path takes both ways.
 *
 *     ASKING -- CHALLENGE --> CONFIRMING -- ACCEPT --> DONE
 *
 * It goes in steps, so that who dials may do something else between them, or give it up.  One
 * thread at a time.
 */
#ifndef HU_DIAL_H
#define HU_DIAL_H

#include "hu_endpoint.h"

/* cdef-begin -- an opaque dial. */
typedef struct hu_dial hu_dial;

#define HU_REQUEST_FIRST 20000000  /* ns before a set-up datagram is sent again; it doubles */
#define HU_REQUEST_MAX   500000000 /* ns: up to this */
#define HU_SIZE_TRIES    2         /* requests of one size before a smaller one is tried */
#define HU_SIZES_MAX     4

enum { HU_DIAL_TIMEOUT = -1, HU_DIAL_MEMORY = -2, HU_DIAL_THREAD = -3, HU_DIAL_GOING = -4 };

/* Will set up a session with the peer that `options->fd` is connected to, trying datagrams of
 * `sizes` bytes, the largest first, within `timeout_ns` (negative: without end).  The descriptors
 * stay the caller's.  NULL: no memory. */
hu_dial *hu_dial_new(const hu_options *options, const uint32_t *sizes, uint32_t size_count,
                     int64_t timeout_ns);
/* Sleeps for `span_ns` at most, less if something happens or a signal comes.  0: there is a
 * session; HU_DIAL_GOING: not yet; HU_DIAL_TIMEOUT and so on, or HU_REFUSED and so on: there will
 * be none. */
int hu_dial_step(hu_dial *dial, uint64_t span_ns);
/* Says goodbye, if there is a session that nobody has taken. */
void hu_dial_free(hu_dial *dial);
/* cdef-end */

/* The endpoint of a dial that is done, with the session in slot 0: the caller's from now on.  `fd`:
 * its socket. */
hu_endpoint *hu_dial_take(hu_dial *dial, int *fd);

#endif
