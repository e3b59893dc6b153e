"""Small chat templates, each in the manner of a family of models, written for these tests."""

from __future__ import annotations

SPECIAL_TOKENS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
"""What the tests' tokenizer tells: no `bos_token`, which is undefined to templates then."""

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}{{ ' ' + message.name if message.name }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAMA = """\
{{- bos_token }}
{%- if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}
{%- if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|header|>system<|end|>\\n\\nToday: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You may call:\\n" }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message + eos_token }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|header|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + eos_token }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception("one call at a time") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}' + eos_token }}
    {%- else %}
        {{- "<|header|>ipython<|end|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header|>assistant<|end|>\\n\\n' }}{%- endif %}
"""

INSTRUCT = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system, turns = messages[0]['content'] + '\\n\\n', messages[1:] %}
{%- else %}
    {%- set system, turns = '', messages %}
{%- endif %}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- ' [INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('only user and assistant') }}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}
"""

DEEPSEEK = """\
{%- set ns = namespace(system='', first=true) %}
{%- for message in messages if message['role'] == 'system' %}
    {%- set ns.system = ns.system + ('' if ns.first else '\\n\\n') + message['content'] %}{% set ns.first = false %}
{%- endfor %}
{{- ns.system }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}{% continue %}{% endif %}
    {%- if message['role'] == 'user' %}{{- '<|User|>' + message['content'] }}{% endif %}
    {%- if message['role'] == 'assistant' %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
        {%- if message.tool_calls is defined and message.tool_calls is not none %}
            {%- for call in message.tool_calls %}
                {{- '<|call|>' + call['type'] + ' ' + call['function']['name'] + '\\n' }}
                {{- call['function']['arguments'] | tojson }}
            {%- endfor %}
        {%- endif %}
        {{- '<|Assistant|>' + content + eos_token }}
    {%- endif %}
    {%- if message['role'] == 'tool' %}{{- '<|result|>' + message['content'] }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\\n' }}{% endif %}
"""

QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string %}
        {%- set ns.searching = false %}{% set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = message.reasoning_content if message.reasoning_content is string else '' %}
        {{- '<|im_start|>assistant' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function %}{% set call = call.function %}{% endif %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""

VISION = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}{{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' %}{{- '<|vision|><|image|>' }}
            {%- elif part.type == 'audio' %}{{- '<|sound|>' }}
            {%- elif 'text' in part %}{{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

MACRO = """\
{%- macro say(body, role) %}
    {%- if body is string %}{{ body }}{% else %}
        {%- for item in body %}{{ item.text | default('?', true) }}{% if not loop.last %} / {% endif %}{% endfor %}
    {%- endif %}
{%- endmacro %}
{%- for turn in messages %}
    {{- '[' + turn.role + '] ' }}
    {%- if turn.role == 'assistant' %}{% generation %}{{- say(turn.content, turn.role) }}{% endgeneration %}
    {%- else %}{{- say(turn.content, turn.role) }}{% endif %}
    {%- if turn.role == 'developer' and turn.tools %}{{- turn.tools | tojson }}{% endif %}
{% endfor %}
{%- for document in documents or [] %}{{- '(' + document.title + ': ' + document.text + ')' }}{% endfor %}
{%- if reasoning_effort is defined %}{{- 'effort ' + reasoning_effort }}{% endif %}
{%- if greeting is defined %}{{- greeting | upper }}{% endif %}
"""

DUMP = """\
{% for message in messages %}{{ message | tojson }}
{% endfor %}{{ tools | default(none) | tojson }} {{ documents | default(none) | tojson }}
{{ add_generation_prompt }} {{ enable_thinking }}"""

DUMP_PARTS = """\
{% for message in messages %}{{ message | tojson }}{% for part in message['content'] %}.{% endfor %}
{% endfor %}
{%- if tools %}{{ tools | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}{% endif %}
{{ 'developer' }}"""

STYLES: dict[str, str] = {
    "chatml": CHATML,
    "llama": LLAMA,
    "instruct": INSTRUCT,
    "gemma": GEMMA,
    "deepseek": DEEPSEEK,
    "qwen": QWEN,
    "vision": VISION,
    "macro": MACRO,
    "dump": DUMP,
    "dump_parts": DUMP_PARTS,
}
"""Name -> template."""
