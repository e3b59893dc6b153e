"""The configuration: one tree of frozen structs, validated when it loads, every fault told with its exact key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from kvroute.router.core.document import parse
from kvroute.router.core.steptime import StepTime
from kvroute.router.dataplane.limits import Limits
from kvroute.router.errors import ConfigError
from kvroute.router.fleetwatch.backend import Backend, check_distinct, parse_backend
from kvroute.router.fleetwatch.watch import WatchSettings
from kvroute.scorers.plugins import PolicySpec, ScorerSpec

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<key>[^`]*)`)?$", re.DOTALL)


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the router listens."""

    host: str = "0.0.0.0"
    """Address for clients."""
    port: int = 8080
    """Port for clients; 0 picks a free one."""
    control_host: str = "127.0.0.1"
    """The control plane can drain replicas and shows prompts' fate: it stays on loopback unless told otherwise."""
    control_port: int = 8081
    """Port of the admin API and dashboard; 0 picks a free one."""
    tls_cert: str | None = None
    """PEM file towards clients."""
    tls_key: str | None = None
    """PEM file with that certificate's key."""


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How replicas are reached."""

    ca: str | None = None
    """PEM file of the authority that signed the replicas' certificates; None = the system's."""
    verify: bool = True
    """Whether replicas' certificates are checked."""
    api_key_env: str | None = None
    """Environment variable with the key that discovery and scraping send; clients' own keys pass through."""


class Logging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is written about what happens; lines go to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe line that is written."""
    format: Literal["text", "json"] = "text"
    """Lines for people or JSON objects."""
    requests: bool = False
    """One line per request at info."""
    decisions: str | None = None
    """File that gets one JSON line per request, when it is over, for `kvroute replay` and `kvroute calibrate`: what was
    decided and what came of it, keys and never text; session keys and request ids are the clients'. Move it away and it
    is opened anew. Several workers append their number: `FILE.0`, `FILE.1`. None: no such file."""


class Knowledge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the router learns what replicas hold."""

    kv_events: Literal["auto", "convention", "off"] = "auto"
    """Whether to follow the engines' KV events: where they tell (`auto`), else at vLLM's usual ports (`convention`)."""
    events_port: int = 5557
    """With `convention`: where rank 0 of each engine publishes; the next rank at the next port."""
    replay_port: int = 5558
    """With `convention`: where rank 0 of each engine replays; 0: nowhere. With several ranks keep it apart from
    `events_port`."""
    block_tokens: int | None = None
    """Block size of the token lens [tokens]; None: that of the engines. Theirs must be multiples of it."""
    cpu_seconds: float = 5e-6
    """Price of bringing one cached token back from CPU memory [seconds]."""
    disk_seconds: float = 2e-5
    """Price of bringing one cached token back from disk [seconds]."""
    tokenizer_threads: int = 2
    """Threads that tokenise beside the event loop; half as many more for long prompts, and one for huge ones."""
    text_block_bytes: int = 512
    """Block size of the text lens [bytes]."""


class Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Flags that an engine was started with and that change its prompts; it does not tell them."""

    chat_template: str | None = None
    """Its `--chat-template`: a file, or the name of one of the model's templates."""
    content_format: Literal["auto", "string", "openai"] = "auto"
    """Its `--chat-template-content-format`."""
    template_variables: dict[str, Any] = {}
    """Its `--default-chat-template-kwargs`."""
    exclude_tools_when_none: bool = False
    """Its `--exclude-tools-when-tool-choice-none`."""

    def check(self, key: str) -> None:
        """Raises ConfigError where `chat_template` looks like a file and is none."""
        given = self.chat_template
        if given is not None and "{" not in given and ("/" in given or "." in given) and not Path(given).is_file():
            raise ConfigError(f"{key}: there is no file {given}; name a file, or one of the model's templates")


