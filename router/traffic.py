"""What stands behind the data plane: reads a request, decides where it goes, and follows it to its end."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import parse_qs

import msgspec
from xxhash import xxh3_64_intdigest

from kvroute.router import paths, replies
from kvroute.router.around import Health, Local, Observer
from kvroute.router.core.decide import Deciding, Decision, Reason
from kvroute.router.core.replica import Replica, State
from kvroute.router.dataplane.contract import Endpoint, Failure, Head, Headers, Reply
from kvroute.router.errors import ClientError, NoReplica
from kvroute.router.exchange import Exchange, Read
from kvroute.router.knowledge.text import Prompt
from kvroute.router.note import Note, read_note
from kvroute.router.parse import Body, Kind, form_model, glance, parse, strip_transfer
from kvroute.router.retries import RetryBudget
from kvroute.router.stored import StoredResponses
from kvroute.scorers.contract import Request

if TYPE_CHECKING:
    from kvroute.router.control.decisions import DecisionLog

NO_PROMPT = Prompt(keys=[], tokens=0, block_tokens=1.0, anchor=0, text_bytes=0)


class Target(msgspec.Struct, gc=False):
    """How to reach a replica."""

    endpoint: Endpoint
    request_headers: Headers = ()
    response_headers: Headers = ()


class Lens(Protocol):
    """Who turns a body's prompt into block keys."""

    def read(self, body: Body, model: str, adapter: str | None) -> Prompt | Awaitable[Prompt]:
        """Key a prompt; what takes long is awaited. Never raises."""
        ...

    def observe(self, model: str, text_bytes: int, prompt_tokens: int) -> None:
        """The engine counted `prompt_tokens` for a prompt whose `text_bytes` this lens told."""
        ...


class TrafficOptions(msgspec.Struct, frozen=True):
    """What of the configuration concerns single requests."""

    management: bool = False
    """Let management paths through, to every replica."""
    trust_kv_transfer_params: bool = False
    session_header: bytes = b"x-session-id"
    retry_share: float = 0.1
    """Retries after body bytes were sent, as a share of all requests."""


