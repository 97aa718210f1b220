/* hm_grant.h -- the topics that one connection may publish to.
 *
 * A grant is a list of patterns.  Topics that it was found to allow are remembered by name, so that
 * a publisher that goes on with the same few topics costs a comparison each; what is not allowed is
 * not remembered, because it ends the publisher.
 *
 * One thread owns a grant.
 */
#ifndef HM_GRANT_H
#define HM_GRANT_H

#include "hm_pattern.h"

#define HM_GRANT_PATTERNS 1024 /* of one grant: a new topic is held against each */
#define HM_GRANT_KNOWN    64   /* topics remembered; 17 KiB */

typedef struct hm_grant hm_grant;

/* Allows nothing.  NULL: no memory. */
hm_grant *hm_grant_new(void);
void hm_grant_free(hm_grant *grant);
/* Allows what `pattern` wants, too.  -HM_ETOPIC, -HM_ELIMIT, -HM_ENOMEM. */
int hm_grant_add(hm_grant *grant, const uint8_t *pattern, uint32_t len);
/* 1 if the zero-padded `name`, which need not be a legal topic, is allowed. */
int hm_grant_allows(hm_grant *grant, const uint8_t *name, uint32_t len);

#endif
