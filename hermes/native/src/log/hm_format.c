/* hm_format.c -- the encoded pages of a segment: header, seal and synced marks. */
#include "log_internal.h"

static const char header_magic[8] = "HMLOG\r\n";
static const char seal_magic[8] = {'H', 'M', 'S', 'E', 'A', 'L', '\r', '\n'};

static void put32(uint8_t *page, uint32_t offset, uint32_t value) {
    memcpy(page + offset, &value, sizeof value);
}

static void put64(uint8_t *page, uint32_t offset, uint64_t value) {
    memcpy(page + offset, &value, sizeof value);
}

static uint32_t get32(const uint8_t *page, uint32_t offset) {
    uint32_t value;
    memcpy(&value, page + offset, sizeof value);
    return value;
}

static uint64_t get64(const uint8_t *page, uint32_t offset) {
    uint64_t value;
    memcpy(&value, page + offset, sizeof value);
    return value;
}

void hm_header_encode(uint8_t *page, const hm_header *header) {
    memset(page, 0, HM_LOG_SEGMENT_HEADER);
    memcpy(page, header_magic, sizeof header_magic);
    put32(page, 8, HM_HEADER_VERSION);
    put32(page, 12, HM_LOG_SEGMENT_HEADER);
    put64(page, 16, header->base_sequence);
    put64(page, 24, header->base_position);
    put64(page, 32, header->created_ns);
    put64(page, 40, header->generation);
    put64(page, 48, header->segment_bytes);
    put32(page, 56, hm_crc32c(0, page, 56));
}

int hm_header_decode(const uint8_t *page, hm_header *header) {
    if (memcmp(page, header_magic, sizeof header_magic) != 0) {
        return -HM_EMAGIC;
    }
    if (get32(page, 56) != hm_crc32c(0, page, 56) || get32(page, 60) != 0) {
        return -HM_ECRC;
    }
    if (get32(page, 8) != HM_HEADER_VERSION || get32(page, 12) != HM_LOG_SEGMENT_HEADER) {
        return -HM_EVERSION;
    }
    header->base_sequence = get64(page, 16);
    header->base_position = get64(page, 24);
    header->created_ns = get64(page, 32);
    header->generation = get64(page, 40);
    header->segment_bytes = get64(page, 48);
    header->crc = get32(page, 56);
    if (header->base_sequence > HM_LOG_FARTHEST || header->base_position > HM_LOG_FARTHEST ||
        header->base_position % HM_FRAME_ALIGN) {
        return -HM_ELENGTH;
    }
    return 0;
}

void hm_seal_encode(uint8_t *page, uint32_t header_crc, const hm_seal *seal) {
    uint8_t record[HM_SEAL_SIZE] = {0};
    memcpy(record, seal_magic, sizeof seal_magic);
    put64(record, 8, seal->end);
    put64(record, 16, seal->next_sequence);
    put64(record, 24, seal->last_time_ns);
    put64(record, 32, seal->records);
    put32(record, 40, hm_crc32c(header_crc, record, 40));
    memcpy(page + HM_SEAL_OFFSET, record, sizeof record);
}

int hm_seal_decode(const uint8_t *page, uint32_t header_crc, hm_seal *seal) {
    static const uint8_t nothing[HM_SEAL_SIZE];
    const uint8_t *record = page + HM_SEAL_OFFSET;
    if (memcmp(record, nothing, sizeof nothing) == 0) {
        return -HM_EEMPTY;
    }
    if (memcmp(record, seal_magic, sizeof seal_magic) != 0 || get32(record, 44) != 0 ||
        get32(record, 40) != hm_crc32c(header_crc, record, 40)) {
        return -HM_ECRC;
    }
    seal->end = get64(record, 8);
    seal->next_sequence = get64(record, 16);
    seal->last_time_ns = get64(record, 24);
    seal->records = get64(record, 32);
    return seal->next_sequence > HM_LOG_FARTHEST || seal->end % HM_FRAME_ALIGN ? -HM_ELENGTH : 0;
}

static uint8_t *synced_mark(const uint8_t *page, uint64_t turn) {
    return (uint8_t *)page + HM_SYNCED_OFFSET + turn % 2 * HM_SYNCED_SIZE;
}

void hm_synced_encode(uint8_t *page, uint32_t header_crc, uint64_t turn, const hm_synced *synced) {
    uint8_t mark[HM_SYNCED_SIZE] = {0};
    put64(mark, 0, synced->end);
    put64(mark, 8, synced->next_sequence);
    put32(mark, 16, hm_crc32c(header_crc, mark, 16));
    memcpy(synced_mark(page, turn), mark, sizeof mark);
}

uint32_t hm_synced_decode(const uint8_t *page, uint32_t header_crc, hm_synced *synced) {
    static const uint8_t nothing[HM_SYNCED_SIZE];
    uint32_t unsound = 0;
    *synced = (hm_synced){0};
    for (uint32_t turn = 0; turn < 2; turn++) {
        uint8_t mark[HM_SYNCED_SIZE];
        memcpy(mark, synced_mark(page, turn), sizeof mark);
        if (memcmp(mark, nothing, sizeof nothing) == 0) {
            continue;
        }
        hm_synced found = {get64(mark, 0), get64(mark, 8)};
        if (get32(mark, 16) != hm_crc32c(header_crc, mark, 16) ||
            memcmp(mark + 20, nothing, HM_SYNCED_SIZE - 20) != 0 ||
            found.end < HM_LOG_SEGMENT_HEADER || found.end % HM_FRAME_ALIGN ||
            found.next_sequence > HM_LOG_FARTHEST) {
            unsound = HM_SYNCED_OFFSET + turn * HM_SYNCED_SIZE;
        } else if (found.next_sequence > synced->next_sequence) {
            *synced = found;
        }
    }
    return unsound;
}
