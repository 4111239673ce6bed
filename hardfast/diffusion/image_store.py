"""Generated images on disk: whole groups or nothing, so that a run can be killed anywhere and continued."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardfast.data.splits import LabelledImages
from hardfast.diffusion.image_encoding import from_png, from_shard, to_png, to_shard
from hardfast.diffusion.image_record import FORMATS, Candidate, Settings
from hardfast.distill.atomic import write_bytes
from hardfast.ops import _checks

__all__ = ["FORMATS", "BrokenGroupError", "Candidate", "Generated", "ImageStore", "Settings", "load_generated"]

#: Candidates below this number, if kept, also leave the image that their search began with.
PREVIEWS = 96
_SETTINGS = "generation.json"
_RECORD = re.compile(r"group-(\d+)\.json")
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp")  # as atomic_write names them


class BrokenGroupError(ValueError):
    """A group of generated images is damaged on disk; the message names the file."""


class _Group(NamedTuple):
    """A group that is done: its candidates, and the SHA-256 of each of its files by path below the store."""

    candidates: list[Candidate]
    files: dict[str, str]


class ImageStore:
    """A directory of generated images, written by groups of consecutive numbers.

    ``generation.json`` says what the set is; ``images/`` is the data set, and nothing else; ``records/`` has, per
    group, every candidate, dropped ones too, and the digests of the group's files; ``preview/`` has some unguided
    images. The record of a group is written last: without one, nothing of the group counts. Every file is replaced
    atomically, and has the same bytes whenever it is written again.

    The format ``folder`` is ``images/<class name>/<number>.png``, which torchvision's ``ImageFolder`` reads (it
    numbers the classes that have an image in the order of their names), with the ``metadata.jsonl`` of Hugging Face's
    ``imagefolder``. The format ``webdataset`` is ``images/images-<group>.tar``, of ``<number>.png``, ``.cls`` and
    ``.json``; a group of which nothing was kept is an empty archive.

    Several processes may write different groups at once.

    Args:
        path: the directory; created by :meth:`begin`.
        format: ``"folder"`` or ``"webdataset"``.
        recipe: name of the recipe.
        fields: its fields, as JSON has them; a later run in this directory must have the same.
    """

    def __init__(
        self, path: Path, format: str = "folder", *, recipe: str = "", fields: Mapping[str, Any] | None = None
    ) -> None:
        _checks.one_of("format", format, FORMATS)
        self.path = Path(path)
        self.images = self.path / "images"
        self.records = self.path / "records"
        self.preview = self.path / "preview"
        self.format = format
        self.recipe = recipe
        self.fields = json.loads(json.dumps(fields or {}, default=str))
        self._settings: Settings | None = None

    @classmethod
    def open(cls, path: Path) -> ImageStore:
        """Opens what is there, to read it.

        Raises:
            FileNotFoundError: there is no generation.json.
            ValueError: generation.json is damaged.
        """
        found = _read_settings(Path(path))
        if found is None:
            raise FileNotFoundError(f"{Path(path) / _SETTINGS} is missing; `hardfast generate` makes such a directory")
        store = cls(path, found.format, recipe=found.recipe, fields=found.fields)
        store._settings = found
        return store

    @property
    def settings(self) -> Settings:
        """Those of :meth:`begin` or :meth:`open`."""
        if self._settings is None:
            raise RuntimeError("the store has no settings yet; call begin() first")
        return self._settings

    def check(self, **known: Any) -> None:
        """Compares the settings known so far, by name, with those of the directory, if it has any.

        Raises:
            ValueError: one differs, or the count is smaller; the message names it.
            FileExistsError: the directory holds something else.
            NotADirectoryError: it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file; give a directory (--out)")
        found = _read_settings(self.path)
        if found is None:
            others = [item.name for item in self.path.iterdir()] if self.path.is_dir() else []
            others = [name for name in others if not name.startswith(".")]
            if others and _read_settings(self.path) is None:  # another process may just have begun
                raise FileExistsError(
                    f"{self.path} holds {min(others)!r} and no {_SETTINGS}, so it is no set of generated images; "
                    "give another directory (--out)"
                )
            return
        ours = {"recipe": self.recipe, "format": self.format, **_prefixed(self.fields), **known}
        theirs = {**dataclasses.asdict(found), **_prefixed(found.fields)}
        theirs = {name: value for name, value in theirs.items() if name in ours or name.startswith("fields.")}
        for name in sorted({*ours, *theirs} - {"count"}):
            old, new = theirs.get(name), ours.get(name)
            if old != new:
                raise ValueError(
                    f"{self.path} was begun with {name} {old!r}, and this run has {new!r}; take the same settings to "
                    "continue it, or another directory (--out)"
                )
        if "count" in known and known["count"] < found.count:
            raise ValueError(f"count must be at least the {found.count} of {self.path}, got {known['count']}")

    def begin(
        self, *, count: int, group_size: int, class_names: Sequence[str], rank: int = 0, world_size: int = 1
    ) -> None:
        """Writes ``generation.json`` and removes what killed processes left half-written.

        Args:
            count: numbers in the set; more than in an earlier run continue it.
            group_size: numbers in a group.
            class_names: by label.
            rank: of this process, which writes the groups ``rank, rank + world_size, ...``.
            world_size: how many processes write.

        Raises:
            ValueError, FileExistsError, NotADirectoryError: as :meth:`check`.
            OSError: the directory cannot be written.
        """
        names = tuple(class_names)
        self.check(count=count, group_size=group_size, class_names=names)
        self.path.mkdir(parents=True, exist_ok=True)
        self._settings = Settings(self.recipe, self.fields, self.format, names, group_size, count)
        self.write_shared(_SETTINGS, lambda: _json(dataclasses.asdict(self.settings)))
        for directory in (self.images, self.records, self.preview):
            directory.mkdir(exist_ok=True)
        for file in self.path.rglob(".*.tmp"):
            group = self._group_of(file)
            if group is not None and group % world_size == rank:
                file.unlink(missing_ok=True)

    def is_done(self, group: int) -> bool:
        """Whether a group is there, whole: every byte of its files is read.

        Raises:
            BrokenGroupError: a file of it is missing, unreadable or not as it was written.
        """
        record = self._record(group)
        if record is None:
            return False
        for _ in self._files(group, record):
            pass
        return len(record.candidates) == len(self.settings.numbers(group))

    def put(self, group: int, candidates: Sequence[Candidate], images: Tensor, before: Tensor) -> None:
        """Writes a group; it counts once this has returned.

        Args:
            group: its number.
            candidates: one for each of its numbers.
            images: ``[len(candidates), C, H, W]`` with C 1 or 3, on the CPU, nominally in [0, 1]: clamped, and kept
                in eight bits.
            before: the unguided ones.

        Raises:
            OSError: a file cannot be written; the group does not count then.
        """
        for name, value in {"images": images, "before": before}.items():
            if value.dim() != 4 or value.shape[1] not in (1, 3) or len(value) != len(candidates):
                raise ValueError(
                    f"{name} must have shape [{len(candidates)}, C, H, W] with C 1 or 3, got {list(value.shape)}"
                )
        kept = [(index, candidate) for index, candidate in enumerate(candidates) if candidate.kept]
        files = {
            _preview_name(candidate): to_png(before[index]) for index, candidate in kept if candidate.number < PREVIEWS
        }
        pngs = [(candidate, to_png(images[index])) for index, candidate in kept]
        if self.format == "folder":
            files |= {f"images/{self._file_name(candidate)}": png for candidate, png in pngs}
        else:
            files[_shard_name(group)] = to_shard(_samples(pngs))

        self._record_path(group).unlink(missing_ok=True)
        for name, content in files.items():
            (self.path / name).parent.mkdir(exist_ok=True)
            write_bytes(self.path / name, content)
        digests = {name: _digest(content) for name, content in files.items()}
        record = {"candidates": [dataclasses.asdict(candidate) for candidate in candidates], "files": digests}
        write_bytes(self._record_path(group), _json(record))

    def finish(self) -> None:
        """Writes ``metadata.jsonl`` of all groups that are done, where the format has one."""
        if self.format == "folder":
            self.write_shared("images/metadata.jsonl", self._metadata)

    def write_shared(self, name: str, content: Callable[[], bytes]) -> Path:
        """Writes a file that is not of one group.

        Args:
            name: path below the store.
            content: makes the bytes, while no other process writes such a file: the last one to write has read all
                groups that any of them made.

        Raises:
            OSError: it cannot be written.
        """
        path = self.path / name
        with self._locked():
            for stale in path.parent.glob(f".{path.name}.*.tmp"):
                stale.unlink(missing_ok=True)
            return write_bytes(path, content())

    def candidates(self) -> list[Candidate]:
        """Every candidate of the groups that have a readable record, dropped ones too, in order."""
        found: list[Candidate] = []
        groups = self.settings.groups
        names = (_RECORD.fullmatch(path.name) for path in self.records.glob("group-*.json"))
        for group in sorted(int(name[1]) for name in names if name and int(name[1]) < groups):
            try:
                record = self._record(group)
            except BrokenGroupError:
                continue  # whoever asks for the group itself is told
            found += record.candidates if record else []
        return found

    def counts(self) -> dict[str, int]:
        """How many candidates were kept, dropped for each reason, and are still to be made."""
        candidates = self.candidates()
        reasons = Counter(f"dropped: {item.reason}" for item in candidates if not item.kept)
        kept = sum(item.kept for item in candidates)
        return {"kept": kept, **dict(sorted(reasons.items())), "to be made": self.settings.count - len(candidates)}

    def read(self, group: int) -> list[tuple[Candidate, Tensor]]:
        """The kept images of a group, ``[C, H, W]``, float32 in [0, 1].

        Raises:
            BrokenGroupError: the group is damaged, or has not been made.
        """
        record = self._record(group)
        if record is None:
            raise BrokenGroupError(f"{self._record_path(group)} is missing: the group has not been made")
        if len(record.candidates) != len(self.settings.numbers(group)):
            raise BrokenGroupError(f"{self._record_path(group)} is of fewer images than were asked for since")
        contents = {name: content for name, content in self._files(group, record) if name.startswith("images/")}
        place = self.path
        if self.format == "webdataset":
            place = self.path / _shard_name(group)
            with _named(place):
                contents = from_shard(contents[_shard_name(group)])
        found = []
        for candidate in record.candidates:
            if candidate.kept:
                name = (
                    f"images/{self._file_name(candidate)}" if self.format == "folder" else f"{candidate.number:08d}.png"
                )
                with _named(place / name):
                    found.append((candidate, from_png(contents[name])))
        return found

    def read_before(self, number: int) -> Tensor | None:
        """The unguided image of a number, as :meth:`read` has images; None where it was not kept.

        Raises:
            BrokenGroupError: it is damaged.
        """
        path = self.preview / f"{number:08d}.png"
        if not path.exists():
            return None
        with _named(path):
            return from_png(path.read_bytes())

    def _record_path(self, group: int) -> Path:
        return self.records / f"group-{group:06d}.json"

    def _record(self, group: int) -> _Group | None:
        """The record of a group, None without one; of the files nothing is read."""
        path = self._record_path(group)
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_bytes())
            candidates = [Candidate(**item) for item in record["candidates"]]
            numbers = [item.number for item in candidates]
            if not numbers or numbers != list(self.settings.numbers(group)[: len(numbers)]):
                raise ValueError(f"it has the numbers {numbers}")
            for item in candidates:
                if self.settings.class_names[item.label] != item.class_name:
                    raise ValueError(f"label {item.label} of {item.number} is not {item.class_name!r}")
            files = dict(record["files"])
            if files.keys() != self._names(group, candidates):
                raise ValueError(f"it has the files {', '.join(files)}")
            return _Group(candidates, files)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, RecursionError) as error:
            raise BrokenGroupError(f"{path} is no whole record of group {group} ({error})") from error

    def _names(self, group: int, candidates: Sequence[Candidate]) -> set[str]:
        """The files that :meth:`put` writes: a record cannot make a reader leave the store."""
        kept = [candidate for candidate in candidates if candidate.kept]
        previews = {_preview_name(candidate) for candidate in kept if candidate.number < PREVIEWS}
        if self.format == "webdataset":
            return {_shard_name(group), *previews}
        return {f"images/{self._file_name(candidate)}" for candidate in kept} | previews

    def _files(self, group: int, record: _Group) -> Iterator[tuple[str, bytes]]:
        """The files of a group with their content, one at a time."""
        for name, digest in record.files.items():
            path = self.path / name
            try:
                content = path.read_bytes()
            except OSError as error:
                raise BrokenGroupError(f"{path} of group {group} cannot be read: {error.strerror}") from error
            if _digest(content) != digest:
                raise BrokenGroupError(
                    f"{path} of group {group} is broken: its {len(content)} bytes are not those that were written"
                )
            yield name, content

    def _file_name(self, candidate: Candidate) -> str:
        return f"{_directories(self.settings.class_names)[candidate.label]}/{candidate.number:08d}.png"

    def _metadata(self) -> bytes:
        lines = []
        for candidate in self.candidates():
            if candidate.kept:
                entry = dataclasses.asdict(candidate)
                del entry["kept"], entry["reason"]
                lines.append(json.dumps({"file_name": self._file_name(candidate), **entry}) + "\n")
        return "".join(lines).encode()

    def _group_of(self, file: Path) -> int | None:
        """The group that a temporary file belongs to; None where it is another's file, or shared."""
        match = _TEMPORARY.fullmatch(file.name)
        parts = re.fullmatch(r"(group-|images-)?(\d+)\.(json|tar|png)", match["name"]) if match else None
        if not parts:
            return None
        return int(parts[2]) if parts[1] else int(parts[2]) // self.settings.group_size

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes out; the lock of a killed one ends with it."""
        with open(self.path / ".lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Generated(NamedTuple):
    """A set of generated images in memory.

    Args:
        images: the kept ones, in order of their numbers.
        candidates: one for each of them.
        skipped: what was left out as broken or not made, a sentence for each group.
    """

    images: LabelledImages
    candidates: list[Candidate]
    skipped: list[str]


def load_generated(path: Path, *, skip_broken: bool = False) -> Generated:
    """Loads the kept images of a directory that ``hardfast generate`` wrote, in either format.

    Args:
        path: the directory.
        skip_broken: leave out groups that are damaged or have not been made, and tell of them in ``skipped``.

    Returns:
        Images float32 in [0, 1], with what is known of each.

    Raises:
        FileNotFoundError: the directory has no generation.json.
        BrokenGroupError: a group is damaged or has not been made.
        ValueError: generation.json is damaged, or nothing was kept.

    Memory: all images at once.
    """
    store = ImageStore.open(path)
    found: list[tuple[Candidate, Tensor]] = []
    skipped = []
    for group in range(store.settings.groups):
        try:
            found += store.read(group)
        except BrokenGroupError as error:
            if not skip_broken:
                remedy = "run the same `hardfast generate` again, which makes what is missing, or skip it"
                raise BrokenGroupError(f"{error}; {remedy} (skip_broken=True)") from error
            skipped.append(str(error))
    if not found:
        raise ValueError(f"{path} has no image to load: none of its {store.settings.count} candidates was kept")
    labels = torch.tensor([candidate.label for candidate, _ in found])
    images = LabelledImages(torch.stack([image for _, image in found]), labels)
    return Generated(images, [candidate for candidate, _ in found], skipped)


def _read_settings(path: Path) -> Settings | None:
    file = path / _SETTINGS
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_bytes())
        return Settings(**{**content, "class_names": tuple(content["class_names"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}); give another directory, or remove this one") from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Says which image, or archive of them, could not be read."""
    try:
        yield
    except (KeyError, ValueError) as error:
        raise BrokenGroupError(f"{path} is broken, or missing there: {error}") from error


def _preview_name(candidate: Candidate) -> str:
    return f"preview/{candidate.number:08d}.png"


def _shard_name(group: int) -> str:
    return f"images/images-{group:06d}.tar"


def _prefixed(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {f"fields.{name}": value for name, value in fields.items()}


def _directories(class_names: Sequence[str]) -> list[str]:
    """A directory name for each class: its own, with the label where two classes would share one."""
    names = [re.sub(r"[^\w .,'()+-]", "_", name).strip(" .") or "class" for name in class_names]
    shared = Counter(name.casefold() for name in names)
    return [name if shared[name.casefold()] == 1 else f"{name}-{label}" for label, name in enumerate(names)]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _samples(pngs: Sequence[tuple[Candidate, bytes]]) -> dict[str, bytes]:
    """The files of a shard as webdataset names them: what belongs together differs in its suffix alone."""
    files = {}
    for candidate, png in pngs:
        metadata = json.dumps(dataclasses.asdict(candidate)).encode()
        for suffix, content in {"png": png, "cls": str(candidate.label).encode(), "json": metadata}.items():
            files[f"{candidate.number:08d}.{suffix}"] = content
    return files
