"""Schedule: order the kernels and cut them into phases, with a barrier between two phases.

In: kernels with the nodes they load and define. Out: phases. Two kernels that need each other's data share a phase
when both cut the batch alike and touch that data only at their own rows: what a thread wrote, it reads itself. What
follows the batch runs in the phase of its first reader, if they can share it, and can then take turns with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smelt.compiler.loops import Buffer, Kernel


@dataclass(eq=False)
class Task:
    """A kernel and what must have run before it, with the buffer that passes between them."""

    kernel: Kernel
    after: list[tuple[Task, Buffer]] = field(default_factory=list)

    def follows(self, other: Task, buffer: Buffer) -> None:
        """Run after ``other``, because of ``buffer``."""
        if other is not self:
            self.after.append((other, buffer))


def schedule(tasks: list[Task]) -> list[list[Kernel]]:
    """Return the phases: each kernel in the earliest it can run in, or in its reader's."""
    phase: dict[Task, int] = {}
    order: list[Task] = []
    state: dict[Task, int] = {}

    def visit(root: Task) -> None:
        stack = [(root, 0)]
        while stack:
            task, i = stack.pop()
            if i == 0:
                if task in state:
                    continue
                state[task] = 1
            if i < len(task.after):
                stack.append((task, i + 1))
                before = task.after[i][0]
                if state.get(before) == 1 and before not in phase:
                    raise AssertionError(f"kernels {task.kernel.name} and {before.kernel.name} wait for each other")
                if before not in state:
                    stack.append((before, 0))
                continue
            level = 0
            for before, buffer in task.after:
                together = _share(before, task, buffer)
                needed = phase[before] + (0 if together else 1)
                if needed > level or (needed == level and not together):
                    level, task.kernel.barrier = needed, None if together else (before.kernel, buffer)
            phase[task] = level
            order.append(task)

    for task in tasks:
        visit(task)
    _sink(order, phase)
    phases: list[list[Kernel]] = [[] for _ in range(max(phase.values(), default=-1) + 1)]
    for task in order:
        phases[phase[task]].append(task.kernel)
    # None of a phase depends on one of the other kind: those that may take turns lie side by side.
    return [sorted(kernels, key=lambda k: k.range.rows or k.range.slices > 0) for kernels in phases]


def _share(before: Task, after: Task, buffer: Buffer) -> bool:
    """Return whether two kernels may share a phase although a buffer passes between them."""
    return buffer in before.kernel.aligned and buffer in after.kernel.aligned


def _sink(order: list[Task], phase: dict[Task, int]) -> None:
    """Move kernels over rows of the batch into the phase of what first needs them, where both may share it."""
    limits: dict[Task, list[tuple[int, bool]]] = {}
    for task in reversed(order):
        if task in limits and task.kernel.range.rows:
            latest, shared = max(limits[task], key=lambda limit: (-limit[0], limit[1]))
            if shared:
                phase[task] = latest
        for before, buffer in task.after:
            shared = _share(before, task, buffer)
            limits.setdefault(before, []).append((phase[task] - (not shared), shared))
