/* An instant vLLM-shaped backend: one thread, epoll, several ports. It must never be what is measured.
 *
 *   backend -p 9001,9002 [-k chunks] [-d pace_ms] [-w chunks_per_write] [-b capacity_blocks]
 *
 * A POST is answered when its body (Content-Length) is in: as JSON, or, when the body says "stream": true, as SSE of
 * `chunks` events, each an HTTP chunk of about 200 bytes. Without a pace the chunks leave as fast as the socket takes
 * them, chunks_per_write (1) at a time; with one, each leaves in a write of its own, every pace_ms, first after a
 * random part of that time, so that streams do not march in step. SIGTERM or SIGINT prints the counts as JSON and ends
 * it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PORTS = 64, EVENTS = 256, READ_ROOM = 16 * 1024, BATCH = 64, MAX_INPUT = 256 * 1024 * 1024 };

#define ID "chatcmpl-0123456789abcdef"
#define EVENT(delta, reason)                                                                                           \
    "data: {\"id\":\"" ID "\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"m\","            \
    "\"choices\":[{\"index\":0,\"delta\":" delta ",\"logprobs\":null,\"finish_reason\":" reason                         \
    ",\"token_ids\":null}]}\n\n"

enum kind { LISTENER, CONNECTION, TIMER, SIGNAL };

struct port {
    enum kind kind; /* LISTENER; first, so that an epoll pointer can be read */
    int fd, number;
    long requests, prompt_tokens, running;
};

struct connection;

struct timer {
    enum kind kind; /* TIMER */
    int fd;
    struct connection *owner;
};

struct connection {
    enum kind kind; /* CONNECTION */
    int fd;
    struct port *port;
    struct timer timer;
    char *in, *out;
    size_t in_length, in_room, out_start, out_length, out_room;
    int chunks_left; /* of the stream being sent; the end marker counts as one more */
    bool paced, closing, dead, wants_out;
    struct connection *next_dead;
};

static struct port ports[MAX_PORTS];
static int port_count, poller, chunks = 100, chunks_per_write = 1;
static double pace_ms = 0.0;
static long capacity_blocks = 50000;
static long requests, streams, aborted, bytes_in, bytes_out;
static char batch[BATCH * 512], last_chunks[1024], first_chunk[512], one_chunk[512];
static size_t one_length, first_length, last_length;
static struct connection *dead_list;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static size_t as_chunk(char *to, size_t room, const char *event)
{
    return (size_t)snprintf(to, room, "%zx\r\n%s\r\n", strlen(event), event);
}

static void build_chunks(void)
{
    first_length = as_chunk(first_chunk, sizeof first_chunk, EVENT("{\"role\":\"assistant\",\"content\":\"\"}", "null"));
    one_length = as_chunk(one_chunk, sizeof one_chunk, EVENT("{\"content\":\" token\"}", "null"));
    for (int i = 0; i < BATCH; i++)
        memcpy(batch + (size_t)i * one_length, one_chunk, one_length);
    last_length = as_chunk(last_chunks, sizeof last_chunks, "data: [DONE]\n\n");
    memcpy(last_chunks + last_length, "0\r\n\r\n", 5);
    last_length += 5;
}

static void watch(int operation, int fd, uint32_t events, void *source)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(poller, operation, fd, &event) < 0)
        die("epoll_ctl");
}

static void append(struct connection *c, const char *data, size_t length)
{
    if (c->out_start == c->out_length)
        c->out_start = c->out_length = 0;
    if (c->out_length + length > c->out_room) {
        c->out_room = (c->out_length + length) * 2;
        if (!(c->out = realloc(c->out, c->out_room)))
            die("realloc");
    }
    memcpy(c->out + c->out_length, data, length);
    c->out_length += length;
}

static void end_stream(struct connection *c)
{
    c->port->running--;
    if (c->paced) {
        close(c->timer.fd);
        c->paced = false;
    }
}

static void drop(struct connection *c)
{
    if (c->dead)
        return;
    if (c->chunks_left > 0) {
        aborted++;
        end_stream(c);
    }
    close(c->fd);
    c->dead = true;
    c->next_dead = dead_list;
    dead_list = c;
}

static void free_dead(void)
{
    while (dead_list) {
        struct connection *c = dead_list;
        dead_list = c->next_dead;
        free(c->in);
        free(c->out);
        free(c);
    }
}

