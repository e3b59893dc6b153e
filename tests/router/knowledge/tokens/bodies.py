"""Bodies as clients write them, and as they should not: strategies for hypothesis."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from hypothesis import strategies as st

Case: TypeAlias = tuple[str, dict[str, Any]]
"""The path and the body."""

TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "Hello",
            "  leading and trailing \n",
            'Quotes " and <tags> & ünïcode 🙂',
            "x-anthropic-billing-header: 17\nreal text",
            "x-anthropic-billing-header: 17",
            "<think>hm</think>answer",
            "<|im_end|>",
            "{{ not a template }}",
        ]
    ),
    st.text(max_size=12),
)
NAMES = st.sampled_from(["get_weather", "f", "look up"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(-2, 2), TEXTS)
OBJECTS = st.dictionaries(st.sampled_from("zabc"), st.one_of(SCALARS, st.lists(SCALARS, max_size=2)), max_size=3)
ARGUMENTS = st.one_of(OBJECTS.map(json.dumps), st.sampled_from(["", "nonsense", "[1]", "5", "null", '{"a": NaN}']))


def _some(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> Any:
    return st.fixed_dictionaries(required, optional=optional)


def _shuffled(fields: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return fields.flatmap(lambda made: st.permutations(list(made.items())).map(dict))


TEXT_PARTS = st.one_of(
    _shuffled(_some({"type": st.just("text"), "text": TEXTS}, cache_control=OBJECTS, foo=SCALARS)),
    _some({"type": st.just("refusal"), "refusal": TEXTS}),
)
PARTS = st.one_of(TEXT_PARTS, TEXTS, _some({"type": st.just("thinking"), "thinking": TEXTS}, closed=st.booleans()))
CONTENTS = st.one_of(TEXTS, TEXTS, st.lists(TEXT_PARTS, min_size=1, max_size=3))
CALLS = _shuffled(
    _some(
        {
            "id": st.sampled_from(["call_1", "call_2"]),
            "type": st.just("function"),
            "function": _shuffled(_some({"name": NAMES, "arguments": ARGUMENTS}, extra=SCALARS)),
        },
        index=st.integers(0, 3),
    )
)
USER = _shuffled(_some({"role": st.just("user"), "content": CONTENTS}, name=st.just("ann"), foo=SCALARS))
SYSTEM = _some({"role": st.sampled_from(["system", "developer"]), "content": CONTENTS}, name=st.just("bob"))
ASSISTANT = _shuffled(
    _some(
        {"role": st.just("assistant")},
        content=st.one_of(CONTENTS, st.none(), st.lists(PARTS, max_size=2)),
        tool_calls=st.one_of(st.lists(CALLS, max_size=2), st.none()),
        reasoning=st.one_of(TEXTS, st.none()),
        reasoning_content=st.one_of(TEXTS, st.none()),
        refusal=st.none(),
        audio=st.none(),
        function_call=st.none(),
    )
)
TOOL = _shuffled(
    _some({"role": st.just("tool"), "content": CONTENTS, "tool_call_id": st.just("call_1")}, name=st.just("f"))
)
ODD = st.one_of(
    _some({"role": st.sampled_from(["user", "robot", "function"])}, content=st.one_of(st.none(), TEXTS), name=SCALARS),
    _some({"content": TEXTS}),
    _some({"role": st.just("developer"), "content": TEXTS}, tools=st.lists(OBJECTS, max_size=1)),
)
TURNS = st.lists(st.one_of(USER, ASSISTANT), max_size=4)
MESSAGES = st.one_of(
    st.tuples(st.lists(SYSTEM, max_size=1), st.lists(st.tuples(USER, ASSISTANT), max_size=3), USER).map(
        lambda made: [*made[0], *(message for turn in made[1] for message in turn), made[2]]
    ),
    st.lists(st.one_of(USER, ASSISTANT, ASSISTANT, TOOL, SYSTEM), min_size=1, max_size=6),
    st.lists(st.one_of(USER, ASSISTANT, TOOL, SYSTEM, ODD), max_size=4),
)
FUNCTIONS = _shuffled(
    _some({"name": NAMES}, description=TEXTS, parameters=OBJECTS, strict=st.booleans(), extra=SCALARS)
)
TOOLS = st.lists(
    _shuffled(_some({"type": st.just("function"), "function": FUNCTIONS}, defer_loading=st.booleans(), foo=SCALARS)),
    min_size=1,
    max_size=3,
)
VARIABLES = _some(
    {},
    enable_thinking=st.booleans(),
    date_string=st.just("26 Jul 2024"),
    custom_tools=st.none(),
    greeting=TEXTS,
    add_generation_prompt=st.booleans(),
    bos_token=st.just("<bos>"),
    padding=st.just(True),
    tools=st.just([{"name": "mine"}]),
)
VARIABLES = st.one_of(VARIABLES, VARIABLES, VARIABLES, st.just({"messages": []}))
EFFORTS = st.sampled_from(["none", "low", "high"])
CHAT = _some(
    {"messages": MESSAGES},
    tools=TOOLS,
    tool_choice=st.just("none"),
    add_generation_prompt=st.booleans(),
    continue_final_message=st.booleans(),
    chat_template_kwargs=VARIABLES,
    documents=st.just([{"title": "T", "text": "body"}]),
    reasoning_effort=EFFORTS,
    add_special_tokens=st.booleans(),
    truncate_prompt_tokens=st.sampled_from([-1, 5]),
    truncation_side=st.sampled_from(["left", "right"]),
)
CONTINUED = st.tuples(
    st.lists(st.one_of(USER, ASSISTANT), min_size=1, max_size=3), st.booleans(), st.one_of(TEXTS, CONTENTS)
).map(
    lambda made: {
        "messages": [*made[0], {"role": "assistant", "content": made[2]}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }
)
IDS = st.lists(st.integers(0, 2000), min_size=1, max_size=9)
COMPLETION = _some(
    {"prompt": st.one_of(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), IDS, st.lists(IDS, min_size=1, max_size=2))},
    add_special_tokens=st.booleans(),
    echo=st.booleans(),
    truncate_prompt_tokens=st.sampled_from([-1, 3]),
    truncation_side=st.sampled_from(["left", "right"]),
)
INPUT_TEXTS = st.lists(_some({"type": st.just("input_text"), "text": TEXTS}), min_size=1, max_size=2)
ITEMS = st.one_of(
    _some(
        {"role": st.sampled_from(["user", "system", "developer"]), "content": st.one_of(TEXTS, INPUT_TEXTS)},
        type=st.just("message"),
    ),
    _some({"role": st.just("assistant"), "content": TEXTS}, type=st.just("message")),
    _some(
        {
            "type": st.just("message"),
            "role": st.just("assistant"),
            "content": st.lists(_some({"type": st.just("output_text"), "text": TEXTS}), min_size=1, max_size=2),
        },
        id=st.just("msg_1"),
        status=st.sampled_from(["completed", "incomplete"]),
    ),
    _some(
        {"type": st.just("function_call"), "call_id": st.just("c1"), "name": NAMES, "arguments": ARGUMENTS},
        id=st.just("fc_1"),
        namespace=st.just("ns"),
    ),
    _some(
        {
            "type": st.just("function_call_output"),
            "call_id": st.just("c1"),
            "output": st.one_of(TEXTS, INPUT_TEXTS),
        }
    ),
    _some(
        {"type": st.just("reasoning"), "summary": st.lists(_some({"type": st.just("summary_text"), "text": TEXTS}))},
        content=st.lists(_some({"type": st.just("reasoning_text"), "text": TEXTS}), max_size=2),
        id=st.just("rs_1"),
        status=st.sampled_from(["completed", "in_progress"]),
    ),
)
RESPONSES = _some(
    {"input": st.one_of(TEXTS, st.lists(ITEMS, min_size=1, max_size=5))},
    instructions=st.one_of(TEXTS, st.none()),
    tools=st.lists(
        st.one_of(
            _some(
                {"type": st.just("function"), "name": NAMES, "parameters": OBJECTS, "strict": st.booleans()},
                description=TEXTS,
            ),
            st.just({"type": "web_search"}),
        ),
        max_size=2,
    ),
    reasoning=_some({}, effort=EFFORTS),
    truncation=st.sampled_from(["auto", "disabled"]),
    chat_template_kwargs=VARIABLES,
)
BLOCKS = st.one_of(
    _some({"type": st.just("text"), "text": TEXTS}, cache_control=OBJECTS),
    _some(
        {"type": st.just("tool_result"), "tool_use_id": st.just("t1")},
        content=st.one_of(TEXTS, st.lists(_some({"type": st.just("text"), "text": TEXTS}), max_size=2)),
        is_error=st.booleans(),
    ),
)
ANSWERS = st.one_of(
    _some({"type": st.just("text"), "text": TEXTS}),
    _some({"type": st.just("thinking"), "thinking": TEXTS}, signature=st.just("s")),
    _some({"type": st.just("redacted_thinking"), "data": st.just("x")}),
    _some({"type": st.just("tool_use"), "id": st.just("t1"), "name": NAMES, "input": OBJECTS}),
)
SYSTEM_BLOCKS = st.lists(_some({"type": st.just("text"), "text": TEXTS}), max_size=3)
ANTHROPIC = _some(
    {
        "max_tokens": st.just(2000),
        "messages": st.lists(
            st.one_of(
                _some({"role": st.just("user"), "content": st.one_of(TEXTS, st.lists(BLOCKS, max_size=3))}),
                _some({"role": st.just("assistant"), "content": st.one_of(TEXTS, st.lists(ANSWERS, max_size=3))}),
                _some({"role": st.just("system"), "content": st.one_of(TEXTS, SYSTEM_BLOCKS)}),
            ),
            max_size=5,
        ),
    },
    system=st.one_of(TEXTS, SYSTEM_BLOCKS),
    tools=st.lists(
        _some(
            {"name": NAMES, "input_schema": st.one_of(OBJECTS, st.just({"type": "object"}))},
            description=TEXTS,
            strict=st.booleans(),
        ),
        max_size=2,
    ),
    thinking=st.sampled_from([{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}]),
    output_config=_some({}, effort=st.sampled_from(["low", "max"])),
    tool_choice=st.sampled_from([{"type": "auto"}, {"type": "none"}, {"type": "any"}]),
    chat_template_kwargs=VARIABLES,
)
CASES: st.SearchStrategy[Case] = st.one_of(
    st.tuples(st.just("/v1/chat/completions"), CHAT),
    st.tuples(st.just("/v1/chat/completions"), CONTINUED),
    st.tuples(st.just("/v1/completions"), COMPLETION),
    st.tuples(st.just("/v1/responses"), RESPONSES),
    st.tuples(st.just("/v1/messages"), ANTHROPIC),
)
