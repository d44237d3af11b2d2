"""A damaged ledger: every command says so in one line, or answers from what is whole; there is never a traceback."""

from __future__ import annotations

import random
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import Call, small

from calls.cli.group import _COMMANDS, run
from ledger.ledger import Ledger
from ledger.read import Reader
from ledger.sqlite import connect_reader, connect_writer, sqlite3
from machine.errors import CallsError, LedgerError

PAGE = 4096
HINT = "(calls verify says what is still good, calls salvage saves it)"

Harm = Callable[[bytearray], None]


def zeroed(page: int) -> Harm:
    def harm(data: bytearray) -> None:
        data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)

    return harm


def random_page(page: int) -> Harm:
    def harm(data: bytearray) -> None:
        data[page * PAGE : (page + 1) * PAGE] = random.Random(page).randbytes(PAGE)

    return harm


def cut(length: int) -> Harm:
    def harm(data: bytearray) -> None:
        del data[length:]

    return harm


def flipped(seed: int) -> Harm:
    """A few bits, anywhere or in the head of a page."""

    def harm(data: bytearray) -> None:
        chance = random.Random(seed)
        for _ in range(chance.choice((1, 1, 5))):
            at = chance.randrange(len(data))
            data[at // PAGE * PAGE + at % 16 if seed % 3 == 0 else at] ^= 1 << chance.randrange(8)

    return harm


def field(at: int, value: int) -> Harm:
    """A field of the file's header: four bytes."""

    def harm(data: bytearray) -> None:
        struct.pack_into(">i", data, at, value)

    return harm


HARMS = {
    **{f"page {page} zeroed": zeroed(page) for page in range(0, 48, 6)},
    **{f"page {page} random": random_page(page) for page in range(1, 48, 10)},
    **{f"cut to {length}": cut(length) for length in (1, 50, 99, 100, 512, PAGE, PAGE + 1, 10 * PAGE, 30 * PAGE + 7)},
    **{f"bits {seed}": flipped(seed) for seed in range(12)},
    "application id": field(68, 7),
    "no version": field(60, 0),
    "negative version": field(60, -7),
    "older version": field(60, 1),
    "schema format": field(44, 99),
    "pages": field(28, 7),
}
COMMANDS = (
    ("ps", "-a"),
    ("show", "ok"),
    ("show", "@last", "--json"),
    ("events", "ok"),
    ("events", "live", "--json"),
    ("stats", "ok"),
    ("stats", "ok", "--points"),
    ("stats", "live"),
    ("logs", "cut"),
    ("wait", "ok"),
    ("sql", "SELECT * FROM calls"),
    ("sql", "SELECT * FROM events"),
    ("sql", "SELECT count(*), sum(mean) FROM histogram_point"),
    ("replay", "ok"),
    ("replay", "--all", "--check"),
    ("metrics",),
    ("verify", "--json"),
    ("verify", "--head"),
    ("backup", "{out}"),
    ("salvage", "{ledger}", "-o", "{out}"),
    ("prune", "--older-than", "0s", "--dry-run"),
    ("prune", "--older-than", "0s"),
    ("rebuild",),
    ("cancel", "three"),
    ("kill", "live"),
    ("recover", "--dry-run"),
    ("pause", "live"),
    ("resume", "live"),
    ("signal", "live", "HUP"),
    ("top", "live"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "ledger.db"
    small(path)
    return path.read_bytes()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands carried out in this process leave no others behind, and no signal handler."""
    monkeypatch.setattr("calls.orphans.summon", lambda _: None)
    monkeypatch.setattr("calls.cli.answers.PATIENCE", 0)  # nobody conducts these calls
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("harm", HARMS)
def test_no_command_ends_in_a_traceback(
    whole: bytes, ledger: Path, tmp_path: Path, harm: str, alone: None, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    data = bytearray(whole)
    HARMS[harm](data)
    for words in COMMANDS:
        for file in tmp_path.glob("*.db*"):
            file.unlink(missing_ok=True)  # what the command before has left, it may still be removing
        ledger.write_bytes(data)
        status = run([word.format(ledger=ledger, out=tmp_path / "out.db") for word in words])
        said = capfdbinary.readouterr().err.decode(errors="replace")
        assert status in (0, 1, 2), words
        assert all(line.startswith("calls: ") or words[0] == "logs" for line in said.splitlines()), (words, said)


def test_every_command_was_tried() -> None:
    assert {words[0] for words in COMMANDS} == {*_COMMANDS} - {"run", "doctor", "images", "exec"}


@pytest.mark.parametrize("harm", ["application id", "no version", "negative version", "schema format", "page 0 zeroed"])
def test_damage_that_is_seen_at_once_takes_no_new_calls(whole: bytes, ledger: Path, harm: str) -> None:
    data = bytearray(whole)
    HARMS[harm](data)
    ledger.write_bytes(data)
    with pytest.raises(LedgerError):
        Ledger(ledger)
    assert ledger.read_bytes() == data


def table_page(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        statement = "SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = ?"
        return int(connection.execute(statement, (table,)).fetchone()[0]) - 1


@pytest.mark.parametrize("table", ["meta", "rule", "event", "sample", "log", "call", "histogram", "lease"])
@pytest.mark.parametrize("opens", [connect_writer, Ledger])
def test_a_table_that_does_not_begin_where_it_should_takes_no_new_calls(
    whole: bytes, ledger: Path, table: str, opens: Callable[[Path], object]
) -> None:
    ledger.write_bytes(whole)
    data = bytearray(whole)
    random_page(table_page(ledger, table))(data)
    ledger.write_bytes(data)
    with pytest.raises(LedgerError) as refused:
        opens(ledger)
    assert str(refused.value) == f"{ledger} is not a ledger, or is damaged: database disk image is malformed {HINT}"


@pytest.mark.parametrize("table", ["event", "call", "lease", "rule"])
def test_a_table_that_is_gone_takes_no_new_calls(ledger: Path, table: str) -> None:
    small(ledger)
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute(f"DROP TABLE {table}")
    with pytest.raises(LedgerError, match=f"damaged: no such table: (main.)?{table} ") as refused:
        Ledger(ledger)
    assert str(refused.value).endswith(HINT)


def test_a_file_that_was_cut_short_takes_no_new_calls(whole: bytes, ledger: Path) -> None:
    ledger.write_bytes(whole[: 20 * PAGE])
    with pytest.raises(LedgerError, match="malformed") as refused:
        Ledger(ledger)
    assert str(refused.value).endswith(HINT)


def test_damage_that_is_met_later_is_said_in_the_same_line(whole: bytes, ledger: Path) -> None:
    ledger.write_bytes(whole)
    with closing(sqlite3.connect(ledger)) as connection:
        statement = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_call_1'"
        (page,) = connection.execute(statement).fetchone()
    data = bytearray(whole)
    random_page(page - 1)(data)
    ledger.write_bytes(data)
    with Ledger(ledger) as opened, pytest.raises(LedgerError) as refused:
        Call(opened, 99)
    assert str(refused.value) == f"{ledger} is not a ledger, or is damaged: database disk image is malformed {HINT}"


def test_an_error_of_our_own_is_not_blamed_on_a_whole_ledger(whole: bytes, ledger: Path) -> None:
    ledger.write_bytes(whole)
    with pytest.raises(KeyError, match="ours"), Reader(ledger):
        raise KeyError("ours")


def test_an_error_over_values_that_no_ledger_holds_is_blamed_on_the_file(ledger: Path) -> None:
    small(ledger)
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("UPDATE call SET state = 'bored', ended_at = NULL")
        connection.commit()
    with Reader(ledger) as reader, pytest.raises(LedgerError) as refused:
        reader.show("ok")
    assert str(refused.value).endswith(HINT)


@pytest.mark.parametrize("lost", [True, False])
def test_a_wal_that_is_lost_leaves_an_earlier_state_and_nothing_worse(ledger: Path, tmp_path: Path, lost: bool) -> None:  # noqa: FBT001
    small(ledger)
    copy = tmp_path / "copy.db"
    with Ledger(ledger) as opened:
        Call(opened, 99)
        copy.write_bytes(ledger.read_bytes())
        if not lost:
            Path(f"{copy}-wal").write_bytes(Path(f"{ledger}-wal").read_bytes())
    with closing(connect_reader(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM call").fetchone() == (10 if lost else 11,)
    with Ledger(copy) as again:
        Call(again, 100).start()


def test_what_is_refused_is_one_error_of_ours() -> None:
    assert issubclass(LedgerError, CallsError)
