"""Tokens to text while they come: complete characters only, and nothing that may be the start of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class TextStream:
    """The text of a growing list of ids, cut at the first stop string.

    `decode` takes ids and returns their text. A few earlier ids are decoded with every new one, since tokenizers treat
    the first token of a text apart and a character may have several tokens; what ends in half a character waits.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()):
        self.decode, self.stops = decode, list(stops)
        self.text = ""
        self.stopped = False
        self._ids: list[int] = []
        self._start = self._read = 0  # ids from `_start` are decoded again; those up to `_read` are in the text
        self._released = 0

    def push(self, token: int) -> None:
        """Take one more id."""
        self._ids.append(token)
        self._extend(complete=False)

    def finish(self) -> None:
        """Take what still waits: nothing follows."""
        if not self.stopped:
            self._extend(complete=True)

    def release(self, last: bool = False) -> str:
        """Return the text that is new since the last call and certain; all of it where it is the `last`."""
        end = len(self.text) if last or self.stopped else len(self.text) - self._possible_stop()
        found = self.text[self._released : end]
        self._released = max(self._released, end)
        return found

    def _extend(self, complete: bool) -> None:
        before, now = self.decode(self._ids[self._start : self._read]), self.decode(self._ids[self._start :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not complete):
            return
        searched = max(0, len(self.text) - max(map(len, self.stops), default=1) + 1)
        self.text += now[len(before) :]
        self._start, self._read = self._read, len(self._ids)
        places = [place for stop in self.stops if (place := self.text.find(stop, searched)) >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for stop in self.stops:
            for length in range(min(len(stop) - 1, len(self.text)), longest, -1):
                if self.text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
