/* hm_medium.h -- a medium that is not a stream socket, as functions native code may call.
 *
 * An ordered, reliable byte stream.  Two have one:
 *
 *     a client's channel        any thread may call any of the functions, several at a time
 *     a connection of the       one thread, within one call of hm_conn_serve; `receive` does
 *     broker's                  not wait, whatever it is told, and `wait_for_room` is NULL
 */
#ifndef HM_MEDIUM_H
#define HM_MEDIUM_H

#include <stdint.h>
#include <sys/uio.h>

typedef struct hm_medium {
    void *context;
    /* Takes some of the bytes without waiting: how many, 0: no room now, or a negative errno. */
    int64_t (*write)(void *context, const struct iovec *pieces, int count);
    /* Reads what is there: tries for `spin_ns`, then sleeps until something is there or
     * `timeout_ns` (negative: none) have passed.  Returns bytes; 0: the peer has ended;
     * -HM_EEMPTY: nothing came; -HM_ESYS: `*error` is the errno; -HM_EBUSY, the broker's only:
     * nothing came here, but others of the same socket have to be served. */
    int64_t (*receive)(void *context, uint8_t *buffer, uint64_t capacity, uint64_t spin_ns,
                       int64_t timeout_ns, int *error);
    /* Sleeps until `write` may take something, `wake_fd` is readable, or a while has passed. */
    void (*wait_for_room)(void *context, int wake_fd);
} hm_medium;

#endif
