"""What is printed: nothing that other people wrote reaches the terminal as a command to it."""

import io
import json
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text

from omnialign.cli.output import Output, escape_controls

TITLE, COLOUR, REVERSED = "\x1b]0;pwned\x07", "\x9b31m", "\u202e"
NASTY = f"red {COLOUR} title {TITLE} {REVERSED}txt.exe"


@given(st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x9b\r\n\t\x00\u202e\u2066")), max_size=40))
@example(NASTY)
def test_no_control_character_but_the_line_feed_is_left_and_json_reads_back(text: str) -> None:
    shown = escape_controls(text)
    assert all(letter == "\n" or unicodedata.category(letter) != "Cc" for letter in shown)
    assert not any(unicodedata.bidirectional(letter) in ("RLO", "LRO", "RLI", "LRI", "FSI") for letter in shown)
    if text.isascii():
        assert json.loads(escape_controls(json.dumps(text, ensure_ascii=False))) == text
    assert escape_controls(shown) == shown


def test_plain_text_of_any_language_stays_as_it_is() -> None:
    for text in ("日本語", "مرحبا", "naïve – “quoted”", "👩\u200d🚀", "two\nlines"):
        assert escape_controls(text) == text


def test_sentences_tables_errors_and_json_are_escaped(capsys) -> None:
    Output().say(NASTY)
    Output().table(("NAME",), [(NASTY + "\nsecond",)], empty="")
    Output().complain(NASTY)
    Output(as_json=True).record({"name": NASTY})
    shown, complained = capsys.readouterr()
    for text in (shown, complained):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert shown.splitlines()[2] == escape_controls(NASTY) + "\\nsecond"
    assert json.loads(shown.splitlines()[-1]) == {"name": NASTY}


def test_on_a_terminal_only_what_we_draw_ourselves_reaches_it_as_a_command() -> None:
    file = io.StringIO()
    console = type(Output().console)(file=file, force_terminal=True, width=200, color_system="standard")
    console.print(Text(NASTY, style="bold red"))
    drawn = file.getvalue()
    assert "\x1b[1;31m" in drawn  # our own style
    assert TITLE not in drawn and not {"\x07", "\x9b", "\u202e"} & set(drawn)
    assert "\\u001b]0;pwned" in drawn
