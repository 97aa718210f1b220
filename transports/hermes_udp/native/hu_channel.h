/* hu_channel.h -- a client's end: an endpoint with one session, which any thread may use, and a
 * thread that keeps it alive while nobody does.
 *
 * All work happens inside the callers' calls, so that nothing is handed from thread to thread on
 * the way of a message.  A program that computes for a minute must still repeat what was lost, and
 * say that it is there: when nobody has called for HU_GUARD_AFTER, a native thread without the GIL
 * takes over until somebody does.
 *
 * One thread at a time sleeps on the socket, the others on a condition that it signals.
 *
 * It may join a multicast group beside its session: then all of this holds for the group's socket
 * too, and what is chosen from the group's stream is had by hu_channel_select.
 */
#ifndef HU_CHANNEL_H
#define HU_CHANNEL_H

#include "hu_dial.h"
#include "hu_outward.h"

/* cdef-begin -- an opaque channel. */
typedef struct hu_channel hu_channel;

#define HU_GUARD_AFTER 2000000    /* ns without a call after which the thread takes over */
#define HU_LINGER      2000000000 /* ns for which what was sent is repeated after closing */

/* The end of a session that was dialled; the dial is freed as it is afterwards.  The descriptors
 * stay the caller's until hu_channel_close returns.  0, HU_DIAL_MEMORY or HU_DIAL_THREAD. */
int hu_channel_open(hu_dial *dial, hu_channel **channel);
/* The `hm_medium` of it, as an address. */
uintptr_t hu_channel_medium(hu_channel *channel);
/* Takes bytes: how many, 0: no room now, negative: an errno. */
int64_t hu_channel_send(hu_channel *channel, const uint8_t *data, uint64_t size);
/* As hm_socket_receive. */
int64_t hu_channel_receive(hu_channel *channel, uint8_t *buffer, uint64_t capacity,
                           uint64_t spin_ns, int64_t timeout_ns, int *error);
/* Waits for one of what is asked for, `spin_ns` of it awake; 0: the time passed first. */
int hu_channel_wait(hu_channel *channel, int readable, int writable, uint64_t spin_ns,
                    int64_t timeout_ns);
/* A descriptor for event loops, which stays the channel's.  When hu_channel_wait has returned 0 with
 * `timeout_ns` 0, it becomes readable once what was asked for holds, or a timer of the session is due:
 * ask again.  -HM_ESYS: no descriptors, or it is closing. */
int hu_channel_watch(hu_channel *channel);
/* All that is sent goes through `outward` from now on, which must stay until hu_channel_close
 * returns.  Its notes count as input. */
void hu_channel_filter(hu_channel *channel, hu_outward *outward);
/* Why it is over, HU_BYE and so on; 0: it is not. */
uint32_t hu_channel_reason(hu_channel *channel);
/* Ends it: what was sent is repeated for HU_LINGER at most, by the thread; `closed_fd` becomes
 * readable when that is over, and the descriptors are not used any more.  Who is in another call,
 * or begins one, gets an error. */
void hu_channel_close(hu_channel *channel, int closed_fd);
/* When nobody will call anything any more; before it is over it does nothing, nor in a child that
 * was forked meanwhile. */
void hu_channel_free(hu_channel *channel);
void hu_channel_count(hu_channel *channel, hu_endpoint_counters *endpoint,
                      hu_session_counters *session, hu_sender_counters *sender,
                      hu_receiver_counters *receiver);
/* Joins a group: `fd` is a socket of its own that gets the group's datagrams; it must stay until
 * hu_channel_leave returns or the channel is over.  0, or -HM_ENOMEM. */
int hu_channel_join(hu_channel *channel, int fd, uint64_t seed);
/* Idempotent. */
void hu_channel_leave(hu_channel *channel);
/* HU_GROUP_WAITING and so on; the beacon with which the group was joined and its
 * HU_BEACON_STREAMS entries are filled in once there is one. */
uint32_t hu_channel_group(hu_channel *channel, hu_beacon *beacon, hu_beacon_entry *entries);
/* Walks through the group's stream as hu_select_walk does, and consumes what is done with: bytes
 * written.  When it has been cut off, the walk goes on behind what it left out. HU_SELECT_MALFORMED
 * also if the group's window holds no whole frame. */
uint64_t hu_channel_select(hu_channel *channel, hu_select *select, uint8_t *out, uint64_t capacity,
                           hu_select_event *event);
/* hu_channel_select, once there is something, waiting for it as hu_channel_receive does.  0 bytes
 * and HU_SELECT_MORE: the time passed, or there is something else to look at. */
uint64_t hu_channel_pull(hu_channel *channel, hu_select *select, uint8_t *out, uint64_t capacity,
                         uint64_t spin_ns, int64_t timeout_ns, hu_select_event *event);
/* Whether to ignore the group's stream in hu_channel_wait: it is not being selected from now. */
void hu_channel_hold(hu_channel *channel, int held);
/* Bytes that wait in the group's window. */
uint64_t hu_channel_held(hu_channel *channel);
void hu_channel_count_group(hu_channel *channel, hu_group_counters *group,
                            hu_receiver_counters *receiver);
uint64_t hu_channel_srtt(hu_channel *channel);
uint32_t hu_channel_datagram(hu_channel *channel);
/* cdef-end */

#endif
