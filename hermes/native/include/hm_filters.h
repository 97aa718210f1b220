/* hm_filters.h -- who wants which topic of one stream.
 *
 * Filters are deduplicated by (kind, text) and counted.  Patterns stand in a trie by token,
 * prefixes are found by looking up the name's own prefixes, so matching a name costs what it
 * matches, not how many filters there are.  A topic is matched once, when it is added, and gets the
 * number of an interned list of the filters that want it; a filter that comes or goes maps list to
 * list over the topics, in one scan (an exact pattern: one look-up).  Filters that want everything
 * for ever (`>`, the empty prefix) are in no list.
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
 * filters that are gone are used again.  -HM_ETOPIC: illegal; -HM_ELIMIT; -HM_ENOMEM. */
int64_t hm_filters_add(hm_filters *filters, int kind, const uint8_t *text, uint32_t len);
/* One user less.  Returns 1 if it was the last: the filter is gone. */
int hm_filters_remove(hm_filters *filters, uint32_t filter);
/* Matches topic `index`, just added to the table, and gives it its list. */
void hm_filters_topic(hm_filters *filters, uint32_t index);

/* The filters that want topic `index`, without those that want everything for ever; ascending if
 * interned. Valid until the next call. */
const uint32_t *hm_filters_interested(hm_filters *filters, uint32_t index, uint32_t *count);
/* Topics of the table that the filter wants. */
uint32_t hm_filters_matched(const hm_filters *filters, uint32_t filter);
/* 1 if the filter wants a topic of this name. */
int hm_filters_wants(const hm_filters *filters, uint32_t filter, const uint8_t *name, uint32_t len);
uint32_t hm_filters_count(const hm_filters *filters);
/* cdef-end */

/* 1 if the filter wants everything for ever. */
int hm_filters_all(const hm_filters *filters, uint32_t filter);

#endif
