/* A load generator: one thread, epoll. Prints what happened as one JSON object.
 *
 *   load -p port -f bodies.jsonl [-h 127.0.0.1] [-u /v1/chat/completions] [-c connections] [-t seconds] [-n requests]
 *        [-r rate [-P]] [-S none|cycle|request] [-o first_stamp] [-s seed]
 *
 * Closed loop (no -r): each connection sends its next request when its last was answered. Open loop (-r): requests are
 * due at fixed distances, or with -P at Poisson times; latency counts from the moment a request was due, also when
 * every connection was taken, so that a slow server cannot hide by slowing the generator. Bodies are sent in the file's
 * order, again from the start at its end. A run of 16 '@' in a body is its stamp: -S cycle replaces it by the number of
 * times the file was sent through, -S request by a number of its own, both as 16 hexadecimal digits counted from -o.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, ROOM = 256 * 1024, STAMP = 16, STATUSES = 600 };
static const double PATIENCE = 10.0; /* seconds without any progress after which the rest counts as timed out */

struct body {
    char *request; /* head and body */
    size_t length;
    long stamp_at; /* offset in `request`, or -1 */
};

enum framing { IN_HEAD, BY_LENGTH, BY_CHUNKS, UNTIL_CLOSE };
enum chunk_state { CHUNK_SIZE, CHUNK_DATA, CHUNK_DATA_END, TRAILERS };

struct connection {
    int fd;
    bool busy, connecting, server_closes, stream, saw_byte;
    double due; /* when its request was due [s] */
    struct body *body;
    char stamp[STAMP + 1];
    size_t sent;
    enum framing framing;
    enum chunk_state chunk_state;
    size_t left; /* of the body, or of the chunk */
    int status;
    char last; /* the last body byte: an event ends at an empty line, which a read may cut */
    char held[16 * 1024]; /* an unfinished head or chunk line */
    size_t held_length;
};

static struct body *bodies;
static long body_count, cursor, first_stamp;
static enum { NO_STAMP, PER_CYCLE, PER_REQUEST } stamping;
static struct connection *connections;
static int *idle, idle_count, connection_count = 64, poller, busy_count;
static struct sockaddr_in target = {.sin_family = AF_INET};
static long issued, answered, limit = -1, statuses[STATUSES], events_seen, bytes_seen;
static long failed_connect, failed_closed, failed_protocol, failed_timeout, connects;
static double rate, started, ends = 1e300;
static bool poisson;
static double *latencies, *first_outputs;
static long latency_count, latency_room, first_count, first_room;
static uint64_t random_state = 88172645463325252u;
static char input[ROOM];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double uniform(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return ((double)(random_state >> 11) + 0.5) / 9007199254740992.0;
}

static void keep(double **values, long *count, long *room, double value)
{
    if (*count == *room) {
        *room = *room ? *room * 2 : 65536;
        if (!(*values = realloc(*values, (size_t)*room * sizeof **values)))
            die("realloc");
    }
    (*values)[(*count)++] = value;
}

static void read_bodies(const char *file, const char *host, int port, const char *path)
{
    FILE *f = fopen(file, "r");
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    if (!f)
        die(file);
    while ((length = getline(&line, &room, f)) > 0) {
        if (line[length - 1] == '\n')
            length--;
        if (length == 0)
            continue;
        bodies = realloc(bodies, (size_t)(body_count + 1) * sizeof *bodies);
        struct body *b = &bodies[body_count++];
        b->request = malloc((size_t)length + 1024);
        int head = snprintf(b->request, 1024,
                            "POST %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: kvroute-bench\r\nAccept: */*\r\n"
                            "Content-Type: application/json\r\nContent-Length: %zd\r\n\r\n",
                            path, host, port, length);
        memcpy(b->request + head, line, (size_t)length);
        b->length = (size_t)(head + length);
        char *stamp = memmem(b->request, b->length, "@@@@@@@@@@@@@@@@", STAMP);
        b->stamp_at = stamp && stamping != NO_STAMP ? stamp - b->request : -1;
    }
    free(line);
    fclose(f);
    if (body_count == 0)
        die("no bodies");
}

static void watch(int operation, struct connection *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event) < 0)
        die("epoll_ctl");
}

static bool more_wanted(void)
{
    return (limit < 0 || issued < limit) && now() < ends;
}

