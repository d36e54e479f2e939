"""Chat templates within limits: published ones render as they always did, and none computes for ever."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.chat_template import BoundedEnvironment, TemplateTooCostly, limited_steps
from tests.model_factory.families import FAMILIES

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": " What is <b>this</b>? "}, {"type": "image"}]},
    {
        "role": "assistant",
        "content": "<think>a ring</think>A ring.",
        "tool_calls": [{"name": "f", "arguments": {"a": 1}}],
    },
    {"role": "user", "content": "Thanks"},
]
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message.content is string %}{{ message.content | trim }}{% else %}"
        "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "namespace and slices": (
        "{% set ns = namespace(last=0, text='') %}"
        "{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.last %}{% set ns.last = loop.index0 %}"
        "{% endif %}{% endfor %}{% for m in messages[1:] %}{% set ns.text = ns.text ~ loop.index ~ m.role %}"
        "{% if not loop.last %}{% continue %}{% endif %}{{ ns.text }}{% endfor %}{{ ns.last * 2 + 1 }}"
    ),
    "tools and macros": (
        "{% macro show(value, depth=0) %}{% if value is mapping %}{% for key, entry in value | dictsort %}"
        "{{ '  ' * depth }}{{ key }}: {{ show(entry, depth + 1) }}{% endfor %}{% elif value is string %}{{ value }}"
        "{% else %}{{ value | tojson(indent=2) }}{% endif %}{% endmacro %}"
        "{% for m in messages %}{{ show(m) }}{% if '</think>' in m.content %}"
        "{{ m.content.split('</think>')[-1].lstrip('\n') | replace('ring', 'disc') | upper }}{% endif %}{% endfor %}"
        "{{ messages | map(attribute='role') | unique | join(', ') }} {{ '%s-%d' % ('a', 3) }} {{ '{}!'.format(4) }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ range(3) | list }} {{ 7 // 2 ** 2 }}"
    ),
}
NESTED = (
    "{% for a in range(5000) %}{% for b in range(5000) %}{% for c in range(5000) %}{% endfor %}{% endfor %}{% endfor %}"
)
DOUBLED = "{% set ns = namespace(x=X) %}{% for i in range(200) %}{% set ns.x = D %}{% endfor %}{{ ns.x | length }}"
COSTLY = {
    "power": "{% set n = 9 %}{{ n ** (n ** n) }}",
    "constant power": "{{ 9 ** (9 ** 9) }}",
    "product": DOUBLED.replace("X", "3").replace("D", "ns.x * ns.x"),
    "nested loops": NESTED,
    "filtered loops": NESTED.replace("range(5000) %}", "range(5000) if false %}") + NESTED,
    "recursion": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for i in [1, 1] recursive %}{{ loop([1, 1]) if loop.depth < 60 }}{% endfor %}",
    "repeated text": "{{ ('a' * 9999999) * 9999999 }}",
    "doubled text": DOUBLED.replace("X", "'ab'").replace("D", "ns.x + ns.x"),
    "joined text": DOUBLED.replace("X", "'ab'").replace("D", "ns.x ~ ns.x"),
    "doubled list": DOUBLED.replace("X", "[1]").replace("D", "ns.x + ns.x"),
    "shared list": DOUBLED.replace("X", "[1]").replace("D", "[ns.x, ns.x]").replace("| length", ""),
    "shared list as JSON": DOUBLED.replace("X", "[1]").replace("D", "[ns.x, ns.x]").replace("length", "tojson"),
    "shared list compared": DOUBLED.replace("X", "[1]").replace("D", "[ns.x, ns.x]").replace("| length", "== [[1]]"),
    "shared namespaces": DOUBLED.replace("X", "1").replace("D", "namespace(a=ns.x, b=ns.x)").replace("| length", ""),
    "replaced text": DOUBLED.replace("X", "'aa'").replace("D", "ns.x | replace('a', ns.x)"),
    "replaced by a method": DOUBLED.replace("X", "'aa'").replace("D", "ns.x.replace('', ns.x)"),
    "joined by itself": DOUBLED.replace("X", "'aa'").replace("D", "ns.x.join([ns.x, ns.x])"),
    "centred": "{{ 'a' | center(999999999) }}",
    "filled": "{{ 'a'.zfill(999999999) }}",
    "tabs": "{{ ('\t' * 99999).expandtabs(99999) }}",
    "indented JSON": "{{ [[[1]]] | tojson(indent=999999999) }}",
    "format": "{{ '%999999999d' % 1 }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "format method": "{{ '{:999999999}'.format(1) }}",
    "format by argument": "{{ '%*d' % (999999999, 1) }}",
    "bytes": "{{ (1).to_bytes(999999999, 'big') }}",
    "slices": "{{ 'a' | slice(999999999) | list }}",
    "searches": "{% set t = 'a' * 9999999 %}{% for i in range(99999) %}{% if 'b' in t %}{% endif %}{% endfor %}",
    "copies": "{% set t = 'a' * 9999999 %}{% for i in range(99999) %}{% set u = t[1:] %}{% endfor %}",
    "output": "{% set t = 'a' * 9999999 %}{% for i in range(99999) %}{{ t }}{% endfor %}",
    "fixed output": "{% for i in range(99999) %}" + "a" * 99999 + "{% endfor %}",
    "length": "a" * (1 << 21),
}


def render(template: str, environment: type[ImmutableSandboxedEnvironment] = BoundedEnvironment, **values: Any) -> str:
    made = environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.filters["tojson"] = lambda value, indent=None: json.dumps(value, indent=indent)
    with limited_steps():
        return made.from_string(template).render(**{"messages": MESSAGES, "add_generation_prompt": True, **values})


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_without_limits(name: str) -> None:
    expected = render(TEMPLATES[name], ImmutableSandboxedEnvironment)
    assert render(TEMPLATES[name]) == expected != ""


@pytest.mark.parametrize("name", TEMPLATES)
def test_long_conversations_are_within_the_limits(name: str) -> None:
    long = [{**message, "content": "word " * 2000} for message in MESSAGES] * 50  # 200 turns of 10,000 characters
    assert len(render(TEMPLATES[name], messages=long)) > 100


@pytest.mark.parametrize("name", COSTLY)
def test_a_template_that_computes_for_ever_stops_itself(name: str) -> None:
    started = time.process_time()
    with pytest.raises(TemplateTooCostly):
        render(COSTLY[name])
    assert time.process_time() - started < 10


expressions = st.recursive(
    st.sampled_from(["1", "9", "'ab'", "[1, 2]", "messages", "none", "range(9)", "{'a': 1}", "x"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "*", "**", "~", "==", "in", "%", "/"]), inner)
        .map(" ".join)
        .map("({})".format),
        st.tuples(
            inner, st.sampled_from(["length", "string", "join(9)", "list", "tojson", "center(99)", "replace('a', 'b')"])
        )
        .map(" | ".join)
        .map("({})".format),
    ),
    max_leaves=6,
)


@settings(deadline=5000)
@given(expressions, expressions)
def test_whatever_a_template_computes_it_is_what_it_would_be_without_limits_or_an_error(
    first: str, second: str
) -> None:
    template = f"{{% set x = {first} %}}{{% for y in {second} %}}{{{{ x ~ y }}}}{{% endfor %}}"
    try:
        found = render(template)
    except (TemplateError, ArithmeticError, TypeError, ValueError, RecursionError, MemoryError):
        return
    assert found == render(template, ImmutableSandboxedEnvironment)


def test_a_model_with_such_a_template_is_refused_with_its_reason(tmp_path: Path) -> None:
    folder = FAMILIES["qwen2"].build(tmp_path / "model")
    load_adapter(folder)
    template = folder / "chat_template.jinja"
    good = template.read_text()
    for cost in (COSTLY["power"], COSTLY["nested loops"], COSTLY["length"]):
        template.write_text(cost + good)
        with pytest.raises(InvalidArgument) as caught:
            load_adapter(folder)
        assert caught.value.reason == "CHAT_TEMPLATE_TOO_COSTLY"
