"""Rows in each format, as its tools write them, and rows that no record can be made of."""

from typing import Any

Row = dict[str, Any]
HI = [{"role": "user", "content": "Hi"}]
SAID = [{"role": "assistant", "content": "Pear."}]
ASKED = [{"role": "user", "content": "Name a fruit."}]
NO = [{"role": "assistant", "content": "No."}]
BRIEF = [{"role": "system", "content": "Be brief."}]
TALK = [*HI, {"role": "assistant", "content": "Hello."}, *ASKED]
OTHER_TALK = [*HI, {"role": "assistant", "content": "Yes?"}, *ASKED]
HUMAN, GPT = {"from": "human", "value": "Name a fruit."}, {"from": "gpt", "value": "Pear."}
PICTURE, SOUND, FILM = "a.png", "b.wav", "c.mp4"

RATED = {"model": "a", "response": "Pear.", "critique": "Name two.",
         "annotations": {"helpfulness": {"Rating": "4", "Rationale": "a fruit", "Rationale For Rating": "one"},
                         "honesty": [{"Rating": "2", "Rationale": "so"}], "truthfulness": None}}  # fmt: skip

CHOSEN = {"result": [{"type": "pairwise", "from_name": "better", "value": {"selected": "left"}},
                     {"type": "rating", "from_name": "ease", "value": {"rating": 4}}], "was_cancelled": False,
          "completed_by": 1}  # fmt: skip
TASK = {"id": 7, "data": {"prompt": "Say 1.", "response_1": "1", "response_2": "1!", "url": "http://x"},
        "annotations": [CHOSEN, CHOSEN, {"result": [], "was_cancelled": True}], "drafts": [], "predictions": [{}],
        "created_at": "2026-01-01", "total_annotations": 2}  # fmt: skip

