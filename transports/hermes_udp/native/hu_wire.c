/* hu_wire.c -- encodes and checks datagrams. */
#include "hu_wire.h"

#include <assert.h>
#include <string.h>

const hm_api *hu_core;

void hu_bind(uintptr_t api) {
    assert(api != 0);
    hu_core = (const hm_api *)api;
}

static void put(uint8_t *out, uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; i++)
        out[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t *data, unsigned size) {
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)data[i] << 8 * i;
    return value;
}

void hu_header_encode(uint8_t *out, const hu_header *header) {
    assert(header->type >= HU_DATA && header->type <= HU_BEACON);
    out[0] = 'H';
    out[1] = 'U';
    out[2] = HU_VERSION;
    out[3] = header->type;
    put(out + 4, 0, 4);
    put(out + 8, header->session, 8);
    put(out + 16, header->position, 8);
    put(out + 24, header->received, 8);
    put(out + 32, header->window, 4);
    put(out + 36, header->stamp, 4);
    put(out + 40, header->echo, 4);
    put(out + 44, header->flags, 2);
    put(out + 46, header->stream, 2);
}

void hu_crc_store(uint8_t *header, uint32_t crc) {
    put(header + 4, crc, 4);
}

void hu_seal(uint8_t *data, uint64_t size) {
    assert(size >= HU_HEADER);
    hu_crc_store(data, hu_core->crc32c(hu_crc_header(data), data + HU_HEADER, size - HU_HEADER));
}

static int body_fits(const hu_header *header, uint64_t body) {
    switch (header->type) {
    case HU_DATA:
        return header->position <= UINT64_MAX - body;
    case HU_STATUS:
        return body % HU_RANGE == 0;
    case HU_RESET:
        return body == 0;
    case HU_BEACON:
        return body >= HU_BEACON_FIXED;
    default:
        return body >= HU_SETUP;
    }
}

int hu_header_decode(const uint8_t *data, uint64_t size, hu_header *header) {
    if (size < HU_HEADER || size > HU_DATAGRAM_MAX)
        return -HM_ELENGTH;
    if (data[0] != 'H' || data[1] != 'U')
        return -HM_EMAGIC;
    if (data[2] != HU_VERSION)
        return -HM_EVERSION;
    if (data[3] < HU_DATA || data[3] > HU_BEACON)
        return -HM_ETYPE;
    header->type = data[3];
    header->session = get(data + 8, 8);
    header->position = get(data + 16, 8);
    header->received = get(data + 24, 8);
    header->window = (uint32_t)get(data + 32, 4);
    header->stamp = (uint32_t)get(data + 36, 4);
    header->echo = (uint32_t)get(data + 40, 4);
    header->flags = (uint16_t)get(data + 44, 2);
    header->stream = (uint16_t)get(data + 46, 2);
    if (!body_fits(header, size - HU_HEADER) || header->received > UINT64_MAX - header->window)
        return -HM_ELENGTH;
    uint32_t crc = hu_core->crc32c(hu_crc_header(data), data + HU_HEADER, size - HU_HEADER);
    return crc == (uint32_t)get(data + 4, 4) ? 0 : -HM_ECRC;
}

void hu_range_encode(uint8_t *out, const hu_range *range) {
    assert(range->size > 0 && range->size <= UINT32_MAX);
    put(out, range->position, 8);
    put(out + 8, range->size, 4);
}

void hu_range_decode(const uint8_t *data, hu_range *range) {
    range->position = get(data, 8);
    range->size = get(data + 8, 4);
}

void hu_setup_encode(uint8_t *out, const hu_setup *setup) {
    put(out, setup->cookie, 8);
    put(out + 8, setup->session, 8);
    put(out + 16, setup->issued_s, 4);
    put(out + 20, setup->window, 4);
    put(out + 24, setup->datagram, 4);
    put(out + 28, setup->liveness_ms, 4);
    put(out + 32, 0, 8);
}

void hu_setup_decode(const uint8_t *data, hu_setup *setup) {
    setup->cookie = get(data, 8);
    setup->session = get(data + 8, 8);
    setup->issued_s = (uint32_t)get(data + 16, 4);
    setup->window = (uint32_t)get(data + 20, 4);
    setup->datagram = (uint32_t)get(data + 24, 4);
    setup->liveness_ms = (uint32_t)get(data + 28, 4);
}

