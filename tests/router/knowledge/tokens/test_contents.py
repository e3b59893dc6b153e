"""Whether a template walks through contents is judged as vLLM judges it: each answer here is the engine's own."""

from __future__ import annotations

import jinja2
import pytest
from jinja2 import ext

from kvroute.router.knowledge.tokens.contents import loops_over_content
from tests.router.knowledge.tokens.styles import STYLES

LOOP = "{% for c in m.content %}{{ c }}{% endfor %}"
MACRO = "{% macro f(a, x) %}{% for c in x %}{{ c }}{% endfor %}{% endmacro %}{% for m in messages %}"


def judged(source: str) -> bool:
    return loops_over_content(jinja2.Environment(extensions=[ext.loopcontrols]).parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}" + LOOP + "{% endfor %}",
        "{% set x = messages[1:] %}{% for m in x %}{% for c in m['content'] | list %}{{ c }}{% endfor %}{% endfor %}",
        "{% for m in messages | reverse %}{% for c in m.content[1:] %}{{ c }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% set content = m.content %}{% for c in content %}{{ c }}{% endfor %}{% endfor %}",
        MACRO + "{{ f(1, m.content) }}{% endfor %}",
        MACRO + "{{ f(1, x=m['content']) }}{% endfor %}",
    ],
)
def test_parts(source: str) -> None:
    """Through aliases, slices, filters and the parameters of macros."""
    assert judged(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content | map(attribute='text') | join }}{% endfor %}",
        "{% for m in messages %}{{ m.content[0]['text'] }}{% endfor %}",
        "{% for m in loop_messages %}" + LOOP + "{% endfor %}",
        "{% set a, b = messages[0], messages[1:] %}{% for m in b %}" + LOOP + "{% endfor %}",
        "{% set ns = namespace() %}{% set ns.x = messages %}{% for m in messages %}" + LOOP + "{% endfor %}",
        "{% for a, b in messages %}" + LOOP + "{% endfor %}",
        "{% for m in messages %}{% for a, b in m.content %}{{ a }}{% endfor %}{% endfor %}",
        "{% for c in messages[0].content %}{{ c }}{% endfor %}",
        MACRO + "{{ f(1, m.role) }}{% endfor %}",
    ],
)
def test_text(source: str) -> None:
    """Where it does not, or in a way that the engine's judgement cannot follow."""
    assert not judged(source)


def test_styles() -> None:
    """Of the tests' templates, those which walk through contents."""
    assert {name for name, source in STYLES.items() if "{% generation" not in source and judged(source)} == {
        "dump_parts",
        "vision",
    }
