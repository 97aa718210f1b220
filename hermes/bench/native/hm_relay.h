/* hm_relay.h -- the floor of every broker that speaks a byte stream: a relay that only moves bytes,
 * and its peers.
 *
 * Sockets are connected, non-blocking and the caller's.  A message is `size` bytes; the first eight
 * of one that is paced hold the time at which it was due.
 */
#ifndef HM_RELAY_H
#define HM_RELAY_H

#include "hm_pace.h"

/* cdef-begin -- functions that return 0, or -HM_E*. */
#define HM_RELAY_SINKS 64     /* sinks of a relay, at most */
#define HM_RELAY_BYTES 262144 /* bytes a call reads or writes, at most */

/* Copies what comes from `source` to every sink, until it ends.  -HM_ESYS: a peer is gone. */
int hm_relay_run(int source, const int *sinks, uint32_t count, uint32_t read_bytes,
                 const hm_patience *patience);
/* Writes `count` messages, `write_bytes` per call.  `*start_ns`: when it began. */
int hm_relay_load(int fd, uint32_t size, uint64_t count, uint32_t write_bytes,
                  const hm_patience *patience, uint64_t *start_ns);
/* Reads up to `count` messages; ends early when patience does. */
int hm_relay_drain(int fd, uint32_t size, uint64_t count, const hm_patience *patience,
                   hm_tally *tally);
/* Writes `count` messages on schedule, one a call; `*late_ns`: how late the latest went out. */
int hm_relay_pace(int fd, uint32_t size, uint64_t count, const hm_schedule *schedule,
                  const hm_patience *patience, uint64_t *late_ns);
/* Reads up to `count` paced messages; `latencies`: ns of each. */
int hm_relay_hear(int fd, uint32_t size, uint64_t count, const hm_patience *patience,
                  int64_t *latencies, hm_tally *tally);
/* Writes a message and reads it again, `count` times; `latencies`: ns of each. */
int hm_relay_pingpong(int fd, uint32_t size, uint64_t count, const hm_patience *patience,
                      int64_t *latencies, hm_tally *tally);
/* cdef-end */

#endif