class Traffic:
    """Implements the data plane's Handler."""

    def __init__(
        self,
        deciding: Deciding,
        lens: Lens,
        observer: Observer,
        health: Health,
        local: Local,
        options: TrafficOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deciding = deciding
        self.lens = lens
        self.options = options
        self.budget = RetryBudget(options.retry_share)
        self.stored = StoredResponses()
        self.targets: dict[str, Target] = {}
        self.observer = observer
        self.decisions: DecisionLog | None = None
        """Where decisions and what came of them are written, if anywhere."""
        self._health = health
        self._local = local
        self.clock = clock
        """Of `now`: monotonic seconds."""

    # --- the data plane's side ---

    def admit(self, head: Head) -> Reply | None:
        """Refuse what must not be read at all."""
        if self._note(head).management and not self.options.management:
            message = "this path manages an engine and is not proxied; enable it with `management: true`"
            return self._refuse(replies.error(403, message, "PermissionDeniedError"), head)
        return None

    def handle(self, head: Head, body: bytes, now: float) -> Reply | Exchange | Awaitable[Reply | Exchange]:
        """Answer, or say where to forward."""
        note = self._note(head)
        if note.local:
            return self._local.answer(head.path)
        if note.management:
            return self._local.broadcast(head, body)
        try:
            return self._route(head, note, body, now)
        except ClientError as fault:
            return self._refuse(replies.client_error(fault), head)
        except NoReplica as fault:
            return self._refuse(replies.no_replica(fault), head)

    def tunnel(self, head: Head, now: float) -> Reply | Exchange:
        """Where an Upgrade goes: by load alone, among those that serve its model."""
        # Not a stream to the ledger: nobody sees its first output, so its prefill ends when predicted.
        request = Request(id=head.request_id, model=_query_model(head.target), tokens=0)
        try:
            decision = self._decide(request, now)
        except NoReplica as fault:
            return self._refuse(replies.no_replica(fault), head)
        return Exchange(self, Read(request), decision, b"", head.path, False, now)

    # --- the way in ---

    def _route(self, head: Head, note: Note, data: bytes, now: float) -> Exchange | Awaitable[Reply | Exchange]:
        path = head.path
        body: Body | None = None
        if note.reads:
            if not note.is_json:
                message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
                raise ClientError(400, message, kind="Bad Request")
            body = parse(path, data)
        elif note.is_json or data[:64].lstrip()[:1] == b"{":
            body = glance(data)
        begun = time.perf_counter()
        if body is None:
            model = form_model(data) if note.is_form else ""
            request = Request(id=head.request_id, model=model, tokens=0, session=note.session)
            return self._send(head, note, Read(request), None, data, now, begun)
        if not self.options.trust_kv_transfer_params and strip_transfer(body.fields):
            data = replies.dumped(body.fields)
        model, adapter = self.deciding.fleet.base(body.model or "")
        prompt = self.lens.read(body, model, adapter) if body.kind is not Kind.OTHER else NO_PROMPT
        if type(prompt) is Prompt:
            read = self._read(head.request_id, body, model, adapter, prompt, note.session)
            return self._send(head, note, read, body, data, now, begun)
        spent = time.perf_counter() - begun
        return self._tokenised(head, note, body, data, cast("Awaitable[Prompt]", prompt), now, spent)

    async def _tokenised(
        self, head: Head, note: Note, body: Body, data: bytes, prompt: Awaitable[Prompt], now: float, spent: float
    ) -> Reply | Exchange:
        """The rest of `_route` once the prompt was tokenised beside the event loop; decided on the fleet as it is then.

        `now` stays the request's arrival for its own times; `spent` was spent on it before [s].
        """
        found = await prompt
        begun = time.perf_counter() - spent
        # What serves a name may have changed meanwhile.
        model, adapter = self.deciding.fleet.base(body.model or "")
        read = self._read(head.request_id, body, model, adapter, found, note.session)
        try:
            return self._send(head, note, read, body, data, now, begun, self.clock())
        except NoReplica as fault:
            return self._refuse(replies.no_replica(fault), head)

    def _send(
        self,
        head: Head,
        note: Note,
        read: Read,
        body: Body | None,
        data: bytes,
        arrived: float,
        begun: float,
        now: float | None = None,
    ) -> Exchange:
        """Decide, and reserve. `begun` is when the reading began [perf_counter seconds]; `now` where not `arrived`."""
        now = arrived if now is None else now
        self.budget.request()
        request = read.request
        decision = None
        if note.kind is Kind.RESPONSES or note.kind is Kind.OTHER:
            decision = self._pinned(head.path, body, request, now)
        pinned = decision is not None
        if decision is None:
            decision = self._decide(request, now)
        self.observer.decided(time.perf_counter() - begun)
        return Exchange(self, read, decision, data, head.path, note.explain, arrived, pinned)

    def _note(self, head: Head) -> Note:
        """What path and headers say: read once for heads that come again."""
        if head.notes:
            return cast("Note", head.notes[0])
        note = read_note(head, self.options.session_header)
        head.notes.append(note)
        return note

    async def read(self, path: bytes, data: bytes) -> Request:
        """A request as `handle` would read it, for an explanation.

        Raises:
            ClientError: the body is wrong.
        """
        body = parse(path, data)
        model, adapter = self.deciding.fleet.base(body.model or "")
        prompt = self.lens.read(body, model, adapter) if body.kind is not Kind.OTHER else NO_PROMPT
        if not isinstance(prompt, Prompt):
            prompt = await prompt
        return self._read("explained", body, model, adapter, prompt, None).request

    def _read(
        self, request_id: str, body: Body, model: str, adapter: str | None, prompt: Prompt, session: str | None
    ) -> Read:
        """What routing knows of a request whose prompt was read."""
        session = session or body.session
        keys = prompt.keys if not prompt.keys or _reads_cache(body.fields) else []
        request = Request(
            id=request_id,
            model=(body.model or "") if adapter is None else model,
            tokens=prompt.tokens,
            keys=keys,
            block_tokens=prompt.block_tokens,
            adapter=adapter,
            session=session,
            anchor=prompt.anchor or xxh3_64_intdigest((session or request_id).encode("utf-8", "surrogatepass")),
            priority=body.priority,
            sequences=body.sequences,
            stream=body.stream,
            max_output_tokens=body.max_output_tokens,
        )
        chat = body.kind in (Kind.CHAT, Kind.RESPONSES, Kind.MESSAGES)
        return Read(request, model, prompt.text_bytes, body.cache_salt is not None, chat)

    # --- the decision ---

    def _decide(self, request: Request, now: float, tried: frozenset[str] = frozenset()) -> Decision:
        decision = self.deciding.decide(request, now, tried)
        if isinstance(decision, Reason):
            if self.decisions is not None and not tried and decision is not Reason.UNKNOWN_MODEL:
                self.decisions.refused(request, now)
            raise self.nobody(request, decision)
        return decision

    def nobody(self, request: Request, reason: Reason) -> NoReplica:
        """Why no replica was chosen, as the client is told."""
        if reason is Reason.UNKNOWN_MODEL:
            aliases = ", ".join(sorted(self.deciding.fleet.models()))
            name = request.adapter or request.model
            return NoReplica(404, f"The model `{name}` does not exist. Valid aliases: {aliases}.")
        return NoReplica(503, reason.value, retry_after=1)

    def _pinned(self, path: bytes, body: Body | None, request: Request, now: float) -> Decision | None:
        """A request about a stored response goes to the replica that has it, while that is ready."""
        stored: Any = paths.response_id(path)
        if stored is None and body is not None and body.kind is Kind.RESPONSES:
            stored = body.fields.get("previous_response_id")
        if not isinstance(stored, str):
            return None
        name = self.stored.maker(stored)
        pool = self.deciding.pool(request, now)
        if name is None or isinstance(pool, Reason) or name not in pool.names:
            return None
        return self.deciding.at(request, pool.replicas[pool.names.index(name)], now)

    def again(
        self, request: Request, replica: Replica, failure: Failure, tried: frozenset[str], now: float
    ) -> Decision | Reply:
        """Another try after a failure: the same replica on a fresh connection if the old one was merely stale."""
        if failure is Failure.STALE and replica.state is State.READY:
            return self.deciding.at(request, replica, now)
        try:
            return self._decide(request, now, tried)
        except NoReplica as fault:
            return self._refuse(replies.no_replica(fault))

    # --- what exchanges ask and tell ---

    def names_at(self, replica: Replica) -> frozenset[str]:
        """Every replica of the same endpoint: ranks fail together."""
        here = replica.spec.endpoint
        return frozenset({replica.name, *(r.name for r in self.deciding.fleet if r.spec.endpoint == here)})

    def target(self, name: str) -> Target:
        """How to reach a replica by name."""
        return self.targets[name]

    def reached(self, endpoint: Endpoint) -> None:
        """An endpoint answered."""
        self._health.report_success(endpoint)

    def unreached(self, endpoint: Endpoint, failure: Failure, now: float) -> None:
        """An attempt at an endpoint failed."""
        if failure is Failure.CONNECT:
            self._health.report_failure(endpoint, now)
        else:
            self._health.suspect(endpoint)

    def bad_gateway(self, message: str) -> Reply:
        """502 with the reason."""
        return self._refuse(replies.error(502, message, "BadGatewayError"))

    def _refuse(self, reply: Reply, head: Head | None = None) -> Reply:
        self.observer.answered(reply.status, head)
        return reply


def _reads_cache(fields: dict[str, Any]) -> bool:
    """Whether the engine uses its prefix cache: not where log-probabilities of the prompt itself are asked for."""
    if fields.get("prompt_logprobs") is not None:
        return False
    return fields.get("echo") is not True or fields.get("logprobs") is None


def _query_model(target: bytes) -> str:
    """`model` in the query, as `/v1/realtime` has it; "" where it names none."""
    values = parse_qs(target.partition(b"?")[2].decode("latin-1")).get("model")
    return values[0] if values else ""
