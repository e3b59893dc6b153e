"""The command line: `kvroute serve`, `explain`, `mock-engine`, `demo`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from kvroute import __version__

LAZY = {
    "calibrate": "kvroute.simulator.commands.calibrate:calibrate",
    "compare": "kvroute.simulator.commands.compare:compare",
    "demo": "kvroute.router.demo:demo",
    "fidelity": "kvroute.simulator.commands.fidelity:fidelity",
    "mock-engine": "kvroute.router.testing.command:mock_engine",
    "plan": "kvroute.simulator.commands.plan:plan",
    "replay": "kvroute.simulator.commands.replay:replay",
    "simulate": "kvroute.simulator.commands.simulate:simulate",
    "tune": "kvroute.simulator.commands.tune:tune",
    "workload": "kvroute.simulator.commands.workload:workload",
}
"""Commands imported only when called: `kvroute serve` need not load them."""


class Commands(click.Group):
    """A group whose lazy commands are imported when named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted({*super().list_commands(ctx), *LAZY})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name in LAZY:
            module, _, name = LAZY[cmd_name].partition(":")
            command: click.Command = getattr(importlib.import_module(module), name)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kvroute")
def main() -> None:
    """KV-cache-aware request router for vLLM."""


@main.command()
@click.option("--host", help="Address to listen on. [default: 0.0.0.0]")
@click.option("--port", type=int, help="Port to listen on. [default: 8080]")
@click.option("--control-port", type=int, help="Port of the control plane. [default: 8081]")
@click.option("--control-host", help="Address of the control plane. [default: 127.0.0.1]")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="A vLLM server: URL[,role=R][,model=M][,slots=N][,label.K=V][,events=tcp://H:P[,replay=...]].",
)
@click.option("--backends-file", help="File with one backend a line, read again when it changes.")
@click.option("--workers", type=int, help="Processes that share the port; more than one needs --redis. [default: 1]")
@click.option("--policy", help="How to choose: latency, goodput, round-robin, ... [default: latency]")
@click.option(
    "--tokenizer",
    "tokenizers",
    multiple=True,
    help="For exact prefixes: PATH, Hugging Face id or none; or MODEL=... for one model. [default: auto]",
)
@click.option("--redis", help="Share what is known with other routers: redis://HOST:PORT, ...")
@click.option("--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="YAML configuration file.")
@click.option("--backend-api-key-env", help="Environment variable with the key for discovery and scraping.")
@click.option("--tls-cert", help="PEM certificate towards clients.")
@click.option("--tls-key", help="PEM key of that certificate.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="[default: text]")
@click.option("--log-requests", is_flag=True, default=None, help="One line per request at info.")
@click.option("--decision-log", help="File for one JSON line per request: what was decided and what came of it.")
def serve(backends: tuple[str, ...], tokenizers: tuple[str, ...], path: Path | None, **options: Any) -> None:
    """Route requests to vLLM replicas."""
    from kvroute.router.config import load
    from kvroute.router.errors import KvrouteError
    from kvroute.router.server import run
    from kvroute.router.workers.supervisor import supervise
    from kvroute.scorers.errors import PluginError

    keys = {
        "host": "listen.host",
        "port": "listen.port",
        "control_port": "listen.control_port",
        "control_host": "listen.control_host",
        "tls_cert": "listen.tls_cert",
        "tls_key": "listen.tls_key",
        "backend_api_key_env": "upstream.api_key_env",
        "redis": "redis.url",
        "log_level": "logging.level",
        "log_format": "logging.format",
        "log_requests": "logging.requests",
        "decision_log": "logging.decisions",
    }
    overrides: dict[str, Any] = {keys.get(name, name): value for name, value in options.items()}
    overrides["backends"] = list(backends) or None
    overrides["tokenizer"] = named_tokenizers(tokenizers)
    try:
        config = load(path, overrides)
        if config.workers > 1:
            supervise(config)
        else:
            run(config)
    except (KvrouteError, PluginError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"cannot listen: {error.strerror or error}")


@main.command()
@click.argument("body", type=click.File("rb"))
@click.option("--control", default="http://127.0.0.1:8081", show_default=True, help="URL of the control port.")
@click.option("--path", default=None, help="Serving path the body is meant for. [default: guessed from its fields]")
def explain(body: Any, control: str, path: str | None) -> None:
    """Say where a request BODY (a JSON file, - for stdin) would go now, and why, in seconds."""
    import asyncio

    import msgspec
    from rich.console import Console

    from kvroute.router.control.explain import print_explanation
    from kvroute.router.control.question import Unanswered, ask

    try:
        answer = asyncio.run(ask(control, path, body.read()))
        print_explanation(answer, Console())
    except Unanswered as error:
        _fail(str(error))
    except msgspec.ValidationError as error:
        _fail(f"{control} does not answer as kvroute's control port does: {error}")


def named_tokenizers(given: tuple[str, ...]) -> str | dict[str, str] | None:
    """One for all models, or one per model where names stand before them."""
    named = dict(one.split("=", 1) for one in given if "=" in one and not Path(one).exists())
    for_all = [one for one in given if one.split("=", 1)[0] not in named]
    if named:
        return named | ({"*": for_all[-1]} if for_all else {})
    return for_all[-1] if for_all else None


def _fail(message: str) -> None:
    click.echo(f"kvroute: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
