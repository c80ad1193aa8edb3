"""A record of what processes do to the files of a folder, and the folder as a power cut would leave it.

`recorded` notes each change of a name (make, rename, remove), each fsync and each printed line, with the folder's
content at that moment, also in Python processes that start meanwhile. `Record.after_power_cut` makes the folder anew
from what was on disk before a certain event:

- content that was synced, and empty files where none was;
- names as their folder was last synced, or, with `keep_names`, all names: a file system may write them sooner, as ext4
  does. A file that was cut off and written anew is then empty.

Changes of content need no events: a later event shows them. Links and hard links are not recorded.
"""

import fnmatch
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]

VARIABLE = "RECORDED_FOLDER"
"""Environment variable with the two folders of `recorded`, for processes that start meanwhile."""

CHANGES = {"os.remove": "remove", "os.rename": "rename", "os.mkdir": "mkdir", "os.rmdir": "rmdir"}
"""Audited calls; Python announces them before they are carried out."""

TEMPORARY = (".*",)
"""Names of files whose loss is no loss: those that are renamed when they are complete."""


@dataclass(frozen=True)
class Entry:
    """A file or folder: its inode number, and the SHA-256 of a file's content (empty for a folder)."""

    inode: int
    content: str

    @property
    def is_folder(self) -> bool:
        return not self.content


@dataclass(frozen=True)
class Event:
    """Something that a process did.

    Attributes:
        kind: begin, mkdir, rmdir, remove, rename, sync or print.
        path: relative to the recorded folder; of a print its text.
        target: new name of what is renamed; otherwise empty.
        tree: the folder's content just before, and of a sync just after it, by relative path; `.` is the folder.
    """

    kind: str
    path: str
    target: str
    tree: dict[str, Entry]


