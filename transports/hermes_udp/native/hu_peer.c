/* hu_peer.c -- addresses of peers: from and to those of the system, and which are the same. */
#include "hu_parts.h"

#include <assert.h>
#include <netinet/in.h>
#include <string.h>

void hu_peer_of(const struct sockaddr_storage *name, hu_peer *peer) {
    *peer = (hu_peer){.family = name->ss_family};
    if (name->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)name;
        peer->port = v4->sin_port;
        memcpy(peer->address, &v4->sin_addr, 4);
    } else if (name->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)name;
        peer->port = v6->sin6_port;
        peer->scope = v6->sin6_scope_id;
        memcpy(peer->address, &v6->sin6_addr, 16);
    }
}

socklen_t hu_peer_name(const hu_peer *peer, struct sockaddr_storage *name) {
    memset(name, 0, sizeof *name);
    name->ss_family = peer->family;
    if (peer->family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)name;
        v4->sin_port = peer->port;
        memcpy(&v4->sin_addr, peer->address, 4);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)name;
    v6->sin6_port = peer->port;
    v6->sin6_scope_id = peer->scope;
    memcpy(&v6->sin6_addr, peer->address, 16);
    return sizeof *v6;
}

int hu_peer_same(const hu_peer *a, const hu_peer *b) {
    return a->family == b->family && a->port == b->port && a->scope == b->scope &&
           memcmp(a->address, b->address, 16) == 0;
}

void hu_peer_came_to(hu_peer *peer, const struct cmsghdr *head) {
    if (head->cmsg_level == IPPROTO_IP && head->cmsg_type == IP_PKTINFO) {
        struct in_pktinfo info;
        memcpy(&info, CMSG_DATA(head), sizeof info);
        memcpy(peer->local, &info.ipi_spec_dst, sizeof info.ipi_spec_dst);
        peer->has_local = 1;
    } else if (head->cmsg_level == IPPROTO_IPV6 && head->cmsg_type == IPV6_PKTINFO) {
        struct in6_pktinfo info;
        memcpy(&info, CMSG_DATA(head), sizeof info);
        memcpy(peer->local, &info.ipi6_addr, sizeof info.ipi6_addr);
        peer->local_interface = IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr) ? info.ipi6_ifindex : 0;
        peer->has_local = 1;
    }
}

size_t hu_peer_from(const hu_peer *peer, struct cmsghdr *head) {
    assert(peer->has_local);
    if (peer->family == AF_INET) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, peer->local, sizeof info.ipi_spec_dst);
        head->cmsg_level = IPPROTO_IP;
        head->cmsg_type = IP_PKTINFO;
        head->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(head), &info, sizeof info);
        return CMSG_SPACE(sizeof info);
    }
    struct in6_pktinfo info = {.ipi6_ifindex = peer->local_interface};
    memcpy(&info.ipi6_addr, peer->local, sizeof info.ipi6_addr);
    head->cmsg_level = IPPROTO_IPV6;
    head->cmsg_type = IPV6_PKTINFO;
    head->cmsg_len = CMSG_LEN(sizeof info);
    memcpy(CMSG_DATA(head), &info, sizeof info);
    return CMSG_SPACE(sizeof info);
}

void hu_peer_prefix(const hu_peer *peer, uint8_t *out) {
    memcpy(out, &peer->family, 2);
    memcpy(out + 2, &peer->port, 2);
    memcpy(out + 4, peer->address, 16);
}
