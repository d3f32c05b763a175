"""One result computed by several processes that do not talk: each leaves its part beside the others', and whoever finds
all of them there joins them. Two may find them at the same time; joining writes the same twice."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from vsjax.errors import UserError, WriteError
from vsjax.plates.storage import LOCK, Store
from vsjax.schema import Document, parse, with_tuples

LOG = logging.getLogger(__name__)
FOLDER = ".vsjax"
_REMEDY = "remove this file and start the process again that left it"
_D = TypeVar("_D", bound=Document)


class _Part(Document):
    identity: dict[str, Any]
    content: dict[str, Any]


def is_part(key: str) -> bool:
    """Whether a file at the top of a plate or folder is one that processes leave for each other."""
    return re.fullmatch(rf"{re.escape(FOLDER)}/(\w+/)+\d+_of_\d+\.jsonl?({re.escape(LOCK)})?", key) is not None


class Parts(Generic[_D]):
    """The parts of one command in a plate or a folder, as JSON documents `.vsjax/NAME/I_of_N.json`.

    Args:
        store: the plate or folder.
        kind: what a part is.
        name: of what is computed, such as "statistics".
        process, processes: this one's number, from 0, and how many there are.
        identity: what the command is; a part that another command left counts as missing.
    """

    def __init__(
        self,
        store: Store,
        kind: type[_D],
        name: str,
        process: int,
        processes: int,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._kind = kind
        self._folder = f"{FOLDER}/{name}"
        self._keys = [f"{self._folder}/{number}_of_{processes}.json" for number in range(processes)]
        self._process = process
        self._identity = with_tuples(identity or {})

    def write(self, content: _D) -> None:
        """Leave this process's part; atomic."""
        part = _Part(identity=self._identity, content=content.model_dump())
        self._store.write_json(self._keys[self._process], part.model_dump(mode="json"))

    def gather(self, numbers: Iterable[int] | None = None) -> list[_D] | None:
        """The parts of all processes (or of these) in order, None while one is missing.

        Raises:
            UserError: a part is damaged or cannot be read.
        """
        keys = self._keys if numbers is None else [self._keys[number] for number in numbers]
        documents = [self._store.read_json(key) for key in keys]
        if None in documents:
            return None
        places = [self._store.address(key) for key in keys]
        parts = [parse(_Part, document, f"{at}:", _REMEDY) for document, at in zip(documents, places, strict=True)]
        if any(part.identity != self._identity for part in parts):
            return None
        return [
            parse(self._kind, part.content, f"{at}: content", _REMEDY) for part, at in zip(parts, places, strict=True)
        ]

    def withdraw(self) -> None:
        """Delete this process's part, of whatever command: it is about to be made anew."""
        self._store.delete_key(self._keys[self._process])

    def clear(self) -> None:
        """Delete all parts, also those that other commands and other numbers of processes left, and what lies below.

        Of a bucket that must not be listed only those of this command, and one line in the log says so.
        """
        if len(self._keys) > 1:
            for key in self._keys:
                self._store.delete_key(key)
        try:
            self._store.delete_folder(self._folder)
        except WriteError:
            raise
        except UserError as error:
            if self._store.local_path is not None:
                raise
            LOG.info("%s; if other processes were stopped here before, delete this folder", error)