static const char *date_line(void)
{
    static char line[64];
    static time_t at;
    time_t now = time(NULL);
    if (now != at) {
        struct tm parts;
        strftime(line, sizeof line, "date: %a, %d %b %Y %H:%M:%S GMT\r\nserver: uvicorn\r\n", gmtime_r(&now, &parts));
        at = now;
    }
    return line;
}

static void reply(struct connection *c, const char *status, const char *type, const char *body)
{
    char head[512];
    size_t length = strlen(body);
    int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\n%scontent-length: %zu\r\ncontent-type: %s\r\n%s\r\n", status,
                     date_line(), length, type, c->closing ? "connection: close\r\n" : "");
    append(c, head, (size_t)n);
    append(c, body, length);
}

static void reply_metrics(struct connection *c)
{
    /* Half of every prompt counts as a hit: that is the part the benchmark's bodies share. */
    struct port *p = c->port;
    char text[2048];
    snprintf(text, sizeof text,
             "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine=\"0\",model_name=\"m\"} %ld\n"
             "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 0\n"
             "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.01\n"
             "# TYPE vllm:prefix_cache_queries counter\n"
             "vllm:prefix_cache_queries_total{engine=\"0\",model_name=\"m\"} %ld\n"
             "# TYPE vllm:prefix_cache_hits counter\nvllm:prefix_cache_hits_total{engine=\"0\",model_name=\"m\"} %ld\n"
             "# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} %ld\n"
             "# TYPE vllm:prompt_tokens_cached counter\n"
             "vllm:prompt_tokens_cached_total{engine=\"0\",model_name=\"m\"} %ld\n"
             "# TYPE vllm:request_success counter\n"
             "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"m\"} %ld\n"
             "# TYPE vllm:cache_config_info gauge\n"
             "vllm:cache_config_info{block_size=\"16\",enable_prefix_caching=\"True\",engine=\"0\","
             "kv_cache_size_tokens=\"%ld\",num_gpu_blocks=\"%ld\"} 1\n",
             p->running, p->prompt_tokens, p->prompt_tokens / 2, p->prompt_tokens, p->prompt_tokens / 2, p->requests,
             capacity_blocks * 16, capacity_blocks);
    reply(c, "200 OK", "text/plain; version=0.0.4; charset=utf-8", text);
}

static void start_stream(struct connection *c)
{
    char head[256];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\n%scontent-type: text/event-stream; charset=utf-8\r\n"
                     "transfer-encoding: chunked\r\n\r\n",
                     date_line());
    append(c, head, (size_t)n);
    streams++;
    c->port->running++;
    c->chunks_left = chunks + 1;
    if (pace_ms <= 0.0)
        return;
    long step = (long)(pace_ms * 1e6), first = 1 + (long)(drand48() * (double)step);
    struct itimerspec when = {{step / 1000000000, step % 1000000000}, {first / 1000000000, first % 1000000000}};
    c->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (c->timer.fd < 0 || timerfd_settime(c->timer.fd, 0, &when, NULL) < 0)
        die("timerfd");
    c->paced = true;
    watch(EPOLL_CTL_ADD, c->timer.fd, EPOLLIN, &c->timer);
}

/* The value of "stream" in a body. Looked for near its ends first, for there it stands in most bodies. */
static int stream_in(const char *from, size_t length)
{
    const char *end = from + length, *at = from;
    while ((at = memmem(at, (size_t)(end - at), "\"stream\"", 8))) {
        at += 8;
        const char *value = at;
        while (value < end && (*value == ' ' || *value == ':'))
            value++;
        if (end - value >= 4 && value > at)
            return memcmp(value, "true", 4) == 0;
    }
    return -1;
}

static bool wants_stream(const char *body, size_t length)
{
    size_t edge = length < 1024 ? length : 1024;
    int found = stream_in(body + length - edge, edge);
    if (found < 0)
        found = stream_in(body, edge);
    if (found < 0)
        found = stream_in(body, length);
    return found == 1;
}

