"""Which texts of a query source are too short, too long, repetitive, or in another language."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from llm2vec_gen.errors import InputError, check_integer

FAULTS = ("too_short", "too_long", "repetitive", "other_language")
"""What a row is dropped for, in the order of the checks; the counts of a source's report have these names."""

FIELDS = ("query", "answer")
GRAM = 3  # words, or characters of a text without spaces


class QualityFilter:
    """Rules for the texts of a row; a rule that is None checks nothing.

    Args:
        min_characters, max_characters: length of the stripped text.
        max_repetition: largest `repetition`, 0 to 1; ordinary prose is below 0.1, a text said five times at about 0.8.
        languages: ISO 639-1 codes that are kept, e.g. ["en"], as py3langid tells them.
        min_language_characters: shorter texts are of any language, because they are too short to tell.
        fields: which texts are checked, "query" or "answer" (where the source has answers) or both.

    Raises InputError for values that cannot work, and for codes of languages that py3langid does not know.
    """

    def __init__(
        self,
        min_characters: int | None = None,
        max_characters: int | None = None,
        max_repetition: float | None = None,
        languages: Sequence[str] | None = None,
        min_language_characters: int = 30,
        fields: Sequence[str] = ("query",),
    ):
        for key, value in (("min_characters", min_characters), ("max_characters", max_characters)):
            check_integer(f"quality.{key}", value, least=1, null=True)
        check_integer("quality.min_language_characters", min_language_characters, least=0)
        if min_characters and max_characters and min_characters > max_characters:
            raise InputError(
                f"quality.min_characters={min_characters} is more than quality.max_characters={max_characters}: no "
                "text is left; lower the one or raise the other"
            )
        number = isinstance(max_repetition, int | float) and not isinstance(max_repetition, bool)
        if max_repetition is not None and not (number and 0 <= max_repetition <= 1):
            raise InputError(f"quality.max_repetition={max_repetition}: expected a number from 0 to 1, or null")
        if isinstance(fields, str) or not fields or (unknown := [field for field in fields if field not in FIELDS]):
            wrong = fields if isinstance(fields, str) or not fields else unknown
            raise InputError(f"quality.fields={wrong}: expected a list of {' and '.join(FIELDS)}")
        self.min_characters, self.max_characters = min_characters or 0, max_characters
        self.max_repetition, self.min_language_characters = max_repetition, min_language_characters
        self.fields = tuple(fields)
        self.languages = None if languages is None else self._known(languages)

    def fault(self, query: str, answer: str | None) -> str | None:
        """Return the first of FAULTS that a row has, None for a good one."""
        texts = {"query": query, "answer": answer}
        found = [self._fault_of(text) for field in self.fields if (text := texts[field]) is not None]
        return min(filter(None, found), key=FAULTS.index, default=None)

    def _fault_of(self, text: str) -> str | None:
        if len(text) < self.min_characters:
            return "too_short"
        if self.max_characters is not None and len(text) > self.max_characters:
            return "too_long"
        if self.max_repetition is not None and repetition(text) > self.max_repetition:
            return "repetitive"
        if self.languages is not None and len(text) >= self.min_language_characters:
            language, _ = self._identifier.classify(text)
            return None if language in self.languages else "other_language"
        return None

    @cached_property
    def _identifier(self) -> Any:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        return LanguageIdentifier.from_model_file(MODEL_FILE)

    def _known(self, languages: Sequence[str]) -> frozenset[str]:
        if isinstance(languages, str) or not languages:
            raise InputError(f"quality.languages={languages}: expected a list of codes, e.g. [en], or null for all")
        labels = [str(label) for label in self._identifier.labels]
        if unknown := [language for language in languages if language not in labels]:
            raise InputError(f"quality.languages: {unknown[0]!r} is unknown; known are {', '.join(sorted(labels))}")
        return frozenset(languages)


def repetition(text: str) -> float:
    """Return the fraction of a text's three-word sequences that stood in it before: 0 all differ, near 1 all the same.

    1 - distinct / all. A text of one or two words is read as characters, so "aaaaaaaa" repeats too. Under two sequences
    the fraction is 0. Letters count whatever their case.
    """
    parts: Sequence[str] = text.lower().split()
    if len(parts) < GRAM:
        parts = text.lower()
    grams = [tuple(parts[start : start + GRAM]) for start in range(len(parts) - GRAM + 1)]
    return 0.0 if len(grams) < 2 else 1 - len(set(grams)) / len(grams)