class Recorder:
    """Appends events to `events.jsonl` in a folder, and contents to files named by their SHA-256."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.store = root.resolve(), store
        self._is_busy = threading.local()

    def note(self, kind: str, path: str, target: str = "") -> None:
        """Append an event, unless it comes from this method itself."""
        if getattr(self._is_busy, "now", False):
            return
        self._is_busy.now = True
        try:
            tree = {name: (entry.inode, entry.content) for name, entry in self._tree().items()}
            is_missing = kind in ("remove", "rmdir", "rename") and path not in tree
            if is_missing or (kind == "rmdir" and any(name.startswith(f"{path}/") for name in tree)):
                return  # it fails
            line = json.dumps([kind, path, target, tree]).encode() + b"\n"
            descriptor = os.open(self.store / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, line)
            os.close(descriptor)
        finally:
            self._is_busy.now = False

    def relative(self, path: Any, folder: int | None = None) -> str | None:
        """A path below the recorded folder, relative to it; None for others."""
        with suppress(TypeError, ValueError, OSError):
            whole = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else Path(os.fsdecode(path))
            if folder not in (None, -1):
                whole = Path(f"/proc/self/fd/{folder}").readlink() / whole
            whole = whole.absolute()
            return str((whole.parent.resolve() / whole.name).relative_to(self.root))
        return None

    def _tree(self) -> dict[str, Entry]:
        tree = {".": Entry(self.root.stat().st_ino, "")} if self.root.exists() else {}
        for folder, names, files in os.walk(self.root):
            for name in (*names, *files):
                path = Path(folder, name)
                with suppress(OSError):  # another process has just removed it
                    content = "" if path.is_dir() else self._content(path)
                    tree[str(path.relative_to(self.root))] = Entry(path.lstat().st_ino, content)
        return tree

    def _content(self, path: Path) -> str:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if not (kept := self.store / digest).exists():
            kept.write_bytes(data)
        return digest


_recorder: Recorder | None = None


def _audit(name: str, arguments: tuple[Any, ...]) -> None:
    if _recorder is None or name not in CHANGES:
        return
    folder = arguments[-1] if name != "os.rename" else arguments[2]
    if (path := _recorder.relative(arguments[0], folder)) is not None:
        target = _recorder.relative(arguments[1], arguments[3]) if name == "os.rename" else ""
        _recorder.note(CHANGES[name], path, target or "")


def _recorded_sync(real: Callable[[int], None]) -> Callable[[Any], None]:
    def fsync(file: Any) -> None:
        real(file)
        number = file if isinstance(file, int) else file.fileno()
        if _recorder is not None and (path := _recorder.relative(number)) is not None:
            _recorder.note("sync", path)

    return fsync


class _RecordedStream:
    """Standard output, whose lines are events."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if _recorder is not None and text.strip():
            _recorder.note("print", text)
        return int(self._stream.write(text) or len(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def install(root: Path, store: Path) -> Callable[[], None]:
    """Record in this process from now on; returns a function that ends it."""
    global _recorder  # an audit hook stays for the life of the process
    if not getattr(install, "is_hooked", False):
        sys.addaudithook(_audit)
        install.is_hooked = True  # type: ignore[attr-defined]
    real_sync, real_output = os.fsync, sys.stdout
    os.fsync, sys.stdout = _recorded_sync(real_sync), _RecordedStream(real_output)  # type: ignore[assignment]
    _recorder = Recorder(root, store)

    def end() -> None:
        global _recorder
        _recorder, os.fsync, sys.stdout = None, real_sync, real_output

    return end


def install_from_environment() -> None:
    """Record in a process that was started by one that records."""
    if value := os.environ.get(VARIABLE):
        install(*map(Path, value.split(os.pathsep)))


@contextmanager
def recorded(root: Path, store: Path) -> Iterator[None]:
    """Record what this process, and Python processes that it starts, do to a folder; see `Record`.

    Args:
        store: folder for the record, outside of `root`.
    """
    store.mkdir(parents=True, exist_ok=True)
    (store / "sitecustomize.py").write_text(
        "from tests.support.power_cuts import install_from_environment\ninstall_from_environment()\n"
    )
    paths = [str(store), str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    before = {name: os.environ.get(name) for name in (VARIABLE, "PYTHONPATH")}
    os.environ |= {VARIABLE: f"{root.absolute()}{os.pathsep}{store.absolute()}", "PYTHONPATH": os.pathsep.join(paths)}
    end = install(root, store)
    try:
        assert _recorder is not None
        _recorder.note("begin", ".")
        yield
        _recorder.note("print", "saved: the end of the record")
    finally:
        end()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


Node = tuple[int, int]
"""An inode number, which is used again, and how often it was."""


class _Disk:
    """What is on disk: content of files, and names in folders, by node."""

    def __init__(self, first: Event) -> None:
        self._uses: dict[int, int] = {}
        self.contents: dict[Node, str] = {}
        self.names: dict[Node, dict[str, Node]] = {}
        for path, entry in first.tree.items():
            self._sync(path, first.tree)
            if not entry.is_folder:
                self.contents[self.node(entry)] = entry.content
        self.root = self.node(first.tree["."]) if "." in first.tree else None

    def node(self, entry: Entry) -> Node:
        return entry.inode, self._uses.get(entry.inode, 0)

    def apply(self, event: Event) -> None:
        if "." in event.tree and self.root is None:
            self.root = self.node(event.tree["."])
        lost = event.path if event.kind in ("remove", "rmdir") else event.target
        if event.kind == "sync" and event.path in event.tree:
            self._sync(event.path, event.tree)
        elif lost and (entry := event.tree.get(lost)) is not None:
            self._uses[entry.inode] = self._uses.get(entry.inode, 0) + 1

    def _sync(self, path: str, tree: dict[str, Entry]) -> None:
        if tree[path].is_folder:
            children = {name: entry for name, entry in tree.items() if name != "." and str(Path(name).parent) == path}
            self.names[self.node(tree[path])] = {Path(name).name: self.node(entry) for name, entry in children.items()}
        else:
            self.contents[self.node(tree[path])] = tree[path].content

    def has_content(self, entry: Entry) -> bool:
        """Whether the present content of a file is on disk."""
        return entry.is_folder or self.contents.get(self.node(entry)) == entry.content

    def at_risk(self, tree: dict[str, Entry], may_be_lost: Sequence[str]) -> set[str]:
        """Paths whose name or present content is not on disk, except where a part of the path has such a pattern."""
        synced = self.synced()
        return {
            path
            for path, entry in tree.items()
            if not any(fnmatch.fnmatch(part, pattern) for pattern in may_be_lost for part in Path(path).parts)
            and (synced.get(path) != self.node(entry) or not self.has_content(entry))
        }

    def synced(self) -> dict[str, Node]:
        """Paths whose names are on disk, with their nodes."""
        paths: dict[str, Node] = {}

        def walk(node: Node, path: Path) -> None:
            paths[str(path)] = node
            for name, child in self.names.get(node, {}).items():
                walk(child, path / name)

        if self.root is not None:
            walk(self.root, Path())
        return paths


class Record:
    """What `recorded` noted in a folder.

    Attributes:
        events: in their order.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self.events = [
            Event(kind, path, target, {name: Entry(*entry) for name, entry in tree.items()})
            for kind, path, target, tree in map(json.loads, (store / "events.jsonl").read_text().splitlines())
        ]

    def after_power_cut(self, number: int, folder: Path, *, keep_names: bool = False) -> None:
        """Make the recorded folder anew as a power cut just before an event leaves it (see the module's text).

        Args:
            number: of the event, from 0.
            folder: where; what is there is replaced.
        """
        disk = _Disk(self.events[0])
        for event in self.events[:number]:
            disk.apply(event)
        now = self.events[number].tree
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        paths = {path: disk.node(entry) for path, entry in now.items()} if keep_names else disk.synced()
        folders = {*disk.names, *(disk.node(entry) for entry in now.values() if entry.is_folder)}
        for path, node in sorted(paths.items()):
            if node in folders:
                (folder / path).mkdir(exist_ok=True)
                continue
            content = self._read(disk.contents.get(node))
            if keep_names and not self._read(now[path].content).startswith(content):
                content = b""
            (folder / path).write_bytes(content)

    def _read(self, digest: str | None) -> bytes:
        return (self._store / digest).read_bytes() if digest else b""

    def losses(self, *may_be_lost: str, announces: str = r"\b(saved|wrote|signed)\b") -> list[str]:
        """What a power cut could take although something on disk was removed, or a line says that it is saved.

        - Where a file on disk is removed, and where a line announces a result, all files are on disk.
        - Where a file is renamed, its content is on disk.

        Args:
            may_be_lost: patterns of names, such as logs, besides those of temporary files.
            announces: pattern of the lines.

        Returns:
            A line for each event that comes too early.
        """
        losses = []
        disk = _Disk(self.events[0])
        for number, event in enumerate(self.events):
            where = f"event {number}, {event.kind} {event.path.strip()}"
            if event.kind == "rename":
                if not disk.has_content(event.tree[event.path]):
                    losses.append(f"{where} to {event.target}: its content is not on disk")
            elif (event.kind == "print" and re.search(announces, event.path)) or (
                event.kind == "remove"
                and event.path in disk.synced()
                and not event.path.rpartition("/")[2].startswith(".")
            ):
                lost = disk.at_risk(event.tree, (*TEMPORARY, *may_be_lost)) - {event.path}
                losses += [f"{where}: not on disk: {', '.join(sorted(lost))}"] if lost else []
            disk.apply(event)
        return losses


@contextmanager
def nothing_lost(root: Path, *may_be_lost: str) -> Iterator[None]:
    """Record the block, and check that it loses nothing (see `Record.losses`)."""
    with tempfile.TemporaryDirectory() as store:
        with recorded(root, Path(store)):
            yield
        record = Record(Path(store))
    assert record.losses(*may_be_lost) == []
    assert any(event.kind == "sync" for event in record.events), "nothing was written"


def run_recorded_script(root: Path, store: Path, name: str, flags: Sequence[str]) -> None:
    """Do in a forked process what `python NAME FLAGS` does, and record it."""
    from chaos_processes import run_script  # of benchmarks/, which only forks import

    with recorded(root, store):
        run_script(name, flags)