static void serve_post(struct connection *c, const char *path, size_t path_length, const char *body, size_t length)
{
    char text[1024];
    if (path_length > 7 && memcmp(path + path_length - 7, "/render", 7) == 0) {
        reply(c, "403 Forbidden", "application/json",
              "{\"error\":{\"message\":\"Scale-out endpoints are disabled.\",\"type\":\"PermissionDeniedError\","
              "\"param\":null,\"code\":403}}");
        return;
    }
    long tokens = (long)(length / 4) + 1;
    c->port->requests++;
    c->port->prompt_tokens += tokens;
    requests++;
    if (wants_stream(body, length)) {
        start_stream(c);
        return;
    }
    bool chat = path_length >= 17 && memmem(path, path_length, "/chat/", 6);
    snprintf(text, sizeof text,
             "{\"id\":\"" ID "\",\"object\":\"%s\",\"created\":1790000000,\"model\":\"m\",\"choices\":[{\"index\":0,%s,"
             "\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}],\"usage\":{\"prompt_tokens\":%ld,"
             "\"total_tokens\":%ld,\"completion_tokens\":16,\"prompt_tokens_details\":null}}",
             chat ? "chat.completion" : "text_completion",
             chat ? "\"message\":{\"role\":\"assistant\",\"content\":\" sixteen tokens of an answer\"}"
                  : "\"text\":\" sixteen tokens of an answer\"",
             tokens, tokens + 16);
    reply(c, "200 OK", "application/json", text);
}

static void serve_get(struct connection *c, const char *path, size_t length)
{
    if (length == 7 && memcmp(path, "/health", 7) == 0)
        reply(c, "200 OK", "text/plain", "");
    else if (length == 8 && memcmp(path, "/metrics", 8) == 0)
        reply_metrics(c);
    else if (length == 8 && memcmp(path, "/version", 8) == 0)
        reply(c, "200 OK", "application/json", "{\"version\":\"0.32.0\"}");
    else if (length == 10 && memcmp(path, "/v1/models", 10) == 0)
        reply(c, "200 OK", "application/json",
              "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1790000000,"
              "\"owned_by\":\"vllm\",\"root\":\"m\",\"parent\":null,\"max_model_len\":131072}]}");
    else
        reply(c, "404 Not Found", "application/json", "{\"detail\":\"Not Found\"}");
}

/* Takes one whole request off the input. False: not complete yet, or the connection is closing. */
static bool serve_one(struct connection *c)
{
    char *head_end = memmem(c->in, c->in_length, "\r\n\r\n", 4);
    if (!head_end || c->closing)
        return false;
    size_t head = (size_t)(head_end - c->in) + 4, length = 0;
    char *line = memchr(c->in, '\n', head), *method_end = memchr(c->in, ' ', head);
    char *path_end = method_end ? memchr(method_end + 1, ' ', (size_t)(line - method_end)) : NULL;
    bool post = memcmp(c->in, "POST", 4) == 0, chunked = false, closing = false;
    if (!path_end) {
        drop(c);
        return false;
    }
    while (++line < head_end) {
        char *next = memchr(line, '\n', head - (size_t)(line - c->in));
        if (strncasecmp(line, "content-length:", 15) == 0)
            length = strtoul(line + 15, NULL, 10);
        else if (strncasecmp(line, "transfer-encoding:", 18) == 0)
            chunked = true;
        else if (strncasecmp(line, "connection: close", 17) == 0)
            closing = true;
        line = next;
    }
    if (head + length > c->in_length && !chunked)
        return false;
    c->closing = closing || chunked;
    char *query = memchr(method_end + 1, '?', (size_t)(path_end - method_end - 1));
    size_t path_length = (size_t)((query ? query : path_end) - method_end - 1);
    if (chunked)
        reply(c, "411 Length Required", "text/plain", "");
    else if (post)
        serve_post(c, method_end + 1, path_length, c->in + head, length);
    else
        serve_get(c, method_end + 1, path_length);
    c->in_length -= head + length;
    memmove(c->in, c->in + head + length, c->in_length);
    return true;
}

static void add_chunks(struct connection *c, int wanted)
{
    while (wanted > 0 && c->chunks_left > 0) {
        if (c->chunks_left == 1) {
            append(c, last_chunks, last_length);
            c->chunks_left = 0;
            end_stream(c);
        } else if (c->chunks_left == chunks + 1) {
            append(c, first_chunk, first_length);
            c->chunks_left--;
            wanted--;
        } else {
            int n = c->chunks_left - 1 < wanted ? c->chunks_left - 1 : wanted;
            n = n < BATCH ? n : BATCH;
            append(c, batch, (size_t)n * one_length);
            c->chunks_left -= n;
            wanted -= n;
        }
    }
}