GOOD: dict[str, tuple[str, Row, list[str], list[list[str]], str]] = {
    # format, row, parts of the prompt, parts of the answers (the better first), subtask
    "trl": ("trl", {"prompt": "Name a fruit.", "chosen": "Pear.", "rejected": "No."},
            ["Name a fruit."], [["Pear."], ["No."]], "t2t"),
    "trl conversational": ("trl", {"prompt": ASKED, "chosen": SAID, "rejected": NO},
                           ["Name a fruit."], [["Pear."], ["No."]], "t2t"),
    "trl implicit prompt": ("trl", {"chosen": ASKED + SAID, "rejected": ASKED + NO},
                            ["Name a fruit."], [["Pear."], ["No."]], "t2t"),
    "trl prompt as text, repeated": ("trl", {"prompt": "Name a fruit.", "chosen": ASKED + SAID, "rejected": ASKED + NO},
                                     ["Name a fruit."], [["Pear."], ["No."]], "t2t"),
    "trl images": ("trl", {"prompt": "What is it?", "images": [PICTURE], "chosen": "Red.", "rejected": "No."},
                   [PICTURE, "What is it?"], [["Red."], ["No."]], "ti2t"),
    "trl images in parts": (
        "trl",
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Is "}, {"type": "image", "text": None},
                                                 {"type": "text", "text": " as "}, {"type": "image"}]}],
         "images": [PICTURE, "d.png"], "chosen": SAID, "rejected": NO},
        ["Is ", PICTURE, " as ", "d.png"], [["Pear."], ["No."]], "ti2t"),
    "trl no images": ("trl", {"prompt": "How do I use <image>?", "images": [], "chosen": "So.", "rejected": "No."},
                      ["How do I use <image>?"], [["So."], ["No."]], "t2t"),
    "trl completion": ("trl", {"prompt": "Name a fruit.", "completion": "Pear."},
                       ["Name a fruit."], [["Pear."]], "t2t"),
    "trl unpaired": ("trl", {"prompt": "Name a fruit.", "completion": "Pear.", "label": True},
                     ["Name a fruit."], [["Pear."]], "t2t"),
    "trl unpaired conversational": ("trl", {"prompt": ASKED, "completion": SAID, "label": False},
                                    ["Name a fruit."], [["Pear."]], "t2t"),
    "messages unpaired": ("messages", {"messages": ASKED + SAID, "label": False},
                          ["Name a fruit."], [["Pear."]], "t2t"),
    "rlaif_v": ("rlaif_v", {"ds_name": "RLAIF-V", "idx": 7, "image": {"bytes": b"png", "path": None},
                            "question": "What is it?", "chosen": "Red.", "rejected": "No."},
                ["b'png'", "What is it?"], [["Red."], ["No."]], "ti2t"),
    "messages": ("messages", {"messages": ASKED + SAID}, ["Name a fruit."], [["Pear."]], "t2t"),
    "messages prompt": ("messages", {"messages": ASKED}, ["Name a fruit."], [], "t2t"),
    "messages parts": (
        "messages",
        {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "Compare"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "d2F2", "format": "wav"}},
            {"type": "video_url", "video_url": {"url": FILM}}, {"image": "d.png"}]}, *SAID]},
        ["Compare", "b'png'", "b'wav'", FILM, "d.png"], [["Pear."]], "tiav2t"),
    "ms_swift": ("ms_swift", {"messages": [{"role": "user", "content": "<image>\nand <audio> in <video>?"}, *SAID],
                              "rejected_response": "No.", "images": [PICTURE], "audios": [SOUND], "videos": [FILM]},
                 [PICTURE, "and ", SOUND, " in ", FILM, "?"], [["Pear."], ["No."]], "tiav2t"),
    "ms_swift rejected messages": ("ms_swift", {"messages": ASKED + SAID, "rejected_messages": ASKED + NO},
                                   ["Name a fruit."], [["Pear."], ["No."]], "t2t"),
    "ms_swift picture as answer": (
        "ms_swift", {"messages": [*ASKED, {"role": "assistant", "content": "Here: <image>"}], "images": [PICTURE]},
        ["Name a fruit."], [["Here: ", PICTURE]], "t2ti"),
    "llama_factory": ("llama_factory", {"conversations": [HUMAN], "chosen": GPT, "rejected": GPT | {"value": "No."}},
                      ["Name a fruit."], [["Pear."], ["No."]], "t2t"),
    "llama_factory alpaca": ("llama_factory", {"instruction": "Translate.", "input": "Birne", "output": "Pear.",
                                               "system": "", "history": []},
                             ["Translate.\nBirne"], [["Pear."]], "t2t"),
    "llama_factory alpaca pair": ("llama_factory", {"instruction": "Name a fruit.", "input": "", "chosen": "Pear.",
                                                    "rejected": "No."},
                                  ["Name a fruit."], [["Pear."], ["No."]], "t2t"),
    "llava": ("sharegpt", {"id": "1", "image": PICTURE, "conversations": [HUMAN | {"value": "<image>\nWhat?"}, GPT]},
              [PICTURE, "What?"], [["Pear."]], "ti2t"),
    "llava marker at the end": (
        "sharegpt", {"image": PICTURE, "conversations": [HUMAN | {"value": "What?\n<image>"}, GPT]},
        ["What?", PICTURE], [["Pear."]], "ti2t"),
    "ultrafeedback": ("ultrafeedback", {"source": "flan", "instruction": "Name a fruit.", "models": ["a", "b"],
                                        "completions": [RATED, RATED | {"response": "No.", "critique": None}]},
                      ["Name a fruit."], [["Pear."], ["No."]], "t2t"),
    "vlfeedback": ("ultrafeedback", {"prompt": "What?", "image": PICTURE, "completions": {
        "model": ["a", "b", "c"], "response": ["Pear.", "No.", "7"],
        "annotations": {"Visual Faithfulness": {"Rating": ["5", "N/A", "1"], "Rationale": ["so", "", "no"]}}}},
        [PICTURE, "What?"], [["Pear."], ["No."], ["7"]], "ti2t"),
    "helpsteer": ("helpsteer", {"prompt": "Name a fruit.", "response": "Pear.", "helpfulness": 4, "correctness": 3,
                                "coherence": 2, "complexity": 1, "verbosity": 5},
                  ["Name a fruit."], [["Pear."]], "t2t"),
    "helpsteer3": ("helpsteer3", {"domain": "code", "context": ASKED, "response1": "Pear.", "response2": "No.",
                                  "overall_preference": -2, "individual_preference": [
                                      {"score": -2, "reasoning": "1 names one.", "feedback1": "Right."},
                                      {"score": -3, "reasoning": "2 does not.", "feedback1": "Short.",
                                       "feedback2": "Wrong."}]},
                   ["Name a fruit."], [["Pear."], ["No."]], "t2t"),
    "argilla": ("argilla", {"prompt": "Say 1.", "response_1": "1", "response_2": "1!",
                            "preference.responses": ["response_1", "response_2", "response_1"],
                            "preference.responses.status": ["submitted", "draft", "submitted"]},
                ["Say 1."], [["1"], ["1!"]], "t2t"),
    "label_studio": ("label_studio", TASK, ["Say 1."], [["1"], ["1!"]], "t2t"),
}  # fmt: skip

