"""`calls images`: the images that calls have used, removing those that are not needed, and loading some from a file."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from calls.cli import words
from calls.cli.common import takes_ledger
from calls.cli.progress import Progress
from calls.cli.render import Column, Row, emit, formats, result
from machine.errors import DriverError, UsageError
from machine.units import SECOND, size

if TYPE_CHECKING:
    from calls.cleaning import Image
    from driver.docker.images import Images

_T = TypeVar("_T")
_PIECE = 2**20
_COLUMNS = (
    Column("IMAGE", lambda row: row["id"].removeprefix("sha256:")[:12]),
    Column("NAMES", lambda row: ", ".join(row["names"] or row["digests"]), fold=True),
    Column("SIZE", lambda row: words.size(row["size_bytes"]), right=True),
    Column("CALLS", lambda row: str(row["calls"]), right=True),
    Column("LAST USED", lambda row: words.when(row["last_used_at"])),
    Column("KEPT", lambda row: row["kept"] or ""),
)


@click.command()
@click.option("--clean", is_flag=True, help="Remove images until the rest is within --limit.")
@click.option("--limit", metavar="SIZE", help="What all of them may take: 10g.")
@click.option("--exempt", multiple=True, metavar="IMAGE", help="Never remove that; without a tag: any of that name.")
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option(
    "--load", type=click.Path(), metavar="FILE", help="Load images that docker save has written; - is standard input."
)
@formats
@takes_ledger
def command(
    ledger: Path,
    form: str,
    limit: str | None,
    exempt: tuple[str, ...],
    load: str | None,
    *,
    clean: bool,
    dry_run: bool,
) -> int:
    """List the images that calls of this ledger have used, least recently used first; remove some, or load others.

    KEPT says why one is never removed: in use (by a container, or a call that has not ended), exempt, or only here
    (no registry knows it, so nobody could fetch it again). Sizes count a layer in each image that has it.

    Exit status: 0, or 1 when an image could not be removed.
    """
    if load is not None:
        if clean or dry_run or limit is not None or exempt:
            raise click.UsageError("--load goes with no other option")
        return _load(load, form)
    from calls.cleaning import Exempt, surplus, used_images
    from ledger.read import Reader

    if clean != (limit is not None) or (dry_run and not clean):
        raise click.UsageError("--clean and --limit go together, and --dry-run with them")
    spared = _read("--exempt", Exempt, exempt)
    most = 0 if limit is None else _read("--limit", size, limit)
    with Reader(ledger) as reader, _engine() as engine:
        images = used_images(engine.stored(), reader.images(), spared)
        if clean:
            return _clean(engine, images, surplus(images, most), form, dry_run=dry_run)
    emit(form, map(_row, images), _COLUMNS, ("id", "names", "digests", "size_bytes", "calls", "last_used_at", "kept"))
    return 0


def _read(option: str, read: Callable[[Any], _T], given: object) -> _T:
    try:
        return read(given)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


@contextmanager
def _engine() -> Iterator[Images]:
    from driver.docker.engine import connect
    from driver.docker.images import Images

    client = connect()
    try:
        yield Images(lambda: client)
    finally:
        client.close()


def _load(file: str, form: str) -> int:
    with _opened(file) as source, _engine() as engine, Progress("loading") as progress:
        names = engine.load(_pieces(file, source, progress))
    result(form, {"loaded": list(names)}, "\n".join(f"loaded {name}" for name in names))
    return 0


def _opened(file: str) -> BinaryIO:
    if file == "-" and sys.stdin.isatty():
        raise UsageError("--load: standard input is a terminal, and no file")
    try:
        return Path(file).open("rb") if file != "-" else open(0, "rb", closefd=False)
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: str, error: OSError) -> UsageError:
    return UsageError(f"--load: cannot read {file}: {error.strerror}")


def _pieces(file: str, source: BinaryIO, progress: Progress) -> Iterator[bytes]:
    found = os.fstat(source.fileno())
    known = found.st_size if stat.S_ISREG(found.st_mode) else None
    done = 0
    try:
        while data := source.read(_PIECE):
            yield data
            progress.show(done := done + len(data), known)
    except OSError as error:
        raise _unreadable(file, error) from None


def _row(image: Image) -> Row:
    stored = image.stored
    return {
        "id": stored.id,
        "names": list(stored.names),
        "digests": list(stored.digests),
        "size_bytes": stored.size,
        "calls": image.calls,
        "last_used_at": datetime.fromtimestamp(image.last / SECOND, UTC).isoformat(timespec="milliseconds"),
        "kept": image.kept,
    }


def _clean(engine: Images, images: list[Image], going: list[Image], form: str, *, dry_run: bool) -> int:
    gone, refused = list(going) if dry_run else [], []
    with Progress("removing") as progress:
        for done, image in enumerate([] if dry_run else going, 1):
            try:
                engine.remove(image.stored)
            except DriverError as error:
                refused.append(str(error))
            else:
                gone.append(image)
            progress.show(done, len(going))
    freed, total = (sum(image.stored.size for image in some) for some in (gone, images))
    row: dict[str, Any] = {
        "removed": [_row(image) for image in gone],
        "removed_bytes": freed,
        "left_bytes": total - freed,
        "refused": refused,
        "dry_run": dry_run,
    }
    result(form, row, _said(gone, freed, total - freed, dry_run=dry_run))
    for message in refused:
        click.echo(f"calls: an image stays: {message}", err=True)
    return int(bool(refused))


def _said(gone: list[Image], freed: int, left: int, *, dry_run: bool) -> str:
    from calls.cleaning import title

    rest = f"images that calls have used take {words.size(left)}"
    if not gone:
        return f"nothing to remove: {rest}"
    verb = "would remove" if dry_run else "removed"
    names = "".join(f"\n{title(image.stored)}" for image in gone)
    return f"{verb} {len(gone)} image{'s' * (len(gone) > 1)}, {words.size(freed)}; then {rest}{names}"
