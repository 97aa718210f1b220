/* hm_api.c -- fills the table of the core's functions. */
#include "hm_api.h"

static const hm_api api = {
    .version = HM_API_VERSION,
    .size = sizeof(hm_api),
    .error_text = hm_error_text,
    .crc32c = hm_crc32c,
    .frame_size = hm_frame_size,
    .frame_encode = hm_frame_encode,
    .frame_check = hm_frame_check,
    .frame_skip = hm_frame_skip,
    .frame_index = hm_frame_index,
    .batch_encode = hm_batch_encode,
    .batch_parse = hm_batch_parse,
    .envelope_next = hm_envelope_next,
    .topic_check = hm_topic_check,
    .pattern_check = hm_pattern_check,
    .pattern_match = hm_pattern_match,
    .outbox_send = hm_outbox_send,
    .outbox_ack = hm_outbox_ack,
    .ack_parse = hm_ack_parse,
    .socket_receive = hm_socket_receive,
    .medium_receive = hm_medium_receive,
};

const hm_api *hm_api_get(void) {
    return &api;
}
