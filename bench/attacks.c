/* The attacker of `make harm`: as much harm as one processor can ask for, so that the server is what is measured.

   usage: harm --port PORT [--source ADDRESS]... --file FILE --connections N --seconds S [--rate PER_SECOND]
               [--create FILE]        say this first on every connection; the session it makes takes the place of
                                      {@@@...}, 38 letters long, in what follows
               --flood DEPTH          say FILE again and again on every connection, DEPTH times before an answer
               --drip MS [--head N]   the first N bytes of FILE at once, the rest byte by byte, MS apart
               --churn                connect, say FILE, hang up, at once again
               --hold                 say FILE once, then be silent

   One thread, one epoll. A connection that the server ends is opened again. FILE is what every connection says, as it
   stands; several sources share the connections. One line of JSON on standard output tells what was done. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SOURCES 64
#define BATCH (1 << 20)

enum kind { FLOOD, DRIP, CHURN, HOLD };

struct connection {
    int socket;             /* -1: not open */
    bool connected;
    size_t sent;            /* bytes of what it says, of the current round */
    int asked;              /* requests without an answer */
    char *said;             /* its own copy, where it has a session of its own */
    bool creating;
    double next;            /* when it may say its next byte, or be opened */
    int in_line;            /* how far into "HTTP/1.1 " */
};

static int port, connections = 1, depth = 1;
static double seconds = 5, pause_between = 1, rate;
static size_t at_once, size;
static char *said, *creation;
static size_t creation_size;
static const char *sources[SOURCES];
static int source_count;
static enum kind kind = HOLD;
static struct connection *all;
static int poll_fd;
static uint64_t opened, ended, refused, requests, statuses[6], bytes_out;
static volatile sig_atomic_t over;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "harm: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static void stop(int number)
{
    (void)number;
    over = 1;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void watch(struct connection *c, int how, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poll_fd, how, c->socket, &event);
}

static void hang_up(struct connection *c, double again)
{
    if (c->socket >= 0)
        close(c->socket);
    c->socket = -1;
    c->next = again;
}

static void open_one(struct connection *c)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (kind == CHURN)
        setsockopt(s, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));   /* leave no TIME_WAIT here */
    if (source_count) {
        struct sockaddr_in here = {.sin_family = AF_INET};
        inet_pton(AF_INET, sources[(c - all) % source_count], &here.sin_addr);
        setsockopt(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
        if (bind(s, (struct sockaddr *)&here, sizeof here))
            fail("bind: %s", strerror(errno));
    }
    c->socket = s;
    c->connected = false;
    c->sent = 0;
    c->asked = 0;
    c->in_line = 0;
    c->creating = creation != NULL;
    if (connect(s, (struct sockaddr *)&there, sizeof there) && errno != EINPROGRESS) {
        refused++;
        hang_up(c, now() + 0.05);
        return;
    }
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static const char status_line[] = "HTTP/1.1 ";

/* Counts answers: the digit behind each "HTTP/1.1 ". */
static void hear(struct connection *c, const char *data, ssize_t length)
{
    for (const char *p = data, *end = data + length; p < end; p++) {
        if (c->in_line == (int)sizeof status_line - 1) {
            int class = *p - '0';
            statuses[class >= 1 && class <= 5 ? class : 0]++;
            if (class != 1)
                c->asked--;
            c->in_line = 0;
        } else if (*p == status_line[c->in_line])
            c->in_line++;
        else if (c->in_line)
            c->in_line = *p == 'H';
        else if (!(p = memchr(p, 'H', end - p)))
            break;
        else
            c->in_line = 1;
    }
}

static double tokens, refilled;

static bool may_ask(double t)
{
    if (!rate)
        return true;
    tokens += (t - refilled) * rate;
    refilled = t;
    if (tokens > rate / 20 + 1)
        tokens = rate / 20 + 1;
    if (tokens < 1)
        return false;
    tokens -= 1;
    return true;
}

static void speak(struct connection *c, double t)
{
    if (c->creating) {
        if (c->asked == 0)
            c->asked = send(c->socket, creation, creation_size, MSG_NOSIGNAL) > 0;
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
        return;
    }
    while (true) {
        size_t until = size;
        if (kind == FLOOD) {
            if (c->sent == 0 && (c->asked >= depth || !may_ask(t)))
                break;
        } else if (kind == DRIP) {
            if (c->sent >= at_once) {
                if (t < c->next)
                    break;
                until = c->sent + 1;
            } else
                until = at_once;
        }
        if (c->sent >= size)
            break;
        ssize_t sent = send(c->socket, c->said + c->sent, (until < size ? until : size) - c->sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                ended++;
                hang_up(c, t + 0.001);
            }
            return;
        }
        bytes_out += sent;
        c->sent += sent;
        if (kind == DRIP)
            c->next = t + pause_between;
        if (c->sent == size) {
            requests++;
            if (kind == FLOOD) {
                c->asked++;
                c->sent = 0;
                continue;
            }
            if (kind == CHURN) {
                hang_up(c, t);
                return;
            }
        }
    }
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

/* What is said from here on is said of the session the server made; its answer is small and comes at once. */
static void take_session(struct connection *c, const char *heard, ssize_t length)
{
    static const char name[] = "BITS-Session-Id: ";
    const char *id = memmem(heard, length, name, sizeof name - 1);
    if (!id || heard + length - id < (ssize_t)sizeof name + 37)
        fail("no session: %.*s", (int)(length < 200 ? length : 200), heard);
    if (c->said == said)
        c->said = memcpy(malloc(size), said, size);
    const char *place = memmem(said, size, "{@@@", 4);
    if (place)
        memcpy(c->said + (place - said), id + sizeof name - 1, 38);
    c->creating = false;
    c->asked = 0;
    speak(c, now());
}

static void listen_to(struct connection *c, double t)
{
    static char block[BATCH];
    ssize_t got = recv(c->socket, block, sizeof block, 0);
    if (got > 0 && c->creating)
        take_session(c, block, got);
    else if (got > 0)
        hear(c, block, got);
    else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        ended++;
        hang_up(c, t + 0.001);
        return;
    }
    if (kind == FLOOD)
        speak(c, t);
}

