/* hm_sends.h -- sends to many stream sockets at once, as a function that native code may call.
 *
 * For a transport that has many sends done by one system call.  hm_conns_flush gives it the small
 * outputs of all connections that were woken; larger ones, and those of a single connection, are
 * written to the socket itself.
 */
#ifndef HM_SENDS_H
#define HM_SENDS_H

#include <stdint.h>

typedef struct {
    const uint8_t *data;
    uint64_t size;
    int64_t result; /* bytes that the socket has taken, or a negative errno; set by the call */
    int fd;
} hm_send;

typedef struct hm_sends {
    void *context;
    /* Does what send(2) would do for each of `sends` with MSG_DONTWAIT and MSG_NOSIGNAL, in any
     * order; no two have the same `fd`.  When it returns, each has its result and no `data` is
     * referred to any more.  For the thread that owns the connections. */
    void (*send)(void *context, hm_send *sends, uint32_t count);
} hm_sends;

#endif
