"""The request schemas of the official SDKs as bodies: one body for each field, however deep the field stands.

The SDKs describe what they send as typed dictionaries. `fields` walks such a description and yields, for every
field below it, the smallest body that has the field: with a harmless value, and for a field that can hold text
also with a text that the caller plants.
"""

import collections.abc
import dataclasses
import functools
import types
import typing

import typing_extensions

WORD = "word"
PLAIN = (bool, float, int)
LISTS = (list, collections.abc.Iterable, collections.abc.Sequence)


@dataclasses.dataclass
class Field:
    """A field by its path, in a body with a harmless value, and in one with a planted text if it holds texts."""

    path: str
    harmless: object
    planted: object = None

    def below(self, step, wrap):
        planted = None if self.planted is None else wrap(self.planted)
        return Field(step + self.path, wrap(self.harmless), planted)


def fields(schema, text):
    """Every field below a schema; a kind of object is walked once in each field that holds it.

    Parts of a reply, which the SDKs take back as they are, have the fields of what one writes by hand.
    """
    return walk(schema, text, None, set())


def walk(schema, text, holder, walked):
    schema, origin, inner = parts(schema)
    if typing_extensions.is_typeddict(schema):
        if (holder, schema) not in walked:
            walked.add((holder, schema))
            yield from walk_object(schema, text, walked)
    elif is_union(origin):
        for kind in inner:
            yield from walk(kind, text, holder, walked)
    elif origin in LISTS:
        for field in walk(inner[0], text, holder, walked):
            yield field.below("[]", lambda value: [value])
    elif origin is dict:
        yield Field(".{key}", {WORD: minimal(inner[1])}, {text: minimal(inner[1])})
        for field in walk(inner[1], text, holder, walked):
            yield field.below(".{value}", lambda value: {WORD: value})
    elif schema is not types.NoneType and not hasattr(schema, "model_fields"):
        is_closed = origin is typing.Literal or schema in PLAIN
        yield Field("", minimal(schema), None if is_closed else text)


def walk_object(schema, text, walked):
    least = minimal(schema)
    for name, kind in members(schema).items():
        for field in walk(kind, text, (schema, name), walked):
            yield field.below(f".{name}", lambda value, name=name: least | {name: value})


def minimal(schema):
    """The smallest value of a schema."""
    schema, origin, inner = parts(schema)
    if typing_extensions.is_typeddict(schema):
        return {name: minimal(kind) for name, kind in members(schema).items() if is_needed(schema, kind)}
    if is_union(origin):
        return minimal(inner[0])
    if origin is typing.Literal:
        return inner[0]
    if origin in LISTS:
        return [minimal(inner[0])]
    if origin is dict:
        return {}
    return schema(1) if schema in PLAIN else WORD


@functools.cache
def members(schema):
    """The fields of an object by their names on the wire."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return {wire_name(name, kind): kind for name, kind in hints.items()}


def is_needed(schema, kind):
    said = typing.get_origin(kind)
    return said is typing.Required or (schema.__total__ and said is not typing.NotRequired)


def wire_name(name, kind):
    """An SDK writes a name that Python or the body cannot have as an alias."""
    while typing.get_origin(kind) in (typing.Required, typing.NotRequired):
        kind = typing.get_args(kind)[0]
    aliases = [getattr(note, "alias", None) for note in getattr(kind, "__metadata__", ())]
    return next(filter(None, aliases), name)


def parts(schema):
    """A schema without what is said about it, its origin and what it is made of."""
    while (origin := typing.get_origin(schema)) in (typing.Annotated, typing.Required, typing.NotRequired):
        schema = typing.get_args(schema)[0]
    return schema, origin, typing.get_args(schema)


def is_union(origin):
    return origin in (typing.Union, types.UnionType)
