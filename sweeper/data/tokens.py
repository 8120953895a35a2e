"""Text as token ids, where text that looks like a special token stays text.

A tokenizer takes `<|im_end|>` for the end of a turn wherever it stands, in an article about chat models too.
So in what rows say every such string is replaced by one character that stands for it; once the template is
around it all, what is between the template's own special tokens is tokenised with the strings put back, as
text.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sweeper.models.templates import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIRST, _LAST = 0xE000, 0xF8FF
"""Characters for private use: where a row uses one, another is taken."""


class Literal(Exception):
    """A row says something that this tokenizer can't take for text; the message says what."""


class Tokens:
    """A tokenizer, and what its special tokens look like as text."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.special = special_ids(tokenizer)
        written = {number: str(tokenizer.convert_ids_to_tokens(number)) for number in self.special}
        self._numbers = {text: number for number, text in written.items() if text.strip()}
        longest_first = sorted(self._numbers, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._readable: dict[str, bool] = {}

    def guard(self, *said: Any) -> "Guarded":
        """Texts, or trees of them, with their special tokens replaced.

        Raises Literal for one that the tokenizer can't take for text.
        """
        found: dict[str, None] = {}
        used: set[str] = set()
        for tree in said:
            self._look(tree, found, used)
        for text in found:
            if not self._is_readable(text):
                raise Literal(
                    f"`{text}` in a text is a special token of this tokenizer, and can't be read as text"
                )
        free = (chr(code) for code in range(_FIRST, _LAST + 1) if chr(code) not in used)
        return Guarded(self, dict(zip(found, free, strict=False)))

    def ids(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text without anything replaced in it."""
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def literal_ids(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text that holds no special token, whatever it looks like."""
        found = self.tokenizer(text, add_special_tokens=special, split_special_tokens=True, verbose=False)
        return list(found["input_ids"])

    def pieces(self, text: str) -> list[tuple[str, int | None]]:
        """`text` cut at its special tokens, each with its id; None for what is between."""
        cut: list[tuple[str, int | None]] = []
        done = 0
        for match in self._pattern.finditer(text):
            cut += [(text[done : match.start()], None), (match[0], self._numbers[match[0]])]
            done = match.end()
        return [piece for piece in [*cut, (text[done:], None)] if piece[0]]

    def _look(self, tree: Any, found: dict[str, None], used: set[str]) -> None:
        if isinstance(tree, str):
            matches = self._pattern.findall(tree)
            found.update(dict.fromkeys(matches))
            if not tree.isascii():
                used.update(character for character in tree if _FIRST <= ord(character) <= _LAST)
        elif isinstance(tree, Mapping):
            for value in tree.values():
                self._look(value, found, used)
        elif isinstance(tree, list | tuple):
            for value in tree:
                self._look(value, found, used)

    def _is_readable(self, text: str) -> bool:
        if text not in self._readable:
            ids = self.literal_ids(text)
            self._readable[text] = bool(ids) and self.special.isdisjoint(ids)
        return self._readable[text]

    def around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text of its own."""
        bare, whole = self.ids("a"), self.ids("a", special=True)
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        return [], []


class Guarded:
    """What stands for the special tokens in the texts of one row."""

    def __init__(self, tokens: Tokens, signs: Mapping[str, str]) -> None:
        self._tokens = tokens
        self._signs = signs
        self._texts = {sign: text for text, sign in signs.items()}
        self._pattern = re.compile("|".join(map(re.escape, sorted(signs, key=len, reverse=True))) or r"(?!)")

    @property
    def literals(self) -> tuple[str, ...]:
        """The special tokens that the row writes as text."""
        return tuple(self._signs)

    def hide(self, tree: Any) -> Any:
        """A text, or a tree of them, with the signs in the place of special tokens."""
        if not self._signs:
            return tree
        if isinstance(tree, str):
            return self._pattern.sub(lambda match: self._signs[match[0]], tree)
        if isinstance(tree, Mapping):
            return {key: self.hide(value) for key, value in tree.items()}
        return [self.hide(value) for value in tree] if isinstance(tree, list | tuple) else tree

    def show(self, text: str) -> str:
        """The text as it was."""
        return "".join(self._texts.get(character, character) for character in text) if self._signs else text

    def is_garbled(self, rendered: str) -> bool:
        """Whether a template has written a sign in another way."""
        return any(f"\\u{ord(sign):04x}" in rendered.lower() for sign in self._texts)

    def ids(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a rendered text: what the row wrote is text, what is around it may be special.

        `special`: with what the tokenizer puts around a text.
        """
        if not any(sign in text for sign in self._texts):
            return self._tokens.ids(text, special)
        pieces = self._tokens.pieces(text)
        if len(pieces) == 1:
            return self._tokens.literal_ids(self.show(text), special)
        ids = [
            token
            for piece, number in pieces
            for token in ([number] if number is not None else self._tokens.literal_ids(self.show(piece)))
        ]
        before, after = self._tokens.around() if special else ([], [])
        return [*before, *ids, *after]

    def cut(self, text: str, limit: int, looked_at: int) -> tuple[str, int, bool]:
        """`text`, as the row has it, cut to `limit` tokens; how many those are; whether anything was cut.

        No more than `looked_at` characters are tokenised.
        """
        if limit <= 0:
            return "", 0, bool(text)
        tokenizer, seen = self._tokens.tokenizer, text[:looked_at]
        fast = tokenizer.is_fast
        options = {"split_special_tokens": True} if self._signs else {}
        found = tokenizer(
            seen, add_special_tokens=False, return_offsets_mapping=fast, verbose=False, **options
        )
        count = len(found["input_ids"])
        if count <= limit:
            return seen, count, len(seen) < len(text)
        if fast:
            return seen[: found["offset_mapping"][limit - 1][1]], limit, True
        return tokenizer.decode(found["input_ids"][:limit]).rstrip("\ufffd"), limit, True
