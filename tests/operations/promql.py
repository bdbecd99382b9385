"""What a PromQL expression reads: its selectors and the labels that it groups by. Not a parser, Prometheus is one: it finds names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"(?<![\w:$])([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(?!\s*\(|[\w:])")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
WORDS = {"and", "or", "unless", "bool", "offset"}


@dataclass
class Selector:
    metric: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)

    def text(self) -> str:
        matchers = ",".join(f'{label}{how}"{value}"' for label, how, value in self.matchers)
        return f"{self.metric}{{{matchers}}}"


def grouped_by(expression: str) -> set[str]:
    """The labels in `by (…)`, `on (…)` and their like."""
    lists = GROUPING.findall(expression)
    return {label.strip() for labels in lists for label in labels.split(",") if label.strip()}


def selectors(expression: str) -> Iterator[Selector]:
    """Every series selector."""
    rest = re.sub(r"\[[^\]]*\]", "", GROUPING.sub(" ", expression))
    for metric, matchers in SELECTOR.findall(rest):
        if metric not in WORDS and not re.fullmatch(r"\w+=.*", metric):
            yield Selector(metric, MATCHER.findall(matchers))


def alternatives(pattern: str) -> list[str]:
    """The words that a pattern such as `A_(B|C)` or `A|B` stands for."""
    if outer := re.fullmatch(r"(\w*)\(([\w|]+)\)(\w*)", pattern):
        before, words, after = outer.groups()
        return [f"{before}{word}{after}" for word in words.split("|")]
    return pattern.split("|")
