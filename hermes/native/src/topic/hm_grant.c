/* hm_grant.c -- checks topics against the patterns that a connection was granted. */
#include "hm_grant.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "hm_topics.h"

_Static_assert((HM_GRANT_KNOWN & (HM_GRANT_KNOWN - 1)) == 0, "indexed with a mask");

typedef struct {
    uint32_t len;
    uint8_t bytes[HM_TOPIC_MAX];
} pattern;

typedef struct {
    _Alignas(8) uint8_t name[HM_TOPIC_MAX + 1]; /* zero-padded */
    uint32_t len;                               /* 0: empty */
} known;

struct hm_grant {
    pattern *patterns;
    uint32_t count;
    uint32_t room;
    uint32_t latest; /* where the topic before stands */
    known known[HM_GRANT_KNOWN];
};

hm_grant *hm_grant_new(void) {
    return calloc(1, sizeof(hm_grant));
}

void hm_grant_free(hm_grant *grant) {
    if (grant == NULL)
        return;
    free(grant->patterns);
    free(grant);
}

int hm_grant_add(hm_grant *grant, const uint8_t *bytes, uint32_t len) {
    assert(grant != NULL);
    if (hm_pattern_check(bytes, len) != 0)
        return -HM_ETOPIC;
    if (grant->count == HM_GRANT_PATTERNS)
        return -HM_ELIMIT;
    if (grant->count == grant->room) {
        uint32_t room = grant->room == 0 ? 4 : grant->room * 2;
        pattern *patterns = realloc(grant->patterns, room * sizeof *patterns);
        if (patterns == NULL)
            return -HM_ENOMEM;
        grant->patterns = patterns;
        grant->room = room;
    }
    pattern *added = &grant->patterns[grant->count++];
    added->len = len;
    memcpy(added->bytes, bytes, len);
    return 0;
}

static int is_known(const known *entry, const uint8_t *name, uint32_t len) {
    return entry->len == len && hm_topic_equal(entry->name, name, len);
}

int hm_grant_allows(hm_grant *grant, const uint8_t *name, uint32_t len) {
    assert(grant != NULL && name != NULL);
    assert(len <= HM_TOPIC_MAX);
    if (len == 0)
        return 0;
    if (is_known(&grant->known[grant->latest], name, len))
        return 1;
    uint32_t at = (uint32_t)hm_topic_hash(name, len) & (HM_GRANT_KNOWN - 1);
    known *entry = &grant->known[at];
    grant->latest = at;
    if (is_known(entry, name, len))
        return 1;
    for (uint32_t i = 0; i < grant->count; i++) {
        const pattern *one = &grant->patterns[i];
        if (!hm_pattern_match(one->bytes, one->len, name, len))
            continue;
        memset(entry->name, 0, sizeof entry->name);
        memcpy(entry->name, name, len);
        entry->len = len;
        return 1;
    }
    return 0;
}
