"""The passes, in the order they run: simplify, fuse, storage, (lowering,) schedule, memory."""
