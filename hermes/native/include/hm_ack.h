/* hm_ack.h -- the one control message that native code makes and reads: an acknowledgement.
 *
 * Its payload, as everything of the wire protocol, is a MessagePack map.  Here it is known in one
 * form only: two fields, `publisher` before `sequence`, of the level that is the default.  What is
 * written otherwise is as sound, and for others to read.
 */
#ifndef HM_ACK_H
#define HM_ACK_H

#include <stdint.h>

/* cdef-begin -- functions over bytes. */
#define HM_ACK_MAX 38 /* bytes of a payload in this form: a map of two names and two numbers */

/* Writes the payload to `out`, which has HM_ACK_MAX bytes; returns how many it has. */
uint32_t hm_ack_encode(uint8_t *out, uint32_t publisher, uint64_t sequence);
/* 1: the `size` bytes at `payload` are one in this form, its numbers within their limits; 0: they
 * are something else. */
int hm_ack_parse(const uint8_t *payload, uint32_t size, uint32_t *publisher, uint64_t *sequence);
/* cdef-end */

#endif