/* Writes what is pending; with nothing pending, makes more of a free-running stream. True: all of it left. */
static bool flush(struct connection *c)
{
    for (;;) {
        if (c->out_start == c->out_length && c->chunks_left > 0 && !c->paced)
            add_chunks(c, chunks_per_write);
        if (c->out_start == c->out_length)
            break;
        ssize_t n = write(c->fd, c->out + c->out_start, c->out_length - c->out_start);
        if (n < 0 && errno == EAGAIN) {
            if (!c->wants_out)
                watch(EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLOUT, c);
            c->wants_out = true;
            return false;
        }
        if (n < 0) {
            drop(c);
            return false;
        }
        bytes_out += n;
        c->out_start += (size_t)n;
    }
    if (c->wants_out)
        watch(EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
    c->wants_out = false;
    return true;
}

/* Answers what is complete, in order: the next request waits until the stream before it has ended. */
static void advance(struct connection *c)
{
    while (!c->dead && flush(c) && c->chunks_left == 0) {
        if (c->closing) {
            drop(c);
            return;
        }
        if (!serve_one(c))
            return;
    }
}

static void on_readable(struct connection *c)
{
    if (c->in_room - c->in_length < READ_ROOM) {
        c->in_room = c->in_room ? c->in_room * 2 : 2 * READ_ROOM;
        if (c->in_room > MAX_INPUT || !(c->in = realloc(c->in, c->in_room)))
            die("a request larger than this backend takes");
    }
    ssize_t n = read(c->fd, c->in + c->in_length, c->in_room - c->in_length);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        drop(c);
        return;
    }
    bytes_in += n;
    c->in_length += (size_t)n;
    advance(c);
}

static void on_timer(struct connection *c)
{
    uint64_t times;
    if (c->dead || !c->paced || read(c->timer.fd, &times, sizeof times) != sizeof times)
        return;
    while (times-- > 0 && !c->dead && c->chunks_left > 0) {
        add_chunks(c, 1);
        if (c->chunks_left == 1)
            add_chunks(c, 1);
        if (!flush(c))
            return;
    }
    advance(c);
}

static void on_connect(struct port *p)
{
    int fd, yes = 1;
    while ((fd = accept4(p->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            die("calloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        c->kind = CONNECTION;
        c->fd = fd;
        c->port = p;
        c->timer.kind = TIMER;
        c->timer.owner = c;
        watch(EPOLL_CTL_ADD, fd, EPOLLIN, c);
    }
}

static void listen_on(int number)
{
    struct port *p = &ports[port_count++];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    int yes = 1;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    p->kind = LISTENER;
    p->number = number;
    p->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(p->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(p->fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(p->fd, 4096) < 0)
        die("listen");
    watch(EPOLL_CTL_ADD, p->fd, EPOLLIN, p);
}

static void report(void)
{
    printf("{\"requests\":%ld,\"streams\":%ld,\"aborted\":%ld,\"bytes_in\":%ld,\"bytes_out\":%ld,\"ports\":{", requests,
           streams, aborted, bytes_in, bytes_out);
    for (int i = 0; i < port_count; i++)
        printf("%s\"%d\":%ld", i ? "," : "", ports[i].number, ports[i].requests);
    printf("}}\n");
    exit(0);
}

int main(int argc, char **argv)
{
    static struct { enum kind kind; int fd; } signals = {SIGNAL, -1};
    struct epoll_event events[EVENTS];
    char *list = NULL;
    int option;
    sigset_t set;
    while ((option = getopt(argc, argv, "p:k:d:w:b:")) != -1) {
        if (option == 'p')
            list = optarg;
        else if (option == 'k')
            chunks = atoi(optarg);
        else if (option == 'd')
            pace_ms = atof(optarg);
        else if (option == 'w')
            chunks_per_write = atoi(optarg);
        else if (option == 'b')
            capacity_blocks = atol(optarg);
        else
            return 2;
    }
    if (!list || chunks < 1 || chunks_per_write < 1) {
        fprintf(stderr, "usage: backend -p port[,port...] [see the top of backend.c]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    build_chunks();
    for (char *item = strtok(list, ","); item && port_count < MAX_PORTS; item = strtok(NULL, ","))
        listen_on(atoi(item));
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    watch(EPOLL_CTL_ADD, signals.fd, EPOLLIN, &signals);
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            enum kind *source = events[i].data.ptr;
            struct connection *c = events[i].data.ptr;
            if (*source == SIGNAL)
                report();
            else if (*source == LISTENER)
                on_connect(events[i].data.ptr);
            else if (*source == TIMER)
                on_timer(((struct timer *)events[i].data.ptr)->owner);
            else if (!c->dead && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                on_readable(c);
            else if (!c->dead)
                advance(c);
        }
        free_dead();
    }
}
