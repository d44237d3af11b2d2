"""Plain records: keyword-only, typed, with defaults. What `dataclasses` does, at a tenth of the import time.

A dataclass compiles its methods when the module is imported, 0.2 to 0.5 ms each; forty of them would be a
tenth of what `calls run` may take. `dataclass_transform` makes type checkers treat both alike.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(kw_only_default=True)
class Record:
    """Subclasses declare annotated fields, with or without a default. A dict or set default is copied."""

    fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Fields are inherited and come first."""
        own = [name for name, kind in cls.__annotations__.items() if "ClassVar" not in str(kind)]
        cls.fields = (*cls.fields, *own)

    def __init__(self, **values: Any) -> None:
        """TypeError for a field that is missing or does not exist, as with any other class."""
        if unknown := values.keys() - set(self.fields):
            raise TypeError(f"{type(self).__name__} has no field {min(unknown)!r}")
        for name in self.fields:
            if name not in values and not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} needs {name!r}")
            default = getattr(type(self), name, None)
            given = values.get(name, default.copy() if isinstance(default, dict | set) else default)
            setattr(self, name, given)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**vars(self), **changes})

    def record(self) -> dict[str, Any]:
        """The fields that are there (not None), in declared order, records inside them alike."""
        found = {name: getattr(self, name) for name in self.fields}
        return {name: _plain(value) for name, value in found.items() if value is not None}

    def __eq__(self, other: object) -> bool:
        """Equal when of one class and equal in every field."""
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """As a call that would make it."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def _plain(value: Any) -> Any:
    return value.record() if isinstance(value, Record) else value