class Redis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where several routers share what they know. Redis 6.2 or later, or Valkey."""

    url: str | None = None
    """None: this router shares with nobody. `redis://HOST:PORT/DB`; `redis+cluster://HOST:PORT,...`, `redis+sentinel://HOST:PORT,.../SERVICE`;
    rediss is TLS."""
    namespace: str = "kvroute"
    """Begins every key: routers of one fleet share it, fleets must not."""
    user: str | None = None
    """ACL user."""
    password_env: str | None = None
    """Environment variable with the password."""
    password_file: str | None = None
    """File with the password."""
    sentinel_user: str | None = None
    """ACL user of the sentinels; they are tried with the server's own secrets otherwise, then with none."""
    sentinel_password_env: str | None = None
    """Environment variable with the sentinels' password."""
    sentinel_password_file: str | None = None
    """File with the sentinels' password."""
    ca: str | None = None
    """PEM file of the authority that signed the server's certificate; None = the system's."""
    flush_seconds: float = 0.005
    """How often what was just sent where is told to the other routers [seconds]."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything `kvroute serve` can be told. Unknown keys are faults."""

    backends: tuple[str, ...] = ()
    """Engines to route to: `URL[,role=R][,model=M][,slots=N][,label.K=V]` each."""
    backends_file: str | None = None
    """One backend a line; read again when it changes. A version that names nobody after one that did is ignored."""
    policy: str | PolicySpec = "latency"
    """A policy's name, or a mapping with its `name` and `options`."""
    scorers: tuple[ScorerSpec, ...] = ()
    """Scorers with weights: added to `policy`'s sum, or replacing those of the same name."""
    listen: Listen = Listen()
    upstream: Upstream = Upstream()
    limits: Limits = Limits()
    watch: WatchSettings = WatchSettings()
    logging: Logging = Logging()
    step: StepTime = StepTime()
    """Prior of the step model; learned factors correct it."""
    tokenizer: str | dict[str, str] = "auto"
    """Path, Hugging Face id, `none`, or `auto` (what the engine names, if it is on this machine); or one per model
    (`*`: any other)."""
    chat: dict[str, Chat] = {}
    """Per model (`*`: any other): flags of its engines that change prompts: `chat_template`, `content_format`,
    `template_variables`, `exclude_tools_when_none`."""
    knowledge: Knowledge = Knowledge()
    redis: Redis = Redis()
    workers: int = 1
    """Processes that share the port. More than one needs Redis."""
    retry_share: float = 0.1
    """Retries after body bytes were sent, as a share of all requests."""
    management: bool = False
    """Send the engines' management paths to every replica instead of answering 403."""
    trust_kv_transfer_params: bool = False
    """Pass clients' `kv_transfer_params` on; an engine can be killed with them."""
    session_header: str = "x-session-id"
    """Header with the client's session key, for policies that use one."""
    replica_header: bool = False
    """Name the replica in each response as X-Kvroute-Replica."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the generator that policies draw from."""

    def policy_spec(self) -> PolicySpec:
        """The policy with the scorers that the configuration adds."""
        spec = PolicySpec(self.policy) if isinstance(self.policy, str) else self.policy
        return msgspec.structs.replace(spec, scorers=(*spec.scorers, *self.scorers))

    def backend_list(self) -> list[Backend]:
        """The listed backends, parsed.

        Raises:
            ConfigError: naming the entry.
        """
        parsed = [parse_backend(text, f"backends[{i}]") for i, text in enumerate(self.backends)]
        return check_distinct(parsed, "backends")

    def check(self) -> Config:
        """This configuration.

        Raises:
            ConfigError: values that are each well-formed but cannot hold together.
        """
        if not self.backends and not self.backends_file:
            raise ConfigError("backends: none given; name at least one, e.g. --backend http://127.0.0.1:8000")
        for key, port in (("listen.port", self.listen.port), ("listen.control_port", self.listen.control_port)):
            if not 0 <= port <= 65535:
                raise ConfigError(f"{key}: {port} is not a port; use 0 to 65535")
        if bool(self.listen.tls_cert) != bool(self.listen.tls_key):
            raise ConfigError("listen.tls_cert: certificate and key go together; give both or neither")
        for key, given, low, high in self._bounded():
            if not low <= given <= high:
                raise ConfigError(f"{key}: {given} is out of range; use {low} to {high}")
        for model, flags in self.chat.items():
            flags.check(f"chat.{model}.chat_template")
        if self.workers > 1 and self.redis.url is None:
            raise ConfigError(
                f"workers: {self.workers} processes that do not know what the others send would herd and miss each"
                " other's caches; give them a Redis to agree through (--redis redis://HOST:PORT), or use one worker"
            )
        for key, value in _numbers(self):
            if not math.isfinite(value):
                raise ConfigError(f"{key}: {value} is not a number that can be used")
        self.backend_list()
        return self

    def _bounded(self) -> Iterator[tuple[str, float, float, float]]:
        """(key, value, least, most)."""
        known = self.knowledge
        yield "knowledge.text_block_bytes", known.text_block_bytes, 16, 65536
        yield "knowledge.events_port", known.events_port, 1, 65535
        yield "knowledge.replay_port", known.replay_port, 0, 65535
        yield "knowledge.block_tokens", known.block_tokens or 16, 1, 4096
        yield "knowledge.tokenizer_threads", known.tokenizer_threads, 1, 64
        yield "knowledge.cpu_seconds", known.cpu_seconds, 0, 1
        yield "knowledge.disk_seconds", known.disk_seconds, 0, 1
        yield "redis.flush_seconds", self.redis.flush_seconds, 0.001, 1
        yield "retry_share", self.retry_share, 0, 1
        yield "workers", self.workers, 1, 256


def _numbers(settings: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, float]]:
    """(key, value) of every setting that is a float."""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, msgspec.Struct):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, value


def load(path: Path | None, overrides: dict[str, Any]) -> Config:
    """Read a YAML file (None: defaults) and lay the command line's values over it.

    `overrides` has dotted keys, e.g. {"listen.port": 9000}; a value of None leaves the file's.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown or has a wrong value; names the key.
    """
    tree = _read(path) if path is not None else {}
    for key, value in overrides.items():
        if value is not None:
            _set(tree, key, value)
    try:
        return msgspec.convert(tree, Config).check()
    except msgspec.ValidationError as error:
        raise ConfigError(_told(str(error), path)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path} is not YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"--config: {path} must hold a mapping of keys to values")
    return tree


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{parent}: must be a mapping")
        tree = below
    tree[last] = value


def _told(message: str, path: Path | None) -> str:
    """msgspec's fault with the key in front."""
    match = _PLACE.match(message)
    assert match is not None
    key = match["key"] or "(top level)"
    where = f" (in {path})" if path is not None else ""
    return f"{key}: {match['what']}{where}"