EARLIER_TURNS = [("user", ["Hi"]), ("assistant", ["Hello."])]
WITH_SYSTEM = [("system", ["Be brief."]), *EARLIER_TURNS]
TALK_FROM = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}, HUMAN]
CONTINUED: dict[str, tuple[str, Row, list[tuple[str, list[str]]], list[str]]] = {
    # format, row, what came before the prompt, parts of the prompt
    "trl": ("trl", {"prompt": BRIEF + TALK, "chosen": SAID, "rejected": NO}, WITH_SYSTEM, ["Name a fruit."]),
    "trl implicit prompt": (
        "trl", {"chosen": BRIEF + TALK + SAID, "rejected": BRIEF + TALK + NO}, WITH_SYSTEM, ["Name a fruit."]),
    "trl prompt as text, which the answers end": (
        "trl", {"prompt": "Name a fruit.", "chosen": TALK + SAID, "rejected": TALK + NO},
        EARLIER_TURNS, ["Name a fruit."]),
    "trl implicit prompt beside a system": (
        "trl", {"system": "Be brief.", "chosen": TALK + SAID, "rejected": TALK + NO}, WITH_SYSTEM, ["Name a fruit."]),
    "trl images": (
        "trl", {"prompt": TALK, "images": [PICTURE], "chosen": SAID, "rejected": NO},
        [("user", [PICTURE, "Hi"]), ("assistant", ["Hello."])], ["Name a fruit."]),
    "messages": ("messages", {"messages": BRIEF + TALK + SAID}, WITH_SYSTEM, ["Name a fruit."]),
    "messages prompt": ("messages", {"messages": TALK}, EARLIER_TURNS, ["Name a fruit."]),
    "messages that nothing is told": (
        "messages", {"messages": [{"role": "system", "content": ""}, *TALK, *SAID]}, EARLIER_TURNS, ["Name a fruit."]),
    "ms_swift": (
        "ms_swift",
        {"messages": [{"role": "user", "content": "<image>Hi"}, {"role": "assistant", "content": "So: <image>"},
                      {"role": "user", "content": "And <audio>?"}, *SAID], "rejected_response": "No.",
         "images": [PICTURE, "d.png"], "audios": [SOUND], "system": "Be brief."},
        [("system", ["Be brief."]), ("user", [PICTURE, "Hi"]), ("assistant", ["So: ", "d.png"])],
        ["And ", SOUND, "?"]),
    "ms_swift rejected messages": (
        "ms_swift", {"messages": TALK + SAID, "rejected_messages": TALK + NO}, EARLIER_TURNS, ["Name a fruit."]),
    "sharegpt": (
        "sharegpt", {"conversations": [{"from": "system", "value": "Be brief."}, *TALK_FROM, GPT]},
        WITH_SYSTEM, ["Name a fruit."]),
    "sharegpt that begins with an answer": (
        "sharegpt", {"conversations": [{"from": "gpt", "value": "Hello."}, HUMAN, GPT]},
        [("assistant", ["Hello."])], ["Name a fruit."]),
    "llava": (
        "sharegpt",
        {"image": PICTURE, "conversations": [{"from": "human", "value": "<image>\nHi"}, *TALK_FROM[1:], GPT]},
        [("user", [PICTURE, "Hi"]), ("assistant", ["Hello."])], ["Name a fruit."]),
    "llama_factory": (
        "llama_factory",
        {"conversations": TALK_FROM, "chosen": GPT, "rejected": GPT | {"value": "No."}, "system": "Be brief."},
        WITH_SYSTEM, ["Name a fruit."]),
    "llama_factory alpaca": (
        "llama_factory",
        {"instruction": "Name a fruit.", "output": "Pear.", "system": "Be brief.", "history": [["Hi", "Hello."]]},
        WITH_SYSTEM, ["Name a fruit."]),
    "ultrafeedback": (
        "ultrafeedback", {"instruction": "Name a fruit.", "system": "Be brief.", "completions": [RATED]},
        [("system", ["Be brief."])], ["Name a fruit."]),
    "helpsteer": (
        "helpsteer",
        {"prompt": "Hi\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nName a fruit.", "response": "Pear.",
         "helpfulness": 4},
        EARLIER_TURNS, ["Name a fruit."]),
    "helpsteer3": (
        "helpsteer3", {"context": TALK, "response1": "Pear.", "response2": "No.", "overall_preference": 1},
        EARLIER_TURNS, ["Name a fruit."]),
    "argilla": (
        "argilla",
        {"prompt": TALK, "response_1": TALK + SAID, "response_2": "No.", "preference.responses": "response_1"},
        EARLIER_TURNS, ["Name a fruit."]),
}  # fmt: skip
"""Rows whose prompt continues a conversation."""