static char *read_file(const char *path, size_t *length)
{
    int file = open(path, O_RDONLY);
    if (file < 0)
        fail("%s: %s", path, strerror(errno));
    *length = lseek(file, 0, SEEK_END);
    char *text = malloc(*length + 1);
    if (!text || pread(file, text, *length, 0) != (ssize_t)*length)
        fail("%s cannot be read", path);
    close(file);
    return text;
}

int main(int count, char **arguments)
{
    enum { PORT = 256, SOURCE, FILE_, CONNECTIONS, SECONDS, RATE, FLOOD_, DRIP_, HEAD, CHURN_, HOLD_, CREATE };
    static const struct option known[] = {
        {"port", 1, 0, PORT}, {"source", 1, 0, SOURCE}, {"file", 1, 0, FILE_}, {"connections", 1, 0, CONNECTIONS},
        {"seconds", 1, 0, SECONDS}, {"rate", 1, 0, RATE}, {"flood", 1, 0, FLOOD_}, {"drip", 1, 0, DRIP_},
        {"head", 1, 0, HEAD}, {"churn", 0, 0, CHURN_}, {"hold", 0, 0, HOLD_}, {"create", 1, 0, CREATE}, {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(count, arguments, "", known, 0)) != -1;)
        switch (option) {
        case PORT: port = atoi(optarg); break;
        case SOURCE:
            if (source_count == SOURCES)
                fail("%d sources are the most", SOURCES);
            sources[source_count++] = optarg;
            break;
        case FILE_: said = read_file(optarg, &size); break;
        case CREATE: creation = read_file(optarg, &creation_size); break;
        case CONNECTIONS: connections = atoi(optarg); break;
        case SECONDS: seconds = atof(optarg); break;
        case RATE: rate = atof(optarg); break;
        case FLOOD_: kind = FLOOD; depth = atoi(optarg); break;
        case DRIP_: kind = DRIP; pause_between = atof(optarg) / 1000; break;
        case HEAD: at_once = strtoul(optarg, 0, 10); break;
        case CHURN_: kind = CHURN; break;
        case HOLD_: kind = HOLD; break;
        default: return 2;
        }
    if (!port || !said || !size)
        fail("--port and --file are needed");
    signal(SIGTERM, stop);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    all = calloc(connections, sizeof *all);
    double begun = now(), swept = 0;
    refilled = begun;
    for (int i = 0; i < connections; i++)
        all[i].socket = -1, all[i].said = said, all[i].next = begun;
    bool told = false;
    int live = 0;
    while (!over && now() - begun < seconds) {
        struct epoll_event events[512];
        int ready = epoll_wait(poll_fd, events, 512, kind == CHURN ? 1 : 2);
        double t = now();
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->socket < 0)
                continue;
            if (!c->connected) {
                if (events[i].events & (EPOLLERR | EPOLLHUP)) {
                    refused++;
                    hang_up(c, t + 0.05);
                    continue;
                }
                c->connected = true;
                opened++, live++;
            }
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                listen_to(c, t);
            if (c->socket >= 0 && events[i].events & EPOLLOUT)
                speak(c, t);
        }
        if (t - swept > (kind == CHURN ? 0.001 : 0.002)) {
            swept = t;
            int at_a_time = 200;    /* as many as a backlog takes */
            for (int i = 0; i < connections; i++) {
                struct connection *c = &all[i];
                if (c->socket < 0 && t >= c->next && at_a_time-- > 0)
                    open_one(c);
                else if (c->socket >= 0 && c->connected && (kind == DRIP || (kind == FLOOD && rate)) && (kind == FLOOD || t >= c->next))
                    speak(c, t);
            }
        }
        if (!told && live >= connections) {
            told = true;    /* whoever measures may begin */
            fprintf(stderr, "ready\n");
        }
    }
    printf("{\"seconds\": %.3f, \"cpu_seconds\": %.3f, \"opened\": %" PRIu64 ", \"ended\": %" PRIu64 ", \"refused\": %" PRIu64
           ", \"requests\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"answers\": [%" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %" PRIu64
           ", %" PRIu64 ", %" PRIu64 "]}\n",
           now() - begun, cpu_seconds(), opened, ended, refused, requests, bytes_out, statuses[0], statuses[1], statuses[2],
           statuses[3], statuses[4], statuses[5]);
    return 0;
}
