"""The size of a protobuf message before it is parsed: bytes in; an error when parsing would take too much, out.

A parsed message takes up to a hundred times the memory of its bytes: an empty node is two bytes in a file. So fields
are counted first, by walking over tags and lengths, without making anything.
"""

from __future__ import annotations

import functools
from typing import Any

MAX_FIELDS = 500_000
"""Most fields in a file, those of nested messages included; a network of a thousand nodes has about 20,000."""
MAX_DEPTH = 24
"""Most levels of messages in messages. A tensor in an attribute of a node is at the fifth."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_fields(data: bytes, descriptor: Any) -> None:
    """Walk over the fields of a message.

    Parameters
    ----------
    data : bytes
        The message.
    descriptor : google.protobuf.descriptor.Descriptor
        Its type.

    Raises
    ------
    ValueError
        When it is no message of that kind, has text that is no UTF-8, or too many fields or levels.
    """
    count = 0
    open_messages = [(0, len(data), _nested(descriptor))]
    while open_messages:
        at, end, nested = open_messages.pop()
        while at < end:
            count += 1
            if count > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS:,} fields, expected a network of fewer")
            tag, at = _varint(data, at, end)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                _, at = _varint(data, at, end)
            elif kind == _BYTES:
                size, at = _varint(data, at, end)
                if size > end - at:
                    raise ValueError(f"a field of {size:,} bytes at byte {at:,}, where {end - at:,} are left")
                inner = nested.get(number)
                if inner is str:
                    data[at : at + size].decode("utf-8")
                    at += size
                elif inner is not None and size:
                    if len(open_messages) >= MAX_DEPTH:
                        raise ValueError(f"messages in more than {MAX_DEPTH} levels")
                    open_messages.append((at + size, end, nested))
                    end, nested = at + size, _nested(inner)
                else:
                    at += size
            elif kind in (_FIXED32, _FIXED64):
                at += 4 if kind == _FIXED32 else 8
            else:
                raise ValueError(f"a field of unknown kind {kind} at byte {at:,}")
        if at > end:
            raise ValueError(f"a field that goes past the end of its message at byte {end:,}")


@functools.cache
def _nested(descriptor: Any) -> dict[int, Any]:
    """Return the fields of a message that are messages or text."""
    texts = {f.number: str for f in descriptor.fields if f.type == f.TYPE_STRING}
    return texts | {f.number: f.message_type for f in descriptor.fields if f.message_type is not None}


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the number at ``at`` and where the next one begins."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number without end at byte {at:,}")
