/* hm_mpmc.h -- bounded queue of records: any number of producer and consumer threads.
 *
 * A slot's sequence number says whose turn it is (after D. Vyukov's bounded queue).  For lap n of
 * slot i, with `position` = n * capacity + i:
 *
 *     sequence == position              free: the producer that wins `position` may write
 *     sequence == position + 1          full: the consumer that wins `position` may read
 *     sequence == position + capacity   free again, one lap on
 *
 * The order of records is the order in which producers won their positions: what one thread pushes
 * is popped in the order of its pushes.  Private memory only: a process that died between winning a
 * position and filling it would stop everybody behind it.
 */
#ifndef HM_MPMC_H
#define HM_MPMC_H

#include <stddef.h>
#include <stdint.h>

#include "hm_error.h"

/* cdef-begin -- an opaque handle and functions that return 0, a count or -HM_E*. */
#define HM_MPMC_SLOTS_MIN  2
#define HM_MPMC_SLOTS_MAX  16777216 /* slots */
#define HM_MPMC_RECORD_MAX 16777216 /* bytes in one slot: the default limit of a message */
#define HM_MPMC_MEMORY_MAX                                                                         \
    4294967296 /* bytes of all slots: a bound against a slip of the keyboard */

typedef struct hm_mpmc hm_mpmc;

/* `capacity`: slots, a power of two.  `record_max`: bytes, the largest record.  -HM_EINVAL: out of
 * bounds. */
int hm_mpmc_new(uint64_t capacity, uint32_t record_max, hm_mpmc **ring);
/* No other thread may use it any more.  NULL is fine. */
void hm_mpmc_free(hm_mpmc *ring);

/* Records in the queue, as of some moment of the call. */
uint64_t hm_mpmc_used(const hm_mpmc *ring);

/* Copies `size` bytes in.  -HM_EFULL: nothing was written; -HM_EINVAL: over record_max. */
int hm_mpmc_push(hm_mpmc *ring, const void *data, uint32_t size);
/* Pushes the next `lengths[i]` bytes of `joined` each, as far as there is room; other producers'
 * records may stand between.  Returns how many; -HM_EFULL: none; -HM_EINVAL: a length does not fit:
 * none. */
int64_t hm_mpmc_push_many(hm_mpmc *ring, const void *joined, uint64_t joined_size,
                          const uint32_t *lengths, uint64_t count);

/* Takes the oldest record.  `out` has room for record_max bytes.  -HM_EEMPTY: nothing was there. */
int hm_mpmc_pop(hm_mpmc *ring, void *out, uint32_t *size);
/* Takes up to `count` records while `capacity` leaves room for a largest one, without gaps in
 * `out`, sizes in `lengths`.  Returns how many; -HM_EEMPTY: none; -HM_EINVAL: `capacity` is less
 * than record_max. */
int64_t hm_mpmc_pop_many(hm_mpmc *ring, void *out, uint64_t capacity, uint32_t *lengths,
                         uint64_t count);
/* cdef-end */

#endif
