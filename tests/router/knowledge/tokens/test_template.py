"""A template sees what the engine's templates see: the same functions, filters, white space and sandbox."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import jinja2
import pytest

from kvroute.router.knowledge.tokens.template import FAULTS, Template


def render(source: str, **variables: Any) -> str:
    return Template(source).render(variables)


def test_blocks_leave_no_white_space() -> None:
    """The line break after a block and the blanks before it are taken out."""
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


def test_json_is_not_escaped_for_html() -> None:
    """`tojson` writes plain JSON, with letters as they are, and takes json's own options."""
    assert render("{{ x | tojson }}", x={"b": "<ü&'>", "a": 1}) == '{"b": "<ü&\'>", "a": 1}'
    assert render("{{ x | tojson(indent=1, sort_keys=true) }}", x={"b": 2, "a": 1}) == '{\n "a": 1,\n "b": 2\n}'


def test_loops_may_be_cut_short() -> None:
    """`break` and `continue` are there."""
    cut = "{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}"
    source = "{% for i in x %}" + cut + "{{ i }}{% endfor %}"
    assert render(source, x=[0, 1, 2, 3, 4]) == "02"


def test_generation_blocks_are_their_content() -> None:
    """`{% generation %}` marks, and changes nothing."""
    assert render("a{% generation %}{{ x }}{% endgeneration %}c", x="b") == "abc"


def test_today_is_known() -> None:
    """`strftime_now` writes the present date in the form asked for."""
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.now().year), str(datetime.now().year - 1)}


def test_a_template_may_refuse() -> None:
    """`raise_exception` ends rendering with its message."""
    with pytest.raises(jinja2.TemplateError, match="no such role"):
        render("{{ raise_exception('no such role') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.append(1) }}",
        "{{ y.update({'a': 1}) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ y.__class__.__init__.__globals__ }}",
        "{{ x | attr('__class__') }}{{ (x | attr('__class__')).mro() }}",
        "{% for i in range(999999) %}{% endfor %}",
        "{{ y['__class__'].mro() }}",
        "{{ '{0.__class__.__mro__}'.format(1).nothing.here }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    """What is given cannot be changed, and nothing of Python is reached."""
    x, y = [1], {"a": 0}
    for _ in range(2):  # the second time from what the first left in the environment
        with pytest.raises(FAULTS):
            render(source, x=x, y=y)
    assert (x, y) == ([1], {"a": 0})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ m.role }}", "user"),
        ("{{ m.missing is defined }}", "False"),
        ("{{ m['missing'] is defined }}", "False"),
        ("{{ m.items() | list | length }}", "2"),
        ("{{ m.keys | string | length > 3 }}", "True"),
        ("{{ m.get('role') }}", "user"),
    ],
)
def test_messages_are_read_as_the_sandbox_reads_them(source: str, text: str) -> None:
    """Keys of a message by point and by bracket; a dict's own methods go before keys of their name."""
    assert render(source, m={"role": "user", "items": 5}) == text


def test_the_kind_of_contents_is_told() -> None:
    """Whether it wants parts or text, knows developers, and takes late system messages."""
    parts = Template("{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}")
    text = Template("{% for m in messages %}{{ m.content }}{% endfor %}{{ 'developer' }}")
    first = Template(
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ fail() }}{% endif %}{% endfor %}"
    )
    assert (parts.content_parts, text.content_parts) == (True, False)
    assert (parts.developer, text.developer) == (False, True)
    assert (parts.system_first, text.system_first, first.system_first) == (False, False, True)
    assert text.variables == {"messages"}