def messages_malformed(
    column: str, rest: Row, *, role: str = "role", said: str = "content"
) -> list[tuple[Row, str, str]]:
    """Rows with malformed messages in a column: the row, the reason and what the message says of it."""

    def user(found: Any, **more: Any) -> Row:
        return {role: "user", said: found, **more}

    bad: list[tuple[Any, str, str]] = [
        ("text", "MESSAGES_INVALID", "holds text, and a list of messages is taken"),
        (7, "MESSAGES_INVALID", "holds a number, and a list"),
        (["text"], "MESSAGES_INVALID", "message 1 is text, and an object"),
        ([{said: "Hi"}], "MESSAGES_INVALID", "message 1 has no role, and text in `role` or `from` is taken"),
        ([{role: 3, said: "Hi"}], "MESSAGES_INVALID", "message 1 has a number as its role"),
        ([{role: "narrator", said: "Hi"}], "ROLE_UNKNOWN", "of the role 'narrator'"),
        ([user(None)], "MESSAGES_INVALID", "message 1 has no content"),
        ([user({"a": 1})], "MESSAGES_INVALID", "message 1 has an object as its content"),
        ([user("Hi"), {role: "tool", said: "7"}], "TOOLS_UNSUPPORTED", "message 2 calls a tool"),
        ([user("Hi"), {role: "assistant", said: " "}, user("Go on.")], "MESSAGES_INVALID",
         "message 2, of the role assistant, is empty"),
        ([user("Hi")] * 258, "MESSAGES_INVALID", "there are 257 messages before the prompt, and up to 256 are taken"),
        ([user("Hi")] * 259, "MESSAGES_INVALID", "the column has 259 messages, and 1 to 258 are taken"),
        ([{role: "system", said: "Rhyme."}], "PROMPT_MISSING", "its last message is of the role system"),
        ([user("Hi", weight=1)], "MESSAGE_FIELD_UNREAD", f"`--ignore {column}.weight` drops it"),
        ([user([{"type": "file", "file": {}}])], "PART_UNSUPPORTED", "message 1, part 1 is of the type 'file'"),
        ([user([7])], "PART_UNSUPPORTED", "message 1, part 1 is a number"),
        ([user([{"type": "text", "text": 7}])], "PART_UNSUPPORTED", "part 1 holds a number, and text is taken"),
        ([user([{"type": "text", "text": "a", "cache_control": {}}])], "PART_UNSUPPORTED", "'cache_control'"),
        ([user([{"type": "image"}, {"type": "text", "text": "a"}])], "MEDIA_MISSING", "place for image 1"),
        ([user([{"type": "image_url", "image_url": "http://x/y.png"}])], "MEDIA_PATH_FORBIDDEN", "URLs are not"),
        ([user([{"type": "image_url", "image_url": "data:image/png,png"}])], "MEDIA_UNDECODABLE", "not base64"),
        ([user(" ")], "PROMPT_MISSING", "the prompt has no text"),
    ]  # fmt: skip
    return [(rest | {column: found}, reason, message) for found, reason, message in bad]