static void open_connection(struct connection *c)
{
    int yes = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    c->connecting = connect(c->fd, (struct sockaddr *)&target, sizeof target) < 0;
    c->server_closes = false;
    c->held_length = 0;
    watch(EPOLL_CTL_ADD, c, EPOLLIN | EPOLLOUT | EPOLLET);
}

static void close_connection(struct connection *c)
{
    close(c->fd);
    c->fd = -1;
}

static void issue(struct connection *c, double due);

static void finish(struct connection *c)
{
    c->busy = false;
    busy_count--;
    if (rate <= 0.0 && more_wanted())
        issue(c, now());
    else
        idle[idle_count++] = (int)(c - connections);
}

static void fail(struct connection *c, long *counter)
{
    bool busy = c->busy;
    close_connection(c);
    if (!busy)
        return;
    ++*counter;
    if (failed_connect + failed_closed > 100000)
        ends = 0.0; /* nothing there: do not spin */
    finish(c);
}

static void push(struct connection *c)
{
    while (c->fd >= 0 && c->busy && c->sent < c->body->length) {
        struct body *b = c->body;
        struct iovec parts[3];
        int count = 0;
        size_t at = c->sent, cut = b->stamp_at < 0 ? b->length : (size_t)b->stamp_at, after = cut + STAMP;
        if (at < cut)
            parts[count++] = (struct iovec){b->request + at, cut - at};
        if (b->stamp_at >= 0 && at < after) {
            size_t from = at > cut ? at - cut : 0;
            parts[count++] = (struct iovec){c->stamp + from, STAMP - from};
        }
        if (b->stamp_at >= 0) {
            size_t from = at > after ? at : after;
            parts[count++] = (struct iovec){b->request + from, b->length - from};
        }
        ssize_t n = writev(c->fd, parts, count);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN))
            return;
        if (n < 0) {
            fail(c, c->connecting ? &failed_connect : &failed_closed);
            return;
        }
        c->sent += (size_t)n;
    }
}

static void issue(struct connection *c, double due)
{
    c->body = &bodies[cursor % body_count];
    if (c->body->stamp_at >= 0) {
        long number = first_stamp + (stamping == PER_CYCLE ? cursor / body_count : cursor);
        snprintf(c->stamp, sizeof c->stamp, "%016lx", (unsigned long)number);
    }
    cursor++;
    issued++;
    busy_count++;
    c->busy = true;
    c->due = due;
    c->sent = 0;
    c->framing = IN_HEAD;
    c->held_length = 0;
    c->saw_byte = c->stream = false;
    c->last = 0;
    if (c->fd < 0) {
        connects++;
        open_connection(c);
    }
    if (!c->connecting)
        push(c);
}

static void complete(struct connection *c)
{
    double took = now() - c->due;
    answered++;
    statuses[c->status > 0 && c->status < STATUSES ? c->status : 0]++;
    keep(&latencies, &latency_count, &latency_room, took);
    if (c->server_closes)
        close_connection(c);
    finish(c);
}

static void take_content(struct connection *c, const char *data, size_t length)
{
    bytes_seen += (long)length;
    if (!c->saw_byte && length) {
        c->saw_byte = true;
        keep(&first_outputs, &first_count, &first_room, now() - c->due);
    }
    if (!c->stream || !length)
        return;
    const char *at = data, *end = data + length;
    while ((at = memchr(at, '\n', (size_t)(end - at)))) {
        if ((at == data ? c->last : at[-1]) == '\n')
            events_seen++;
        at++;
    }
    c->last = end[-1];
}

/* One line of at most 16 KiB, from what was held and what came. NULL: not whole yet. */
static char *take_line(struct connection *c, const char **data, size_t *length)
{
    const char *end = memchr(*data, '\n', *length);
    size_t n = end ? (size_t)(end - *data) + 1 : *length;
    if (c->held_length + n >= sizeof c->held) {
        fail(c, &failed_protocol);
        return NULL;
    }
    memcpy(c->held + c->held_length, *data, n);
    c->held_length += n;
    *data += n;
    *length -= n;
    if (!end)
        return NULL;
    c->held[c->held_length] = 0;
    c->held_length = 0;
    return c->held;
}

