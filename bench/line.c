/* A line with a narrow place and a long way, between two network namespaces: what netem would do, where the kernel has none.

   usage: line NAMESPACE NAMESPACE BITS_PER_SECOND ONE_WAY_MICROSECONDS QUEUE_BYTES

   Opens a TUN device named `line` in each namespace and prints `ready`. From then on every packet that goes into one comes
   out of the other: after its turn at the narrow place, which sends so many bits a second and lets so many bytes queue up
   (what comes when the queue is full is lost), and after the delay. Each direction has a narrow place of its own. Packets
   are real, so TCP at both ends does what it does on a long line: slow start, bursts, losses. SIGTERM ends it. Needs root. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PACKET 1600
#define PACKETS 65536 /* on their way in one direction: at most 100 MB */

struct packet {
    int64_t due; /* when it comes out, in ns */
    int length;
    char bytes[PACKET];
};

struct direction {
    int in, out;
    int64_t free_at; /* when the narrow place has sent all it has, in ns */
    uint32_t first, last;
    struct packet *packets;
};

static void fail(const char *what)
{
    fprintf(stderr, "line: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int open_tun(const char *namespace)
{
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    int there = open(path, O_RDONLY | O_CLOEXEC);
    if (there < 0 || setns(there, CLONE_NEWNET))
        fail(path);
    close(there);
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = {.ifr_name = "line", .ifr_flags = IFF_TUN | IFF_NO_PI};
    if (device < 0 || ioctl(device, TUNSETIFF, &request))
        fail("/dev/net/tun");
    return device;
}

static void take_in(struct direction *d, double ns_per_byte, int64_t delay, int64_t queue)
{
    while ((uint32_t)(d->last - d->first) < PACKETS) {
        struct packet *packet = &d->packets[d->last % PACKETS];
        packet->length = read(d->in, packet->bytes, PACKET);
        if (packet->length <= 0)
            return;
        int64_t at = now();
        if (d->free_at < at)
            d->free_at = at;
        if ((d->free_at - at) / ns_per_byte > queue)
            continue;
        d->free_at += packet->length * ns_per_byte;
        packet->due = d->free_at + delay;
        d->last++;
    }
}

static void let_out(struct direction *d)
{
    for (; d->first != d->last && d->packets[d->first % PACKETS].due <= now(); d->first++) {
        struct packet *packet = &d->packets[d->first % PACKETS];
        if (write(d->out, packet->bytes, packet->length) < 0 && errno != EIO && errno != EINVAL)
            return;
    }
}

int main(int count, char **arguments)
{
    if (count != 6) {
        fprintf(stderr, "usage: line NAMESPACE NAMESPACE BITS_PER_SECOND ONE_WAY_MICROSECONDS QUEUE_BYTES\n");
        return 2;
    }
    double ns_per_byte = 8e9 / atof(arguments[3]);
    int64_t delay = atoll(arguments[4]) * 1000, queue = atoll(arguments[5]);
    int left = open_tun(arguments[1]), right = open_tun(arguments[2]);
    struct direction directions[2] = {{.in = left, .out = right}, {.in = right, .out = left}};
    for (int i = 0; i < 2; i++) {
        directions[i].packets = malloc(PACKETS * sizeof(struct packet));
        if (!directions[i].packets)
            fail("memory");
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        int64_t next = INT64_MAX;
        for (int i = 0; i < 2; i++) {
            let_out(&directions[i]);
            take_in(&directions[i], ns_per_byte, delay, queue);
            struct direction *d = &directions[i];
            if (d->first != d->last && d->packets[d->first % PACKETS].due < next)
                next = d->packets[d->first % PACKETS].due;
        }
        int64_t left_ns = next == INT64_MAX ? 1000000000 : next - now();
        if (left_ns > 0) {
            struct timespec wait = {left_ns / 1000000000, left_ns % 1000000000};
            struct pollfd ends[2] = {{left, POLLIN, 0}, {right, POLLIN, 0}};
            ppoll(ends, 2, &wait, NULL);
        }
    }
}
