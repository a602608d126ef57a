"""The paper's own instructions: somebody else's sentences, fetched on demand, checked and cached, never shipped."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from llm2vec_gen.errors import InputError, closest
from llm2vec_gen.evaluations.bright import DOMAINS

BRIGHT = {f"bright_{domain}": domain for domain in DOMAINS}  # task -> domain


class PaperInstruction:
    """What the reference repository puts before the texts of each task.

    url         where its files are, at one commit
    file        the file with the instructions of MTEB and AdvBench-IR (task -> text), and its `sha256`
    bright      where BRIGHT's files are, {domain} in it; each holds instructions.query with {task} in it
    documents   the instruction of every document: of our own wording, for the file has none
    same_as     task -> the task whose instruction it shares
    cache       folder of the fetched files; files put there by hand are taken too

    Nothing is fetched before the first instruction is asked for. A file that is not the expected one is an InputError,
    as is a task that the files do not name. BRIGHT's files are pinned by the commit in `url` and, once fetched, by the
    hash noted beside them.
    """

    def __init__(
        self, url: str, file: str, sha256: str, bright: str, documents: str, same_as: dict[str, str], cache: str
    ) -> None:
        self.url, self.file, self.sha256, self.bright = url, file, sha256, bright
        self.documents, self.same_as = documents, dict(same_as)
        self.cache = Path(cache).expanduser()
        self._tasks: dict[str, str] = {}

    def query(self, task: str, category: str) -> str:
        """Return the task's instruction; InputError with the nearest names where the files have none."""
        task = self.same_as.get(task, task)
        if task in BRIGHT:
            return self._bright(BRIGHT[task])
        if not self._tasks:
            self._tasks = self._parsed(self.file, self._content(self.file, self.sha256))
        if task not in self._tasks:
            raise InputError(
                f"the paper's instructions have none for task {task!r}; near it: {closest(task, list(self._tasks))}; "
                "choose instruction=generative, or add the task to same_as"
            )
        return self._tasks[task]

    def document(self, task: str, category: str) -> str:
        """Return the instruction of every document of every task."""
        return self.documents

    def wording(self) -> dict[str, Any]:
        """Return the texts of the files as plain values, for a checkpoint and its exports; they are fetched for it."""
        if not self._tasks:
            self._tasks = self._parsed(self.file, self._content(self.file, self.sha256))
        tasks = self._tasks | {task: self._tasks[same] for task, same in self.same_as.items() if same in self._tasks}
        return {"categories": {}, "tasks": tasks, "documents": self.documents}

    def _bright(self, domain: str) -> str:
        name = self.bright.replace("{domain}", domain)
        try:
            text = self._parsed(name, self._content(name, self._noted(name)))["instructions"]["query"]
        except (KeyError, TypeError):
            raise InputError(f"{self._place(name)} has no instructions.query; delete it and run again") from None
        return text.replace("{task}", domain).strip()

    # ---- files

    def _place(self, name: str) -> Path:
        return self.cache / name.replace("/", "-")

    def _noted(self, name: str) -> str | None:
        """Return the recorded hash of an earlier fetch."""
        note = self._place(name).with_suffix(".sha256")
        return note.read_text().strip() if note.is_file() else None

    def _content(self, name: str, sha256: str | None) -> bytes:
        place = self._place(name)
        content = place.read_bytes() if place.is_file() else self._fetched(name)
        found = hashlib.sha256(content).hexdigest()
        if sha256 and found != sha256:
            raise InputError(
                f"{place} is not the file the paper used (its sha256 is {found}, expected {sha256}); delete it and run "
                f"again, or put the file of {self.url}/{name} there"
            )
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_suffix(".sha256").write_text(found + "\n")
            half = place.with_suffix(f".{os.getpid()}")
            half.write_bytes(content)
            half.replace(place)  # in one step: several processes may fetch it
        return content

    def _fetched(self, name: str) -> bytes:
        address = f"{self.url}/{name}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise InputError(
                f"instruction=paper needs {address}, which cannot be fetched ({error}); download it elsewhere and put "
                f"it at {self._place(name)}, or choose instruction=generative"
            ) from None

    def _parsed(self, name: str, content: bytes) -> dict[str, Any]:
        try:
            return json.loads(content)
        except json.JSONDecodeError as error:
            raise InputError(f"{self._place(name)} is no JSON file ({error}); delete it and run again") from None
