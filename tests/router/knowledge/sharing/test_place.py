"""Where the store is: URLs without secrets, secrets from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvroute.router.errors import ConfigError
from kvroute.router.knowledge.sharing.place import Place, place


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", Place("standalone", (("host", 6379),))),
        ("rediss://kv@host:7000/3", Place("standalone", (("host", 7000),), tls=True, database=3, user="kv")),
        ("redis://[::1]:7000", Place("standalone", (("::1", 7000),))),
        ("redis+cluster://a:1,b", Place("cluster", (("a", 1), ("b", 6379)))),
        ("redis+sentinel://a,b:2/main", Place("sentinel", (("a", 26379), ("b", 2)), service="main")),
        ("rediss+sentinel://a/main/4", Place("sentinel", (("a", 26379),), service="main", database=4, tls=True)),
    ],
)
def test_urls(url: str, expected: Place) -> None:
    """Each form of URL names what it says."""
    assert place(url) == expected


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://host", "starts with none of"),
        ("redis://kv:secret@host", "carries a password"),
        ("redis://", "no host:port"),
        ("redis://host:port", "no host:port"),
        ("redis://host/x", "no database number"),
        ("redis+cluster://host/1", "one database"),
        ("redis+sentinel://host", "name of the service"),
        ("redis://host?ssl=1", "nothing after the path"),
    ],
)
def test_faults(url: str, fault: str) -> None:
    """A URL that names no place is told by its key, without the secret in it."""
    with pytest.raises(ConfigError, match=fault) as found:
        place(url)
    assert str(found.value).startswith("redis.url: ")
    assert "secret" not in str(found.value)


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password comes from the environment or a file, never both, and is not shown."""
    monkeypatch.setenv("KV_PASSWORD", "from-env")
    (tmp_path / "secret").write_text("from-file\n")
    assert place("redis://h", password_env="KV_PASSWORD").password == "from-env"
    found = place("redis://h", user="kv", password_file=str(tmp_path / "secret"))
    assert (found.user, found.password) == ("kv", "from-file")
    assert "from-file" not in f"{found} {found!r}"
    with pytest.raises(ConfigError, match=r"redis\.password_env: .*NOT_THERE"):
        place("redis://h", password_env="NOT_THERE")
    with pytest.raises(ConfigError, match=r"redis\.password_file: cannot be read"):
        place("redis://h", password_file=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"redis\.password_env is set"):
        place("redis://h", password_env="KV_PASSWORD", password_file="x")


def test_sentinels_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own where one is set; else the server's is tried, and then none."""
    monkeypatch.setenv("KV_PASSWORD", "theirs")
    monkeypatch.setenv("KV_SENTINEL", "own")
    url = "redis+sentinel://kv@h/main"
    assert place(url, password_env="KV_PASSWORD").logins == (("kv", "theirs"), (None, None))
    assert place("redis+sentinel://h/main").logins == ((None, None),)
    found = place(url, password_env="KV_PASSWORD", sentinel_user="watch", sentinel_password_env="KV_SENTINEL")
    assert found.logins == (("watch", "own"),)
    with pytest.raises(ConfigError, match=r"redis\.sentinel_password_env: .*NOT_THERE"):
        place(url, sentinel_password_env="NOT_THERE")
