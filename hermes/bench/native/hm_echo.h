/* hm_echo.h -- the floor of everything that speaks UDP: an echo, and a client that counts what
 * comes back.
 *
 * Sockets are non-blocking and the caller's; the client's is connected.  A datagram is a message of
 * `size` bytes; its first eight hold its number or the time at which it was due.  What does not
 * come back is lost, and shows as a tally that is short.
 */
#ifndef HM_ECHO_H
#define HM_ECHO_H

#include "hm_pace.h"

/* cdef-begin -- functions that return 0, or -HM_E*. */
#define HM_ECHO_SIZE_MAX 65507 /* bytes of a datagram over IPv4, at most */

/* Sends every datagram, of at most `size` bytes, back to where it came from, `copies` times, until
 * an empty one comes. */
int hm_echo_run(int fd, uint32_t size, uint32_t copies, const hm_patience *patience);
/* Sends `count` datagrams, `window` at most under way, and counts what comes back: `copies` of
 * each.  What does not come within a moment counts as lost and makes room in the window.
 * `*start_ns`: when it began. */
int hm_echo_flood(int fd, uint32_t size, uint64_t count, uint32_t window, uint32_t copies,
                  const hm_patience *patience, uint64_t *start_ns, hm_tally *tally);
/* Sends `count` datagrams on schedule and meanwhile takes what comes back; `latencies`: ns of
 * each, from when it was due; `*late_ns`: how late the latest went out. */
int hm_echo_pace(int fd, uint32_t size, uint64_t count, const hm_schedule *schedule,
                 const hm_patience *patience, int64_t *latencies, hm_tally *tally,
                 uint64_t *late_ns);
/* Sends a datagram and waits for it, `count` times; `latencies`: ns of each. */
int hm_echo_pingpong(int fd, uint32_t size, uint64_t count, const hm_patience *patience,
                     int64_t *latencies, hm_tally *tally);
/* cdef-end */

#endif
