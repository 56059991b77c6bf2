"""Users' functions in compiled steps: addresses that native code can call, and the exceptions they raised.

In: the graph of a step. Out: the words of the pointer table that hold its functions, and after a step that failed, the
exception. A NumPy function gets an address of its own: that of a callback which takes the interpreter's lock, copies
the operands into arrays, calls the function and copies its results back. It runs in the thread that called the step.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np

from smelt.compiler import kernels
from smelt.errors import ShapeError, TraceError, at_user_line
from smelt.graph.graph import Graph, Node
from smelt.ops.custom import DONE, PROTOTYPE, Custom, Function, failure
from smelt.ops.primitive import Spec


class _Local(threading.local):
    inside = False  # whether a NumPy function is being called by a step of this thread
    raised: tuple[Node, BaseException] | None = None  # the first exception of a step, and whose it was


_local = _Local()


def refuse_inside_call() -> None:
    """Raise when this thread is in a user's function that a compiled step called: that step would never end."""
    if _local.inside:
        raise TraceError(at_user_line("a compiled function cannot be called by a custom operation inside of another"))


class Calls:
    """The users' functions of one program.

    Attributes
    ----------
    count : int
        How many calls there are.
    words : numpy.ndarray
        int64, two for each call, to be copied into a table: the function's address, and the status of a call that did
        not fail.
    """

    def __init__(self, graph: Graph) -> None:
        self._nodes = kernels.calls(graph)
        self.count = len(self._nodes)
        self.words = np.zeros(2 * self.count, np.int64)
        self._callbacks: list[Any] = []  # must live as long as their addresses
        for i, node in enumerate(self._nodes):
            function = _function(node)
            if function.evaluate is None:
                self.words[2 * i] = function.address
            else:
                self._callbacks.append(_callback(node, function))
                self.words[2 * i] = ctypes.cast(self._callbacks[-1], ctypes.c_void_p).value or 0

    def begin(self, words: np.ndarray) -> None:
        """Forget what an interrupt kept :meth:`check` from seeing."""
        words[1::2] = 0
        _local.raised = None

    def check(self, words: np.ndarray) -> None:
        """Raise what a function raised in the step this thread just ran; ``words`` is their part of its table."""
        failed = np.flatnonzero(words[1::2])
        if not len(failed):
            return
        node, code = self._nodes[failed[0]], int(words[2 * failed[0] + 1])
        raised, _local.raised = _local.raised, None
        if raised is not None:
            node, error = raised
            error.add_note(f"{_function(node).name} was called by a compiled step{_KEPT}{_where(node)}")
            raise error
        name = _function(node).name
        native = _function(node).evaluate is None
        text = failure(name, ctypes.c_int32(code ^ DONE).value) if native else f"{name} was interrupted"
        raise RuntimeError(f"{text}{_KEPT}{_where(node)}")


_KEPT = "; no state was changed by this step"


def _where(node: Node) -> str:
    return f"  [{node.line}]" if node.line else ""


def _function(node: Node) -> Function:
    assert isinstance(node.op, Custom)
    return node.op.function


def _callback(node: Node, function: Function) -> Any:
    """Return a native function that calls a NumPy function."""
    inputs = [x.spec for x in node.inputs]
    outputs = function.infer(inputs)

    def call(ins: int, outs: int, sizes: int, shapes: int) -> int:
        pointers = (ctypes.c_void_p * (len(outputs) + 1)).from_address(outs)
        try:
            _local.inside = True
            dims = (ctypes.c_void_p * (len(inputs) + len(outputs))).from_address(shapes)
            arrays = []
            for spec, pointer, d in zip(inputs, (ctypes.c_void_p * len(inputs)).from_address(ins), dims, strict=False):
                arrays.append(np.empty(_shape(spec, d), spec.dtype))
                ctypes.memmove(arrays[-1].ctypes.data, pointer, arrays[-1].nbytes)
            wanted = [Spec(_shape(s, d), s.dtype) for s, d in zip(outputs, dims[len(inputs) :], strict=True)]
            assert function.evaluate is not None
            result = function.evaluate(*arrays)
            try:
                results = function.checked(result, wanted)
            except ShapeError as e:
                raise ShapeError(f"{e}{_where(node)}") from None
            for array, pointer in zip(results, pointers, strict=False):
                ctypes.memmove(pointer, array.ctypes.data, array.nbytes)
            pointers[-1] = DONE
        except BaseException as e:
            _local.raised = _local.raised or (node, e)
        finally:
            _local.inside = False
        return 0

    return PROTOTYPE(call)


def _shape(spec: Spec, dims: Any) -> tuple[int, ...]:
    return tuple((ctypes.c_int64 * len(spec.shape)).from_address(dims))