PAIR = {"chosen": "Pear.", "rejected": "No."}
PAIR_MALFORMED: list[tuple[Row, str, str]] = [
    ({"chosen": None}, "RESPONSE_MISSING", "an answer in rejected and none in chosen"),
    ({"rejected": ""}, "RESPONSE_MISSING", "an answer in chosen and none in rejected"),
    ({"chosen": "No."}, "ANSWERS_EQUAL", "both answers are the same"),
    ({"chosen": 7}, "MESSAGES_INVALID", "column chosen: the column holds a number"),
    ({"chosen": "  "}, "RESPONSE_MISSING", "column chosen: the answer is empty"),
    ({"rejected": HI}, "RESPONSE_MISSING", "column rejected: the last message is of the role user"),
    ({"rejected": HI + NO}, "PROMPTS_DIFFER", "column rejected: message 1 of 1 before the answer is another than in"),
    ({"rejected": HI + SAID + ASKED + NO}, "PROMPTS_DIFFER", "the answer follows 3 messages and the prompt has 1"),
    ({"tools": [{"name": "f"}]}, "TOOLS_UNSUPPORTED", "column tools: the row has a value here"),
    ({"image": "a.png", "images": ["a.png"]}, "COLUMN_TWICE", "both images and image have a value"),
    ({"images": [None]}, "MEDIA_MISSING", "column images"),
    ({"images": ["missing"]}, "MEDIA_MISSING", "column images (missing)"),
    ({"images": "../a.png"}, "MEDIA_PATH_FORBIDDEN", "leaves the folder"),
    ({"audios": [{"array": ["loud"], "sampling_rate": 8000}]}, "MEDIA_UNDECODABLE", "column audios"),
]


def _pairs(rest: Row, *, without: tuple[str, ...] = ()) -> list[tuple[Row, str, str]]:
    return [(rest | PAIR | one, reason, text) for one, reason, text in PAIR_MALFORMED if not set(one) & set(without)]


PLACES: list[tuple[Row, str, str]] = [
    ({"images": [PICTURE]}, "MEDIA_MISSING", "for image 2, and the row has 1 in images"),
    ({"images": [PICTURE, "d.png", "e.png"]}, "MEDIA_UNPLACED", "the row has 3 media and the messages 2 places"),
]
TWO = "<image> and <image>?"

