"""Reads pages as a browser would, as far as tests need it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects what a browser would load, the tags, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.loads += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "poster", "action"}]

    def handle_data(self, data):
        self.words.append(data)
