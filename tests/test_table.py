"""The law of a call, told three times: as data, by the `transitions` package, and in SQL. They must agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.sqlite import connect_writer, sqlite3
from machine.errors import IllegalTransitionError, LedgerError
from machine.lifecycle import Lifecycle
from machine.samples import METRICS
from machine.states import REASONS, TERMINAL, Kind, Reason, State
from machine.table import RULES, STEPS, VERDICTS, diagram, fold, step

PAGE = Path(__file__).parent.parent / "docs" / "machine.md"
MOVES = [rule for rule in RULES if rule.target is not None]
NOTES = [rule for rule in RULES if rule.target is None]
PAIRS = [(state, kind) for state in (None, *State) for kind in Kind]
Written = list[tuple[Kind, State, object]]


def remembering(state: State | None) -> tuple[Lifecycle, Written]:
    """A call in `state`, and what it writes."""
    written: Written = []
    return Lifecycle(lambda kind, state, data: written.append((kind, state, data)), state), written


# The table.


def test_no_rule_leaves_a_terminal_state() -> None:
    assert [rule for rule in MOVES if TERMINAL & set(rule.sources)] == []


def test_each_state_is_reached_from_the_beginning() -> None:
    reached: set[State | None] = {None}
    while new := {target for (source, _), target in STEPS.items() if source in reached} - reached:
        reached |= new
    assert reached == {None, *State}


def test_each_kind_has_exactly_one_rule() -> None:
    assert sorted(rule.kind for rule in RULES) == sorted(Kind)


def test_each_move_goes_somewhere_else() -> None:
    assert [rule for rule in MOVES if rule.target in rule.sources] == []


def test_notes_never_move() -> None:
    notes = {rule.kind for rule in NOTES}
    assert {(source, kind) for (source, kind), target in STEPS.items() if kind in notes and source != target} == set()


def test_no_note_comes_before_the_call_exists() -> None:
    assert [rule for rule in NOTES if None in rule.sources] == []


def test_each_terminal_state_has_one_kind_that_leads_there() -> None:
    assert set(VERDICTS) == TERMINAL
    assert len(set(VERDICTS.values())) == len(TERMINAL)


@pytest.mark.parametrize("state", [state for state in State if not state.terminal])
def test_every_live_state_can_fail_time_out_and_be_killed_or_cancelled(state: State) -> None:
    kinds = (Kind.FAILED, Kind.TIMED_OUT, Kind.KILLED, Kind.CANCELLED)
    assert [step(state, kind) for kind in kinds] == [State.ERROR, State.TIMEOUT, State.KILLED, State.CANCELLED]


def test_success_comes_only_out_of_running_or_waiting_for_health() -> None:
    assert {source for source, kind in STEPS if kind is Kind.SUCCEEDED} == {State.RUNNING, State.HEALTH_WAIT}


def test_each_terminal_state_has_its_closed_list_of_reasons() -> None:
    assert set(REASONS) == TERMINAL
    assert set().union(*REASONS.values()) == set(Reason)


@given(st.lists(st.sampled_from(Kind)))
def test_a_fold_is_its_steps_one_after_the_other(kinds: list[Kind]) -> None:
    state: State | None = None
    try:
        for kind in kinds:
            state = step(state, kind)
    except IllegalTransitionError:
        with pytest.raises(IllegalTransitionError):
            fold(kinds)
    else:
        assert fold(kinds) == state


def test_no_events_are_no_state() -> None:
    assert fold([]) is None


# The `transitions` package and the dict.


@pytest.mark.parametrize(("state", "kind"), PAIRS)
def test_both_readers_of_the_table_agree(state: State | None, kind: Kind) -> None:
    lifecycle, _ = remembering(state)
    try:
        expected = step(state, kind)
    except IllegalTransitionError as illegal:
        with pytest.raises(IllegalTransitionError, match=f"^{re.escape(str(illegal))}$"):
            lifecycle.apply(kind)
    else:
        assert lifecycle.apply(kind) is expected


@pytest.mark.parametrize(("state", "kind"), [pair for pair in PAIRS if pair not in STEPS])
def test_an_illegal_event_writes_nothing_and_moves_nothing(state: State | None, kind: Kind) -> None:
    lifecycle, written = remembering(state)
    before = lifecycle.state
    with pytest.raises(IllegalTransitionError):
        lifecycle.apply(kind, "data")
    assert (written, lifecycle.state) == ([], before)


@pytest.mark.parametrize(("state", "kind"), STEPS)
def test_a_legal_event_is_written_once_with_the_state_it_leads_to(state: State | None, kind: Kind) -> None:
    lifecycle, written = remembering(state)
    lifecycle.apply(kind, "data")
    assert written == [(kind, STEPS[state, kind], "data")]


@pytest.mark.parametrize(("state", "kind"), STEPS)
def test_at_the_time_of_writing_the_call_has_not_moved_yet(state: State | None, kind: Kind) -> None:
    seen: list[str] = []
    lifecycle = Lifecycle(lambda *_: seen.append(lifecycle.state), state)
    before = lifecycle.state
    lifecycle.apply(kind)
    assert seen == [before]


@pytest.mark.parametrize("error", [LedgerError("full"), OSError(28, "full"), KeyError("key"), KeyboardInterrupt()])
@pytest.mark.parametrize(("state", "kind"), [(None, Kind.SUBMITTED), (State.RUNNING, Kind.SUCCEEDED)])
def test_a_failing_write_is_told_as_it_is_and_moves_nothing(
    state: State | None, kind: Kind, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    lifecycle = Lifecycle(fail, state)
    before = lifecycle.state
    with pytest.raises(type(error)) as raised:
        lifecycle.apply(kind)
    assert (raised.value, lifecycle.state) == (error, before)


def test_what_is_no_kind_of_event_is_illegal() -> None:
    with pytest.raises(IllegalTransitionError):
        remembering(State.RUNNING)[0].apply("to_success")  # type: ignore[arg-type]


def test_the_error_names_the_state_and_the_event() -> None:
    with pytest.raises(IllegalTransitionError, match=r"^a call that is success cannot be started$") as raised:
        step(State.SUCCESS, Kind.STARTED)
    assert (raised.value.state, raised.value.kind) == (State.SUCCESS, Kind.STARTED)


def test_the_error_of_a_call_that_does_not_exist_says_so() -> None:
    with pytest.raises(IllegalTransitionError, match=r"^a call that is not submitted cannot be started$"):
        step(None, Kind.STARTED)


# The copy in SQL.


@pytest.fixture
def law(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A new ledger: schema.sql as it is installed."""
    connection = connect_writer(tmp_path / "law.db")
    yield connection
    connection.close()


