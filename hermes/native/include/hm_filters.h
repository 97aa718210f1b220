/* hm_filters.h -- who wants which topic of one stream.
 *
 * Filters are deduplicated by (kind, text) and counted.  Patterns stand in a trie by token,
 * prefixes are found by looking up the name's own prefixes, so matching a name costs what it
 * matches, not how many filters there are.  A topic is matched once, when it is added, and gets the
 * number of an interned list of the filters that want it.  Filters that come and go (but for exact
 * patterns, which concern one topic) change these lists in a sweep over the topics: one sweep for
 * all of them, in as many steps as its caller likes.  Filters that want everything for ever (`>`,
 * the empty prefix) are in no list.
 *
 * One thread owns a set of filters; it reads and writes the `list` of the topics in its table.
 */
#ifndef HM_FILTERS_H
#define HM_FILTERS_H

#include "hm_topics.h"

/* cdef-begin -- an opaque set. */
typedef struct hm_filters hm_filters;

/* PATTERN: tokens with * and >.  PREFIX: the name's first bytes, as in ZeroMQ. */
enum {
    HM_FILTER_PATTERN = 0,
    HM_FILTER_PREFIX = 1,
};

/* Entries of all interned lists together (64 MiB).  A topic that would need more gets no list: it
 * is matched again for every run of its messages, which is slower and nothing else. */
#define HM_FILTERS_ENTRIES_MAX 16777216

/* `topics`: borrowed; topics in it belong to the empty list.  `capacity`: distinct filters.  NULL:
 * no memory. */
hm_filters *hm_filters_new(hm_topics *topics, uint32_t capacity);
void hm_filters_free(hm_filters *filters);

/* Counts one more user of the filter, adding it if it is new.  Returns its number; numbers of
 * filters that are gone are used again, once no list has them.  -HM_ETOPIC: illegal; -HM_ELIMIT;
 * -HM_ENOMEM. */
int64_t hm_filters_add(hm_filters *filters, int kind, const uint8_t *text, uint32_t len);
/* One user less.  Returns 1 if it was the last: the filter is gone. */
int hm_filters_remove(hm_filters *filters, uint32_t filter);
/* Goes on with the sweep for filters that have come and gone; `budget`: roughly names looked at, and
 * list entries written.  Returns 1 if there is more to do. */
int hm_filters_sweep(hm_filters *filters, uint64_t budget);
/* 1 once every topic that the filter wants has it in its list, and `matched` counts them all. */
int hm_filters_settled(const hm_filters *filters, uint32_t filter);
/* Matches topic `index`, just added to the table, and gives it its list. */
void hm_filters_topic(hm_filters *filters, uint32_t index);

/* The filters that want topic `index`, without those that want everything for ever; ascending if
 * interned.  Filters that are not settled, or are gone, may be among them until a sweep has ended.
 * Valid until the next call. */
const uint32_t *hm_filters_interested(hm_filters *filters, uint32_t index, uint32_t *count);
/* Topics of the table that the filter wants, if it is settled. */
uint32_t hm_filters_matched(const hm_filters *filters, uint32_t filter);
/* 1 if the filter wants a topic of this name. */
int hm_filters_wants(const hm_filters *filters, uint32_t filter, const uint8_t *name, uint32_t len);
uint32_t hm_filters_count(const hm_filters *filters);
/* Every filter's number is less than this. */
uint32_t hm_filters_numbers(const hm_filters *filters);
/* cdef-end */

#endif
