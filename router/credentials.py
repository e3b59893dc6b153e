"""What the router shows others and checks of them: the engines' key, certificates either way."""

from __future__ import annotations

import os
import ssl

from kvroute.router.config import Config
from kvroute.router.errors import ConfigError


def api_key(config: Config) -> str | None:
    name = config.upstream.api_key_env
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise ConfigError(f"upstream.api_key_env: the environment variable {name} is not set")
    return key


def upstream_ssl(config: Config) -> ssl.SSLContext | None:
    upstream = config.upstream
    if upstream.verify and upstream.ca is None:
        return None
    try:
        context = ssl.create_default_context(cafile=upstream.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"upstream.ca: cannot read {upstream.ca}: {error}") from error
    if not upstream.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def client_ssl(config: Config) -> ssl.SSLContext | None:
    listen = config.listen
    if listen.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(listen.tls_cert, listen.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"listen.tls_cert: cannot load {listen.tls_cert} with {listen.tls_key}: {error}") from error
    return context
