"""Makes docs/configuration.md from the settings' own types: `python docs/configuration.py > docs/configuration.md`."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator

import msgspec

from kvroute.router.config import Config

HEAD = """# Configuration

`kvroute serve --config FILE` reads YAML. Dots stand for nesting: `listen.port` is `port` below `listen`. What the
command line says goes over the file; an unknown key or a wrong value stops the start and is named. Times are in seconds
and sizes in bytes where nothing else is said. This page is made by `docs/configuration.py`.

```yaml
backends:
  - http://10.0.0.5:8000
  - http://10.0.0.6:8000,label.zone=b
listen: {port: 9000}
scorers:                       # added to the policy's sum, or replacing its scorer of that name
  - {name: congestion, weight: 0.5}
```

| setting | default | meaning |
|---|---|---|
"""


def rows(cls: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """One table row per setting below `cls`."""
    told = meanings(cls)
    for field in msgspec.structs.fields(cls):
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        if isinstance(default, msgspec.Struct):
            yield from rows(type(default), f"{prefix}{field.name}.")
        else:
            shown = msgspec.json.encode(default).decode() if not isinstance(default, str) else default
            yield f"| `{prefix}{field.name}` | `{shown}` | {told[field.name]} |\n"


def meanings(cls: type[msgspec.Struct]) -> dict[str, str]:
    """Field -> the docstring behind it, on one line."""
    found: dict[str, str] = {}
    name = ""
    definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[name] = " ".join(str(node.value.value).replace("|", "\\|").split())
    return found


def page() -> str:
    """The whole page."""
    return HEAD + "".join(rows(Config))


if __name__ == "__main__":
    sys.stdout.write(page())