MALFORMED: dict[str, list[tuple[Row, str, str]]] = {
    "trl": [
        *_pairs({"prompt": "Name a fruit."}),
        *messages_malformed("prompt", PAIR)[2:],
        ({"prompt": {"a": 1}, **PAIR}, "MESSAGES_INVALID", "column prompt: the column holds an object"),
        ({"prompt": "Hi", "completion": ""}, "RESPONSE_MISSING", "no answer in chosen, rejected, completion"),
        ({"prompt": "", **PAIR}, "PROMPT_MISSING", "no prompt in prompt; its columns are prompt, chosen, rejected"),
        *[({"prompt": "Hi", "completion": "Yo", "label": found}, "LABEL_INVALID",
           f"the label is {shown}, and true or false is taken: `--answer-labels GOOD BAD` declares others")
          for found, shown in [(1, "1"), (0, "0"), ("true", "'true'"), (1.0, "1.0"), ([True], "a list")]],
        ({"prompt": "Hi", "label": True, **PAIR}, "LABEL_INVALID", "a label and 2 answers, and a label of one"),
        ({"prompt": TWO, **PAIR} | PLACES[0][0], *PLACES[0][1:]),
        ({"prompt": TWO, **PAIR} | PLACES[1][0], *PLACES[1][1:]),
    ],
    "rlaif_v": [
        *_pairs({"question": "What is it?"}, without=("tools",)),
        ({"question": "What is it?", "prompt": "Say.", **PAIR}, "COLUMN_UNSUPPORTED", "`--ignore prompt`"),
    ],
    "messages": messages_malformed("messages", {}),
    "ms_swift": [
        *messages_malformed("messages", {"rejected_response": "No."})[:3],
        ({"messages": ASKED, "rejected_response": "No."}, "RESPONSE_MISSING", "none in messages, and both are taken"),
        ({"messages": ASKED + SAID, "rejected_response": "Pear."}, "ANSWERS_EQUAL", "both answers are the same"),
        ({"messages": ASKED + SAID, "rejected_response": 7}, "MESSAGES_INVALID", "column rejected_response"),
        ({"messages": ASKED + SAID, "rejected_response": ["No.", "7"]}, "MESSAGES_INVALID", "2 answers, and one"),
        ({"messages": ASKED + SAID, "rejected_response": "N", "rejected_messages": ASKED + NO}, "COLUMN_TWICE",
         "both rejected_response and rejected_messages"),
        ({"messages": ASKED + SAID, "rejected_messages": HI + NO}, "PROMPTS_DIFFER", "is another than in messages"),
        ({"messages": TALK + SAID, "rejected_messages": OTHER_TALK + NO}, "PROMPTS_DIFFER",
         "message 2 of 3 before the answer is another than in messages, and an answer to the same conversation is"),
        ({"messages": ASKED + SAID, "rejected_images": [PICTURE]}, "COLUMN_UNSUPPORTED", "`--ignore rejected_images`"),
        ({"messages": BRIEF + ASKED + SAID, "system": "Rhyme."}, "COLUMN_TWICE", "column system: the messages in"),
        ({"messages": ASKED + SAID, "system": 7}, "TEXT_EXPECTED", "column system"),
        ({"messages": ASKED + SAID, "tools": "[{}]"}, "TOOLS_UNSUPPORTED", "column tools"),
        ({"messages": [{"role": "user", "content": TWO}, *SAID]} | PLACES[0][0], *PLACES[0][1:]),
        ({"messages": [{"role": "user", "content": TWO}, *SAID]} | PLACES[1][0], *PLACES[1][1:]),
        ({"messages": [{"role": "user", "content": "<audio>"}, *SAID]}, "MEDIA_MISSING", "audio 1, and the row has 0"),
        ({"messages": SAID}, "PROMPT_MISSING", "the answer follows no prompt"),
    ],
    "llama_factory": [
        *_pairs({"conversations": [HUMAN]}, without=("images", "audios", "image")),
        *_pairs({"conversations": [HUMAN]})[-2:],
        ({"conversations": [HUMAN, GPT], **PAIR}, "COLUMN_TWICE", "end with an answer, and chosen has another"),
        ({"instruction": "Hi", "output": "Yo", "history": [["a"]]}, "MESSAGES_INVALID", "element 1 is a list, and"),
        ({"instruction": "Hi", "output": "Yo", "history": ["a", "b"]}, "MESSAGES_INVALID", "element 1 is text, and"),
        ({"instruction": "Hi", "output": "Yo", "history": [["a", ""]]}, "MESSAGES_INVALID", "message 2, of the role"),
        ({"conversations": [HUMAN, GPT, HUMAN, GPT], "history": [["a", "b"]]}, "COLUMN_TWICE", "column history"),
        ({"instruction": "Hi", "output": "Yo", "system": ["Rhyme."]}, "TEXT_EXPECTED", "column system"),
        ({"instruction": "Hi", "output": "Yo", "input": 7}, "TEXT_EXPECTED", "column input: the column holds a number"),
        ({"instruction": "Hi", "output": "Yo", **PAIR}, "COLUMN_TWICE", "both chosen and output have a value"),
    ],
    "sharegpt": messages_malformed("conversations", {}, role="from", said="value"),
    "ultrafeedback": [
        (GOOD["ultrafeedback"][1] | one, reason, text) for one, reason, text in [
            ({"instruction": ""}, "PROMPT_MISSING", "follows no prompt"),
            ({"instruction": 7}, "MESSAGES_INVALID", "column instruction: the column holds a number"),
            ({"prompt": "Hi"}, "COLUMN_TWICE", "both instruction and prompt"),
            ({"completions": "text"}, "RESPONSE_MISSING", "holds text, and a list of 1 to 64"),
            ({"completions": [RATED] * 65}, "RESPONSE_MISSING", "holds 65 completions"),
            ({"completions": ["text"]}, "RESPONSE_MISSING", "completion 1 is text"),
            ({"completions": [RATED, {"response": None}]}, "TEXT_EXPECTED", "completion 2 has nothing as its"),
            ({"completions": [RATED | {"response": " "}]}, "RESPONSE_MISSING", "the answer is empty"),
            ({"completions": [RATED | {"model": 7}]}, "TEXT_EXPECTED", "completion 1 has a number as its model"),
            ({"completions": [RATED | {"annotations": "good"}]}, "SCORE_INVALID", "of completion 1 are text"),
            ({"completions": [RATED | {"annotations": {"honesty": 3}}]}, "SCORE_INVALID", "a number for honesty"),
            ({"completions": [RATED | {"annotations": {"honesty": {"Rating": "7"}}}]}, "SCORE_INVALID",
             "the score of honesty is '7', and 1 to 5 is taken"),
            ({"system": 7}, "TEXT_EXPECTED", "column system"),
        ]
    ],
    "helpsteer": [
        *[(GOOD["helpsteer"][1] | {name: found}, "SCORE_INVALID", f"column {name}: the score is {found!r}, and 1 to 5")
          for name, found in [("helpfulness", 0), ("correctness", 6), ("coherence", "good"), ("complexity", True),
                              ("verbosity", [4])]],
        *[(GOOD["helpsteer"][1] | one, reason, text) for one, reason, text in [
            ({"prompt": None}, "PROMPT_MISSING", "follows no prompt"),
            ({"prompt": "Hi\n<extra_id_1>Assistant\nYes?"}, "PROMPT_MISSING", "is of the role assistant"),
            ({"prompt": "Hi\n<extra_id_1>Narrator\nYes?"}, "ROLE_UNKNOWN", "message 2 is of the role 'Narrator'"),
            ({"response": "Hi<extra_id_1>"}, "MESSAGES_INVALID", "column response: the response holds <extra_id_1>"),
            ({"response": None}, "RESPONSE_MISSING", "no response, and text is taken"),
            ({"response": 7}, "MESSAGES_INVALID", "column response: the column holds a number"),
            ({"system": 7}, "TEXT_EXPECTED", "column system"),
            ({"tools": [1]}, "TOOLS_UNSUPPORTED", "column tools"),
        ]],
    ],
    "helpsteer3": [
        (GOOD["helpsteer3"][1] | one, reason, text) for one, reason, text in [
            *[({"overall_preference": found}, "LABEL_INVALID", f"the preference is {shown}, and -3 to -1")
              for found, shown in [(0, "0"), (4, "4"), (0.5, "a number"), ("better", "text"), (True, "true or false")]],
            ({"response1": HI + NO}, "PROMPTS_DIFFER", "is another than in context"),
            ({"context": []}, "PROMPT_MISSING", "follows no prompt"),
            ({"context": SAID}, "PROMPT_MISSING", "is of the role assistant"),
            ({"response1": ""}, "RESPONSE_MISSING", "no response1"),
            ({"response2": None}, "RESPONSE_MISSING", "no response2"),
            ({"individual_preference": ["so"]}, "LABEL_INVALID", "an individual preference is text"),
            ({"individual_preference": [{"feedback1": 7}]}, "TEXT_EXPECTED", "feedback1 holds something else"),
        ]
    ],
    "label_studio": [
        *[(TASK | {"data": found}, "ROW_MALFORMED", f"column data: the column holds {shown}, and an object is taken")
          for found, shown in [("x", "text"), ([], "a list")]],
        *[(TASK | {"data": TASK["data"] | one}, reason, text) for one, reason, text in [
            ({"prompt": ""}, "PROMPT_MISSING", "follows no prompt"),
            ({"question": "Say?"}, "COLUMN_TWICE", "both prompt and question"),
            ({"response_1": None}, "RESPONSE_MISSING", "no response_1"),
            ({"response_2": 7}, "MESSAGES_INVALID", "column response_2"),
            ({"image": "/data/upload/1/a.png"}, "MEDIA_PATH_FORBIDDEN", "column image (/data/upload/1/a.png)"),
        ]],
        *[(TASK | {"annotations": found}, "LABEL_INVALID", text) for found, text in [
            ({}, "column annotations: the column holds an object, and a list of annotations is taken"),
            ([], "nobody has submitted an answer"),
            (["left"], "annotation 1 is text, and an object with a result is taken"),
            ([CHOSEN, CHOSEN | {"result": CHOSEN["result"][1:]}],
             "annotation 2 has 0 results of the type pairwise, and one is taken; its results are of the types rating"),
            ([CHOSEN | {"result": CHOSEN["result"][:1] * 2}], "annotation 1 has 2 results of the type pairwise"),
            ([CHOSEN | {"result": "x"}], "its results are of the types none"),
            ([CHOSEN | {"result": [{"type": "pairwise", "value": {"selected": "both"}}]}], "selects 'both', and left"),
            ([CHOSEN | {"result": [{"type": "pairwise", "value": "left"}]}], "annotation 1 selects nothing, and left"),
            ([CHOSEN, {"result": [{"type": "pairwise", "value": {"selected": "right"}}]}],
             "differ, 1 for response_1 and 1 for response_2"),
        ]],
    ],
    "argilla": [
        (GOOD["argilla"][1] | one, reason, text) for one, reason, text in [
            ({"preference.responses": []}, "LABEL_INVALID", "there are 0 answers and 3 statuses"),
            ({"preference.responses.status": ["draft"] * 3}, "LABEL_INVALID", "nobody has submitted an answer"),
            ({"preference.responses.status": ["submitted"] * 3}, "LABEL_INVALID",
             "differ, 2 for response_1 and 1 for response_2"),
            ({"preference.responses": ["first"] * 3}, "LABEL_INVALID", "'first', and response_1 or response_2"),
            ({"preference.responses": [0, 0, 0]}, "LABEL_INVALID", "is 0, and response_1 or response_2"),
            ({"preference.responses": [1, 1, 1]}, "LABEL_INVALID", "is 1, and response_1 or response_2"),
            ({"preference.responses": [True, 1, 1]}, "LABEL_INVALID", "is True"),
            ({"preference.responses": [["a"], 1, 1]}, "LABEL_INVALID", "is a list"),
            ({"response_1": None}, "RESPONSE_MISSING", "no response_1"),
            ({"response_2": ""}, "RESPONSE_MISSING", "no response_2"),
            ({"response_2": 7}, "MESSAGES_INVALID", "column response_2"),
            ({"prompt": ""}, "PROMPT_MISSING", "follows no prompt"),
            ({"response_2": HI + NO}, "PROMPTS_DIFFER", "is another than in prompt"),
        ]
    ],
}  # fmt: skip
