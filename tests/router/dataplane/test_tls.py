"""TLS towards clients and replicas, IPv6, and host names."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kvroute.router.dataplane.contract import Endpoint, Failure, Outcome
from tests.router.dataplane.stage import Stage, headers_of

POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost and the loopback addresses, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


async def test_tls_on_both_sides(empty_stage: Stage, serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """A stream passes through TLS in and TLS out; the connections are kept; Forwarded says https."""
    stage = await empty_stage.open(context=serving, replica_ssl=trusting)
    replica = await stage.replica(context=serving)
    client = await stage.client(context=trusting)
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=b\r\n\r\n")
    upstream = await replica.accept()
    assert headers_of(await upstream.head())[b"forwarded"].endswith(b"proto=https")
    await upstream.send(SSE, b"9\r\ndata: a\n\n\r\n", b"0\r\n\r\n")
    assert await client.exactly(len(SSE) + 19) == SSE + b"9\r\ndata: a\n\n\r\n0\r\n\r\n"
    await client.send(POST)
    await upstream.message()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK


async def test_large_bodies_over_tls(empty_stage: Stage, serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """Megabytes in both directions come through whole."""
    stage = await empty_stage.open(context=serving, replica_ssl=trusting)
    replica = await stage.replica(context=serving)
    client = await stage.client(context=trusting)
    body = bytes(range(256)) * 8192
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    upstream = await replica.accept()
    assert (await upstream.message())[1] == body
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert (await client.message())[1] == body


async def test_a_refusal_over_tls_closes(empty_stage: Stage, serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """A malformed request over TLS gets its 400 and the close."""
    stage = await empty_stage.open(context=serving)
    client = await stage.client(context=trusting)
    await client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


async def test_a_disconnect_over_tls(empty_stage: Stage, serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """A TLS client that closes aborts the exchange like any other."""
    stage = await empty_stage.open(context=serving, replica_ssl=trusting)
    replica = await stage.replica(context=serving)
    client = await stage.client(context=trusting)
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    client.close()
    assert await stage.director.journey.settled() is Outcome.ABORTED


async def test_a_certificate_that_is_not_trusted_is_a_connect_failure(stage: Stage, serving: ssl.SSLContext) -> None:
    """TLS that fails sent nothing: another endpoint may be tried."""
    await stage.replica(context=serving)
    second = await stage.replica()
    client = await stage.client()
    await client.send(POST)
    upstream = await second.accept()
    await upstream.message()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK
    assert stage.director.journey.failures == [Failure.CONNECT]


async def test_ipv6_on_both_sides(empty_stage: Stage) -> None:
    """Clients and replicas on IPv6; the address is quoted in Forwarded."""
    stage = await empty_stage.open(host="::1")
    replica = await stage.replica(host="::1")
    client = await stage.client(host="::1")
    await client.send(b"GET / HTTP/1.1\r\nHost: [::1]:80\r\nForwarded: for=b\r\n\r\n")
    upstream = await replica.accept()
    headers = headers_of(await upstream.head())
    assert headers[b"x-forwarded-for"] == b"::1"
    assert headers[b"forwarded"] == b'for=b, for="[::1]";proto=http'
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK


async def test_a_replica_by_its_name(empty_stage: Stage, serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """A host name is resolved, each of its addresses is tried, and TLS checks the name."""
    stage = await empty_stage.open(replica_ssl=trusting)
    replica = await stage.replica(context=serving)
    stage.director.route[:] = [Endpoint("localhost", replica.endpoint.port, tls=True)]
    client = await stage.client()
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK
