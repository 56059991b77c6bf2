"""Native functions as users have them: ctypes, Numba and Cython in; address and signature, checked, out."""

from __future__ import annotations

import ctypes
import re
from _ctypes import CFuncPtr  # what every ctypes function is an instance of
from typing import Any

SIGNATURE = "int32_t f(const void **inputs, void **outputs, const int64_t *sizes, const int64_t **shapes)"
_STARS = ["**", "**", "*", "**"]  # of its four arguments
_HOLDS_GIL = 4  # flag of ctypes.PyDLL's functions, which expect to be called by the interpreter


def address_of(function: Any) -> int:
    """Return the address of a native function, 0 when ``function`` is none.

    Taken are functions of a ``ctypes.CDLL`` (or made by ``CFUNCTYPE``), Numba's ``cfunc``, and the capsules that
    Cython keeps in ``__pyx_capi__``.

    Raises
    ------
    TypeError
        When it is native, but its signature (as far as it says) is another one.
    """
    if type(function).__name__ == "PyCapsule":
        return _capsule(function)
    if not isinstance(function, CFuncPtr):
        function = getattr(function, "ctypes", None)  # Numba's cfunc
    if not isinstance(function, CFuncPtr):
        return 0
    result, arguments = function.restype, function.argtypes
    if result is not ctypes.c_int32 or function._flags_ & _HOLDS_GIL or len(arguments or _STARS) != len(_STARS):
        kinds = ", ".join(a.__name__ for a in arguments or ())
        name = getattr(result, "__name__", result)
        raise TypeError(f"expected a native function {SIGNATURE}, received one of ({kinds}) that returns {name}")
    if any(type(o).__name__ == "CThunkObject" for o in (function._objects or {}).values()):
        raise TypeError("received a Python function wrapped by ctypes, expected the function itself")
    address = ctypes.cast(function, ctypes.c_void_p).value
    if not address:
        raise TypeError("expected a native function, received a null pointer")
    return address


def _capsule(capsule: Any) -> int:
    """Return the address in a capsule whose name is its C signature, as Cython writes it."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    name = api.PyCapsule_GetName(capsule)
    text = (name or b"").decode("utf-8", "replace")
    match = re.fullmatch(r"(int|int32_t) \((.*)\)", text)
    arguments = [re.sub(r"[^*]", "", a) for a in match[2].split(",")] if match else []
    if arguments != _STARS:
        raise TypeError(f"expected a capsule of a function {SIGNATURE}, received {text or 'one without a name'!r}")
    return api.PyCapsule_GetPointer(capsule, name)