static void take_head_line(struct connection *c, const char *line)
{
    if (strncmp(line, "HTTP/1.", 7) == 0) {
        c->status = atoi(line + 9);
        c->server_closes = line[7] == '0';
        c->left = SIZE_MAX; /* no length yet */
        c->chunk_state = CHUNK_SIZE;
        c->framing = IN_HEAD;
    } else if (strncasecmp(line, "content-length:", 15) == 0) {
        c->left = strtoul(line + 15, NULL, 10);
    } else if (strncasecmp(line, "transfer-encoding:", 18) == 0 && strcasestr(line, "chunked")) {
        c->left = SIZE_MAX - 1;
    } else if (strncasecmp(line, "content-type:", 13) == 0) {
        c->stream = strcasestr(line, "event-stream") != NULL;
    } else if (strncasecmp(line, "connection:", 11) == 0 && strcasestr(line, "close")) {
        c->server_closes = true;
    }
}

/* The empty line after a head. True: the reply is complete. */
static bool end_head(struct connection *c)
{
    if (c->status < 200) /* an interim reply */
        return false;
    c->framing = c->left == SIZE_MAX ? UNTIL_CLOSE : c->left == SIZE_MAX - 1 ? BY_CHUNKS : BY_LENGTH;
    if (c->framing == UNTIL_CLOSE)
        c->server_closes = true;
    return c->framing == BY_LENGTH && c->left == 0;
}

/* True: the reply is complete. */
static bool take_chunks(struct connection *c, const char **data, size_t *length)
{
    while (*length) {
        if (c->chunk_state == CHUNK_DATA) {
            size_t n = c->left < *length ? c->left : *length;
            take_content(c, *data, n);
            *data += n;
            *length -= n;
            c->left -= n;
            if (c->left == 0)
                c->chunk_state = CHUNK_DATA_END;
            continue;
        }
        char *line = take_line(c, data, length);
        if (!line)
            return false;
        if (c->chunk_state == CHUNK_SIZE) {
            c->left = strtoul(line, NULL, 16);
            c->chunk_state = c->left ? CHUNK_DATA : TRAILERS;
        } else if (c->chunk_state == CHUNK_DATA_END) {
            c->chunk_state = CHUNK_SIZE;
        } else if (line[0] == '\r' || line[0] == '\n') {
            return true;
        }
    }
    return false;
}

static void take(struct connection *c, const char *data, size_t length)
{
    bool done = false;
    while (length && c->fd >= 0 && c->busy && !done) {
        if (c->framing == IN_HEAD) {
            char *line = take_line(c, &data, &length);
            if (line && (line[0] == '\r' || line[0] == '\n'))
                done = end_head(c);
            else if (line)
                take_head_line(c, line);
        } else if (c->framing == BY_CHUNKS) {
            done = take_chunks(c, &data, &length);
        } else {
            size_t n = c->framing == BY_LENGTH && c->left < length ? c->left : length;
            take_content(c, data, n);
            data += n;
            length -= n;
            if (c->framing == BY_LENGTH && (c->left -= n) == 0)
                done = true;
        }
    }
    if (done)
        complete(c);
}

static void on_event(struct connection *c, uint32_t events)
{
    if (c->fd < 0)
        return;
    if (c->connecting && events & (EPOLLERR | EPOLLHUP)) {
        fail(c, &failed_connect);
        return;
    }
    if (events & EPOLLOUT) {
        c->connecting = false;
        push(c);
    }
    while (c->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n = read(c->fd, input, sizeof input);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            if (n == 0 && c->busy && c->framing == UNTIL_CLOSE)
                complete(c);
            else
                fail(c, &failed_closed);
            return;
        }
        take(c, input, (size_t)n);
        if ((size_t)n < sizeof input && !(events & (EPOLLHUP | EPOLLERR)))
            return;
    }
}

/* Due times that no connection was free for; latency counts from them all the same. */
static double *waiting;
static long waiting_from, waiting_to, waiting_room;

static void release_due(double *next_due)
{
    double at = now();
    while (*next_due <= at && *next_due < ends && (limit < 0 || issued + (waiting_to - waiting_from) < limit)) {
        keep(&waiting, &waiting_to, &waiting_room, *next_due);
        *next_due += poisson ? -log(uniform()) / rate : 1.0 / rate;
    }
    while (waiting_from < waiting_to && idle_count > 0)
        issue(&connections[idle[--idle_count]], waiting[waiting_from++]);
}

