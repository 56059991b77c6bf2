"""Lowerings: each kind of group becomes loops."""