static uint8_t *put_entry(uint8_t *out, const hu_beacon_entry *entry) {
    assert(entry->name_size > 0);
    put(out, entry->through, 8);
    put(out + 8, entry->index, 4);
    out[12] = entry->name_size;
    memcpy(out + HU_BEACON_ENTRY, entry->name, entry->name_size);
    return out + HU_BEACON_ENTRY + entry->name_size;
}

uint64_t hu_beacon_encode(uint8_t *out, uint64_t capacity, const hu_beacon *beacon,
                          const hu_beacon_entry *entries) {
    assert(beacon->pattern_size > 0 && beacon->streams <= HU_BEACON_STREAMS);
    assert(capacity >= HU_BEACON_FIXED + (uint64_t)beacon->pattern_size);
    put(out, beacon->join, 8);
    put(out + 8, beacon->oldest, 8);
    put(out + 16, beacon->history, 4);
    put(out + 20, beacon->receivers, 4);
    put(out + 24, beacon->datagram, 2);
    put(out + 28, beacon->pattern_size, 4);
    memcpy(out + HU_BEACON_FIXED, beacon->pattern, beacon->pattern_size);
    uint8_t *at = out + HU_BEACON_FIXED + beacon->pattern_size, *end = out + capacity;
    uint16_t written = 0;
    while (written < beacon->streams &&
           end - at >= HU_BEACON_ENTRY + (ptrdiff_t)entries[written].name_size)
        at = put_entry(at, &entries[written++]);
    put(out + 26, written, 2);
    return (uint64_t)(at - out);
}

/* The entry at `data`; its bytes, 0: there is none. */
static uint64_t get_entry(const uint8_t *data, uint64_t size, hu_beacon_entry *entry) {
    if (size < HU_BEACON_ENTRY || data[12] == 0 || size - HU_BEACON_ENTRY < data[12])
        return 0;
    entry->through = get(data, 8);
    entry->index = (uint32_t)get(data + 8, 4);
    entry->name_size = data[12];
    memcpy(entry->name, data + HU_BEACON_ENTRY, entry->name_size);
    return HU_BEACON_ENTRY + (uint64_t)entry->name_size;
}

static int plausible(const hu_header *header, const hu_beacon *beacon) {
    uint32_t history = beacon->history;
    return history >= HU_HISTORY_MIN && history <= HU_HISTORY_MAX &&
           (history & (history - 1)) == 0 && beacon->datagram >= HU_DATAGRAM_MIN &&
           beacon->datagram <= HU_DATAGRAM_MAX && beacon->streams <= HU_BEACON_STREAMS &&
           header->position <= INT64_MAX && header->received <= beacon->oldest &&
           beacon->oldest <= beacon->join && beacon->join <= header->position &&
           header->position - header->received <= history;
}

int hu_beacon_decode(const hu_header *header, const uint8_t *data, uint64_t size, hu_beacon *beacon,
                     hu_beacon_entry *entries) {
    assert(header->type == HU_BEACON && size >= HU_BEACON_FIXED);
    beacon->join = get(data, 8);
    beacon->oldest = get(data + 8, 8);
    beacon->history = (uint32_t)get(data + 16, 4);
    beacon->receivers = (uint32_t)get(data + 20, 4);
    beacon->datagram = (uint16_t)get(data + 24, 2);
    beacon->streams = (uint16_t)get(data + 26, 2);
    beacon->pattern_size = data[28];
    if (!plausible(header, beacon))
        return -HM_EINVAL;
    uint64_t at = HU_BEACON_FIXED + (uint64_t)beacon->pattern_size;
    if (get(data + 29, 3) != 0 || at > size)
        return -HM_ELENGTH;
    memcpy(beacon->pattern, data + HU_BEACON_FIXED, beacon->pattern_size);
    if (hu_core->pattern_check(beacon->pattern, beacon->pattern_size) != 0)
        return -HM_ETOPIC;
    for (uint32_t i = 0; i < beacon->streams; i++) {
        uint64_t taken = get_entry(data + at, size - at, &entries[i]);
        if (taken == 0)
            return -HM_ELENGTH;
        at += taken;
    }
    return at == size ? 0 : -HM_ELENGTH;
}