static void run_open_loop(int timer, double *next_due)
{
    uint64_t times;
    if (read(timer, &times, sizeof times) < 0 && errno != EAGAIN)
        die("timerfd");
    release_due(next_due);
    if (*next_due >= ends)
        return;
    struct itimerspec when = {{0, 0}, {(time_t)*next_due, (long)((*next_due - floor(*next_due)) * 1e9)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_percentiles(const char *name, double *values, long count)
{
    static const double wanted[] = {50, 90, 99, 99.9};
    double sum = 0;
    qsort(values, (size_t)count, sizeof *values, by_size);
    for (long i = 0; i < count; i++)
        sum += values[i];
    printf(",\"%s\":{", name);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && count; i++) {
        long rank = (long)ceil(wanted[i] / 100.0 * (double)count) - 1;
        printf("\"p%g\":%.9f,", wanted[i], values[rank < 0 ? 0 : rank]);
    }
    if (count)
        printf("\"mean\":%.9f,\"max\":%.9f", sum / (double)count, values[count - 1]);
    printf("}");
}

static void report(double seconds)
{
    long errors = failed_connect + failed_closed + failed_protocol + failed_timeout;
    bool first = true;
    printf("{\"requests\":%ld,\"seconds\":%.6f,\"statuses\":{", answered, seconds);
    for (int i = 0; i < STATUSES; i++) {
        if (!statuses[i])
            continue;
        printf("%s\"%d\":%ld", first ? "" : ",", i, statuses[i]);
        first = false;
        if (i < 200 || i > 299)
            errors += statuses[i];
    }
    printf("},\"errors\":%ld,\"failures\":{\"connect\":%ld,\"closed\":%ld,\"protocol\":%ld,\"timeout\":%ld}", errors,
           failed_connect, failed_closed, failed_protocol, failed_timeout);
    printf(",\"connections\":%ld,\"events\":%ld,\"bytes\":%ld", connects, events_seen, bytes_seen);
    print_percentiles("latency", latencies, latency_count);
    print_percentiles("first_output", first_outputs, first_count);
    printf("}\n");
}

int main(int argc, char **argv)
{
    const char *host = "127.0.0.1", *path = "/v1/chat/completions", *file = NULL;
    int option, port = 0, timer = -1;
    double seconds = -1.0, next_due = 0.0, progress;
    struct epoll_event events[EVENTS];
    while ((option = getopt(argc, argv, "h:p:u:f:c:t:n:r:PS:o:s:")) != -1) {
        switch (option) {
        case 'h': host = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 'u': path = optarg; break;
        case 'f': file = optarg; break;
        case 'c': connection_count = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'n': limit = atol(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'P': poisson = true; break;
        case 'S': stamping = *optarg == 'c' ? PER_CYCLE : *optarg == 'r' ? PER_REQUEST : NO_STAMP; break;
        case 'o': first_stamp = atol(optarg); break;
        case 's': random_state ^= strtoull(optarg, NULL, 10) * 0x9e3779b97f4a7c15u; break;
        default: return 2;
        }
    }
    if (!port || !file || connection_count < 1 || (seconds < 0 && limit < 0)) {
        fprintf(stderr, "usage: load -p port -f bodies.jsonl (-t seconds | -n requests) [see the top of load.c]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    target.sin_port = htons((uint16_t)port);
    if (inet_pton(AF_INET, host, &target.sin_addr) != 1)
        die("host");
    read_bodies(file, host, port, path);
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)connection_count, sizeof *connections);
    idle = calloc((size_t)connection_count, sizeof *idle);
    for (int i = connection_count - 1; i >= 0; i--) {
        connections[i].fd = -1;
        idle[idle_count++] = i;
    }
    started = progress = now();
    if (seconds >= 0)
        ends = started + seconds;
    if (rate > 0.0) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
        next_due = started;
        run_open_loop(timer, &next_due);
    } else {
        while (idle_count > 0 && more_wanted())
            issue(&connections[idle[--idle_count]], now());
    }
    while (busy_count > 0 || (rate > 0.0 && (more_wanted() || waiting_from < waiting_to))) {
        int n = epoll_wait(poller, events, EVENTS, 100);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) {
                progress = now();
                on_event(events[i].data.ptr, events[i].events);
            }
        }
        if (now() - progress > PATIENCE)
            break;
        if (rate > 0.0)
            run_open_loop(timer, &next_due);
    }
    failed_timeout += busy_count + (waiting_to - waiting_from);
    report(now() - started);
    return 0;
}