def test_the_schema_has_the_same_states(law: sqlite3.Connection) -> None:
    rows = law.execute("SELECT code, name, terminal FROM state ORDER BY code").fetchall()
    assert rows == [(state.code, str(state), int(state.terminal)) for state in State]


def test_the_schema_has_the_same_kinds(law: sqlite3.Connection) -> None:
    rows = law.execute("SELECT code, name FROM kind ORDER BY code").fetchall()
    assert rows == [(kind.code, str(kind)) for kind in Kind]


def test_the_schema_has_the_same_rules(law: sqlite3.Connection) -> None:
    rows = law.execute("SELECT source, kind, target FROM rule").fetchall()
    steps = {(source, kind, target) for (source, kind), target in STEPS.items()}
    assert set(rows) == {(-1 if source is None else source.code, kind.code, to.code) for source, kind, to in steps}


def test_the_schema_has_the_same_metrics(law: sqlite3.Connection) -> None:
    rows = law.execute("SELECT name FROM metric ORDER BY code").fetchall()
    assert [name for (name,) in rows] == list(METRICS)


def test_the_sample_table_has_a_column_for_each_metric_in_order(law: sqlite3.Connection) -> None:
    columns = [row[1] for row in law.execute("PRAGMA table_info(sample)")]
    assert columns == ["call_id", "seq", "at", *METRICS]


def test_the_counters_of_the_schema_are_the_cumulative_metrics(law: sqlite3.Connection) -> None:
    counters = {name for (name,) in law.execute("SELECT name FROM metric WHERE counter")}
    cumulative = re.compile(r"(cpu|throttled|net|disk)_.*(ns|bytes)|throttled_ns")
    assert counters == {name for name in METRICS if cumulative.fullmatch(name)}


def test_codes_count_from_zero_in_the_order_of_the_enums() -> None:
    assert [state.code for state in State] == list(range(len(State)))
    assert [kind.code for kind in Kind] == list(range(len(Kind)))


# The page.


def test_the_page_shows_the_diagram_of_the_table() -> None:
    assert f"```mermaid\n{diagram()}```\n" in PAGE.read_text(encoding="utf-8")


def test_the_diagram_has_a_line_for_each_move_and_each_end() -> None:
    arrows = [line for line in diagram().splitlines() if "-->" in line]
    assert len(arrows) == sum(len(rule.sources) for rule in MOVES) + len(TERMINAL)


def test_the_page_names_each_kind_of_event() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [kind for kind in Kind if f"`{kind}`" not in text] == []


def test_the_page_lists_the_reasons_of_each_state() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Reasons")[2].partition("\n## ")[0]
    rows = [re.findall(r"`([a-z-]+)`", line) for line in section.splitlines() if line.startswith("| `")]
    assert {State(state): {Reason(reason) for reason in reasons} for state, *reasons in rows} == REASONS
